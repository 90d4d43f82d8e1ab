"""Supervised training: one network per domain, fine-tuning on another domain, and one network for all (Univ-basic)."""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from usss_jax.data import augment_device
from usss_jax.data.augment_device import DeviceAugment
from usss_jax.data.pools import with_labels
from usss_jax.engine.accumulate import Term, accumulate
from usss_jax.engine.job import Fit
from usss_jax.engine.state import TrainState
from usss_jax.engine.step import Computed
from usss_jax.methods.segmentation import fit
from usss_jax.methods.training import Images, Recipe, Run, Start
from usss_jax.models.strips import sum_over_pixels
from usss_jax.models.universal import UniversalModel, encode_groups
from usss_jax.objectives.losses import count_labeled, pixel_cross_entropy, pixel_weights, weighted_pixel_cross_entropy
from usss_jax.runs.networks import load_best

# ---- Objective ----


@dataclasses.dataclass(frozen=True)
class LabeledBatches:
    """How the batches with labels of a step are used; the name of a batch is usually that of its domain.

    Attributes:
      decoders: decoder of a batch, by its name; the default has the name of the batch.
      weights: factor on the loss of a batch, by its name, and on that of another decoder's labels, by "NAME by
        DECODER"; the default is 1.
      views: augmentation of a batch, by its name; the default is that of the training.
      class_weights: factor on the loss of the pixels of every class, by decoder, [C]; the default is 1.
    """

    decoders: Mapping[str, str] = dataclasses.field(default_factory=dict)
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    views: Mapping[str, DeviceAugment] = dataclasses.field(default_factory=dict)
    class_weights: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)


def compute(
    state: TrainState,
    batch: Mapping,
    *,
    model: UniversalModel,
    augment: DeviceAugment,
    seed: int,
    frozen_encoder: bool = False,
    use: LabeledBatches = LabeledBatches(),
    mesh: Mesh | None = None,
) -> Computed:
    """Eq. 1, summed over the parts of a batch {"labeled": {name: {"image", "label"}}}, with its gradients."""
    labeled = augmented(state, batch, augment, seed, use.views)
    loss = partial(supervised_loss, model=model, frozen_encoder=frozen_encoder, use=use)
    found = accumulate([Term("supervised", loss, labeled)], state.params, state.batch_stats, mesh=mesh)
    return Computed(found.gradients, found.batch_stats, {"loss": found.loss, **found.scalars}, state.extra)


def augmented(
    state: TrainState, batch: Mapping, augment: DeviceAugment, seed: int, views: Mapping[str, DeviceAugment] = {}
) -> Mapping:
    """Labeled part of a batch, augmented with a key that depends only on the seed and the step.

    `views` has other settings than `augment`, by the name in the batch.
    """
    key = step_key(state, seed)
    return {
        name: augment_device.augment({"labeled": {name: part}}, key, views.get(name, augment))["labeled"][name]
        for name, part in batch["labeled"].items()
    }


def step_key(state: TrainState, seed: int):
    """Random key of the step."""
    return jax.random.fold_in(jax.random.key(seed), state.step)


def supervised_loss(
    params,
    batch_stats,
    labeled,
    *,
    model: UniversalModel,
    frozen_encoder: bool = False,
    use: LabeledBatches = LabeledBatches(),
):
    """Eq. 1, summed over the named batches, usually one per domain.

    Args:
      params, batch_stats: variables of the model.
      labeled: per name {"image": [B, H, W, 3], "label": int [B, H, W]}, and "others": {decoder: {"label"}} if labels of
        other decoders are to be learnt on the same images.
      model: the model.
      frozen_encoder: whether the encoder gets no gradient and normalises by its running statistics.
      use: decoders and weights.

    Returns:
      (loss, (new batch statistics, scalars, None)).
    """
    images = {name: batch["image"] for name, batch in labeled.items()}
    variables, stats = {"params": params, "batch_stats": batch_stats}, batch_stats
    if frozen_encoder:
        features = {d: jax.lax.stop_gradient(model.apply(variables, x, method="encode")) for d, x in images.items()}
    else:
        features, stats = encode_groups(model, variables, images)
    loss: Any = 0.0
    scalars: dict[str, Any] = {}
    for name, batch in labeled.items():
        term, found = decoder_losses(model, params, features[name], name, batch, use)
        loss, scalars = loss + term, scalars | found
    return loss, (stats, scalars, None)


def decoder_losses(model: UniversalModel, params, features, name: str, batch: Mapping, use: LabeledBatches):
    """Eq. 1 of the batch `name`, weighted, and its terms as scalars; arguments as of `supervised_loss`."""
    labels = {name: (use.decoders.get(name, name), batch["label"])}
    labels |= {f"{name} by {d}": (d, maps["label"]) for d, maps in batch.get("others", {}).items()}
    loss: Any = 0.0
    scalars: dict[str, Any] = {}
    for key, (decoder, label) in labels.items():
        by_class = use.class_weights.get(decoder)
        term = scalars[f"supervised/{key}"] = decoder_loss(model, params, features, decoder, label, by_class)
        loss = loss + (use.weights[key] * term if key in use.weights else term)
    return loss, scalars


def decoder_loss(
    model: UniversalModel, params, features, domain: str, label, class_weights: Sequence[float] | None = None
):
    """Eq. 1 of one domain: mean cross-entropy over labeled pixels, of features [B, h, w, C], label int [B, H, W].

    With `class_weights` [classes], it is a weighted mean.
    """
    logits = model.apply({"params": params}, features, domain, method="decode")
    total = partial(sum_over_pixels, size=label.shape[1:], stride=model.stride, mode=model.upsample)
    if class_weights is None:
        return total(pixel_cross_entropy, logits, label) / count_labeled(label)
    weights = pixel_weights(label, jnp.asarray(class_weights, jnp.float32))
    return total(weighted_pixel_cross_entropy, logits, label, weights) / jnp.maximum(weights.sum(), 1e-6)


# ---- Jobs ----


def labeled_batches(run: Run) -> LabeledBatches:
    """How labeled images are used in all trainings of a run: with class weights by `usss.class_balance`."""
    exponent = run.config.usss.class_balance
    if not exponent:
        return LabeledBatches()
    pools = with_labels(run.pools)
    return LabeledBatches(class_weights={d: class_weights(p.label_counts.sum(0), exponent) for d, p in pools.items()})


def class_weights(counts: np.ndarray, exponent: float) -> tuple[float, ...]:
    """Weights frequency^-exponent of the classes, whose mean over the labeled pixels is 1.

    Args:
      counts: labeled pixels of every class, [C].
      exponent: 1: all classes weigh the same together. A class without a pixel has the largest weight.

    >>> [round(w, 3) for w in class_weights(np.array([90, 10, 0]), 1.0)], class_weights(np.array([90, 10]), 0.0)
    ([0.556, 5.0, 5.0], (1.0, 1.0))
    """
    share = counts / counts.sum()
    raw = np.where(counts > 0, share, share[counts > 0].min()) ** -exponent
    return tuple((raw / (share * raw).sum()).tolist())


def single_fits(run: Run, workdir: pathlib.Path) -> Iterator[Fit]:
    """Train one network per domain on its labeled images, as single_DOMAIN in `workdir`."""
    for name, pool in with_labels(run.pools).items():
        images, recipe = Images(pools={name: pool}), Recipe(steps=run.config.usss.single_steps)
        loss = partial(compute, use=labeled_batches(run))
        yield fit(run, f"single_{name}", loss, images=images, recipe=recipe, workdir=workdir)


def frozen_fits(run: Run, singles: pathlib.Path) -> Iterator[Fit]:
    """Train a decoder for domain Y on the frozen encoder of single_X, as frozen_X_Y ("train on X" in the paper)."""
    for source, target in itertools.permutations(with_labels(run.pools), 2):
        yield fit(
            run,
            f"frozen_{source}_{target}",
            partial(compute, frozen_encoder=True, use=labeled_batches(run)),
            images=Images(pools={target: run.pools[target]}),
            recipe=Recipe(steps=run.config.usss.single_steps, trainable=partial(_outside, ("encoder", "lateral"))),
            start=_from_single(run, singles, source),
        )


def finetune_fits(run: Run, singles: pathlib.Path) -> Iterator[Fit]:
    """Train single_X further on domain Y with a new decoder, as finetune_X_Y; its score on X shows what it forgets."""
    for source, target in itertools.permutations(with_labels(run.pools), 2):
        train_on = {target: run.pools[target]}
        yield fit(
            run,
            f"finetune_{source}_{target}",
            partial(compute, use=labeled_batches(run)),
            images=Images(pools={source: run.pools[source], **train_on}, train_on=train_on),
            recipe=Recipe(steps=run.config.usss.single_steps, trainable=partial(_outside, (f"decoder_{source}",))),
            start=_from_single(run, singles, source),
        )


def _from_single(run: Run, singles: pathlib.Path, source: str) -> Start:
    return Start(initial=lambda: load_best(singles / f"single_{source}", run.mesh)[1])


def _outside(parts: tuple[str, ...], name: str) -> bool:
    """Whether a parameter, by its name, is in none of these parts of the model."""
    return name.partition("/")[0] not in parts
