"""The pure training step: state and one batch of every stream in, new state and scalars out (Eq. 5 of the paper)."""

import dataclasses
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from usss_jax.data import augment_device
from usss_jax.data.augment_device import DeviceAugment
from usss_jax.models.universal import UniversalModel, encode_groups, in_order
from usss_jax.models.upsample import upsample
from usss_jax.objectives.entropy import entropy_terms
from usss_jax.objectives.losses import cross_entropy
from usss_jax.training.sharding import replicated, step_batch_shardings
from usss_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Objective:
    """Constants of Eq. 5.

    Attributes:
      alpha: weight of the cross term; beta: weight of the within term. Both 0: supervised only (Univ-basic).
      similarity_scale: inverse temperature of the similarities' softmax.
    """

    alpha: float = 1.0
    beta: float = 1.0
    similarity_scale: float = 1.0


def supervised_loss(params, batch_stats, labeled, *, model: UniversalModel):
    """L_S of Eq. 5: the sum over domains of Eq. 1.

    Args:
      params, batch_stats: of the model.
      labeled: per domain {"image": [B, H, W, 3], "label": int [B, H, W]}.
      model: the universal model.

    Returns:
      (loss, (new batch statistics, loss per domain)).
    """
    images = {domain: batch["image"] for domain, batch in labeled.items()}
    features, stats = encode_groups(model, {"params": params, "batch_stats": batch_stats}, images)
    losses = {}
    for domain, batch in labeled.items():
        logits = model.apply({"params": params}, features[domain], domain, method="decode")
        logits = upsample(logits, batch["label"].shape[1:], model.upsample)
        losses[domain] = cross_entropy(logits, batch["label"])
    return sum(losses.values()), (stats, losses)


def unsupervised_loss(params, batch_stats, images, label_embeddings, *, model: UniversalModel, objective: Objective):
    """alpha * cross + beta * within (Eq. 3 to 5) for one unlabeled micro-batch of some domains.

    Args:
      params, batch_stats: of the model.
      images: per domain [B, H, W, 3].
      label_embeddings: of every domain [n, d].
      model, objective: see there.

    Returns:
      (loss, (new batch statistics, scalars)).
    """
    features, stats = encode_groups(model, {"params": params, "batch_stats": batch_stats}, images)
    loss, scalars = 0.0, {}
    for domain, x in images.items():
        embedding = model.apply({"params": params}, features[domain], method="embed")
        resize = partial(upsample, size=x.shape[1:3], mode=model.upsample)
        within, cross, watch = entropy_terms(embedding, domain, label_embeddings, resize, objective.similarity_scale)
        loss = loss + objective.alpha * cross + objective.beta * within
        scalars[f"within/{domain}"], scalars[f"cross/{domain}"] = within, cross
        for other, values in watch.items():
            scalars.update({f"{name}/{domain}/{other}": value for name, value in values.items()})
    return loss, (stats, scalars)


NO_AUGMENT = DeviceAugment()


def gradients(
    state: TrainState,
    batch: Mapping,
    *,
    model: UniversalModel,
    objective: Objective,
    augment: DeviceAugment = NO_AUGMENT,
    seed: int = 0,
    unroll: bool = False,
):
    """Gradient of Eq. 5 for one step's batch.

    Labeled batches first (one forward pass each, in the domains' order), then the unlabeled micro-batches by a scan
    whose losses are averaged over the U of their domain. Every forward pass updates the running batch statistics.

    Args:
      state: the state.
      batch: {"labeled": {domain: {"image", "label"}}, "unlabeled": {domain: {"image": [U, B, H, W, 3]}}}; "unlabeled"
        may be absent or empty. U and the image size may differ between domains.
      model, objective, augment: see there.
      seed: of the augmentation, whose key depends on it and the step alone.
      unroll: write the scan out. XLA's CPU backend runs the weight gradient of a convolution some 30 times slower
        inside a loop than outside, since it brings convolutions into its fast form in the entry computation alone.

    Returns:
      (gradients, new batch statistics, scalars).
    """
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    labeled = augment_device.augment({"labeled": batch["labeled"]}, key, augment)["labeled"]
    (loss, (stats, losses)), grads = jax.value_and_grad(partial(supervised_loss, model=model), has_aux=True)(
        state.params, state.batch_stats, labeled
    )
    scalars = {f"supervised/{domain}": value for domain, value in losses.items()}

    buckets: dict[tuple, dict] = {}  # domains of equal shape share a scan, and with it their forward passes
    unlabeled = batch.get("unlabeled", {})
    for domain in in_order(model, unlabeled):
        images = unlabeled[domain]["image"]
        buckets.setdefault(images.shape, {})[domain] = images
    for shape, images in buckets.items():

        def micro_step(carry, micro_batch, passes=shape[0]):
            (grads, stats, loss), (u, micro_batch) = carry, micro_batch
            micro_batch = {
                domain: augment_device.change_micro_batch(x, u, key=key, domain=domain, settings=augment)
                for domain, x in micro_batch.items()
            }
            (value, (stats, scalars)), new = jax.value_and_grad(
                partial(unsupervised_loss, model=model, objective=objective), has_aux=True
            )(state.params, stats, micro_batch, state.label_embeddings)
            grads = jax.tree.map(lambda a, b: a + b / passes, grads, new)
            return (grads, stats, loss + value / passes), scalars

        carry = (grads, stats, loss)
        if unroll:
            each = []
            for u in range(shape[0]):
                carry, scalars_u = micro_step(carry, (u, {d: x[u] for d, x in images.items()}))
                each.append(scalars_u)
            per_pass = jax.tree.map(lambda *values: jnp.stack(values), *each)
        else:
            carry, per_pass = jax.lax.scan(micro_step, carry, (jnp.arange(shape[0]), images))
        grads, stats, loss = carry
        scalars |= {name: values.mean() for name, values in per_pass.items()}
    return grads, stats, {"loss": loss, **scalars}


def train_step(
    state: TrainState,
    batch: Mapping,
    *,
    model: UniversalModel,
    tx,
    objective: Objective,
    augment: DeviceAugment = NO_AUGMENT,
    seed: int = 0,
    unroll: bool = False,
):
    """One optimiser step: a pure function of (state, batch), see `gradients`. Returns (new state, scalars)."""
    grads, stats, scalars = gradients(
        state, batch, model=model, objective=objective, augment=augment, seed=seed, unroll=unroll
    )
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    new_state = dataclasses.replace(
        state,
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=stats,
        opt_state=opt_state,
    )
    return new_state, {**scalars, "grad_norm": optax.tree.norm(grads)}


def jit_train_step(
    mesh: Mesh,
    *,
    model: UniversalModel,
    tx,
    objective: Objective,
    has_unlabeled: bool,
    augment: DeviceAugment = NO_AUGMENT,
    seed: int = 0,
):
    """Compile `train_step` for the mesh: state replicated and donated, batches split over the devices."""
    shardings = step_batch_shardings(mesh)
    if not has_unlabeled:
        del shardings["unlabeled"]
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return jax.jit(
        partial(train_step, model=model, tx=tx, objective=objective, augment=augment, seed=seed, unroll=on_cpu),
        in_shardings=(replicated(mesh), shardings),
        out_shardings=replicated(mesh),
        donate_argnums=0,
    )
