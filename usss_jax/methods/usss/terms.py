"""What Univ-cross and Univ-full minimise: Eq. 1 to 5 of the paper, and Eq. 7."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from usss_jax.data import augment_device
from usss_jax.data.augment_device import DeviceAugment
from usss_jax.engine.accumulate import Term, accumulate
from usss_jax.engine.state import TrainState
from usss_jax.engine.step import Computed
from usss_jax.methods.supervised import augmented, decoder_loss, step_key
from usss_jax.models.strips import mean_over_pixels, sum_over_pixels
from usss_jax.models.universal import UniversalModel, encode_groups, in_order
from usss_jax.models.upsample import upsample_matrix
from usss_jax.objectives.entropy import entropy_terms, normalized, similarities
from usss_jax.objectives.losses import count_labeled, grouped_pixel_cross_entropy
from usss_jax.objectives.prototypes import class_sums, moving_average


@dataclasses.dataclass(frozen=True)
class Objective:
    """Constants of Eq. 2 to 7; the defaults are the paper's.

    Attributes:
      alpha: weight of the cross term; beta: weight of the within term.
      similarity_scale: inverse temperature of the similarities' softmax.
      theta: of the moving average of the label embeddings (Eq. 7); 1 keeps them.
      embedding_supervision: weight of the cross-entropy of the similarities of labeled images with their own label
        embeddings.
      diversity: weight of the entropy of the mean prediction, subtracted from every term (objectives/entropy.py).
      normalize_embedding: whether E's output has unit length per cell.
      warmup: steps over which the weights of the entropy terms rise from 0 in a straight line.
    """

    alpha: float = 1.0
    beta: float = 1.0
    similarity_scale: float = 1.0
    theta: float = 1.0
    embedding_supervision: float = 0.0
    diversity: float = 0.0
    normalize_embedding: bool = False
    warmup: int = 0


def compute(
    state: TrainState,
    batch: Mapping,
    *,
    model: UniversalModel,
    augment: DeviceAugment,
    seed: int,
    objective: Objective,
    label_classes: Mapping[str, Sequence[int]],
    direct: bool = False,
    mesh: Mesh | None = None,
) -> Computed:
    """Compute Eq. 5 for one step's batch: the supervised terms plus the entropy terms.

    Args:
      state: extra["label_embeddings"] has [n, d] of every domain with labels.
      batch: {"labeled": {domain: {"image", "label"}}, "unlabeled": {domain: {"image": [U, B, H, W, 3]}}}; U and the
        image size may differ between domains. A domain without labels is in "unlabeled" alone.
      model, augment, seed, mesh: see methods/segmentation.py.
      objective: constants.
      label_classes: per domain the train id of each label embedding.
      direct: entropy of the decoders' own predictions instead of similarities (appendix C); no entropy module.
    """
    key, rows = step_key(state, seed), state.extra.get("label_embeddings", {})
    scores_of = partial(decoder_scores, model) if direct else partial(label_similarities, model, objective, rows)
    supervised = partial(labeled_loss, model=model, objective=objective, rows=rows, label_classes=label_classes)
    entropy = partial(entropy_loss, model=model, objective=objective, scores_of=scores_of, augment=augment, key=key)
    unlabeled = {d: batch["unlabeled"][d]["image"] for d in in_order(model, batch.get("unlabeled", {}))}
    ramp = jnp.minimum(1, (state.step + 1) / objective.warmup) if objective.warmup else 1.0

    found = accumulate(
        [
            Term("supervised", supervised, augmented(state, batch, augment, seed)),  # sum over domains of Eq. 1
            Term("entropy", entropy, unlabeled, micro_batches=True, weight=ramp),  # alpha * Eq. 3 + beta * Eq. 4
        ],
        state.params,
        state.batch_stats,
        mesh=mesh,
    )
    moved = {
        domain: moving_average(rows[domain], sums, label_classes[domain], objective.theta)  # Eq. 7
        for domain, sums in found.aux["supervised"].items()
    }
    extra = {**state.extra, "label_embeddings": {**rows, **moved}} if rows else state.extra
    return Computed(found.gradients, found.batch_stats, {"loss": found.loss, **found.scalars}, extra)


def entropy_loss(
    params,
    batch_stats,
    images,
    u,
    *,
    model: UniversalModel,
    objective: Objective,
    scores_of: Callable,
    augment: DeviceAugment,
    key,
):
    """alpha * cross + beta * within of the u-th micro-batch: images [B, H, W, 3] per domain.

    Returns:
      (loss, (new batch statistics, scalars, None)).
    """
    images = {
        d: augment_device.change_micro_batch(x, u, key=key, domain=d, settings=augment) for d, x in images.items()
    }
    features, stats = encode_groups(model, {"params": params, "batch_stats": batch_stats}, images)
    loss, scalars = 0.0, {}
    for domain, x in images.items():
        mean = partial(mean_over_pixels, size=x.shape[1:3], stride=model.stride, mode=model.upsample)
        within, cross, watch = entropy_terms(scores_of(params, features[domain]), domain, mean, objective.diversity)
        loss = loss + objective.alpha * cross + objective.beta * within
        scalars[f"within/{domain}"], scalars[f"cross/{domain}"] = within, cross
        for other, values in watch.items():
            scalars.update({f"{name}/{domain}/{other}": value for name, value in values.items()})
    return loss, (stats, scalars, None)


def label_similarities(model: UniversalModel, objective: Objective, rows: Mapping, params, features):
    """Eq. 2: similarities of E's output with the label embeddings of every domain, {domain: [B, h, w, n]}."""
    embedding = embed(model, objective, params, features)
    return {domain: similarities(embedding, r, objective.similarity_scale) for domain, r in rows.items()}


def decoder_scores(model: UniversalModel, params, features):
    """Logits of every decoder (appendix C), {domain: [B, h, w, n]}."""
    return {d: model.apply({"params": params}, features, d, method="decode") for d in model.num_classes}


def embed(model: UniversalModel, objective: Objective, params, features):
    """E of the features [B, h, w, C] -> [B, h, w, d], of unit length if the objective asks for it."""
    embedding = model.apply({"params": params}, features, method="embed")
    return normalized(embedding) if objective.normalize_embedding else embedding


def labeled_loss(
    params, batch_stats, labeled, *, model: UniversalModel, objective: Objective, rows: Mapping, label_classes: Mapping
):
    """Eq. 1, summed over domains; beside it what the entropy module learns from labeled images, not in the paper.

    Args:
      params, batch_stats: of the model.
      labeled: per domain {"image": [B, H, W, 3], "label": int [B, H, W]}.
      model, objective: see there.
      rows: label embeddings of every domain [n, d].
      label_classes: per domain their train ids.

    Returns:
      (loss, (new batch statistics, scalars, per domain the sums of E's output per class if theta < 1)).
    """
    images = {domain: batch["image"] for domain, batch in labeled.items()}
    features, stats = encode_groups(model, {"params": params, "batch_stats": batch_stats}, images)
    loss, scalars, sums = 0.0, {}, {}
    for domain, batch in labeled.items():
        label = batch["label"]
        scalars[f"supervised/{domain}"] = decoder_loss(model, params, features[domain], domain, label)
        loss = loss + scalars[f"supervised/{domain}"]
        if not objective.embedding_supervision and objective.theta == 1:
            continue
        embedding = embed(model, objective, params, features[domain])
        if objective.embedding_supervision:
            scores = similarities(embedding, rows[domain], objective.similarity_scale)
            term = similarity_loss(model, scores, label, tuple(label_classes[domain]))
            scalars[f"embedding_supervision/{domain}"] = term
            loss = loss + objective.embedding_supervision * term
        if objective.theta < 1:
            rows_of, columns_of = (upsample_matrix(n, model.stride, model.upsample) for n in label.shape[1:])
            constants = jax.lax.stop_gradient(embedding)
            sums[domain] = class_sums(constants, label, rows_of, columns_of, model.num_classes[domain])
    return loss, (stats, scalars, sums)


def similarity_loss(model: UniversalModel, scores, label, classes: tuple[int, ...]):
    """Cross-entropy of similarities [B, h, w, n] whose columns stand for `classes`, label int [B, H, W]; a scalar."""
    pixel_loss = partial(grouped_pixel_cross_entropy, classes=classes)
    size, stride = label.shape[1:], model.stride
    total = sum_over_pixels(pixel_loss, scores, label, size=size, stride=stride, mode=model.upsample)
    return total / count_labeled(label, classes)


COLLAPSE_SHARE = 0.95  # of the cells nearest to one label embedding


def warn_of_collapse(scalars: Mapping[str, float]) -> dict[str, str]:
    """Find pairs of domains where nearly all cells of the images have their largest score at one place."""
    found = {}
    for name, share in scalars.items():
        if name.startswith("top_share/") and share > COLLAPSE_SHARE:
            _, images, embeddings = name.split("/")
            found[name] = (
                f"{100 * share:.0f} % of the cells of {images} images are nearest to one class or embedding of "
                f"{embeddings}: the entropy terms have collapsed there and teach nothing"
            )
    return found
