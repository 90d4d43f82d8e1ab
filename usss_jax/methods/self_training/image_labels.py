"""Image-level labels for the classification head (PWL; MLSL, section 3.3): which classes an image or crop shows."""

import numpy as np


def class_counts(label: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the pixels of every class: uint8 [h, w] -> int64 [C]; IGNORE is not counted.

    >>> class_counts(np.array([[0, 1, 1, 255]], np.uint8), num_classes=3).tolist()
    [1, 2, 0]
    """
    return np.bincount(label.ravel(), minlength=256)[:num_classes]


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


def labels_by_size(counts: np.ndarray, area: int, sizes: np.ndarray, eta: float) -> np.ndarray:
    """Image-level labels: a class is there if its share reaches eta times its mean size (section 3.3.1).

    Args:
      counts: `class_counts` of pseudo-labels, int [..., C].
      area: H * W; pixels without a label are part of it.
      sizes: h_s, [C], from `mean_sizes`.
      eta: 0: every class with a pixel.

    Returns:
      float32 [..., C]; 0 for a class without a pixel, or absent from the source.

    >>> labels_by_size(np.array([[5, 4, 0]]), area=100, sizes=np.array([0.5, 0.5, 0.0]), eta=0.1).tolist()
    [[1.0, 0.0, 0.0]]
    """
    known = np.isfinite(sizes)
    enough = counts >= eta * area * np.where(known, sizes, 0)
    return (enough & known & (counts > 0)).astype(np.float32)


def labels_by_presence(counts: np.ndarray) -> np.ndarray:
    """Image-level labels of the ground truth: a class is there if it has a pixel; int [..., C] -> float32 [..., C].

    >>> labels_by_presence(np.array([[3, 0]])).tolist()
    [[1.0, 0.0]]
    """
    return (counts > 0).astype(np.float32)
