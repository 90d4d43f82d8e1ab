"""What a teacher tells about a step's images: targets and thresholds of the student, and new label embeddings."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from usss_jax.methods.usss import terms
from usss_jax.methods.usss.teaching import Similarity, Teaching
from usss_jax.models.strips import map_pixels
from usss_jax.models.universal import UniversalModel
from usss_jax.objectives import IGNORE, consistency
from usss_jax.objectives.entropy import usage
from usss_jax.objectives.prototypes import moving_average


def each(function: Callable, batch, unroll: bool):
    """Apply a function to all micro-batches of a tree of arrays [U, B, ...], and stack the results.

    >>> [each(lambda x: x + 1, jnp.array([[1], [2]]), unroll).tolist() for unroll in (True, False)]
    [[[2], [3]], [[2], [3]]]
    """
    if not unroll:
        return jax.lax.map(function, batch)
    # As in `accumulate`: on CPU a convolution inside a loop is slow.
    count = jax.tree.leaves(batch)[0].shape[0]
    results = [function(jax.tree.map(lambda a, u=u: a[u], batch)) for u in range(count)]
    return jax.tree.map(lambda *arrays: jnp.stack(arrays), *results)


# ---- Targets ----


def other_scores(
    params,
    features,
    domain: str,
    *,
    model: UniversalModel,
    teaching: Teaching,
    similarity: Similarity | None,
    label_embeddings: Mapping,
) -> dict[str, dict]:
    """Scores of a domain's images [B, h, w, C] for the other domains, in which teacher and student are to agree.

    Returns:
      {"decoders": {domain: logits [B, h, w, C]}, "similarities": {domain: similarities with its label embeddings
      [B, h, w, n]}}; a kind whose weight is 0 is empty.
    """
    decoders = [d for d in model.num_classes if d != domain and teaching.cross_weight]
    found: dict[str, dict] = {
        "decoders": {d: model.apply({"params": params}, features, d, method="decode") for d in decoders},
        "similarities": {},
    }
    if similarity:
        found["similarities"] = terms.label_similarities(
            params,
            features,
            model=model,
            objective=similarity.objective,
            label_embeddings={d: rows for d, rows in label_embeddings.items() if d != domain},
        )
    return found


def predict(
    variables, part: Mapping, *, domain: str, model: UniversalModel, teaching: Teaching, others: Callable
) -> dict[str, Any]:
    """Predictions of the teacher, with its running statistics, on a micro-batch {"image", "valid"} of a domain.

    Args:
      variables: of the teacher.
      part: the micro-batch.
      domain: of the images.
      model, teaching: see `consistency.compute`.
      others: `other_scores` of (parameters, features, domain).

    Returns:
      {"label": uint8 [B, H, W], IGNORE on padding; "confidence": [B, H, W]; "scores": `other_scores`, and with soft
      targets the logits of the domain's own decoder among its "decoders"}.
    """
    features = model.apply(variables, part["image"], method="encode")
    own = model.apply(variables, features, domain, method="decode")
    scores = others(variables["params"], features, domain)
    label, confidence = map_pixels(
        consistency.pseudo_labels, own, size=part["image"].shape[1:3], stride=model.stride, mode=model.upsample
    )
    if teaching.targets == "soft":
        scores["decoders"][domain] = own
    label = jnp.where(part["valid"] != 0, label, IGNORE).astype(jnp.uint8)
    return {"label": label, "confidence": confidence, "scores": scores}


def sources(unlabeled: Mapping, targets: Mapping, labeled: Mapping, across: str) -> dict[str, dict]:
    """Source images for pasting across domains, as `teacher.across` selects them.

    Args:
      unlabeled: {domain: {"image": [U, B, H, W, 3], "valid": [U, B, H, W]}}.
      targets: {domain: `predict` of all micro-batches}.
      labeled: {domain: {"image": [B, H, W, 3], "label": [B, H, W]}}, not augmented.
      across: "none", "labeled" or "unlabeled".

    Returns:
      {domain: {"image", "label", "confidence", "valid"}}, of U micro-batches or, of labeled images, of one, whose
      labels are certain and whose pixels without a label are not valid; empty for "none".
    """
    if across == "unlabeled":
        return {d: {**part, **{k: targets[d][k] for k in ("label", "confidence")}} for d, part in unlabeled.items()}
    if across == "none":
        return {}
    found = {}
    for d in unlabeled:
        image, label = labeled[d]["image"][None], labeled[d]["label"][None]
        confidence, valid = jnp.ones(label.shape), (label != IGNORE).astype(jnp.uint8)
        found[d] = {"image": image, "label": label, "confidence": confidence, "valid": valid}
    return found


# ---- Thresholds, and what a run logs ----


def watch(unlabeled: Mapping, targets: Mapping, confidence: Mapping | None, class_names: Mapping, teaching: Teaching):
    """Thresholds of this step by domain [C], new averages of `confidence` or None, and scalars.

    The scalars are the share of the pixels kept, and for similarities with label embeddings how the teacher's cells
    spread over these, as `terms.warn_of_collapse` reads them.
    """
    thresholds: dict[str, Any] = {}
    moved: dict[str, Any] = {}
    scalars: dict[str, Any] = {}
    for domain, found in targets.items():
        names, label, valid = class_names[domain], found["label"], unlabeled[domain]["valid"]
        counts = consistency.per_class(label, label != IGNORE, len(names))
        thresholds[domain] = jnp.full(len(names), teaching.threshold[domain], found["confidence"].dtype)
        if confidence:
            sums = consistency.per_class(label, found["confidence"], len(names))
            moved[domain] = consistency.moved_confidence(confidence[domain], sums, counts, teaching.threshold_decay)
            thresholds[domain] = jnp.minimum(thresholds[domain], moved[domain])
            scalars |= {f"threshold/{domain}/{c}": value for c, value in zip(names, thresholds[domain], strict=True)}
        keep = consistency.kept(label, found["confidence"], valid, thresholds[domain])
        whole, by_class = consistency.shares(consistency.per_class(label, keep, len(names)), counts)
        scalars[f"kept/{domain}"] = whole
        scalars |= {f"kept/{domain}/{c}": value for c, value in zip(names, by_class, strict=True)}
        for other, scores in found["scores"]["similarities"].items():
            spread = jax.vmap(usage)(scores)  # of every micro-batch
            scalars |= {f"{name}/{domain}/{other}": values.mean() for name, values in spread.items()}
    return thresholds, moved or None, scalars


# ---- Label embeddings ----


def refresh(
    variables,
    labeled: Mapping,
    embeddings: Mapping,
    class_names: Mapping,
    *,
    model: UniversalModel,
    similarity: Similarity,
):
    """Move the label embeddings by the teacher's embedding of labeled pixels, as Eq. 7 does by the student's.

    Args:
      variables: of the teacher.
      labeled: {domain: {"image": [B, H, W, 3], "label": [B, H, W]}}, not augmented.
      embeddings: by domain, [n, d].
      class_names: by domain, for the names of the scalars.
      model: the model.
      similarity: with the decay `objective.theta`.

    Returns:
      (the new embeddings, scalars: the distance of every row from that of the first step, and its mean by domain).
    """
    moved: dict[str, Any] = {}
    scalars: dict[str, Any] = {}
    for d, before in embeddings.items():
        image, label, classes = labeled[d]["image"], labeled[d]["label"], similarity.classes[d]
        features = model.apply(variables, image, method="encode")
        embedding = terms.embed(model, similarity.objective, variables["params"], features)
        sums = terms.sums_of_classes(model, embedding, label, d)
        moved[d] = moving_average(before, sums, classes, similarity.objective.theta)
        distance = jnp.linalg.norm(moved[d] - jnp.asarray(similarity.start[d]), axis=1)
        scalars[f"moved/{d}"] = distance.mean()
        scalars |= {f"moved/{d}/{class_names[d][c]}": value for c, value in zip(classes, distance, strict=True)}
    return moved, scalars
