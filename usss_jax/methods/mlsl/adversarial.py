"""Output-space adversarial adaptation (AdaptSegNet, CVPR 2018; AdvEnt, CVPR 2019), a baseline of MLSL.

A discriminator D, that of Hung et al., tells the predictions of the source from those of the target; the segmentation
network learns predictions of the target that D takes for those of the source.
"""

from collections.abc import Mapping
from functools import partial

import jax
import optax
from jax.sharding import Mesh

from usss_jax.data.augment_device import DeviceAugment
from usss_jax.engine.accumulate import Term, accumulate
from usss_jax.engine.state import TrainState
from usss_jax.engine.step import Computed
from usss_jax.methods.hung import Adversarial, discriminate, only_domain
from usss_jax.methods.mlsl.terms import Supervision, all_images, pixel_logits, segmentation_loss
from usss_jax.methods.supervised import step_key
from usss_jax.models.universal import UniversalModel, encode_groups
from usss_jax.objectives.adversarial import adversarial_loss, domain_loss
from usss_jax.objectives.self_training import weighted_information
from usss_jax.parallel.sharding import replicated


def compute(
    state: TrainState,
    batch: Mapping,
    *,
    model: UniversalModel,
    augment: DeviceAugment,
    seed: int,
    supervision: Supervision,
    objective: Adversarial,
    sees: str,
    steps: int,
    mesh: Mesh | None = None,
) -> Computed:
    """Compute the segmentation network's gradients with D fixed, and update D with that network fixed.

    Args:
      state: `extra` as `hung.create_discriminator` returns it.
      batch: {"labeled": {source: {"image", "label"}}, "unlabeled": {target: {"image": [1, B, H, W, 3]}}}.
      model, augment, seed, mesh: see `methods.segmentation.fit`.
      supervision: the loss of the source.
      objective: D, and `adversarial_unlabeled`, the weight of its term on the target.
      sees: input of D, "probabilities" or "information".
      steps: number of training steps.
    """
    discriminator = state.extra["discriminator"]
    if mesh is not None:  # D may be split over its devices
        discriminator = jax.lax.with_sharding_constraint(discriminator, replicated(mesh))
    loss = partial(
        loss_with_fixed_discriminator,
        model=model,
        supervision=supervision,
        objective=objective,
        discriminator=discriminator,
        sees=sees,
        dropout=step_key(state, seed),
    )
    term = Term("all", loss, all_images(state, batch, augment, seed))
    found = accumulate([term], state.params, state.batch_stats, mesh=mesh)
    (of_discriminator, scalars), gradients = jax.value_and_grad(
        partial(discriminator_loss, objective=objective), has_aux=True
    )(discriminator, found.aux["all"])
    updates, opt_state = objective.optimizer(steps).update(
        gradients, state.extra["discriminator_opt_state"], state.extra["discriminator"]
    )
    extra = {
        "discriminator": optax.apply_updates(state.extra["discriminator"], updates),
        "discriminator_opt_state": opt_state,
    }
    scalars = {"loss": found.loss, **found.scalars, "discriminator": of_discriminator, **scalars}
    return Computed(found.gradients, found.batch_stats, scalars, extra)


def loss_with_fixed_discriminator(
    params,
    batch_stats,
    batch,
    *,
    model: UniversalModel,
    supervision: Supervision,
    objective: Adversarial,
    discriminator,
    sees: str,
    dropout=None,
):
    """Supervised loss of the source plus the weighted adversarial loss of the target.

    Returns:
      (loss, (new batch statistics, scalars, {"source", "target": what D sees, [B, H, W, C]})).
    """
    ((source, part),), ((target, x),) = batch["labeled"].items(), batch["target"].items()
    variables = {"params": params, "batch_stats": batch_stats}
    features, stats = encode_groups(model, variables, {source: part["image"], target: x}, dropout)
    decoder = only_domain(model)
    supervised = segmentation_loss(model, params, features[source], decoder, part["label"], supervision)
    size = x.shape[1:3]
    maps = {
        role: seen_maps(pixel_logits(model, params, features[domain], decoder, size), sees)
        for role, domain in (("source", source), ("target", target))
    }
    adversarial = adversarial_loss(discriminate(discriminator, maps["target"], objective))
    scalars = {f"supervised/{source}": supervised, f"adversarial/{target}": adversarial}
    return supervised + objective.adversarial_unlabeled * adversarial, (stats, scalars, maps)


def seen_maps(logits, sees: str):
    """What D sees of logits [B, H, W, C]: "probabilities", or "information", -p log p divided by ln C.

    >>> import jax.numpy as jnp
    >>> seen_maps(jnp.zeros((1, 1, 1, 2)), "information").tolist()
    [[[[0.5, 0.5]]]]
    """
    return weighted_information(logits) if sees == "information" else jax.nn.softmax(logits, axis=-1)


def discriminator_loss(discriminator, maps, *, objective: Adversarial):
    """Loss of D for maps {"source", "target": [B, H, W, C]}, which are constants: (loss, scalars)."""
    maps = jax.lax.stop_gradient(maps)
    return domain_loss(*(discriminate(discriminator, maps[role], objective) for role in ("source", "target")))
