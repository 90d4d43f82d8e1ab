"""Boundary IoU: IoU of the pixels near the boundaries of classes (Cheng et al. 2021).

Errors at boundaries hardly count in the IoU of large regions. The boundary of a class are its pixels within a distance
d of its contour, in the truth and in the prediction; Boundary IoU is the IoU of these two sets. As in the authors'
definition, d is 2 % of the image's diagonal, distances are those of a square neighbourhood, and the border of the image
is a contour. As for mIoU, pixels are counted over a whole split. Ignored pixels do not count; what lies beside them is
near a contour in the truth and in the prediction.
"""

import math
from functools import partial

import cv2
import numpy as np

from usss_jax.objectives import IGNORE

RATIO = 0.02  # d, as a share of the image's diagonal
CONVENTION = (
    "boundary IoU = TP / (TP + FP + FN) of the pixels within d of the contour of their class in the truth and in the "
    "prediction (Cheng et al. 2021), d = 2 % of the image's diagonal, counted over the whole split"
)


def boundary_width(size: tuple[int, int]) -> int:
    """Distance d in pixels for images of size (height, width): 2 % of the diagonal, rounded, at least 1.

    >>> boundary_width((1024, 2048)), boundary_width((3, 4))
    (46, 1)
    """
    return max(1, round(RATIO * math.hypot(*size)))


def near_contours(labels: np.ndarray, width: int) -> np.ndarray:
    """Pixels within `width` of a pixel of another label, or of the image's border: uint8 [H, W] -> bool [H, W].

    >>> near_contours(np.array([[0, 0, 0, 0, 0, 1]] * 5, np.uint8), 1)[2].tolist()
    [True, False, False, False, True, True]
    """
    square = np.ones((2 * width + 1,) * 2, np.uint8)
    within = partial(cv2.morphologyEx, labels, kernel=square, borderType=cv2.BORDER_REPLICATE)
    near = np.asarray(within(op=cv2.MORPH_ERODE) != within(op=cv2.MORPH_DILATE))
    near[:width] = near[-width:] = True
    near[:, :width] = near[:, -width:] = True
    return near


def boundary_counts(label: np.ndarray, prediction: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the boundary pixels of every class in the truth, in the prediction, and in both, of one image.

    Args:
      label: uint8 [H, W]; values from `num_classes` on are ignored.
      prediction: uint8 [H, W], below `num_classes`.
      num_classes: C.

    Returns:
      int64 [3, C].

    >>> truth = np.array([[0, 0, 0, 1]] * 3, np.uint8)
    >>> boundary_counts(truth, np.zeros_like(truth), 2).tolist()  # the pixel in row 1, column 1 is inside of class 0
    [[8, 3], [10, 0], [7, 0]]
    """
    truth = np.where(label < num_classes, label, np.uint8(IGNORE))
    prediction = np.where(label < num_classes, prediction, np.uint8(IGNORE))
    width = boundary_width(label.shape)  # type: ignore[arg-type]
    of_truth, of_prediction = near_contours(truth, width), near_contours(prediction, width)
    both = of_truth & of_prediction & (truth == prediction)
    counted = (truth[of_truth], prediction[of_prediction], truth[both])
    return np.stack([np.bincount(of, minlength=256)[:num_classes] for of in counted])


def boundary_iou(counts: np.ndarray, labeled: np.ndarray) -> list[float | None]:
    """Boundary IoU of every class; None for a class without a labeled pixel.

    Args:
      counts: of `boundary_counts`, summed over a split, int [3, C].
      labeled: number of labeled pixels of every class, int [C].

    >>> boundary_iou(np.array([[8, 3], [10, 0], [7, 0]]), np.array([9, 3]))  # 7 / (8 + 10 - 7)
    [0.6363636363636364, 0.0]
    """
    union = counts[0] + counts[1] - counts[2]
    found = zip(counts[2], union, labeled, strict=True)
    return [float(hits / of) if pixels else None for hits, of, pixels in found]
