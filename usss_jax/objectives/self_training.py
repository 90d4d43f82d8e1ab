"""Losses of self-training: hard examples and image-level labels (MLSL, WACV 2020), class ratios (ADVENT, CVPR 2019).

MinEnt of ADVENT without class ratios is the mean of `losses.pixel_entropy`, divided by ln C.
"""

import jax
import jax.numpy as jnp

from usss_jax.objectives import IGNORE
from usss_jax.objectives.losses import pixel_cross_entropy


def hard_example_cross_entropy(logits, labels, threshold: float = 0.6, min_kept: int = 256):
    """Softmax cross-entropy averaged over the hard pixels of the batch (OHEM), in nats.

    A labeled pixel is hard if the probability of its label is at most `threshold`, or among the `min_kept` lowest of
    the batch. The choice of pixels is a constant in the gradient.

    Args:
      logits: float [B, H, W, C].
      labels: int [B, H, W], train ids 0 .. C - 1, or IGNORE.
      threshold: probability.
      min_kept: with at most so many labeled pixels, all are kept.

    Returns:
      Scalar; 0 if no pixel is labeled.

    >>> logits, labels = jnp.array([[[[0.0, 0.0], [0.0, 9.0]]]]), jnp.array([[[0, 1]]])
    >>> f"{hard_example_cross_entropy(logits, labels, min_kept=1):.3f}"  # ln 2: the first pixel alone
    '0.693'
    """
    nll, labeled = pixel_cross_entropy(logits, labels), labels != IGNORE
    p = jnp.where(labeled, jnp.exp(-nll), jnp.inf)
    lowest = -jax.lax.top_k(-p.ravel(), min(min_kept, p.size))[0]
    # With fewer labeled pixels, the last of the lowest is infinite, and all of them are kept.
    kept = labeled & (p <= jnp.maximum(threshold, lowest[-1]))
    return jnp.where(kept, nll, 0).sum() / jnp.maximum(kept.sum(), 1)


def image_level_loss(logits, targets):
    """Binary cross-entropy of image-level labels, the mean over images and classes (Eq. 5 of MLSL), in nats.

    Args:
      logits: float [B, C], before the sigmoid.
      targets: float [B, C], 0 or 1.

    >>> f"{image_level_loss(jnp.zeros((1, 4)), jnp.array([[1.0, 0.0, 0.0, 1.0]])):.3f}"  # ln 2
    '0.693'
    """
    return (targets * jax.nn.softplus(-logits) + (1 - targets) * jax.nn.softplus(logits)).mean()


def weighted_information(logits):
    """Weighted self-information -p log p of every class, divided by ln C, which AdvEnt's discriminator sees.

    Source: Vu et al. (CVPR 2019), section 3.2. float [..., C] -> [..., C].

    >>> weighted_information(jnp.zeros(4)).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    log_p = jax.nn.log_softmax(logits, axis=-1)
    return -jnp.exp(log_p) * log_p / jnp.log(logits.shape[-1])


def class_ratio_loss(logits, ratios, mu: float = 0.5):
    """Class-ratio prior of MinEnt (ADVENT, section 3.3): the classes that an image shows too little of.

    The sum over classes of max(0, mu * ratio - mean probability), averaged over the images.

    Args:
      logits: float [B, H, W, C].
      ratios: shares of the classes among the labeled pixels of the source, [C].
      mu: 0: no constraint; 1: the source's ratios are lower bounds.

    >>> logits = jnp.array([[[[9.0, -9.0]]]])
    >>> f"{class_ratio_loss(logits, jnp.array([0.8, 0.2])):.3f}"  # 0.5 * 0.2
    '0.100'
    """
    means = jax.nn.softmax(logits, axis=-1).mean((1, 2))
    return jnp.maximum(mu * jnp.asarray(ratios, means.dtype) - means, 0).sum(-1).mean()
