"""Supervised loss (Eq. 1) and the entropy of a pixel's distribution. All reductions are over the global batch."""

import jax
import jax.numpy as jnp

from usss_jax.objectives import IGNORE


def cross_entropy(logits, labels, ignore: int = IGNORE):
    """Softmax cross-entropy averaged over the labeled pixels of the batch (Eq. 1), in nats.

    Args:
      logits: float [B, H, W, C].
      labels: int [B, H, W], train ids 0 .. C - 1, or `ignore`.
      ignore: pixels with this id do not count.

    Returns:
      Scalar; 0 if no pixel is labeled.
    """
    return pixel_cross_entropy(logits, labels, ignore).sum() / count_labeled(labels, ignore=ignore)


def pixel_cross_entropy(logits, labels, ignore: int = IGNORE):
    """Cross-entropy of every pixel in nats, [B, H, W]; 0 where the label is `ignore`. See `cross_entropy`."""
    labels = labels.astype(jnp.int32)
    # A comparison instead of a gather: its gradient is softmax minus one-hot, without a scatter.
    chosen = labels[..., None] == jnp.arange(logits.shape[-1])
    nll = jax.nn.logsumexp(logits, axis=-1) - jnp.where(chosen, logits, 0).sum(-1)
    return jnp.where(labels != ignore, nll, 0)


def grouped_pixel_cross_entropy(logits, labels, classes, ignore: int = IGNORE):
    """Cross-entropy of the classes when some have several columns of the logits and others none, in nats.

    The probability of a class is the sum of those of its columns.

    Args:
      logits: float [B, H, W, n].
      labels: int [B, H, W], train ids, or `ignore`.
      classes: int [n], train id of each column.
      ignore: pixels with this id do not count; nor do those of a class without a column.

    Returns:
      [B, H, W], 0 where the pixel does not count.
    """
    chosen = labels.astype(jnp.int32)[..., None] == jnp.asarray(classes)
    counts = chosen.any(-1) & (labels != ignore)
    # Where no column is chosen any finite value will do: it does not count, and its gradient must not be NaN.
    own = jax.nn.logsumexp(logits, axis=-1, where=chosen | ~counts[..., None])
    return jnp.where(counts, jax.nn.logsumexp(logits, axis=-1) - own, 0)


def count_labeled(labels, classes=None, ignore: int = IGNORE):
    """Number of pixels of labels int [B, H, W] that count, at least 1: not ignored and, if given, of `classes`."""
    counts = labels != ignore
    if classes is not None:
        counts &= (labels.astype(jnp.int32)[..., None] == jnp.asarray(classes)).any(-1)
    return jnp.maximum(counts.sum(), 1)


def pixel_entropy(logits):
    """Entropy of softmax(logits) along the last axis, in nats: [..., C] -> [...] (H of Eq. 3 and 4)."""
    log_p = jax.nn.log_softmax(logits, axis=-1)
    return -(jnp.exp(log_p) * log_p).sum(-1)
