"""Training step of the baseline of Hung et al. (2018) on one domain: segmentation network and discriminator D."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from usss_jax.data import augment_device
from usss_jax.data.augment_device import DeviceAugment
from usss_jax.methods.hung.state import Adversarial, AdversarialState, only_domain
from usss_jax.methods.usss.step import gathered
from usss_jax.models.universal import UniversalModel, encode_groups
from usss_jax.models.upsample import upsample
from usss_jax.objectives import adversarial as losses
from usss_jax.objectives.losses import IGNORE, cross_entropy
from usss_jax.parallel.sharding import replicated, state_shardings, step_batch_shardings

# ---- Losses of one forward pass ----


def predict(params, batch_stats, images, model: UniversalModel):
    """Logits [B, H, W, C] of images [B, H, W, 3] in training, and the new batch statistics."""
    domain = only_domain(model)
    features, stats = encode_groups(model, {"params": params, "batch_stats": batch_stats}, {domain: images})
    cells = model.apply({"params": params}, features[domain], domain, method="decode")
    return upsample(cells, images.shape[1:3], model.upsample), stats


def discriminate(discriminator, maps, objective: Adversarial):
    """D's logits [B, H, W] for maps [B, H, W, C]."""
    return objective.discriminator.apply({"params": discriminator}, maps)


def labeled_loss(params, batch_stats, discriminator, labeled, *, model: UniversalModel, objective: Adversarial):
    """L_ce + lambda_adv L_adv of a labeled batch {"image": [B, H, W, 3], "label": int [B, H, W]}.

    Returns:
      (loss, (new batch statistics, scalars, the predictions as D sees them)).
    """
    domain = only_domain(model)
    logits, stats = predict(params, batch_stats, labeled["image"], model)
    counts = labeled["label"] != IGNORE
    predictions = losses.prediction_map(logits, counts)
    supervised = cross_entropy(logits, labeled["label"])
    fooling = losses.adversarial_loss(discriminate(discriminator, predictions, objective), counts)
    scalars = {f"supervised/{domain}": supervised, f"adversarial/{domain}": fooling}
    return supervised + objective.adversarial * fooling, (stats, scalars, predictions)


def unlabeled_loss(
    params, batch_stats, discriminator, images, semi_weight, *, model: UniversalModel, objective: Adversarial
):
    """lambda_adv L_adv + lambda_semi L_semi of unlabeled images [B, H, W, 3]: (loss, (new statistics, scalars))."""
    domain = only_domain(model)
    logits, stats = predict(params, batch_stats, images, model)
    judged = discriminate(discriminator, losses.prediction_map(logits), objective)
    fooling = losses.adversarial_loss(judged)
    semi, share = losses.self_taught_loss(logits, judged, objective.threshold)
    scalars = {f"adversarial_unlabeled/{domain}": fooling, f"semi/{domain}": semi, f"semi_share/{domain}": share}
    return objective.adversarial_unlabeled * fooling + semi_weight * semi, (stats, scalars)


def discriminator_loss(discriminator, predictions, labels, *, model: UniversalModel, objective: Adversarial):
    """L_D of the predictions for a labeled batch, which are constants here, and its labels: (loss, scalars)."""
    domain = only_domain(model)
    predictions, counts = jax.lax.stop_gradient(predictions), labels != IGNORE
    truth = losses.truth_map(labels, model.num_classes[domain], predictions.dtype)
    of_predictions, of_truth = (discriminate(discriminator, maps, objective) for maps in (predictions, truth))
    loss = losses.discriminator_loss(of_predictions, of_truth, counts)
    accuracy = losses.discriminator_accuracy(of_predictions, of_truth, counts)
    return loss, {f"discriminator/{domain}": loss, f"discriminator_accuracy/{domain}": accuracy}


# ---- The step ----


def gradients(
    state: AdversarialState,
    batch: Mapping,
    *,
    model: UniversalModel,
    objective: Adversarial,
    steps: int,
    augment: DeviceAugment,
    seed: int,
    unroll: bool,
):
    """Gradients of both networks for one step's batch, each with the other network held fixed.

    The labeled batch first, then the unlabeled micro-batches, whose losses are averaged. D learns from the labeled
    batch alone. Arguments and order are those of `gradients` in step.py; `steps` is the stage's number of steps.

    Returns:
      (gradients of the segmentation network, gradients of D, new batch statistics, scalars).
    """
    domain = only_domain(model)
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    labeled = augment_device.augment({"labeled": batch["labeled"]}, key, augment)["labeled"][domain]
    setting: dict[str, Any] = {"model": model, "objective": objective}
    (loss, (stats, scalars, predictions)), grads = jax.value_and_grad(partial(labeled_loss, **setting), has_aux=True)(
        state.params, state.batch_stats, state.discriminator, labeled
    )
    (_, of_discriminator), discriminator_grads = jax.value_and_grad(
        partial(discriminator_loss, **setting), has_aux=True
    )(state.discriminator, predictions, labeled["label"])

    unlabeled = batch["unlabeled"][domain]["image"]
    passes, weight = unlabeled.shape[0], objective.semi_weight(state.step, steps)

    def micro_step(carry, micro_batch):
        (grads, stats, loss), (u, images) = carry, micro_batch
        images = augment_device.change_micro_batch(images, u, key=key, domain=domain, settings=augment)
        (value, (stats, scalars)), new = jax.value_and_grad(partial(unlabeled_loss, **setting), has_aux=True)(
            state.params, stats, state.discriminator, images, weight
        )
        grads = jax.tree.map(lambda a, b: a + b / passes, grads, new)
        return (grads, stats, loss + value / passes), scalars

    carry = (grads, stats, loss)
    if unroll:
        each = []
        for u in range(passes):
            carry, scalars_u = micro_step(carry, (u, unlabeled[u]))
            each.append(scalars_u)
        per_pass = jax.tree.map(lambda *values: jnp.stack(values), *each)
    else:
        carry, per_pass = jax.lax.scan(micro_step, carry, (jnp.arange(passes), unlabeled))
    grads, stats, loss = carry
    averaged = {name: values.mean() for name, values in per_pass.items()}
    return grads, discriminator_grads, stats, {"loss": loss, **scalars, **averaged, **of_discriminator}


def train_step(
    state: AdversarialState,
    batch: Mapping,
    *,
    tx: optax.GradientTransformation,
    objective: Adversarial,
    steps: int,
    mesh: Mesh | None = None,
    **setting,
):
    """One step of both optimisers: a pure function of (state, batch), `setting` that of `gradients`.

    `mesh` is that of step.py's `train_step`.
    """
    whole = gathered(state, mesh)
    if mesh is not None:
        judge = jax.lax.with_sharding_constraint(state.discriminator, replicated(mesh))
        whole = dataclasses.replace(whole, discriminator=judge)
    grads, discriminator_grads, stats, scalars = gradients(whole, batch, objective=objective, steps=steps, **setting)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    discriminator_updates, discriminator_opt_state = objective.discriminator_optimizer(steps).update(
        discriminator_grads, state.discriminator_opt_state, state.discriminator
    )
    new_state = dataclasses.replace(
        state,
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=stats,
        opt_state=opt_state,
        discriminator=optax.apply_updates(state.discriminator, discriminator_updates),
        discriminator_opt_state=discriminator_opt_state,
    )
    return new_state, {**scalars, "grad_norm": optax.tree.norm(grads)}


NO_AUGMENT = DeviceAugment()


def jit_adversarial_step(
    mesh: Mesh,
    *,
    model: UniversalModel,
    tx: optax.GradientTransformation,
    objective: Adversarial,
    steps: int,
    augment: DeviceAugment = NO_AUGMENT,
    seed: int = 0,
    like: AdversarialState | None = None,
):
    """Compile (state, batch) -> (state, scalars) for the mesh: state donated and where `like` lies, batches split.

    The batch is that of `jit_train_step` with the model's one domain and unlabeled images. Unlabeled micro-batches are
    written out on CPU and scanned elsewhere, see `gradients` in step.py.

    Raises:
      ValueError: if the model has not exactly one domain.
    """
    only_domain(model)
    of_state = state_shardings(mesh, like)
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    setting: dict[str, Any] = {"model": model, "objective": objective, "steps": steps, "augment": augment, "seed": seed}
    return jax.jit(
        partial(train_step, tx=tx, mesh=mesh, unroll=on_cpu, **setting),
        in_shardings=(of_state, step_batch_shardings(mesh)),
        out_shardings=(of_state, replicated(mesh)),
        donate_argnums=0,
    )
