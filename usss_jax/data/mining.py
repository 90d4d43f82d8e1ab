"""Crops around pixels of rare classes (patch mining of CBST, ECCV 2018)."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from usss_jax.data.augment import CropFlip


@dataclasses.dataclass(frozen=True)
class MiningCropFlip(CropFlip):
    """`CropFlip`, which centres a share of the crops on a pixel of a rare class.

    Classes with priority come first; the other rare ones are tried if the image shows none of these. Without a rare
    class or without a label, the crop is uniformly random.

    Attributes:
      rare: train ids of the rare classes (`rare_classes` in methods/self_training/thresholds.py).
      priority: train ids of the classes with priority.
      share: probability that a crop is to be centred.
    """

    rare: Sequence[int] = ()
    priority: Sequence[int] = ()
    share: float = 0.8

    def corner(self, element: dict, extent: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
        """Sample the top left corner of a part around a pixel of a rare class, or any."""
        if rng.random() < self.share and "label" in element:
            for classes in (self.priority, self.rare):
                found = rare_corner(element["label"], extent, classes, rng)
                if found:
                    return found
        return super().corner(element, extent, rng)


def rare_corner(
    label: np.ndarray, extent: tuple[int, int], classes: Sequence[int], rng: np.random.Generator
) -> tuple[int, int] | None:
    """Top left corner of a part of a label, centred on a pixel of one of some classes.

    One of the classes that are present is chosen uniformly, then one of its pixels. Only those pixels are candidates
    around which the part stays inside; along an axis that the part covers entirely, all pixels are.

    Args:
      label: uint8 [H, W].
      extent: (h, w) of the part, at most (H, W); its centre is the pixel (h // 2, w // 2).
      classes: train ids.
      rng: decides.

    Returns:
      (top, left); None if no candidate has one of the classes.

    >>> label = np.array([[0, 0, 0, 0, 7, 0]], np.uint8)
    >>> rare_corner(label, (1, 3), [7, 9], np.random.default_rng(0))
    (0, 3)
    """
    (height, width), (h, w) = label.shape, extent
    rows = slice(0, height) if h == height else slice(h // 2, height - h + h // 2 + 1)
    columns = slice(0, width) if w == width else slice(w // 2, width - w + w // 2 + 1)
    candidates = label[rows, columns]
    counts = np.bincount(candidates.ravel(), minlength=256)
    present = [c for c in classes if counts[c]]
    if not present:
        return None
    row, column = np.unravel_index(rng.choice(np.flatnonzero(candidates == rng.choice(present))), candidates.shape)
    # The first candidate is the centre of the part at 0.
    return 0 if h == height else int(row), 0 if w == width else int(column)
