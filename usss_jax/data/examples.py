"""What every source of images offers, and the choice of some of its ids."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np

from usss_jax.errors import InputError


class Examples(Protocol):
    """Examples by index, each with an id; nothing is decoded before one is asked for."""

    @property
    def ids(self) -> Sequence[str]:
        """Names of the images, in order."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index) -> dict[str, np.ndarray]:
        """Example {"image": uint8 [h, w, 3]}, with masks "label": uint8 [h, w] of train ids, 255 = ignore."""
        ...

    def select(self, ids: Iterable[str]) -> Self:
        """Restrict to the given ids, in their order; raises InputError naming an id that is not there."""
        ...


class Source(Examples, Protocol):
    """What the sources of images have besides."""

    def label(self, index) -> np.ndarray:
        """Label of an example alone, without decoding its image."""
        ...

    def file_size(self, index) -> tuple[int, int]:
        """(h, w) of an image before it is resized."""
        ...


def pick(known: Mapping[str, Any], ids: Iterable[str], where: str) -> dict[str, Any]:
    """Take the given ids of `known`, in their order; raises InputError naming one that is not there, or is twice."""
    ids = list(ids)
    chosen = {}
    for key in ids:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f" (closest is {close[0]!r})" if close else ""
            raise InputError(f"id {key!r} is not in {where}{hint}; correct the list of ids or add the image")
        if key in chosen:
            raise InputError(f"id {key!r} is twice in the list of ids for {where}; remove one")
        chosen[key] = known[key]
    return chosen
