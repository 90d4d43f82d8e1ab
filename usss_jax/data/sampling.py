"""Rare-class sampling of labeled images."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from usss_jax.data.examples import Source
from usss_jax.errors import InputError


def count_pixels(source: Source, num_classes: int, threads: int = 4) -> np.ndarray:
    """Labeled pixels of every class in every image of a source with masks, int64 [N, C]."""

    def count(index: int) -> np.ndarray:
        return np.bincount(source.label(index).ravel(), minlength=256)[:num_classes]

    with ThreadPoolExecutor(threads) as pool:
        return np.stack(list(pool.map(count, range(len(source)))))


def rare_class_probabilities(counts: np.ndarray, temperature: float) -> np.ndarray:
    """Probability of drawing each class, float64 [C]: P(c) = exp((1 - f_c) / T) / sum, f_c the share of its pixels.

    Classes without a pixel have probability 0. Source: DAFormer (Hoyer et al., CVPR 2022), Eq. 9 and 10.

    Raises:
      InputError: if no pixel is labeled.
    """
    total = counts.sum(axis=0)
    if not total.any():
        raise InputError("data.sampling=rare: no labeled image has a labeled pixel; check the masks")
    scores = np.where(total > 0, (1 - total / total.sum()) / temperature, -np.inf)
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()
