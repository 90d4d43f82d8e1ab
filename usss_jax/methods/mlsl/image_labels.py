"""Image-level labels for the classification head (PWL; MLSL, section 3.3): which classes an image or crop shows."""

import jax.numpy as jnp
import numpy as np


def class_counts(labels, num_classes: int):
    """Count the pixels of every class of every image: int [B, H, W] -> int32 [B, C]; IGNORE is not counted.

    >>> class_counts(jnp.array([[[0, 1, 1, 255]]]), num_classes=3).tolist()
    [[1, 2, 0]]
    """
    return (labels[..., None] == jnp.arange(num_classes)).sum((1, 2), dtype=jnp.int32)


def mean_sizes(counts: np.ndarray, areas) -> np.ndarray:
    """Mean share of a class in the images that contain it, h_s (Eq. 4).

    Args:
      counts: pixels of every class in every image of the source, int [N, C].
      areas: pixels of every image, ignored ones included: [N], or one number for all.

    Returns:
      float64 [C]; infinite for a class in no image, which `labels_by_size` then never finds.

    >>> mean_sizes(np.array([[2, 0, 0], [4, 1, 0]]), areas=10).tolist()
    [0.30000000000000004, 0.1, inf]
    """
    shares = counts / np.broadcast_to(np.asarray(areas, np.float64), len(counts))[:, None]
    images = (counts > 0).sum(0)
    return np.where(images > 0, shares.sum(0) / np.maximum(images, 1), np.inf)


def labels_by_size(counts, area: int, sizes, eta: float):
    """Image-level labels: a class is there if its share reaches eta times its mean size (section 3.3.1).

    Args:
      counts: `class_counts` of pseudo-labels, int [B, C].
      area: H * W; pixels without a label are part of it.
      sizes: h_s, [C], from `mean_sizes`.
      eta: 0: every class with a pixel.

    Returns:
      float32 [B, C]; 0 for a class without a pixel, or absent from the source.

    >>> labels_by_size(jnp.array([[5, 4, 0]]), area=100, sizes=jnp.array([0.5, 0.5, 0.0]), eta=0.1).tolist()
    [[1.0, 0.0, 0.0]]
    """
    enough = counts >= eta * area * jnp.asarray(sizes, jnp.float32)  # 0 * inf is NaN, which nothing reaches
    return (enough & (counts > 0)).astype(jnp.float32)


def labels_by_presence(counts):
    """Image-level labels of the ground truth: a class is there if it has a pixel; int [B, C] -> float32 [B, C].

    >>> labels_by_presence(jnp.array([[3, 0]])).tolist()
    [[1.0, 0.0]]
    """
    return (counts > 0).astype(jnp.float32)
