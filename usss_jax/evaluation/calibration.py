"""Calibration: does a class with probability p turn out right in a share p of the pixels? (Guo et al. 2017)"""

from typing import Any

import numpy as np

BINS = 15
CONVENTION = (
    "ECE = sum over 15 equal bins of the confidence, the probability of the predicted class, of the share of pixels in "
    "the bin times |accuracy - mean confidence| (Guo et al. 2017), over all pixels of the split that are not ignored"
)


def calibration_counts(right: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Pixels, right pixels and summed confidence of every bin, float64 [3, 15]; bin m has ((m - 1) / 15, m / 15].

    Args:
      right: whether each pixel is right, bool [N].
      confidence: probability of its predicted class, float32 [N].

    >>> calibration_counts(np.array([True, False, True]), np.array([0.5, 0.5, 1.0]))[:, [7, 14]].tolist()
    [[2.0, 1.0], [1.0, 1.0], [1.0, 1.0]]
    """
    index = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    return np.stack([np.bincount(index, weights, BINS) for weights in (None, right, confidence)])


def expected_calibration_error(counts: np.ndarray) -> float | None:
    """ECE from the counts of `calibration_counts`, summed over a split; None without a pixel.

    >>> counts = calibration_counts(np.array([True, False, True]), np.array([0.5, 0.75, 1.0]))
    >>> expected_calibration_error(counts)  # (0.5 + 0.75 + 0) / 3
    0.4166666666666667
    """
    pixels, right, confidence = counts
    return float(np.abs(right - confidence).sum() / pixels.sum()) if pixels.sum() else None


def reliability(counts: np.ndarray) -> list[dict[str, Any]]:
    """The reliability curve as JSON: the bins with their limits, pixels, mean confidence and accuracy.

    >>> reliability(calibration_counts(np.array([True, False]), np.array([0.5, 0.5])))[7]
    {'from': 0.4666..., 'to': 0.5333..., 'pixels': 2, 'confidence': 0.5, 'accuracy': 0.5}
    """
    out = []
    for m, (pixels, right, confidence) in enumerate(counts.T.tolist()):
        means = {"confidence": confidence / pixels, "accuracy": right / pixels} if pixels else {}
        limits = {"from": m / BINS, "to": (m + 1) / BINS}
        out.append({**limits, "pixels": int(pixels), "confidence": None, "accuracy": None, **means})
    return out
