"""Supervised loss (Eq. 1) and entropy per pixel. All reductions are over the global batch."""

import jax
import jax.numpy as jnp

from usss_jax.objectives import IGNORE


def cross_entropy(logits, labels):
    """Softmax cross-entropy averaged over the labeled pixels of the batch (Eq. 1), in nats.

    Args:
      logits: float [B, H, W, C].
      labels: int [B, H, W], train ids 0 .. C - 1, or IGNORE.

    Returns:
      Scalar; 0 if no pixel is labeled.

    >>> f"{cross_entropy(jnp.zeros((1, 1, 2, 4)), jnp.array([[[0, 255]]])):.3f}"  # ln 4
    '1.386'
    """
    return pixel_cross_entropy(logits, labels).sum() / count_labeled(labels)


def pixel_cross_entropy(logits, labels):
    """Cross-entropy of every pixel in nats, [B, H, W]; 0 where the label is IGNORE. See `cross_entropy`.

    >>> print(pixel_cross_entropy(jnp.zeros((1, 1, 2, 4)), jnp.array([[[0, 255]]])).round(3))
    [[[1.386 0.   ]]]
    """
    labels = labels.astype(jnp.int32)
    # A comparison instead of a gather: its gradient is softmax minus one-hot, without a scatter.
    chosen = labels[..., None] == jnp.arange(logits.shape[-1])
    nll = jax.nn.logsumexp(logits, axis=-1) - jnp.where(chosen, logits, 0).sum(-1)
    return jnp.where(labels != IGNORE, nll, 0)


def weighted_pixel_cross_entropy(logits, labels, weights):
    """`pixel_cross_entropy` times weights [B, H, W]."""
    return pixel_cross_entropy(logits, labels) * weights


def pixel_weights(labels, class_weights):
    """Weight of every pixel's class, [B, H, W]; 0 where the label is IGNORE.

    >>> pixel_weights(jnp.array([1, 0, 255]), jnp.array([0.5, 2.0])).tolist()
    [2.0, 0.5, 0.0]
    """
    chosen = labels.astype(jnp.int32)[..., None] == jnp.arange(class_weights.shape[0])
    return jnp.where(chosen, class_weights, 0).sum(-1)


def grouped_pixel_cross_entropy(logits, labels, classes):
    """Cross-entropy of every pixel in nats, where a class may have several columns of the logits, or none.

    The probability of a class is the sum of the probabilities of its columns.

    Args:
      logits: float [B, H, W, n].
      labels: int [B, H, W], train ids, or IGNORE.
      classes: int [n], train id of each column.

    Returns:
      [B, H, W]; 0 where the label is IGNORE or has no column.

    >>> logits, labels, classes = jnp.zeros((1, 1, 1, 4)), jnp.array([[[7]]]), jnp.array([7, 7, 8, 8])
    >>> f"{jax.jit(grouped_pixel_cross_entropy)(logits, labels, classes).item():.3f}"  # -ln (2 / 4)
    '0.693'
    """
    chosen = labels.astype(jnp.int32)[..., None] == jnp.asarray(classes)
    counts = chosen.any(-1) & (labels != IGNORE)
    # A pixel without a chosen column takes all columns: it does not count, but its gradient must not be NaN.
    own = jax.nn.logsumexp(logits, axis=-1, where=chosen | ~counts[..., None])
    return jnp.where(counts, jax.nn.logsumexp(logits, axis=-1) - own, 0)


def count_labeled(labels, classes=None):
    """Count the labeled pixels of labels int [B, H, W], only those of `classes` if given; at least 1.

    >>> int(count_labeled(jnp.array([0, 1, 255]))), int(count_labeled(jnp.array([0, 1, 255]), classes=[1]))
    (2, 1)
    """
    counts = labels != IGNORE
    if classes is not None:
        counts &= (labels.astype(jnp.int32)[..., None] == jnp.asarray(classes)).any(-1)
    return jnp.maximum(counts.sum(), 1)


def pixel_entropy(logits):
    """Entropy of softmax(logits) along the last axis in nats, [..., C] -> [...]: H of Eq. 3 and 4.

    >>> f"{pixel_entropy(jnp.zeros(4)):.3f}"  # ln 4
    '1.386'
    """
    log_p = jax.nn.log_softmax(logits, axis=-1)
    return -(jnp.exp(log_p) * log_p).sum(-1)
