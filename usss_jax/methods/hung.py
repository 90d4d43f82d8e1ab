"""Hung et al. (2018), one domain at a time: a segmentation network is trained against a discriminator D."""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from usss_jax.data import augment_device
from usss_jax.data.augment_device import DeviceAugment
from usss_jax.engine.accumulate import Term, accumulate
from usss_jax.engine.job import Fit
from usss_jax.engine.optim import create_schedule
from usss_jax.engine.state import TrainState, born_on
from usss_jax.engine.step import Computed
from usss_jax.methods.segmentation import Run, fit
from usss_jax.methods.supervised import augmented, step_key
from usss_jax.models.discriminator import STRIDE, Discriminator
from usss_jax.models.universal import PRECISIONS, UniversalModel, encode_groups
from usss_jax.models.upsample import upsample
from usss_jax.models.variables import seed_bits, seeded
from usss_jax.objectives import adversarial as losses
from usss_jax.objectives.losses import IGNORE, cross_entropy
from usss_jax.parallel.sharding import replicated


@dataclasses.dataclass(frozen=True)
class Adversarial:
    """Hyperparameters of the method; the defaults in config/usss.py are the paper's.

    Attributes:
      adversarial: lambda_adv of labeled images.
      adversarial_unlabeled: lambda_adv of unlabeled images, from the first step on.
      semi: lambda_semi, weight of the self-taught term.
      threshold: T_semi, D's confidence above which a pixel takes part in the self-taught term.
      semi_start: share of the steps before the self-taught term starts (the paper: 5000 of 20000).
      lr: learning rate of D's Adam.
      power: power of the poly schedule of that learning rate.
      width: factor on D's channels.
      precision: of D's convolutions, a key of `models.universal.PRECISIONS`.
    """

    adversarial: float
    adversarial_unlabeled: float
    semi: float
    threshold: float
    semi_start: float
    lr: float
    power: float
    width: float
    precision: str

    @property
    def discriminator(self) -> Discriminator:
        """The network D."""
        dtype, precision = PRECISIONS[self.precision]
        return Discriminator(self.width, dtype, precision)

    def optimizer(self, steps: int) -> optax.GradientTransformation:
        """Adam for D, with decay rates 0.9 and 0.99 and the poly schedule (section 4 of the paper)."""
        return optax.adam(create_schedule(self.lr, steps, power=self.power), b1=0.9, b2=0.99)

    def semi_weight(self, step, steps: int):
        """Weight of the self-taught term when `step` of `steps` steps are done."""
        return jnp.where(step >= round(self.semi_start * steps), self.semi, 0.0)


# ---- Jobs ----


def create_objective(config: ConfigDict) -> Adversarial:
    """Hyperparameters by the config.

    >>> from usss_jax.config import default_config
    >>> objective = create_objective(default_config())
    >>> objective.semi, float(objective.semi_weight(4, 20)), round(float(objective.semi_weight(5, 20)), 3)
    (0.1, 0.0, 0.1)
    """
    model, power = config.model, config.optim.poly_power
    return Adversarial(**config.hung.to_dict(), power=power, width=model.width, precision=model.precision)


def fits(run: Run, unlabeled_batches: Mapping[str, Mapping[str, int]]) -> Iterator[Fit]:
    """Train each domain of `unlabeled_batches` separately, as hung_DOMAIN, with its micro-batches per step."""
    train, steps = run.config.train, run.config.usss.single_steps
    shared: dict[str, Any] = {"objective": create_objective(run.config), "steps": steps}
    make_extra = partial(create_discriminator, mesh=run.mesh, seed=train.seed, split=train.shard_parameters, **shared)
    for name, micro_batches in unlabeled_batches.items():
        yield fit(
            run,
            f"hung_{name}",
            partial(compute, **shared),
            pools={name: run.pools[name]},
            steps=steps,
            unlabeled_batches=micro_batches,
            make_extra=make_extra,
        )


def create_discriminator(
    model: UniversalModel, *, objective: Adversarial, steps: int, mesh: Mesh, seed: int, split: bool = False
) -> dict[str, Any]:
    """Create D's random parameters and the state of its Adam on the mesh, for `state.extra`.

    Args:
      model: a model of one domain.
      objective: hyperparameters.
      steps: number of training steps.
      mesh, seed, split: see `engine.state.create_state`.

    Raises:
      ValueError: if the model has not exactly one domain.
    """
    bits = seed_bits(seed, 1)  # 0 is for the segmentation network
    maps = np.zeros((1, STRIDE, STRIDE, model.num_classes[only_domain(model)]), np.float32)
    params = born_on(mesh, seeded(objective.discriminator), bits, maps, split=split)[0]["params"]
    opt_state = born_on(mesh, objective.optimizer(steps).init, params, split=split)[0]
    return {"discriminator": params, "discriminator_opt_state": opt_state}


def only_domain(model: UniversalModel) -> str:
    """Name of the only domain of a model; raises ValueError if it has several."""
    if len(model.num_classes) != 1:
        raise ValueError(f"this training needs a model of one domain, not of {', '.join(model.num_classes)}")
    return next(iter(model.num_classes))


# ---- One step ----


def compute(
    state: TrainState,
    batch: Mapping,
    *,
    model: UniversalModel,
    augment: DeviceAugment,
    seed: int,
    objective: Adversarial,
    steps: int,
    mesh: Mesh | None = None,
) -> Computed:
    """Compute the segmentation network's gradients with D fixed, and update D with that network fixed.

    D learns from the labeled batch only.

    Args:
      state: `extra` as `create_discriminator` returns it.
      batch: {"labeled": {domain: {"image", "label"}}, "unlabeled": {domain: {"image": [U, B, H, W, 3]}}}.
      model, augment, seed, mesh: see `methods.segmentation.fit`.
      objective: hyperparameters.
      steps: number of training steps.
    """
    domain, key = only_domain(model), step_key(state, seed)
    labeled = augmented(state, batch, augment, seed)[domain]
    discriminator = state.extra["discriminator"]
    if mesh is not None:  # D may be split over its devices
        discriminator = jax.lax.with_sharding_constraint(discriminator, replicated(mesh))
    shared: dict[str, Any] = {"model": model, "objective": objective, "discriminator": discriminator}
    weight = objective.semi_weight(state.step, steps)
    unlabeled = partial(unlabeled_loss, **shared, semi_weight=weight, augment=augment, key=key)
    images = {domain: batch["unlabeled"][domain]["image"]}

    found = accumulate(
        [
            Term("labeled", partial(labeled_loss, **shared), labeled),
            Term("unlabeled", unlabeled, images, micro_batches=True),
        ],
        state.params,
        state.batch_stats,
        mesh=mesh,
    )
    (_, discriminator_scalars), gradients = jax.value_and_grad(
        partial(discriminator_loss, model=model, objective=objective), has_aux=True
    )(discriminator, found.aux["labeled"], labeled["label"])
    updates, opt_state = objective.optimizer(steps).update(
        gradients, state.extra["discriminator_opt_state"], state.extra["discriminator"]
    )
    extra = {
        "discriminator": optax.apply_updates(state.extra["discriminator"], updates),
        "discriminator_opt_state": opt_state,
    }
    scalars = {"loss": found.loss, **found.scalars, **discriminator_scalars}
    return Computed(found.gradients, found.batch_stats, scalars, extra)


def labeled_loss(params, batch_stats, labeled, *, discriminator, model: UniversalModel, objective: Adversarial):
    """L_ce + lambda_adv L_adv of a labeled batch {"image": [B, H, W, 3], "label": int [B, H, W]}.

    Returns:
      (loss, (new batch statistics, scalars, the class probabilities that D sees [B, H, W, C])).
    """
    domain = only_domain(model)
    logits, stats = predict(params, batch_stats, labeled["image"], model)
    counts = labeled["label"] != IGNORE
    predictions = losses.prediction_map(logits, counts)
    supervised = cross_entropy(logits, labeled["label"])
    adversarial = losses.adversarial_loss(discriminate(discriminator, predictions, objective), counts)
    scalars = {f"supervised/{domain}": supervised, f"adversarial/{domain}": adversarial}
    return supervised + objective.adversarial * adversarial, (stats, scalars, predictions)


def unlabeled_loss(
    params,
    batch_stats,
    images,
    u,
    *,
    discriminator,
    semi_weight,
    model: UniversalModel,
    objective: Adversarial,
    augment: DeviceAugment,
    key,
):
    """lambda_adv L_adv + lambda_semi L_semi of the u-th unlabeled micro-batch {domain: [B, H, W, 3]}.

    Returns:
      (loss, (new batch statistics, scalars, None)).
    """
    domain = only_domain(model)
    x = augment_device.change_micro_batch(images[domain], u, key=key, domain=domain, settings=augment)
    logits, stats = predict(params, batch_stats, x, model)
    discriminator_logits = discriminate(discriminator, losses.prediction_map(logits), objective)
    adversarial = losses.adversarial_loss(discriminator_logits)
    semi, share = losses.self_taught_loss(logits, discriminator_logits, objective.threshold)
    scalars = {f"adversarial_unlabeled/{domain}": adversarial, f"semi/{domain}": semi, f"semi_share/{domain}": share}
    return objective.adversarial_unlabeled * adversarial + semi_weight * semi, (stats, scalars, None)


def discriminator_loss(discriminator, predictions, labels, *, model: UniversalModel, objective: Adversarial):
    """L_D of the class probabilities [B, H, W, C] of a labeled batch, as constants, and its labels: (loss, scalars)."""
    domain = only_domain(model)
    predictions, counts = jax.lax.stop_gradient(predictions), labels != IGNORE
    truth = losses.truth_map(labels, model.num_classes[domain], predictions.dtype)
    of_predictions, of_truth = (discriminate(discriminator, maps, objective) for maps in (predictions, truth))
    loss = losses.discriminator_loss(of_predictions, of_truth, counts)
    accuracy = losses.discriminator_accuracy(of_predictions, of_truth, counts)
    return loss, {f"discriminator/{domain}": loss, f"discriminator_accuracy/{domain}": accuracy}


def predict(params, batch_stats, images, model: UniversalModel):
    """Logits [B, H, W, C] of images [B, H, W, 3], normalised by the batch, and the new batch statistics."""
    domain = only_domain(model)
    features, stats = encode_groups(model, {"params": params, "batch_stats": batch_stats}, {domain: images})
    cells = model.apply({"params": params}, features[domain], domain, method="decode")
    return upsample(cells, images.shape[1:3], model.stride, model.upsample), stats


def discriminate(discriminator, maps, objective: Adversarial):
    """D's logits [B, H, W] for class probabilities or one-hot labels [B, H, W, C]."""
    return objective.discriminator.apply({"params": discriminator}, maps)
