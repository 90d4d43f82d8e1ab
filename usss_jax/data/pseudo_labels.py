"""Pseudo-labels of a round of self-training as a source like any other; pseudo_label_files.py defines their files."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from usss_jax.data.cache import Budget, CachedSource
from usss_jax.data.decode import check_same_size
from usss_jax.data.domain import Domain
from usss_jax.data.examples import Examples
from usss_jax.data.pseudo_label_files import LABELS, PseudoLabelFiles, open_folder


def open_pseudo_labels(folder: str | os.PathLike, domain: Domain, images: Examples) -> "PseudoLabeled":
    """Open pseudo-labels beside the images for which they were made.

    Args:
      folder: of the pseudo-labels.
      domain: of the images, loaded at domain.size.
      images: all images of the folder; `select` restricts the result.

    Raises:
      InputError: if the manifest is unreadable, or of other images, classes or sizes.

    >>> from usss_jax.data.domains import get_domain
    >>> from usss_jax.data.pseudo_label_files import create_folder
    >>> from usss_jax.data.sources import open_source
    >>> room = get_domain("indoor_room")
    >>> images = open_source(room, None, "val", with_masks=False, ids=["00000"])
    >>> label, confidence = np.full(room.size, 3, np.uint8), np.full(room.size, 200, np.uint8)
    >>> create_folder("round1", room, images.ids, {"round": 1}).write("00000", label, confidence)
    >>> list(open_pseudo_labels("round1", room, images)[0])
    ['image', 'label']
    """
    return PseudoLabeled(images, open_folder(folder, domain, images.ids))


class PseudoLabeled:
    """Examples {"image": uint8 [h, w, 3], "label": uint8 [h, w]} of a domain's images; the labels are read-only.

    Labels are kept in memory while `budget` lasts; None: none is. Reading an example raises InputError, naming the
    file, if a label is absent, damaged, of another size than the domain's, or has a class that the domain lacks.
    """

    def __init__(self, images: Examples, files: PseudoLabelFiles, budget: Budget | None = None):
        self.ids = list(images.ids)
        self._images, self._files, self._budget = images, files, budget
        self._labels = CachedSource(_Labels(self.ids, files), budget or Budget(0))

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index) -> dict[str, np.ndarray]:
        key, image, label = self.ids[index], self._images[index]["image"], self.label(index)
        check_same_size(label, image, str(self._files.path(LABELS, key)), key)
        return {"image": image, "label": label}

    def label(self, index) -> np.ndarray:
        """Read only the label of an example."""
        return self._labels[index]["label"]

    def file_size(self, index) -> tuple[int, int]:
        """Return (h, w) of the labels, which are not resized."""
        return self._files.domain.size

    def select(self, ids: Iterable[str]) -> "PseudoLabeled":
        """Restrict to the given ids, in their order; raise InputError for an unknown id."""
        return PseudoLabeled(self._images.select(ids), self._files, self._budget)


class LabeledByAll:
    """Pseudo-labeled images, with the labels of other decoders, if any, in "others", {decoder: {"label": [h, w]}}."""

    def __init__(self, own: PseudoLabeled, others: Mapping[str, PseudoLabeled]):
        self.ids, self._own, self._others = own.ids, own, dict(others)

    def __len__(self):
        return len(self._own)

    def __getitem__(self, index) -> dict[str, Any]:
        example = self._own[index]
        others = {by: {"label": labels.label(index)} for by, labels in self._others.items()}
        return {**example, "others": others} if others else example

    def label(self, index) -> np.ndarray:
        """Read only the label by the image's own decoder."""
        return self._own.label(index)

    def file_size(self, index) -> tuple[int, int]:
        """Return (h, w) of the labels, which are not resized."""
        return self._own.file_size(index)

    def select(self, ids: Iterable[str]) -> "LabeledByAll":
        """Restrict to the given ids, in their order; raise InputError for an unknown id."""
        ids = list(ids)
        return LabeledByAll(self._own.select(ids), {by: labels.select(ids) for by, labels in self._others.items()})


class _Labels:
    """The labels alone, for their cache."""

    def __init__(self, ids: Sequence[str], files: PseudoLabelFiles):
        self.ids, self._files = ids, files

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"label": self._files.label(self.ids[index])}
