"""Output-space adversarial adaptation (AdaptSegNet, CVPR 2018; AdvEnt, CVPR 2019), a baseline of MLSL.

A discriminator D, that of Hung et al., tells the predictions of the source from those of the target; the segmentation
network learns predictions of the target that D takes for those of the source.
"""

from collections.abc import Callable, Mapping
from functools import partial

import jax
from jax.sharding import Mesh

from usss_jax.data.augment_device import DeviceAugment
from usss_jax.engine.accumulate import Term, accumulate
from usss_jax.engine.state import TrainState
from usss_jax.engine.step import Computed
from usss_jax.methods.discriminator import Opponent, only_decoder
from usss_jax.methods.mlsl.terms import Supervision, all_images, pixel_logits, segmentation_loss
from usss_jax.methods.supervised import step_key
from usss_jax.models.universal import UniversalModel, encode_groups
from usss_jax.objectives.adversarial import adversarial_loss, domain_loss
from usss_jax.objectives.self_training import weighted_information


def compute(
    state: TrainState,
    batch: Mapping,
    *,
    model: UniversalModel,
    augment: DeviceAugment,
    seed: int,
    supervision: Supervision,
    opponent: Opponent,
    weight: float,
    sees: str,
    mesh: Mesh | None = None,
) -> Computed:
    """Compute the segmentation network's gradients with D fixed, and update D with that network fixed.

    Args:
      state: `extra` as `Opponent.create` returns it.
      batch: {"labeled": {source: {"image", "label"}}, "unlabeled": {target: {"image": [1, B, H, W, 3]}}}.
      model, augment, seed, mesh: see `methods.segmentation.fit`.
      supervision: the loss of the source.
      opponent: D.
      weight: of the adversarial term on the target.
      sees: input of D, "probabilities" or "information".
    """
    discriminator = opponent.fixed(state.extra, mesh)
    loss = partial(
        loss_with_fixed_discriminator,
        model=model,
        supervision=supervision,
        judge=partial(opponent, discriminator),
        weight=weight,
        sees=sees,
        dropout=step_key(state, seed),
    )
    term = Term("all", loss, all_images(state, batch, augment, seed))
    found = accumulate([term], state.params, state.batch_stats, mesh=mesh)
    loss = partial(discriminator_loss, opponent=opponent)
    extra, scalars = opponent.update(state.extra, discriminator, loss, found.aux["all"])
    return Computed(found.gradients, found.batch_stats, {"loss": found.loss, **found.scalars, **scalars}, extra)


def loss_with_fixed_discriminator(
    params,
    batch_stats,
    batch,
    *,
    model: UniversalModel,
    supervision: Supervision,
    judge: Callable,
    weight: float,
    sees: str,
    dropout=None,
):
    """Supervised loss of the source plus the weighted adversarial loss of the target; `judge` is the fixed D.

    Returns:
      (loss, (new batch statistics, scalars, {"source", "target": what D sees, [B, H, W, C]})).
    """
    ((source, part),), ((target, x),) = batch["labeled"].items(), batch["target"].items()
    variables = {"params": params, "batch_stats": batch_stats}
    features, stats = encode_groups(model, variables, {source: part["image"], target: x}, dropout)
    decoder = only_decoder(model)
    supervised = segmentation_loss(model, params, features[source], decoder, part["label"], supervision)
    size = x.shape[1:3]
    maps = {
        role: seen_maps(pixel_logits(model, params, features[domain], decoder, size), sees)
        for role, domain in (("source", source), ("target", target))
    }
    adversarial = adversarial_loss(judge(maps["target"]))
    scalars = {f"supervised/{source}": supervised, f"adversarial/{target}": adversarial}
    return supervised + weight * adversarial, (stats, scalars, maps)


def seen_maps(logits, sees: str):
    """What D sees of logits [B, H, W, C]: "probabilities", or "information", -p log p divided by ln C.

    >>> import jax.numpy as jnp
    >>> seen_maps(jnp.zeros((1, 1, 1, 2)), "information").tolist()
    [[[[0.5, 0.5]]]]
    """
    return weighted_information(logits) if sees == "information" else jax.nn.softmax(logits, axis=-1)


def discriminator_loss(discriminator, maps, *, opponent: Opponent):
    """Loss of D for maps {"source", "target": [B, H, W, C]}, which are constants: (loss, scalars)."""
    maps = jax.lax.stop_gradient(maps)
    loss, scalars = domain_loss(*(opponent(discriminator, maps[role]) for role in ("source", "target")))
    return loss, {"discriminator": loss, **scalars}
