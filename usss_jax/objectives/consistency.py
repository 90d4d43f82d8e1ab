"""Consistency with a teacher: its pseudo-labels, which of them count, and the loss of the student on another view.

Pixels of padding are not valid: they never count. Nor do ignored ones. All reductions are over the global batch.
"""

import jax
import jax.numpy as jnp

from usss_jax.objectives import IGNORE
from usss_jax.objectives.losses import pixel_cross_entropy

# ---- Targets ----


def pseudo_labels(logits):
    """Arg max of the teacher's logits [..., C], int32 [...], and its confidence, the largest probability, [...].

    >>> label, confidence = pseudo_labels(jnp.log(jnp.array([[0.2, 0.7, 0.1]])))
    >>> label.item(), round(confidence.item(), 3)
    (1, 0.7)
    """
    largest = logits.max(-1)
    return logits.argmax(-1).astype(jnp.int32), jnp.exp(largest - jax.nn.logsumexp(logits, axis=-1))


def kept(labels, confidence, valid, thresholds):
    """Say which pixels count: valid ones whose confidence reaches the threshold of their label's class.

    Args:
      labels: int [...], 0 .. C - 1, or IGNORE.
      confidence: float [...].
      valid: [...], 0 for padding.
      thresholds: float [C].

    Returns:
      bool [...].

    >>> labels, confidence = jnp.array([0, 1, 1, 255]), jnp.array([0.9, 0.9, 0.8, 1.0])
    >>> kept(labels, confidence, jnp.array([1, 1, 1, 1]), jnp.array([0.95, 0.9])).tolist()
    [False, True, False, False]
    """
    labels = labels.astype(jnp.int32)
    inside = (labels != IGNORE) & (valid != 0)
    return inside & (confidence >= thresholds[jnp.where(inside, labels, 0)])


# ---- Thresholds per class that adapt ----


def per_class(labels, values, classes: int):
    """Sum values [...] over the pixels of each class, by labels int [...] or IGNORE: [classes].

    >>> per_class(jnp.array([1, 1, 255]), jnp.array([0.5, 0.25, 1.0]), 2).tolist()
    [0.0, 0.75]
    """
    chosen = labels.astype(jnp.int32)[..., None] == jnp.arange(classes)
    return jnp.where(chosen, values[..., None], 0).sum(tuple(range(labels.ndim)))


def moved_confidence(before, sums, counts, decay: float):
    """Moving average of the mean confidence of the pixels that the teacher predicts as each class.

    FreeMatch (Wang et al. 2023) averages the confidence of all images, and scales it by class with the mean
    probability of the class. On pixels, that is nearly 0 for small things, and keeps every wrong pixel of them. Here
    each class has the average of its own confidence.

    Args:
      before: [C]; the first is 1 / C, as in FreeMatch.
      sums, counts: sum of the confidence, and number, of this step's pixels of each class, [C].
      decay: of the average; a class without a pixel keeps its value.

    >>> moved_confidence(jnp.array([0.5, 0.5]), jnp.array([1.8, 0.0]), jnp.array([2, 0]), 0.75).tolist()
    [0.6000000238418579, 0.5]
    """
    mean = sums / jnp.maximum(counts, 1)
    return jnp.where(counts > 0, decay * before + (1 - decay) * mean, before)


def shares(kept_counts, counts):
    """Share of the pixels that are kept, of all and per class [C]; 0 without a pixel.

    >>> whole, each = shares(jnp.array([1, 0, 0]), jnp.array([2, 2, 0]))
    >>> whole.item(), each.tolist()
    (0.25, [0.5, 0.0, 0.0])
    """
    return kept_counts.sum() / jnp.maximum(counts.sum(), 1), kept_counts / jnp.maximum(counts, 1)


# ---- Loss ----


def consistency_loss(logits, labels, confidence, valid, thresholds, over: str = "valid"):
    """Mean cross-entropy of the student with the teacher's pseudo-labels, where those are kept.

    Args:
      logits: of the student, [B, H, W, C].
      labels, confidence, valid, thresholds: of the teacher, for the same pixels; see `kept`.
      over: "valid": the mean is over all valid pixels of the batch, of which those below the threshold add 0, as in
        FixMatch and UniMatch, so that the term grows with the teacher's confidence; "kept": over the kept ones.

    Returns:
      Scalar; 0 if no pixel is kept.

    >>> logits, labels, confidence = jnp.zeros((1, 1, 2, 4)), jnp.zeros((1, 1, 2)), jnp.array([[[1.0, 0.5]]])
    >>> loss = consistency_loss(logits, labels, confidence, jnp.ones((1, 1, 2)), jnp.full(4, 0.9))
    >>> f"{loss:.3f}"  # ln 4 of one pixel of two
    '0.693'
    """
    counts = kept(labels, confidence, valid, thresholds)
    count = jnp.maximum(pixels(labels, valid, counts, over), 1)
    return pixel_cross_entropy(logits, targets(labels, counts)).sum() / count


def targets(labels, counts):
    """Labels, with IGNORE where a pixel does not count.

    >>> targets(jnp.array([3, 4]), jnp.array([True, False])).tolist()
    [3, 255]
    """
    return jnp.where(counts, labels.astype(jnp.int32), IGNORE)


def pixels(labels, valid, counts, over: str):
    """Count the pixels that the mean is over; see `consistency_loss`.

    >>> labels, valid, counts = jnp.array([0, 1, 255, 1]), jnp.array([1, 1, 1, 0]), jnp.array([1, 0, 0, 0])
    >>> [pixels(labels, valid, counts, over).item() for over in ("valid", "kept")]
    [2, 1]
    """
    return (counts if over == "kept" else (valid != 0) & (labels != IGNORE)).sum()


def soft_pixel_cross_entropy(scores, weights, pasted):
    """Cross-entropy of the student with the teacher's probabilities, of every pixel, [B, H, W].

    Args:
      scores: [B, H, W, 3 C], side by side: logits of the student, logits of the teacher for the image itself, and for
        the image that a part was pasted from. They are upsampled together (models/strips.py), so that no array of
        probabilities has the size of the image.
      weights: factor on the loss of every pixel, [B, H, W]: 0 where it does not count.
      pasted: [B, H, W], not 0 where the pixel is of the other image.

    >>> scores = jnp.concatenate([jnp.zeros(2), jnp.array([9.0, -9.0]), jnp.array([-9.0, 9.0])])[None, None, None]
    >>> f"{soft_pixel_cross_entropy(scores, jnp.ones((1, 1, 1)), jnp.zeros((1, 1, 1))).item():.3f}"  # ln 2
    '0.693'
    """
    student, own, other = jnp.split(scores, 3, axis=-1)
    teacher = jax.lax.stop_gradient(jnp.where((pasted != 0)[..., None], other, own))
    return -(jax.nn.softmax(teacher, axis=-1) * jax.nn.log_softmax(student, axis=-1)).sum(-1) * weights
