"""Mean intersection over union from one integer confusion matrix over a whole split (Eq. 6 of the paper)."""

from collections.abc import Iterable

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
      labels: int [B, H, W]; pixels with an id >= num_classes (255) are left out.
      predictions: int [B, H, W] below num_classes.
      num_classes: C.

    Returns:
      int32 [C, C], rows are labels.
    """

    def count(label, prediction):  # per example, so that a sharded batch is counted where it lies
        index = jnp.where(label < num_classes, label * num_classes + prediction, num_classes**2)
        return jnp.bincount(index.reshape(-1), length=num_classes**2 + 1)[:-1]

    counts = jax.vmap(count)(labels.astype(jnp.int32), predictions.astype(jnp.int32)).sum(0, dtype=jnp.int32)
    return counts.reshape(num_classes, num_classes)


def iou(confusion: np.ndarray) -> list[float | None]:
    """IoU of every class from an int [C, C] confusion matrix; None for a class without a labeled pixel."""
    confusion = np.asarray(confusion, np.int64)
    hits = np.diag(confusion)
    labeled = confusion.sum(1)
    union = labeled + confusion.sum(0) - hits
    return [float(hit / u) if n else None for hit, u, n in zip(hits, union, labeled, strict=True)]


def mean_iou(confusion: np.ndarray) -> float | None:
    """Mean IoU over the classes that the split has; None if it has none."""
    values = [v for v in iou(confusion) if v is not None]
    return sum(values) / len(values) if values else None


def average(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are present; None if there are none."""
    present = [v for v in values if v is not None]
    return sum(present) / len(present) if present else None


def percent(value: float | None) -> str:
    """Format a share as per cent; a dash if absent."""
    return "-" if value is None else f"{100 * value:.2f}"
