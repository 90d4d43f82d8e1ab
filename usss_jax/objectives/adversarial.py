"""The losses of Hung et al. (2018), Adversarial Learning for Semi-Supervised Semantic Segmentation.

All are means over pixels, where the paper prints sums: its equations with every term divided by the same H x W.
"""

import jax
import jax.numpy as jnp

from usss_jax.objectives import IGNORE


def truth_map(labels, num_classes: int, dtype=jnp.float32):
    """One-hot map of the ground truth, what D shall call true: int [B, H, W] -> [B, H, W, C]; zeros where ignored."""
    labels = labels.astype(jnp.int32)[..., None]
    return ((labels == jnp.arange(num_classes)) & (labels != IGNORE)).astype(dtype)


def prediction_map(logits, counts=None):
    """Softmax of logits [B, H, W, C], what D shall call false.

    `counts` (bool [B, H, W]) sets pixels without a label to zero, as `truth_map` does: or they would tell D that a map
    is the ground truth.
    """
    probabilities = jax.nn.softmax(logits, axis=-1)
    return probabilities if counts is None else jnp.where(counts[..., None], probabilities, 0)


def discriminator_loss(of_predictions, of_truth, counts):
    """L_D (Eq. 1 of the paper): binary cross-entropy, predictions -> 0 and ground truth -> 1, in nats.

    Args:
      of_predictions: D's logits [B, H, W] on `prediction_map`.
      of_truth: D's logits on `truth_map` of the same images.
      counts: bool [B, H, W], the pixels that have a label.

    Returns:
      Scalar, the sum of both means over the pixels that count; 0 if there is none.
    """
    return _mean(jax.nn.softplus(of_predictions) + jax.nn.softplus(-of_truth), counts)


def discriminator_accuracy(of_predictions, of_truth, counts):
    """Share of the pixels that D tells apart rightly, both kinds together; arguments as `discriminator_loss`."""
    right = (of_predictions < 0).astype(of_truth.dtype) + (of_truth > 0).astype(of_truth.dtype)
    return _mean(right / 2, counts)


def adversarial_loss(of_predictions, counts=None):
    """L_adv (section 3 of the paper): -log of D's confidence in predictions, which shall pass for ground truth.

    Args:
      of_predictions: D's logits [B, H, W].
      counts: bool [B, H, W], pixels that count; None: all.

    Returns:
      Scalar, a mean in nats.
    """
    return _mean(jax.nn.softplus(-of_predictions), counts)


def self_taught_loss(logits, of_predictions, threshold: float):
    """L_semi (section 3 of the paper): cross-entropy with the network's own arg max where D is confident.

    Arg max and choice of pixels are constants in the gradient.

    Args:
      logits: of the segmentation network, float [B, H, W, C].
      of_predictions: D's logits on their softmax, [B, H, W].
      threshold: T_semi; a pixel takes part if D's confidence is above it.

    Returns:
      (mean in nats over all pixels, of which those not chosen are 0; share of the chosen pixels).
    """
    trusted = jax.nn.sigmoid(jax.lax.stop_gradient(of_predictions)) > threshold
    own = jnp.argmax(logits, axis=-1)[..., None] == jnp.arange(logits.shape[-1])
    nll = jax.nn.logsumexp(logits, axis=-1) - jnp.where(own, logits, 0).sum(-1)
    return jnp.where(trusted, nll, 0).mean(), trusted.astype(logits.dtype).mean()


def _mean(values, counts=None):
    """Mean over the pixels that count, over all if `counts` is None; 0 if none counts."""
    if counts is None:
        return values.mean()
    return jnp.where(counts, values, 0).sum() / jnp.maximum(counts.sum(), 1)
