"""Choice of the target images that are labelled: those that a network predicts with confidence in every class.

CBST's published lists have 505 of the 2975 training images of Cityscapes. By its authors, they were selected by a
class-balanced score; the list, the network and the limit are not published.
"""

from collections.abc import Sequence

import numpy as np


def class_balanced_score(classes: np.ndarray, confidences: np.ndarray) -> float:
    """Mean over the predicted classes of the mean confidence of their pixels; 0 for an image without prediction.

    Args:
      classes: predicted classes, uint8 [H, W]; 255: no prediction.
      confidences: float32 [H, W].

    >>> class_balanced_score(np.array([[0, 0, 3, 255]]), np.array([[0.5, 0.75, 1.0, 0.0]], np.float32))
    0.8125
    """
    counts = np.bincount(classes.ravel(), minlength=256)[:255]
    sums = np.bincount(classes.ravel(), confidences.ravel(), minlength=256)[:255]
    present = counts > 0
    return float((sums[present] / counts[present]).mean()) if present.any() else 0.0


def best(ids: Sequence[str], scores: Sequence[float], count: int) -> list[str]:
    """Ids with the `count` highest scores, in the order of `ids`; of equal ones, the earlier.

    >>> best(["a", "b", "c"], [0.5, 0.25, 0.75], count=2)
    ['a', 'c']
    """
    order = np.argsort(-np.asarray(scores), kind="stable")[:count]
    return [ids[i] for i in sorted(order)]
