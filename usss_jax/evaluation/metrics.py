"""Mean intersection over union from one integer confusion matrix over a whole split (Eq. 6 of the paper)."""

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

CONVENTION = (
    "mIoU = mean over classes of TP / (TP + FP + FN), from one confusion matrix over the whole split; ignored pixels "
    "do not count; a class without a labeled pixel in the split is absent and not averaged"
)


def confusion_matrix(labels, predictions, num_classes: int):
    """Count pixels by (label, prediction).

    Args:
      labels: int [B, H, W]; ids >= num_classes (255) are ignored.
      predictions: int [B, H, W] below num_classes.
      num_classes: C.

    Returns:
      int32 [C, C], rows are labels.

    >>> confusion_matrix(np.array([[[0, 1, 1, 255]]]), np.array([[[0, 0, 1, 0]]]), num_classes=2).tolist()
    [[1, 0], [1, 1]]
    """

    def count(label, prediction):  # per example, so that each device counts its part of a sharded batch
        index = jnp.where(label < num_classes, label * num_classes + prediction, num_classes**2)
        return jnp.bincount(index.reshape(-1), length=num_classes**2 + 1)[:-1]

    counts = jax.vmap(count)(labels.astype(jnp.int32), predictions.astype(jnp.int32)).sum(0, dtype=jnp.int32)
    return counts.reshape(num_classes, num_classes)


def iou(confusion: np.ndarray) -> list[float | None]:
    """IoU of every class from an int [C, C] confusion matrix; None for a class without a labeled pixel.

    >>> iou(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]]))
    [0.75, 0.8, None]
    """
    confusion = np.asarray(confusion, np.int64)
    hits = np.diag(confusion)
    labeled = confusion.sum(1)
    union = labeled + confusion.sum(0) - hits
    return [float(hit / u) if n else None for hit, u, n in zip(hits, union, labeled, strict=True)]


def mean_iou(confusion: np.ndarray, classes: Sequence[int] | None = None) -> float | None:
    """Mean IoU over the classes with labeled pixels; None if there are none.

    Args:
      confusion: int [C, C].
      classes: train ids of the classes in the mean; None: all. The pixels of the others still count as false positives.

    >>> mean_iou(np.array([[1, 1, 0], [0, 2, 1], [0, 0, 0]]))  # (1/2 + 2/4) / 2
    0.5
    >>> mean_iou(np.array([[3, 1], [1, 0]]), classes=[0])  # 3 / 5
    0.6
    """
    found = iou(confusion)
    return average(found if classes is None else [found[i] for i in classes])


def average(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are not None; None if there are none.

    >>> average([0.25, None, 0.75])
    0.5
    """
    present = [v for v in values if v is not None]
    return sum(present) / len(present) if present else None


def percent(value: float | None) -> str:
    """Format a share in per cent, None as a dash.

    >>> percent(0.125), percent(None)
    ('12.50', '-')
    """
    return "-" if value is None else f"{100 * value:.2f}"
