"""Pseudo-labels from scores and class-balanced thresholds (CBST, ECCV 2018), as functions to jit.

Scores q are class probabilities, times the spatial prior if there is one. A pixel without a positive score has no
prediction: no patch has shown it (patches.py), or the prior excludes all classes.
"""

import jax.numpy as jnp

from usss_jax.objectives import IGNORE


def most_probable(scores):
    """Predicted class and its score, from which the thresholds are computed.

    Args:
      scores: q, float32 [..., C].

    Returns:
      (classes uint8 [...], IGNORE where no score is positive; confidences float32 [...]).

    >>> classes, confidences = most_probable(jnp.array([[0.25, 0.75], [0.0, 0.0]]))
    >>> classes.tolist(), confidences.tolist()
    ([1, 255], [0.75, 0.0])
    """
    confidences = scores.max(-1)
    # NaN is not at most 0: it stays a prediction, which `class_thresholds` refuses.
    return jnp.where(confidences <= 0, IGNORE, jnp.argmax(scores, axis=-1)).astype(jnp.uint8), confidences


def select_labels(scores, thresholds):
    """Pseudo-labels: the arg max of s_c = q_c / k_c where the largest s_c is at least 1, IGNORE elsewhere.

    The label may differ from the arg max of q. The share of a class that is kept is only about the portion p.

    Args:
      scores: q, float32 [..., C].
      thresholds: k, positive float32 [C]; infinite: never selected.

    Returns:
      (labels uint8 [...]; confidences uint8 [...]: 255 times the share of q_c of the label in the sum over all classes,
      0 where ignored). Without a prior, that share is the probability of the label.

    >>> labels, confidences = select_labels(jnp.array([[0.6, 0.4], [0.3, 0.1]]), jnp.array([0.9, 0.4]))
    >>> labels.tolist(), confidences.tolist()
    ([1, 255], [102, 0])
    """
    # A quotient may be rounded down to below 1 where q = k; the comparison is exact.
    keep = (scores >= thresholds).any(-1)
    labels = jnp.argmax(scores / thresholds, axis=-1)
    chosen = labels[..., None] == jnp.arange(scores.shape[-1])
    share = jnp.where(chosen, scores, 0).sum(-1) / jnp.where(keep, scores.sum(-1), 1)
    confidences = jnp.round(255 * jnp.clip(share, 0, 1))
    return jnp.where(keep, labels, IGNORE).astype(jnp.uint8), jnp.where(keep, confidences, 0).astype(jnp.uint8)
