"""Hung et al. (2018), one domain at a time: a segmentation network is trained against a discriminator D."""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from usss_jax.data import augment_device
from usss_jax.data.augment_device import DeviceAugment
from usss_jax.engine.accumulate import Term, accumulate
from usss_jax.engine.job import Fit
from usss_jax.engine.state import TrainState
from usss_jax.engine.step import Computed
from usss_jax.methods.discriminator import Opponent, only_decoder
from usss_jax.methods.segmentation import fit
from usss_jax.methods.supervised import augmented, step_key
from usss_jax.methods.training import Images, Recipe, Run, Start
from usss_jax.models.universal import UniversalModel, encode_groups
from usss_jax.models.upsample import upsample
from usss_jax.objectives import adversarial as losses
from usss_jax.objectives.losses import IGNORE, cross_entropy


@dataclasses.dataclass(frozen=True)
class Adversarial:
    """Hyperparameters of the method; the defaults in config/usss.py are the paper's.

    Attributes:
      adversarial: lambda_adv of labeled images.
      adversarial_unlabeled: lambda_adv of unlabeled images, from the first step on.
      semi: lambda_semi, weight of the self-taught term.
      threshold: T_semi, D's confidence above which a pixel takes part in the self-taught term.
      semi_start: share of the steps before the self-taught term starts (the paper: 5000 of 20000).
      opponent: D, and the number of steps.
    """

    adversarial: float
    adversarial_unlabeled: float
    semi: float
    threshold: float
    semi_start: float
    opponent: Opponent

    def semi_weight(self, step):
        """Weight of the self-taught term when `step` steps are done."""
        return jnp.where(step >= round(self.semi_start * self.opponent.steps), self.semi, 0.0)


# ---- Jobs ----


def create_objective(config: ConfigDict) -> Adversarial:
    """Hyperparameters by the config.

    >>> from usss_jax.config import default_config
    >>> config = default_config()
    >>> config.usss.single_steps = 20
    >>> objective = create_objective(config)
    >>> objective.semi, float(objective.semi_weight(4)), round(float(objective.semi_weight(5)), 3)
    (0.1, 0.0, 0.1)
    """
    fields = config.hung.to_dict()
    opponent = Opponent(
        lr=fields.pop("lr"),
        power=config.optim.poly_power,
        steps=config.usss.single_steps,
        width=config.model.width,
        precision=config.model.precision,
    )
    return Adversarial(**fields, opponent=opponent)


def fits(run: Run, unlabeled_batches: Mapping[str, Mapping[str, int]]) -> Iterator[Fit]:
    """Train each domain of `unlabeled_batches` separately, as hung_DOMAIN, with its micro-batches per step."""
    train, objective = run.config.train, create_objective(run.config)
    make_extra = partial(objective.opponent.create, mesh=run.mesh, seed=train.seed, split=train.shard_parameters)
    for name, micro_batches in unlabeled_batches.items():
        yield fit(
            run,
            f"hung_{name}",
            partial(compute, objective=objective),
            images=Images(pools={name: run.pools[name]}, unlabeled_batches=micro_batches),
            recipe=Recipe(steps=objective.opponent.steps),
            start=Start(make_extra=make_extra),
        )


# ---- One step ----


def compute(
    state: TrainState,
    batch: Mapping,
    *,
    model: UniversalModel,
    augment: DeviceAugment,
    seed: int,
    objective: Adversarial,
    mesh: Mesh | None = None,
) -> Computed:
    """Compute the segmentation network's gradients with D fixed, and update D with that network fixed.

    D learns from the labeled batch only.

    Args:
      state: `extra` as `Opponent.create` returns it.
      batch: {"labeled": {domain: {"image", "label"}}, "unlabeled": {domain: {"image": [U, B, H, W, 3]}}}.
      model, augment, seed, mesh: see `methods.segmentation.fit`.
      objective: hyperparameters.
    """
    domain, key = only_decoder(model), step_key(state, seed)
    labeled = augmented(state, batch, augment, seed)[domain]
    discriminator = objective.opponent.fixed(state.extra, mesh)
    shared = {"model": model, "objective": objective, "discriminator": discriminator}
    weight = objective.semi_weight(state.step)
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
    loss = partial(discriminator_loss, model=model, objective=objective)
    extra, discriminator_scalars = objective.opponent.update(
        state.extra, discriminator, loss, found.aux["labeled"], labeled["label"]
    )
    scalars = {"loss": found.loss, **found.scalars, **discriminator_scalars}
    return Computed(found.gradients, found.batch_stats, scalars, extra)


def labeled_loss(params, batch_stats, labeled, *, discriminator, model: UniversalModel, objective: Adversarial):
    """L_ce + lambda_adv L_adv of a labeled batch {"image": [B, H, W, 3], "label": int [B, H, W]}.

    Returns:
      (loss, (new batch statistics, scalars, the class probabilities that D sees [B, H, W, C])).
    """
    domain = only_decoder(model)
    logits, stats = predict(params, batch_stats, labeled["image"], model)
    counts = labeled["label"] != IGNORE
    predictions = losses.prediction_map(logits, counts)
    supervised = cross_entropy(logits, labeled["label"])
    adversarial = losses.adversarial_loss(objective.opponent(discriminator, predictions), counts)
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
    domain = only_decoder(model)
    x = augment_device.change_micro_batch(images[domain], u, key=key, domain=domain, settings=augment)
    logits, stats = predict(params, batch_stats, x, model)
    discriminator_logits = objective.opponent(discriminator, losses.prediction_map(logits))
    adversarial = losses.adversarial_loss(discriminator_logits)
    semi, share = losses.self_taught_loss(logits, discriminator_logits, objective.threshold)
    scalars = {f"adversarial_unlabeled/{domain}": adversarial, f"semi/{domain}": semi, f"semi_share/{domain}": share}
    return objective.adversarial_unlabeled * adversarial + semi_weight * semi, (stats, scalars, None)


def discriminator_loss(discriminator, predictions, labels, *, model: UniversalModel, objective: Adversarial):
    """L_D of the class probabilities [B, H, W, C] of a labeled batch, as constants, and its labels: (loss, scalars)."""
    domain = only_decoder(model)
    predictions, counts = jax.lax.stop_gradient(predictions), labels != IGNORE
    truth = losses.truth_map(labels, model.num_classes[domain], predictions.dtype)
    of_predictions, of_truth = (objective.opponent(discriminator, maps) for maps in (predictions, truth))
    loss = losses.discriminator_loss(of_predictions, of_truth, counts)
    accuracy = losses.discriminator_accuracy(of_predictions, of_truth, counts)
    return loss, {f"discriminator/{domain}": loss, f"discriminator_accuracy/{domain}": accuracy}


def predict(params, batch_stats, images, model: UniversalModel):
    """Logits [B, H, W, C] of images [B, H, W, 3], normalised by the batch, and the new batch statistics."""
    domain = only_decoder(model)
    features, stats = encode_groups(model, {"params": params, "batch_stats": batch_stats}, {domain: images})
    cells = model.apply({"params": params}, features[domain], domain, method="decode")
    return upsample(cells, images.shape[1:3], model.stride, model.upsample), stats
