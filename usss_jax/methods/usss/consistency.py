"""Terms of variant `teacher`: Eq. 1, and the student's agreement with a teacher on other views of unlabeled images."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from usss_jax.config import fields, per_domain, read_number
from usss_jax.data.augment_device import DeviceAugment, part_key
from usss_jax.engine.accumulate import Term, accumulate
from usss_jax.engine.state import TrainState
from usss_jax.engine.step import Computed
from usss_jax.methods.supervised import LabeledBatches, augmented, step_key, supervised_loss
from usss_jax.methods.usss import average
from usss_jax.methods.usss.views import beside, drop_channels, strong_augment, strong_view
from usss_jax.models.strips import map_pixels, sum_over_pixels
from usss_jax.models.universal import UniversalModel, encode_groups, in_order
from usss_jax.objectives import IGNORE, consistency
from usss_jax.objectives.losses import pixel_cross_entropy
from usss_jax.parallel.sharding import on_cpu, replicated

WEAK = "features"  # the name of the weak view, whose features are perturbed; the others are strong0, strong1, ...


@dataclasses.dataclass(frozen=True)
class Teaching:
    """Settings of a teacher: the fields of config/teacher.py, some by domain.

    Attributes:
      weight, threshold: by domain.
      strong: augmentation of the strong views.
      others: the fields of the same names.
    """

    decay: float
    decay_warmup: bool
    weight: Mapping[str, float]
    ramp: int
    targets: str
    threshold: Mapping[str, float]
    threshold_kind: str
    threshold_decay: float
    mean_over: str
    cross_weight: float
    views: int
    feature_dropout: float
    strong: DeviceAugment

    @property
    def view_weights(self) -> dict[str, float]:
        """Weight of every view, which sum to 1; the weak one has half, as in UniMatch."""
        strong = (0.5 if self.feature_dropout else 1.0) / self.views
        found = {f"strong{i}": strong for i in range(self.views)}
        return {**found, WEAK: 0.5} if self.feature_dropout else found


def create_teaching(config: ConfigDict, domains: Sequence[str]) -> Teaching:
    """Settings by the config's section `teacher`, for the given domains.

    Raises:
      InputError: for a value per domain that is out of range.

    >>> from usss_jax.config import default_config
    >>> teaching = create_teaching(default_config(), ["city", "town"])
    >>> teaching.threshold, teaching.view_weights
    ({'city': 0.95, 'town': 0.95}, {'strong0': 1.0})
    """
    known, values = fields(), dict(config.teacher)
    for last in ("weight", "threshold"):
        name = f"teacher.{last}"
        given = per_domain(values[last], domains, name, read_number(known[name].range))
        values[last] = {d: known[name].default if value is None else value for d, value in given.items()}
    for name in ("color_jitter", "grey", "blur", "mix", "export"):
        del values[name]
    return Teaching(**values, strong=strong_augment(config.teacher))


# ---- One step ----


def compute(
    state: TrainState,
    batch: Mapping,
    *,
    model: UniversalModel,
    augment: DeviceAugment,
    seed: int,
    teaching: Teaching,
    class_names: Mapping[str, Sequence[str]],
    use: LabeledBatches = LabeledBatches(),
    mesh: Mesh | None = None,
) -> Computed:
    """Eq. 1 of the labeled batches, and the consistency terms of the unlabeled ones, with their gradients.

    Args:
      state: extra["teacher"] has the teacher's variables, extra["confidence"] [C] for every domain of "unlabeled" (with
        `threshold_kind="adaptive"`).
      batch: {"labeled": {name: {"image", "label"}}, "unlabeled": {domain: {"image": uint8 [U, B, H, W, 3], "valid":
        uint8 [U, B, H, W]}}}; the domains of "unlabeled" have decoders of their own.
      model, augment, seed, mesh: see `methods.segmentation.fit`; `augment` is for labeled images.
      teaching: settings.
      class_names: by domain, for the names of the scalars.
      use: how labeled batches are used.
    """
    key = step_key(state, seed)
    unlabeled = {d: batch["unlabeled"][d] for d in in_order(model, batch["unlabeled"])}
    teacher = state.extra["teacher"]
    if mesh is not None:  # it may be split over the devices
        teacher = jax.lax.with_sharding_constraint(teacher, replicated(mesh))
    unroll = jax.default_backend() == "cpu" if mesh is None else on_cpu(mesh)
    shared: dict[str, Any] = {"model": model, "teaching": teaching}
    # All predictions before the student's passes: several views share them, and they depend on no gradient.
    targets = {d: each(partial(predict, teacher, domain=d, **shared), part, unroll) for d, part in unlabeled.items()}
    thresholds, confidence, scalars = watch(unlabeled, targets, state.extra.get("confidence"), class_names, teaching)
    views = partial(view_loss, targets=targets, thresholds=thresholds, key=key, **shared)
    supervised = partial(supervised_loss, model=model, use=use)
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
    follow = partial(average.follow, decay=teaching.decay, warmup=teaching.decay_warmup)
    return Computed(found.gradients, found.batch_stats, {"loss": found.loss, **found.scalars, **scalars}, extra, follow)


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


def predict(variables, part: Mapping, *, domain: str, model: UniversalModel, teaching: Teaching) -> dict[str, Any]:
    """Predictions of the teacher, with its running statistics, on a micro-batch {"image", "valid"} of a domain.

    Returns:
      {"label": uint8 [B, H, W], IGNORE on padding; "confidence": [B, H, W]; "scores": {decoder: logits [B, h, w, C]} of
      the decoders whose probabilities are targets}.
    """
    features = model.apply(variables, part["image"], method="encode")
    used = [d for d in model.num_classes if d == domain or teaching.cross_weight]
    scores = {d: model.apply(variables, features, d, method="decode") for d in used}
    label, confidence = map_pixels(
        consistency.pseudo_labels,
        scores[domain],
        size=part["image"].shape[1:3],
        stride=model.stride,
        mode=model.upsample,
    )
    if teaching.targets == "hard":
        del scores[domain]
    label = jnp.where(part["valid"] != 0, label, IGNORE).astype(jnp.uint8)
    return {"label": label, "confidence": confidence, "scores": scores}


def watch(unlabeled: Mapping, targets: Mapping, confidence: Mapping | None, class_names: Mapping, teaching: Teaching):
    """Thresholds of this step by domain [C], new averages of `confidence` or None, and scalars: the share kept."""
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
    return thresholds, moved or None, scalars


def view_loss(
    params,
    batch_stats,
    unlabeled,
    u,
    *,
    view: str,
    model: UniversalModel,
    teaching: Teaching,
    targets: Mapping,
    thresholds: Mapping,
    key,
):
    """Consistency of one view of the u-th micro-batch {domain: {"image", "valid"}}, weighted and summed over domains.

    Returns:
      (loss, (new batch statistics, scalars, None)).
    """
    keys = {d: jax.random.fold_in(part_key(key, view, d), u) for d in unlabeled}
    found = {d: jax.tree.map(lambda a: a[u], targets[d]) for d in unlabeled}
    maps = {d: {**part, **{k: found[d][k] for k in ("label", "confidence")}} for d, part in unlabeled.items()}
    pasted = {d: jnp.zeros_like(part["valid"]) for d, part in unlabeled.items()}
    if view != WEAK:
        for d in unlabeled:
            maps[d], pasted[d] = strong_view(maps[d], keys[d], teaching.strong)
    variables = {"params": params, "batch_stats": batch_stats}
    features, stats = encode_groups(model, variables, {d: part["image"] for d, part in maps.items()})
    loss: Any = 0.0
    scalars: dict[str, Any] = {}
    for d, part in maps.items():
        x = drop_channels(features[d], keys[d], teaching.feature_dropout) if view == WEAK else features[d]
        decode = partial(model.apply, {"params": params}, x, method="decode")
        total = partial(sum_over_pixels, size=part["image"].shape[1:3], stride=model.stride, mode=model.upsample)
        keep = consistency.kept(part["label"], part["confidence"], part["valid"], thresholds[d])
        soft, count = found[d]["scores"], consistency.pixels(part["label"], part["valid"], keep, teaching.mean_over)
        if d in soft:
            summed = total(consistency.soft_pixel_cross_entropy, beside(decode(d), soft[d]), keep, pasted[d])
        else:
            summed = total(pixel_cross_entropy, decode(d), consistency.targets(part["label"], keep))
        term = scalars[f"consistency/{d}/{view}"] = summed / count
        for other in (o for o in soft if o != d and view != WEAK):
            inside = part["valid"] != 0
            summed = total(consistency.soft_pixel_cross_entropy, beside(decode(other), soft[other]), inside, pasted[d])
            agreement = scalars[f"across/{d}/{other}/{view}"] = summed / jnp.maximum(inside.sum(), 1)
            term = term + teaching.cross_weight * agreement
        loss = loss + teaching.weight[d] * term
    return loss, (stats, scalars, None)
