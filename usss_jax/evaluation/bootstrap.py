"""Intervals of the difference of two networks over the images of a split, by a paired bootstrap.

The images of a split are drawn anew with replacement, the same for both networks, many times. The spread of the
difference shows what another choice of images would change; it says nothing about other seeds or labeled images. Images
that resemble each other, such as frames of one video, make the intervals too narrow.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def image_confusions(labels: Sequence[np.ndarray], predictions: Sequence[np.ndarray], num_classes: int) -> np.ndarray:
    """Confusion matrix of every image, int64 [N, C, C], rows are labels.

    Args:
      labels: uint8 [H, W] of every image; values from `num_classes` on are ignored.
      predictions: uint8 [H, W] of every image, below `num_classes`.
      num_classes: C.

    >>> image_confusions([np.array([0, 1, 255])], [np.array([0, 0, 1])], 2).tolist()
    [[[1, 0], [1, 0]]]
    """
    found = np.zeros((len(labels), num_classes**2), np.int64)
    for of_image, label, prediction in zip(found, labels, predictions, strict=True):
        inside = label < num_classes
        index = label[inside].astype(np.int64) * num_classes + prediction[inside]
        of_image += np.bincount(index, minlength=num_classes**2)
    return found.reshape(-1, num_classes, num_classes)


def compare(
    first: Mapping[str, np.ndarray],
    second: Mapping[str, np.ndarray],
    *,
    samples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Any]:
    """Difference in IoU of the second network to the first, with percentile intervals.

    Args:
      first, second: confusion matrices of the same images by domain, int64 [N, C, C].
      samples: number of times that images are drawn.
      seed: of the draws.
      level: of the intervals.

    Returns:
      {"average": of the mIoU over the domains, DOMAIN: {"miou": ..., "classes": [of each class, or None if it is absent
      from the labels]}}, where a difference is {"difference", "low", "high"}. A class that a draw lacks does not count
      in the mIoU of that draw, as in evaluation.

    >>> one, other = (np.array([[[3, 1], [0, 4]]] * 5) * k for k in (1, 2))
    >>> compare({"a": one}, {"a": other})["average"]
    {'difference': 0.0, 'low': 0.0, 'high': 0.0}
    """
    random = np.random.default_rng(seed)
    out: dict[str, Any] = {}
    averages = []
    for domain, one in first.items():
        count, classes, _ = one.shape
        draws = random.multinomial(count, np.full(count, 1 / count), samples).astype(np.float64)
        weights = np.concatenate([np.ones((1, count)), draws])  # the images themselves first
        iou = [_iou((weights @ m.reshape(count, -1)).reshape(-1, classes, classes)) for m in (one, second[domain])]
        by_class = iou[1] - iou[0]
        of_mean = np.nanmean(iou[1], 1) - np.nanmean(iou[0], 1)
        averages.append(of_mean)
        each = [None if np.isnan(of[0]) else _interval(of, level) for of in by_class.T]
        out[domain] = {"miou": _interval(of_mean, level), "classes": each}
    return {"average": _interval(np.mean(averages, 0), level), **out}


def _iou(confusions: np.ndarray) -> np.ndarray:
    """IoU of every class, [S, C]; NaN for a class without a labeled pixel."""
    right = np.diagonal(confusions, axis1=1, axis2=2)
    labeled = confusions.sum(2)
    union = labeled + confusions.sum(1) - right
    return np.where(labeled > 0, right / np.maximum(union, 1), np.nan)


def _interval(values: np.ndarray, level: float) -> dict[str, float]:
    """The first value, and percentiles of the others that are not NaN."""
    low, high = np.nanquantile(values[1:], [(1 - level) / 2, (1 + level) / 2])
    return {"difference": float(values[0]), "low": float(low), "high": float(high)}
