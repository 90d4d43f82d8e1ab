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


def entropy_terms(
    embedding,
    own: str,
    label_embeddings: Mapping[str, jax.Array],
    mean_over_pixels: Callable,
    scale: float = 1.0,
    diversity: float = 0.0,
):
    """Within and cross entropy of unlabeled images of one domain (one summand of Eq. 3 and of Eq. 4).

    Args:
      embedding: E's output for images of domain `own` at the encoder's stride, [B, h, w, d].
      own: name of the images' domain; one without label embeddings, since it has no labels, has no within term.
      label_embeddings: per domain [n, d], rows of unit length.
      mean_over_pixels: (function, scores [B, h, w, n]) -> mean of the function of the upsampled scores over all pixels
        (models/strips.py); the upsampling follows the scores, which is exact.
      scale: see `similarities`.
      diversity: see `score_entropies`.

    Returns:
      (within, cross, watch): two scalars in nats, the cross term summed over the other domains (each 0 if there is
      none), and per domain of label embeddings the scalars that show a collapse: "entropy" (mean over pixels),
      "entropy_of_mean" (of the mean prediction over the encoder's cells; high is good) and "top_share" (share of
      cells whose most similar embedding is the most used one; left out if there is one embedding alone).
    """
    scores = {domain: similarities(embedding, rows, scale) for domain, rows in label_embeddings.items()}
    return score_entropies(scores, own, mean_over_pixels, diversity)


def score_entropies(scores: Mapping[str, jax.Array], own: str, mean_over_pixels: Callable, diversity: float = 0.0):
    """The same for any scores [B, h, w, n] per domain, such as the decoders' own: direct entropy (appendix C).

    Args:
      scores: per domain, of images of domain `own`.
      own, mean_over_pixels: see `entropy_terms`.
      diversity: weight of the entropy of the mean prediction, which is subtracted from every term: information
        maximisation, against the collapse onto one label embedding. 0 in the paper.

    Returns:
      (within, cross, watch), see `entropy_terms`.
    """
    zero = jnp.zeros((), next(iter(scores.values())).dtype)
    within, cross, watch = zero, zero, {}
    for domain, values in scores.items():
        entropy = mean_over_pixels(pixel_entropy, values)
        term = entropy - diversity * entropy_of_mean(values) if diversity else entropy
        if domain == own:
            within = term
        else:
            cross = cross + term
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
