"""Pictures of predictions: overlays of all domains side by side, with a legend of what is shown."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from usss_jax.data import pictures
from usss_jax.data.decode import resize_label

LONGEST = 1024  # pixels along the longer side of a tile; larger images are shrunk


def shares(labels: np.ndarray, classes: list[str]) -> dict[str, float]:
    """Share of the pixels of every class.

    >>> shares(np.array([[0, 0], [0, 1]], np.uint8), ["road", "sky", "car"])
    {'road': 0.75, 'sky': 0.25, 'car': 0.0}
    """
    counts = np.bincount(labels.ravel(), minlength=len(classes))
    return {name: int(count) / labels.size for name, count in zip(classes, counts, strict=True)}


def draw(
    image: np.ndarray,
    labels: Mapping[str, np.ndarray],
    domains: Mapping[str, Mapping[str, Any]],
    name: str,
    shown: Mapping[str, Mapping[str, float]] | None = None,
) -> np.ndarray:
    """Draw an image under the colours of its labels, uint8 [h, w, 3]; with several domains, beside the image itself.

    Args:
      image: RGB, uint8 [H, W, 3].
      labels: {domain: uint8 [H, W]}.
      domains: {domain: {"classes", "colors"}} (see `Predictor`).
      name: of the image, written beside it.
      shown: {domain: shares of the classes}: the legend has the classes above 0 with their shares, largest first; None:
        all classes.
    """
    factor = min(1.0, LONGEST / max(image.shape[:2]))
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) if factor < 1 else image
    tiles = [small] if len(labels) > 1 else []
    legends = {}
    for domain, of in labels.items():
        colors = colors_of(domains[domain])
        padded = np.zeros((256, 3), np.uint8)
        padded[: len(colors)] = colors
        tiles.append(pictures.overlay(small, resize_label(of, (height, width)), padded))
        legends[domain] = _legend(domains[domain]["classes"], colors, shown and shown[domain])
    titles = ["image"] * (len(labels) > 1) + list(labels)
    return pictures.comparison([pictures.Row(name, tiles)], titles, legends)


def colors_of(domain: Mapping[str, Any]) -> np.ndarray:
    """Colours of the classes of a decoder, uint8 [n, 3]."""
    return np.asarray(domain["colors"], np.uint8).reshape(-1, 3)


def _legend(classes, colors, shown):
    entries = dict(zip(classes, map(tuple, colors.tolist()), strict=True))
    if shown is None:
        return list(entries.items())
    largest_first = sorted((name for name in classes if shown[name] > 0), key=lambda name: -shown[name])
    return [(f"{name} {_percent(shown[name])}", entries[name]) for name in largest_first]


def _percent(share):
    return f"{100 * share:.0f}%" if share >= 0.01 else "<1%"
