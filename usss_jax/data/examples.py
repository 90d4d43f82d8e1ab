"""The interface of every source of images, and the selection of some of its ids."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np

from usss_jax.errors import InputError


class Examples(Protocol):
    """Examples by index, each with an id; files are decoded on access."""

    @property
    def ids(self) -> Sequence[str]:
        """Names of the images, in order."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index) -> dict[str, np.ndarray]:
        """Example {"image": uint8 [h, w, 3]}, with masks "label": uint8 [h, w] of train ids, 255 = ignore."""
        ...

    def select(self, ids: Iterable[str]) -> Self:
        """Restrict to the given ids, in their order; raise InputError for an unknown id."""
        ...


class Source(Examples, Protocol):
    """Examples of images in files, records or a synthetic domain."""

    def label(self, index) -> np.ndarray:
        """Decode only the label of an example."""
        ...

    def file_size(self, index) -> tuple[int, int]:
        """Return (h, w) of an image before it is resized."""
        ...


def pick(known: Mapping[str, Any], ids: Iterable[str], where: str) -> dict[str, Any]:
    """Select the given ids of `known`, in their order.

    Raises:
      InputError: for an id that is unknown or given twice; the message says what `where` is.

    >>> pick({"a": 1, "b": 2, "c": 3}, ["c", "a"], "train")
    {'c': 3, 'a': 1}
    """
    chosen: dict[str, Any] = {}
    for key in ids:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f" (closest is {close[0]!r})" if close else ""
            raise InputError(f"id {key!r} is not in {where}{hint}; correct the list of ids or add the image")
        if key in chosen:
            raise InputError(f"id {key!r} occurs twice in the list of ids for {where}; remove one")
        chosen[key] = known[key]
    return chosen
