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


def pixel_entropy(logits):
    """Entropy of softmax(logits) along the last axis, in nats: [..., C] -> [...] (H of Eq. 3 and 4)."""
    log_p = jax.nn.log_softmax(logits, axis=-1)
    return -(jnp.exp(log_p) * log_p).sum(-1)
