"""The spatial prior of CBST-SP (ECCV 2018): where in an image the source has which class.

Counts over all source labels, smoothed by a Gaussian and scaled to the mean 1 for every class. On the host, once per
run; the largest array is the prior, [H, W, C].
"""

from collections.abc import Iterable

import numpy as np

from usss_jax.data.decode import resize_label


def class_frequencies(labels: Iterable[np.ndarray], num_classes: int, size: tuple[int, int]) -> np.ndarray:
    """Count the classes at every pixel over all labels, each resized to the target's size by the nearest pixel.

    Args:
      labels: uint8 [h, w] each, of any size; ids >= num_classes (255) are not counted.
      num_classes: C.
      size: (H, W).

    Returns:
      int32 [H, W, C].

    >>> labels = [np.array([[0, 1]], np.uint8), np.array([[0, 255]], np.uint8)]
    >>> class_frequencies(labels, num_classes=2, size=(1, 4)).tolist()
    [[[2, 0], [2, 0], [0, 1], [0, 1]]]
    """
    counts = np.zeros((*size, num_classes), np.int32)
    for label in labels:
        resized = resize_label(label, size)
        for c in range(num_classes):
            counts[..., c] += resized == c
    return counts


def spatial_prior(counts: np.ndarray, sigma: float) -> np.ndarray:
    """Smooth counts of classes by a Gaussian, and scale them as `unit_mean` does.

    The weights of the pixels inside the image have the sum 1 everywhere, so the prior does not fade at the border.

    Args:
      counts: [H, W, C].
      sigma: standard deviation of the Gaussian in pixels, positive.

    Returns:
      float32 [H, W, C].

    >>> print(spatial_prior(np.array([[[1], [0], [0]]]), sigma=1.0).ravel().round(2))
    [1.86 0.89 0.25]
    """
    rows, columns = (_gaussian(n, sigma) for n in counts.shape[:2])
    maps = np.zeros(counts.shape, np.float32)
    for c in range(counts.shape[-1]):
        maps[..., c] = rows @ counts[..., c] @ columns.T
    return unit_mean(maps)


def unit_mean(maps: np.ndarray) -> np.ndarray:
    """Clip maps [H, W, C] at 0 and scale every class to the mean 1; also for a prior from elsewhere.

    A class that is absent from the source keeps the prior 0: it never becomes a pseudo-label.

    >>> unit_mean(np.array([[[3.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]]])).tolist()
    [[[3.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]]
    """
    maps = np.maximum(maps, 0)
    means = maps.mean((0, 1), dtype=np.float64)
    return (maps / np.where(means > 0, means, 1)).astype(np.float32)


def apply_prior(probabilities, prior):
    """Scores q: probabilities [..., H, W, C] times the prior [H, W, C], not scaled to the sum 1.

    Raises:
      ValueError: if the prior has another size or other classes.

    >>> apply_prior(np.array([[[0.5, 0.5]]]), np.array([[[2.0, 0.0]]])).tolist()
    [[[1.0, 0.0]]]
    """
    if probabilities.shape[-3:] != prior.shape:
        raise ValueError(f"the prior has the shape {prior.shape}, the probabilities {probabilities.shape[-3:]}")
    return probabilities * prior


def _gaussian(size: int, sigma: float) -> np.ndarray:
    """Gaussian weights between all places along one axis, float64 [size, size]; rows sum to 1."""
    places = np.arange(size)
    weights = np.exp(-0.5 * ((places[:, None] - places) / sigma) ** 2)
    return weights / weights.sum(1, keepdims=True)
