"""Rare-class sampling of labeled images."""

import numpy as np

from usss_jax.errors import InputError


def rare_class_probabilities(counts: np.ndarray, temperature: float) -> np.ndarray:
    """Sampling probability of each class: P(c) = exp((1 - f_c) / T) / sum, with f_c its share of the pixels.

    Classes without a pixel have probability 0. Source: DAFormer (Hoyer et al., CVPR 2022), Eq. 9 and 10.

    Args:
      counts: pixels of each class in each image, [N, C].
      temperature: T.

    Returns:
      float64 [C].

    Raises:
      InputError: if no pixel is labeled.

    >>> rare_class_probabilities(np.array([[75, 25, 0]]), temperature=0.5).round(3).tolist()
    [0.269, 0.731, 0.0]
    """
    total = counts.sum(axis=0)
    if not total.any():
        raise InputError("data.sampling=rare: no labeled image has a labeled pixel; check the masks")
    scores = np.where(total > 0, (1 - total / total.sum()) / temperature, -np.inf)
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()
