"""Supervised loss (Eq. 1) and the entropy of a pixel's distribution. All reductions are over the global batch."""

import jax
import jax.numpy as jnp

IGNORE = 255


def cross_entropy(logits, labels, ignore: int = IGNORE):
    """Softmax cross-entropy averaged over the labeled pixels of the batch (Eq. 1), in nats.

    Args:
      logits: float [B, H, W, C].
      labels: int [B, H, W], train ids 0 .. C - 1, or `ignore`.
      ignore: pixels with this id do not count.

    Returns:
      Scalar; 0 if no pixel is labeled.
    """
    labels = labels.astype(jnp.int32)
    labeled = labels != ignore
    # A comparison instead of a gather: its gradient is softmax minus one-hot, without a scatter.
    chosen = labels[..., None] == jnp.arange(logits.shape[-1])
    nll = jax.nn.logsumexp(logits, axis=-1) - jnp.where(chosen, logits, 0).sum(-1)
    return jnp.where(labeled, nll, 0).sum() / jnp.maximum(labeled.sum(), 1)


def grouped_cross_entropy(logits, labels, classes, ignore: int = IGNORE):
    """Cross-entropy of the classes when some have several columns of the logits and others none, in nats.

    The probability of a class is the sum of those of its columns.

    Args:
      logits: float [B, H, W, n].
      labels: int [B, H, W], train ids, or `ignore`.
      classes: int [n], train id of each column.
      ignore: pixels with this id do not count; nor do those of a class without a column.

    Returns:
      Scalar, the mean over the pixels that count; 0 if there is none.
    """
    chosen = labels.astype(jnp.int32)[..., None] == jnp.asarray(classes)
    counts = chosen.any(-1) & (labels != ignore)
    # Where no column is chosen any finite value will do: it does not count, and its gradient must not be NaN.
    own = jax.nn.logsumexp(logits, axis=-1, where=chosen | ~counts[..., None])
    nll = jax.nn.logsumexp(logits, axis=-1) - own
    return jnp.where(counts, nll, 0).sum() / jnp.maximum(counts.sum(), 1)


def pixel_entropy(logits):
    """Entropy of softmax(logits) along the last axis, in nats: [..., C] -> [...] (H of Eq. 3 and 4)."""
    log_p = jax.nn.log_softmax(logits, axis=-1)
    return -(jnp.exp(log_p) * log_p).sum(-1)
