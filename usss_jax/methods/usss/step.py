"""The pure training step: state and one batch of every stream in, new state and scalars out (Eq. 5 of the paper)."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from usss_jax.data import augment_device
from usss_jax.data.augment_device import DeviceAugment
from usss_jax.engine.state import TrainState
from usss_jax.models.convolution import known_after
from usss_jax.models.strips import mean_over_pixels, sum_over_pixels
from usss_jax.models.universal import UniversalModel, encode_groups, in_order
from usss_jax.models.upsample import upsample_matrix
from usss_jax.objectives.entropy import entropy_terms, normalized, score_entropies, similarities
from usss_jax.objectives.losses import count_labeled, grouped_pixel_cross_entropy, pixel_cross_entropy
from usss_jax.objectives.prototypes import class_sums, moving_average
from usss_jax.parallel.sharding import replicated, state_shardings, step_batch_shardings


@dataclasses.dataclass(frozen=True)
class Objective:
    """Constants of Eq. 5.

    Attributes:
      alpha: weight of the cross term; beta: weight of the within term. Both 0: supervised only (Univ-basic).
      similarity_scale: inverse temperature of the similarities' softmax.
      diversity: weight of the entropy of the mean prediction, which every term is less by (objectives/entropy.py).
      embedding_supervision: weight of the cross-entropy of the similarities of labeled images with their own label
        embeddings.
      normalize_embedding: whether E's output has unit length per cell.
      theta: of the moving average of the label embeddings (Eq. 7); 1 keeps them.
      direct: entropy of the decoders' own predictions instead of similarities (appendix C); no entropy module.
      warmup: steps over which alpha and beta rise from 0 in a straight line.
      frozen_encoder: the encoder neither changes nor normalises by the batch; supervised terms only.
    """

    alpha: float = 1.0
    beta: float = 1.0
    similarity_scale: float = 1.0
    diversity: float = 0.0
    embedding_supervision: float = 0.0
    normalize_embedding: bool = False
    theta: float = 1.0
    direct: bool = False
    warmup: int = 0
    frozen_encoder: bool = False

    @property
    def embeds_labeled(self) -> bool:
        """Whether labeled images go through the entropy module too."""
        return bool(self.embedding_supervision) or self.theta < 1


def supervised_loss(
    params,
    batch_stats,
    labeled,
    label_embeddings,
    *,
    model: UniversalModel,
    objective: Objective,
    label_classes: Mapping[str, Sequence[int]],
):
    """L_S of Eq. 5: the sum over domains of Eq. 1; with `embedding_supervision` that of the similarities besides.

    Args:
      params, batch_stats: of the model.
      labeled: per domain {"image": [B, H, W, 3], "label": int [B, H, W]}.
      label_embeddings: of every domain [n, d].
      model, objective: see there.
      label_classes: per domain the train id of each label embedding.

    Returns:
      (loss, (new batch statistics, scalars, per domain sums of E's output per class if theta < 1)).
    """
    images = {domain: batch["image"] for domain, batch in labeled.items()}
    variables, stats = {"params": params, "batch_stats": batch_stats}, batch_stats
    if objective.frozen_encoder:
        features = {d: jax.lax.stop_gradient(model.apply(variables, x, method="encode")) for d, x in images.items()}
    else:
        features, stats = encode_groups(model, variables, images)
    loss, scalars, sums = 0.0, {}, {}
    for domain, batch in labeled.items():
        label = batch["label"]
        size = label.shape[1:]
        sum_ = partial(sum_over_pixels, size=size, mode=model.upsample)
        logits = model.apply({"params": params}, features[domain], domain, method="decode")
        scalars[f"supervised/{domain}"] = sum_(pixel_cross_entropy, logits, label) / count_labeled(label)
        loss = loss + scalars[f"supervised/{domain}"]
        if not objective.embeds_labeled:
            continue
        embedding = embed(model, params, features[domain], objective)
        if objective.embedding_supervision:
            scores = similarities(embedding, label_embeddings[domain], objective.similarity_scale)
            classes = tuple(label_classes[domain])
            pixel_loss = partial(grouped_pixel_cross_entropy, classes=classes)
            term = sum_(pixel_loss, scores, label) / count_labeled(label, classes)
            scalars[f"embedding_supervision/{domain}"] = term
            loss = loss + objective.embedding_supervision * term
        if objective.theta < 1:
            rows, columns = (upsample_matrix(side, model.upsample) for side in size)
            constants = jax.lax.stop_gradient(embedding)
            sums[domain] = class_sums(constants, label, rows, columns, model.num_classes[domain])
    return loss, (stats, scalars, sums)


def embed(model: UniversalModel, params, features, objective: Objective):
    """E of the features [B, h, w, C] -> [B, h, w, d], of unit length if the objective asks for it."""
    embedding = model.apply({"params": params}, features, method="embed")
    return normalized(embedding) if objective.normalize_embedding else embedding


def unsupervised_loss(params, batch_stats, images, label_embeddings, *, model: UniversalModel, objective: Objective):
    """alpha * cross + beta * within (Eq. 3 to 5) for one unlabeled micro-batch of some domains.

    Args:
      params, batch_stats: of the model.
      images: per domain [B, H, W, 3].
      label_embeddings: of every domain with labels [n, d]; the others have no within term.
      model, objective: see there.

    Returns:
      (loss, (new batch statistics, scalars)).
    """
    features, stats = encode_groups(model, {"params": params, "batch_stats": batch_stats}, images)
    loss, scalars = 0.0, {}
    for domain, x in images.items():
        mean = partial(mean_over_pixels, size=x.shape[1:3], mode=model.upsample)
        if objective.direct:
            heads: dict[str, Any] = {
                k: model.apply({"params": params}, features[domain], k, method="decode") for k in model.num_classes
            }
            within, cross, watch = score_entropies(heads, domain, mean, objective.diversity)
        else:
            embedding = embed(model, params, features[domain], objective)
            within, cross, watch = entropy_terms(
                embedding, domain, label_embeddings, mean, objective.similarity_scale, objective.diversity
            )
        loss = loss + objective.alpha * cross + objective.beta * within
        scalars[f"within/{domain}"], scalars[f"cross/{domain}"] = within, cross
        for other, values in watch.items():
            scalars.update({f"{name}/{domain}/{other}": value for name, value in values.items()})
    return loss, (stats, scalars)


NO_CLASSES: Mapping[str, Sequence[int]] = {}
NO_AUGMENT = DeviceAugment()


def gradients(
    state: TrainState,
    batch: Mapping,
    *,
    model: UniversalModel,
    objective: Objective,
    label_classes: Mapping[str, Sequence[int]] = NO_CLASSES,
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
        may be absent or empty. U and the image size may differ between domains. A domain without labels is in
        "unlabeled" alone.
      model, objective, augment: see there.
      label_classes: per domain the train id of each label embedding; needed if the objective embeds labeled images.
      seed: of the augmentation, whose key depends on it and the step alone.
      unroll: write the scan out. XLA's CPU backend runs the weight gradient of a convolution some 30 times slower
        inside a loop than outside, since it brings convolutions into its fast form in the entry computation alone.

    Returns:
      (gradients, new batch statistics, scalars, new label embeddings).
    """
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    labeled = augment_device.augment({"labeled": batch["labeled"]}, key, augment)["labeled"]
    supervised = partial(supervised_loss, model=model, objective=objective, label_classes=label_classes)
    (loss, (stats, scalars, sums)), grads = jax.value_and_grad(supervised, has_aux=True)(
        state.params, state.batch_stats, labeled, state.label_embeddings
    )
    label_embeddings = dict(state.label_embeddings)
    for domain, of_domain in sums.items():
        rows = label_embeddings[domain]
        label_embeddings[domain] = moving_average(rows, of_domain, label_classes[domain], objective.theta)
    scalars["encoder_grad_norm/supervised"] = optax.tree.norm(grads["encoder"])
    if not batch.get("unlabeled"):
        return grads, stats, {"loss": loss, **scalars}, label_embeddings

    weight = jnp.minimum(1, (state.step + 1) / objective.warmup) if objective.warmup else 1.0
    buckets: dict[tuple, dict] = {}  # domains of equal shape share a scan, and with it their forward passes
    for domain in in_order(model, batch["unlabeled"]):
        images = batch["unlabeled"][domain]["image"]
        buckets.setdefault(images.shape, {})[domain] = images
    of_entropy = jax.tree.map(jnp.zeros_like, grads)
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
            grads = jax.tree.map(lambda a, b: a + b * (weight / passes), grads, new)
            return (grads, stats, loss + value * (weight / passes)), scalars

        carry = (of_entropy, stats, loss)
        if unroll:
            each = []
            for u in range(shape[0]):
                micro_batch = after((grads, carry[0]), {d: x[u] for d, x in images.items()})
                carry, scalars_u = micro_step(carry, (u, micro_batch))
                each.append(scalars_u)
            per_pass = jax.tree.map(lambda *values: jnp.stack(values), *each)
        else:
            carry, per_pass = jax.lax.scan(micro_step, carry, (jnp.arange(shape[0]), images))
        of_entropy, stats, loss = carry
        scalars |= {name: values.mean() for name, values in per_pass.items()}
    scalars["encoder_grad_norm/entropy"] = optax.tree.norm(of_entropy["encoder"])
    grads = jax.tree.map(jnp.add, grads, of_entropy)
    return grads, stats, {"loss": loss, **scalars}, label_embeddings


def after(gradients, images):
    """Images unchanged, but known only when the gradients are: so that one pass follows the other.

    XLA's CPU scheduler would otherwise keep the activations of all passes at once, since they are independent. If a
    gradient is not finite the images become 0, and the step is lost anyway.
    """
    total = sum(g.sum() for g in jax.tree.leaves(gradients))
    return jax.tree.map(partial(known_after, total), images)


def train_step(
    state: TrainState, batch: Mapping, *, tx: optax.GradientTransformation, mesh: Mesh | None = None, **setting
):
    """One optimiser step: a pure function of (state, batch). Returns (new state, scalars).

    `setting` and the shapes of the batch are those of `gradients`. With a `mesh`, parameters that are split over its
    devices are gathered for the passes through the network; gradients, momentum and update are split again.
    """
    grads, stats, scalars, label_embeddings = gradients(gathered(state, mesh), batch, **setting)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    new_state = dataclasses.replace(
        state,
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=stats,
        opt_state=opt_state,
        label_embeddings=label_embeddings,
    )
    return new_state, {**scalars, "grad_norm": optax.tree.norm(grads)}


def gathered(state: TrainState, mesh: Mesh | None):
    """The state, inside jit, with every parameter whole on every device; None: as it is."""
    if mesh is None:
        return state
    return dataclasses.replace(state, params=jax.lax.with_sharding_constraint(state.params, replicated(mesh)))


def jit_train_step(
    mesh: Mesh, *, tx: optax.GradientTransformation, has_unlabeled: bool, like: TrainState | None = None, **setting
):
    """Compile `train_step` for the mesh: state donated, batches split over the devices.

    The state stays where that of `like` lies; without it, it is replicated. `setting` is that of `gradients` but for
    `unroll`, which the mesh decides.
    """
    of_state = state_shardings(mesh, like)
    shardings = step_batch_shardings(mesh)
    if not has_unlabeled:
        del shardings["unlabeled"]
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return jax.jit(
        partial(train_step, tx=tx, mesh=mesh, unroll=on_cpu, **setting),
        in_shardings=(of_state, shardings),
        out_shardings=(of_state, replicated(mesh)),
        donate_argnums=0,
    )
