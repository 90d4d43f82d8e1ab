"""Objective of the entropy module: similarities with label embeddings (Eq. 2), cross (Eq. 3) and within (Eq. 4)."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from usss_jax.objectives.losses import pixel_entropy


def similarities(embedding, label_embeddings, scale: float = 1.0):
    """Dot products v of Eq. 2, times `scale`: embedding [B, h, w, d], label embeddings [n, d] -> [B, h, w, n].

    `scale` is the inverse temperature of the softmax that follows (1 in the paper). No gradient flows into the label
    embeddings.

    >>> similarities(jnp.array([[[[1.0, 2.0]]]]), jnp.array([[3.0, 0.0], [0.0, 4.0]])).tolist()
    [[[[3.0, 8.0]]]]
    """
    constants = jax.lax.stop_gradient(label_embeddings).astype(embedding.dtype)
    return scale * jnp.einsum("bhwd,nd->bhwn", embedding, constants, precision=jax.lax.Precision.HIGHEST)


def normalized(embedding):
    """Embedding [..., d] scaled to unit length; 1e-12 on the squared length keeps the gradient finite near zero.

    >>> print(normalized(jnp.array([3.0, 4.0])).round(3))
    [0.6 0.8]
    """
    return embedding * jax.lax.rsqrt((embedding**2).sum(-1, keepdims=True) + 1e-12)


def entropy_terms(scores: Mapping[str, jax.Array], own: str, mean_over_pixels: Callable, diversity: float = 0.0):
    """Within and cross entropy of unlabeled images of one domain: one summand of Eq. 4 and of Eq. 3.

    Args:
      scores: {domain: [B, h, w, n]} of the images: similarities with the domain's label embeddings, or the logits of
        its decoder (appendix C).
      own: the images' domain; if it has no scores (a domain without labels), the within term is 0.
      mean_over_pixels: (function, scores [B, h, w, n]) -> mean over all pixels of the function of the upsampled scores
        (models/strips.py). Upsampling after scoring is exact, since both are linear.
      diversity: weight of the entropy of the mean prediction, which is subtracted from every term: information
        maximisation, against the collapse onto one label embedding. 0 in the paper.

    Returns:
      (within, cross, watch). within and cross are scalars in nats; cross sums over the other domains. watch has three
      scalars per domain that show a collapse: "entropy" (mean over pixels), "entropy_of_mean" (of the prediction
      averaged over the encoder's cells; high is good) and "top_share" (share of the cells whose most similar embedding
      is the most frequent one; absent if the domain has one embedding only).

    >>> scores = dict.fromkeys("abc", jnp.zeros((1, 2, 2, 4)))
    >>> within, cross, watch = entropy_terms(scores, "a", lambda function, scores: function(scores).mean())
    >>> f"{within:.3f} {cross:.3f}"  # ln 4 for each domain
    '1.386 2.773'
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
        watch[domain] = {"entropy": entropy, **usage(jax.lax.stop_gradient(values))}
    return within, cross, watch


def usage(scores):
    """Scalars that show how the cells of scores [B, h, w, n] spread over the n label embeddings; see `entropy_terms`.

    >>> {name: round(float(value), 3) for name, value in usage(jnp.array([[[[9.0, -9.0]]]])).items()}
    {'entropy_of_mean': 0.0, 'top_share': 1.0}
    """
    nearest = jnp.argmax(scores, axis=-1)[..., None] == jnp.arange(scores.shape[-1])
    found = {"entropy_of_mean": entropy_of_mean(scores)}
    if scores.shape[-1] == 1:  # the share would always be 1
        return found
    return {**found, "top_share": nearest.mean((0, 1, 2)).max()}


def entropy_of_mean(scores):
    """Entropy in nats of softmax(scores) averaged over all cells, [B, h, w, n] -> scalar.

    >>> f"{entropy_of_mean(jnp.array([[[[9.0, -9.0], [-9.0, 9.0]]]])):.3f}"  # ln 2, though each cell is certain
    '0.693'
    """
    mean = jax.nn.softmax(scores, axis=-1).mean((0, 1, 2))
    return -(mean * jnp.log(jnp.maximum(mean, jnp.finfo(mean.dtype).tiny))).sum()
