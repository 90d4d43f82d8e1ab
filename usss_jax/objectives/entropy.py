"""The entropy module's objective: similarity with label embeddings (Eq. 2), cross (Eq. 3) and within (Eq. 4) terms."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from usss_jax.objectives.losses import pixel_entropy


def similarities(embedding, label_embeddings, scale: float = 1.0):
    """Dot products v of Eq. 2: embedding [B, h, w, d] with label embeddings [n, d] -> [B, h, w, n], times `scale`.

    `scale` is the inverse temperature of the softmax that follows (1 in the paper). The label embeddings are constants
    in the gradient.
    """
    constants = jax.lax.stop_gradient(label_embeddings).astype(embedding.dtype)
    return scale * jnp.einsum("bhwd,nd->bhwn", embedding, constants, precision=jax.lax.Precision.HIGHEST)


def normalized(embedding):
    """Embedding [..., d] with unit length per cell; short ones stay short, so that the gradient stays finite."""
    return embedding * jax.lax.rsqrt((embedding**2).sum(-1, keepdims=True) + 1e-12)


def entropy_terms(scores: Mapping[str, jax.Array], own: str, mean_over_pixels: Callable, diversity: float = 0.0):
    """Within and cross entropy of unlabeled images of one domain: one summand of Eq. 4 and of Eq. 3.

    Args:
      scores: per domain [B, h, w, n] of images of domain `own`: their similarities with its label embeddings, or the
        logits of its decoder (appendix C).
      own: name of the images' domain; one without scores, since it has no labels, has no within term.
      mean_over_pixels: (function, scores [B, h, w, n]) -> mean of the function of the upsampled scores over all pixels
        (models/strips.py); the upsampling follows the scores, which is exact.
      diversity: weight of the entropy of the mean prediction, which is subtracted from every term: information
        maximisation, against the collapse onto one label embedding. 0 in the paper.

    Returns:
      (within, cross, watch): two scalars in nats, the cross term summed over the other domains (each 0 if there is
      none), and per domain of scores the scalars that show a collapse: "entropy" (mean over pixels), "entropy_of_mean"
      (of the mean prediction over the encoder's cells; high is good) and "top_share" (share of cells whose most
      similar embedding is the most used one; left out if there is one embedding alone).
    """
    zero = jnp.zeros((), next(iter(scores.values())).dtype)
    within, cross, watch = zero, zero, {}
    for domain, values in scores.items():
        entropy = mean_over_pixels(pixel_entropy, values)
        term = entropy - diversity * entropy_of_mean(values) if diversity else entropy
        if domain == own:
            within = term  # Eq. 4
        else:
            cross = cross + term  # Eq. 3
        watch[domain] = {"entropy": entropy, **_usage(jax.lax.stop_gradient(values))}
    return within, cross, watch


def _usage(scores):
    """How the cells of scores [B, h, w, n] spread over the n label embeddings."""
    nearest = jnp.argmax(scores, axis=-1)[..., None] == jnp.arange(scores.shape[-1])
    usage = {"entropy_of_mean": entropy_of_mean(scores)}
    if scores.shape[-1] == 1:  # with a single embedding the share is 1 and says nothing
        return usage
    return {**usage, "top_share": nearest.mean((0, 1, 2)).max()}


def entropy_of_mean(scores):
    """Entropy in nats of the mean over all cells of softmax(scores), [B, h, w, n] -> scalar."""
    mean = jax.nn.softmax(scores, axis=-1).mean((0, 1, 2))
    return -(mean * jnp.log(jnp.maximum(mean, jnp.finfo(mean.dtype).tiny))).sum()
