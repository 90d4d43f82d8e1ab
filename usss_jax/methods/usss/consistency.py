"""Terms of variant `teacher`: Eq. 1, and the student's agreement with a teacher on other views of unlabeled images."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from usss_jax.data.augment_device import DeviceAugment, part_key
from usss_jax.engine.accumulate import Term, accumulate
from usss_jax.engine.state import TrainState
from usss_jax.engine.step import Computed
from usss_jax.methods.supervised import LabeledBatches, augmented, step_key, supervised_loss
from usss_jax.methods.usss import average, targets, terms
from usss_jax.methods.usss.teaching import WEAK, Similarity, Teaching, partner
from usss_jax.methods.usss.views import beside, drop_channels, strong_view
from usss_jax.models.strips import sum_over_pixels
from usss_jax.models.universal import UniversalModel, encode_groups, in_order
from usss_jax.objectives import consistency
from usss_jax.objectives.consistency import soft_pixel_cross_entropy
from usss_jax.objectives.losses import pixel_cross_entropy
from usss_jax.parallel.sharding import on_cpu, replicated

AGREEMENT = {"decoders": "across", "similarities": "similarity"}  # names of their scalars


def compute(
    state: TrainState,
    batch: Mapping,
    *,
    model: UniversalModel,
    augment: DeviceAugment,
    seed: int,
    teaching: Teaching,
    class_names: Mapping[str, Sequence[str]],
    similarity: Similarity | None = None,
    use: LabeledBatches = LabeledBatches(),
    mesh: Mesh | None = None,
) -> Computed:
    """Eq. 1 of the labeled batches, and the consistency terms of the unlabeled ones, with their gradients.

    Args:
      state: extra["teacher"] has the teacher's variables, extra["confidence"] [C] for every domain of "unlabeled" (with
        `threshold_kind="adaptive"`), extra["label_embeddings"] [n, d] for every domain (with `similarity`).
      batch: {"labeled": {name: {"image", "label"}}, "unlabeled": {domain: {"image": uint8 [U, B, H, W, 3], "valid":
        uint8 [U, B, H, W]}}}; the domains of "unlabeled" have decoders of their own, and labels.
      model, augment, seed, mesh: see `methods.segmentation.fit`; `augment` is for labeled images.
      teaching: settings.
      class_names: by domain, for the names of the scalars.
      similarity: settings of the agreement in similarities with label embeddings; None: the model has no such head.
      use: how labeled batches are used.
    """
    key = step_key(state, seed)
    unlabeled = {d: batch["unlabeled"][d] for d in in_order(model, batch["unlabeled"])}
    teacher, embeddings = state.extra["teacher"], state.extra.get("label_embeddings", {})
    if mesh is not None:  # it may be split over the devices
        teacher = jax.lax.with_sharding_constraint(teacher, replicated(mesh))
    unroll = jax.default_backend() == "cpu" if mesh is None else on_cpu(mesh)
    shared: dict[str, Any] = {"model": model, "teaching": teaching}
    shared["others"] = partial(targets.other_scores, **shared, similarity=similarity, label_embeddings=embeddings)
    # All predictions before the student's passes: several views share them, and they depend on no gradient.
    taught = {
        d: targets.each(partial(targets.predict, teacher, domain=d, **shared), part, unroll)
        for d, part in unlabeled.items()
    }
    thresholds, confidence, scalars = targets.watch(
        unlabeled, taught, state.extra.get("confidence"), class_names, teaching
    )
    pasted = targets.sources(unlabeled, taught, batch["labeled"], teaching.across)
    views = partial(view_loss, taught=taught, sources=pasted, thresholds=thresholds, key=key, **shared)
    supervised = partial(supervised_loss, model=model, use=use)
    if similarity:
        supervised = partial(
            terms.labeled_loss,
            **supervised.keywords,
            objective=dataclasses.replace(similarity.objective, theta=1.0),  # the teacher moves the label embeddings
            label_embeddings=embeddings,
            label_classes=similarity.classes,
        )
    ramp = jnp.minimum(1, (state.step + 1) / teaching.ramp) if teaching.ramp else 1.0

    found = accumulate(
        [
            Term("supervised", supervised, augmented(state, batch, augment, seed, use.views)),
            *(
                Term(view, partial(views, view=view), unlabeled, micro_batches=True, weight=ramp * weight)
                for view, weight in teaching.view_weights.items()
            ),
        ],
        state.params,
        state.batch_stats,
        mesh=mesh,
    )
    extra = {**state.extra, "confidence": confidence} if confidence else state.extra
    if similarity and similarity.objective.theta < 1:
        moved, distances = targets.refresh(
            teacher, batch["labeled"], embeddings, class_names, model=model, similarity=similarity
        )
        extra, scalars = {**extra, "label_embeddings": moved}, scalars | distances
    follow = partial(average.follow, decay=teaching.decay, warmup=teaching.decay_warmup)
    return Computed(found.gradients, found.batch_stats, {"loss": found.loss, **found.scalars, **scalars}, extra, follow)


# ---- The loss of a view ----


def view_loss(
    params,
    batch_stats,
    unlabeled,
    u,
    *,
    view: str,
    model: UniversalModel,
    teaching: Teaching,
    others: Callable,
    taught: Mapping,
    sources: Mapping,
    thresholds: Mapping,
    key,
):
    """Consistency of one view of the u-th micro-batch {domain: {"image", "valid"}}, weighted and summed over domains.

    Args:
      params, batch_stats: variables of the student.
      unlabeled, u: the micro-batch and its index.
      view: its name.
      model, teaching: see `compute`.
      others: `targets.other_scores` of (parameters, features, domain).
      taught: {domain: `targets.predict` of all micro-batches}.
      sources: see `targets.sources`.
      thresholds: {domain: [C]}.
      key: random key of the step.

    Returns:
      (loss, (new batch statistics, scalars, None)).
    """
    keys = {d: jax.random.fold_in(part_key(key, view, d), u) for d in unlabeled}
    found = {d: jax.tree.map(lambda a: a[u], taught[d]) for d in unlabeled}
    maps = {d: {**part, **{k: found[d][k] for k in ("label", "confidence")}} for d, part in unlabeled.items()}
    rolled = {d: jnp.zeros_like(part["valid"]) for d, part in unlabeled.items()}
    pasted: dict[str, tuple[str, Mapping]] = {}
    for d in unlabeled if view != WEAK else ():
        other = partner(list(taught), d, list(teaching.view_weights).index(view)) if sources else ""
        source = jax.tree.map(lambda a: a[u % a.shape[0]], sources[other]) if other else None
        maps[d], rolled[d], across = strong_view(maps[d], keys[d], teaching.strong, source)
        if across is not None:
            pasted[d] = other, across
    variables = {"params": params, "batch_stats": batch_stats}
    features, stats = encode_groups(model, variables, {d: part["image"] for d, part in maps.items()})
    loss: Any = 0.0
    scalars: dict[str, Any] = {}
    for d, part in maps.items():
        x = drop_channels(features[d], keys[d], teaching.feature_dropout) if view == WEAK else features[d]
        decode = partial(model.apply, {"params": params}, x, method="decode")
        total = partial(sum_over_pixels, size=part["image"].shape[1:3], stride=model.stride, mode=model.upsample)
        with_labels = partial(label_sum, total=total, over=teaching.mean_over)
        soft = found[d]["scores"]
        summed, count = with_labels(decode(d), part, thresholds[d], soft=soft["decoders"].get(d), rolled=rolled[d])
        if d in pasted:
            other, across = pasted[d]
            of_other, counted = with_labels(decode(other), across, thresholds[other])
            scalars[f"pasted/{d}/{other}/{view}"] = of_other / jnp.maximum(counted, 1)
            summed, count = summed + of_other, count + counted
        term = scalars[f"consistency/{d}/{view}"] = summed / jnp.maximum(count, 1)
        for kind, of_kind in others(params, x, d).items() if view != WEAK else ():
            inside = part["valid"] != 0
            for other, scores in of_kind.items():
                summed = total(soft_pixel_cross_entropy, beside(scores, soft[kind][other]), inside, rolled[d])
                agreement = scalars[f"{AGREEMENT[kind]}/{d}/{other}/{view}"] = summed / jnp.maximum(inside.sum(), 1)
                term = term + teaching.agreement_weights[kind] * agreement
        loss = loss + teaching.weight[d] * term
    return loss, (stats, scalars, None)


def label_sum(logits, part: Mapping, thresholds, *, total: Callable, over: str, soft=None, rolled=None):
    """Cross-entropy of the student's logits [B, h, w, C] with the targets of a view, summed over the kept pixels.

    Args:
      logits: of the domain whose classes the labels are of.
      part: {"label", "confidence", "valid"}, each [B, H, W].
      thresholds: [C].
      total: `sum_over_pixels` of images of this size.
      over: which pixels the mean is over, see `objectives.consistency.pixels`.
      soft: logits of the teacher, whose probabilities are the targets; None: the labels are.
      rolled: with soft targets, where a pixel is of the previous image.

    Returns:
      (sum, number of pixels that the mean is over).
    """
    keep = consistency.kept(part["label"], part["confidence"], part["valid"], thresholds)
    count = consistency.pixels(part["label"], part["valid"], keep, over)
    if soft is None:
        return total(pixel_cross_entropy, logits, consistency.targets(part["label"], keep)), count
    return total(soft_pixel_cross_entropy, beside(logits, soft), keep, rolled), count
