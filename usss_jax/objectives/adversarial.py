"""The losses of Hung et al. (2018), Adversarial Learning for Semi-Supervised Semantic Segmentation.

All are means over pixels where the paper prints sums: every term of its equations divided by the same H x W.
"""

import jax
import jax.numpy as jnp

from usss_jax.objectives import IGNORE


def truth_map(labels, num_classes: int, dtype=jnp.float32):
    """One-hot map of the ground truth, which D should call true: int [B, H, W] -> [B, H, W, C]; zeros where ignored.

    >>> truth_map(jnp.array([[[1, 255]]]), num_classes=2).tolist()
    [[[[0.0, 1.0], [0.0, 0.0]]]]
    """
    labels = labels.astype(jnp.int32)[..., None]
    return ((labels == jnp.arange(num_classes)) & (labels != IGNORE)).astype(dtype)


def prediction_map(logits, counts=None):
    """Softmax of logits [B, H, W, C], which D should call false.

    Pixels outside the mask `counts` (bool [B, H, W]) become zero as in `truth_map`, so that D cannot recognize the
    ground truth by its zeros.

    >>> prediction_map(jnp.zeros((1, 1, 2, 2)), jnp.array([[[True, False]]])).tolist()
    [[[[0.5, 0.5], [0.0, 0.0]]]]
    """
    probabilities = jax.nn.softmax(logits, axis=-1)
    return probabilities if counts is None else jnp.where(counts[..., None], probabilities, 0)


def discriminator_loss(prediction_logits, truth_logits, counts):
    """L_D (Eq. 1 of the paper): binary cross-entropy in nats, with target 0 for predictions and 1 for ground truth.

    Args:
      prediction_logits: D's logits [B, H, W] on `prediction_map`.
      truth_logits: D's logits on `truth_map` of the same images.
      counts: bool [B, H, W], the labeled pixels.

    Returns:
      Scalar, the sum of both means over the labeled pixels; 0 if there are none.

    >>> undecided, counts = jnp.zeros((1, 1, 1)), jnp.ones((1, 1, 1), bool)
    >>> f"{discriminator_loss(undecided, undecided, counts):.3f}"  # 2 ln 2
    '1.386'
    """
    return _mean(jax.nn.softplus(prediction_logits) + jax.nn.softplus(-truth_logits), counts)


def discriminator_accuracy(prediction_logits, truth_logits, counts):
    """Accuracy of D over predictions and ground truth together; arguments as for `discriminator_loss`.

    >>> fooled, right, counts = jnp.array([[[5.0]]]), jnp.array([[[5.0]]]), jnp.ones((1, 1, 1), bool)
    >>> float(discriminator_accuracy(fooled, right, counts))
    0.5
    """
    right = (prediction_logits < 0).astype(truth_logits.dtype) + (truth_logits > 0).astype(truth_logits.dtype)
    return _mean(right / 2, counts)


def adversarial_loss(prediction_logits, counts=None):
    """L_adv (section 3 of the paper): -log of D's confidence that the predictions are ground truth.

    Args:
      prediction_logits: D's logits [B, H, W].
      counts: bool [B, H, W], pixels to average over; None: all.

    Returns:
      Scalar, a mean in nats.

    >>> f"{adversarial_loss(jnp.zeros((1, 2, 2))):.3f}"  # ln 2: D is undecided
    '0.693'
    """
    return _mean(jax.nn.softplus(-prediction_logits), counts)


def domain_loss(source_logits, target_logits):
    """Binary cross-entropy of a discriminator of domains, with target 1 for the source and 0 for the target.

    Source: Tsai et al. (CVPR 2018), Eq. 1, as a mean over pixels.

    Args:
      source_logits, target_logits: D's logits [B, H, W] on predictions of either domain.

    Returns:
      (sum of both means in nats, {"discriminator_accuracy": share of right pixels}).

    >>> loss, scalars = domain_loss(jnp.zeros((1, 1, 1)), jnp.zeros((1, 1, 1)))
    >>> f"{loss:.3f}"  # 2 ln 2
    '1.386'
    """
    loss = jax.nn.softplus(-source_logits).mean() + jax.nn.softplus(target_logits).mean()
    right = [(source_logits > 0).astype(loss.dtype).mean(), (target_logits < 0).astype(loss.dtype).mean()]
    return loss, {"discriminator_accuracy": sum(right) / 2}


def self_taught_loss(logits, prediction_logits, threshold: float):
    """L_semi (section 3 of the paper): cross-entropy with the network's own arg max where D is confident.

    The arg max and the choice of pixels are constants in the gradient.

    Args:
      logits: logits of the segmentation network, float [B, H, W, C].
      prediction_logits: D's logits on their softmax, [B, H, W].
      threshold: T_semi; pixels are chosen where D's confidence exceeds it.

    Returns:
      (mean in nats over all pixels, with 0 for those not chosen; share of the chosen pixels).

    >>> loss, share = self_taught_loss(jnp.zeros((1, 1, 2, 4)), jnp.array([[[9.0, -9.0]]]), threshold=0.5)
    >>> f"{loss:.3f} {share:.1f}"  # ln 4 at one of two pixels
    '0.693 0.5'
    """
    trusted = jax.nn.sigmoid(jax.lax.stop_gradient(prediction_logits)) > threshold
    own = jnp.argmax(logits, axis=-1)[..., None] == jnp.arange(logits.shape[-1])
    nll = jax.nn.logsumexp(logits, axis=-1) - jnp.where(own, logits, 0).sum(-1)
    return jnp.where(trusted, nll, 0).mean(), trusted.astype(logits.dtype).mean()


def _mean(values, counts=None):
    """Mean over the pixels of the mask `counts`, or over all if it is None; 0 for an empty mask."""
    if counts is None:
        return values.mean()
    return jnp.where(counts, values, 0).sum() / jnp.maximum(counts.sum(), 1)
