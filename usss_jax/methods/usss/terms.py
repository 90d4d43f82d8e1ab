"""The objective of Univ-cross and Univ-full: Eq. 1 to 5 of the paper, and Eq. 7."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from usss_jax.data import augment_device
from usss_jax.data.augment_device import DeviceAugment
from usss_jax.engine.accumulate import Term, accumulate
from usss_jax.engine.state import TrainState
from usss_jax.engine.step import Computed
from usss_jax.methods.supervised import LabeledBatches, augmented, decoder_losses, step_key
from usss_jax.models.strips import mean_over_pixels, sum_over_pixels
from usss_jax.models.universal import UniversalModel, encode_groups, in_order
from usss_jax.models.upsample import upsample_matrix
from usss_jax.objectives.entropy import entropy_terms, normalized, similarities
from usss_jax.objectives.losses import count_labeled, grouped_pixel_cross_entropy
from usss_jax.objectives.prototypes import class_sums, moving_average


@dataclasses.dataclass(frozen=True)
class Objective:
    """Hyperparameters of Eq. 2 to 7; the defaults in config/usss.py are the paper's.

    Attributes:
      alpha: weight of the cross term.
      beta: weight of the within term.
      similarity_scale: inverse temperature of the softmax over similarities.
      theta: decay of the moving average of the label embeddings (Eq. 7); 1 leaves them unchanged.
      embedding_supervision: weight of the cross-entropy of the similarities of labeled pixels with the label embeddings
        of their domain.
      diversity: weight of the entropy of the mean prediction, subtracted from every term (objectives/entropy.py).
      normalize_embedding: whether to scale E's output to unit length per cell.
      warmup: steps over which the weights of the entropy terms rise linearly from 0.
    """

    alpha: float
    beta: float
    similarity_scale: float
    theta: float
    embedding_supervision: float
    diversity: float
    normalize_embedding: bool
    warmup: int


def create_objective(usss: ConfigDict, variant: str = "full") -> Objective:
    """Hyperparameters of variant "cross", "full" or "direct", by the config's `usss` section.

    "cross" has no within term. "direct" has no entropy module, hence nothing that trains it or the label embeddings.

    >>> from usss_jax.config import default_config
    >>> [create_objective(default_config().usss, variant).beta for variant in ("cross", "full")]
    [0.0, 1.0]
    """
    return Objective(
        alpha=usss.alpha,
        beta=0.0 if variant == "cross" else usss.beta,
        similarity_scale=usss.similarity_scale,
        theta=1.0 if variant == "direct" else usss.theta,
        embedding_supervision=0.0 if variant == "direct" else usss.embedding_supervision,
        diversity=usss.diversity,
        normalize_embedding=usss.normalize_embedding,
        warmup=usss.entropy_warmup,
    )


def label_similarities(params, features, *, model: UniversalModel, objective: Objective, label_embeddings: Mapping):
    """Eq. 2: similarities of E's output with the label embeddings of each domain, {domain: [B, h, w, n]}."""
    embedding = embed(model, objective, params, features)
    return {d: similarities(embedding, c, objective.similarity_scale) for d, c in label_embeddings.items()}


def decoder_scores(params, features, *, model: UniversalModel, objective: Objective, label_embeddings: Mapping):
    """Logits of each decoder (appendix C), {domain: [B, h, w, n]}; without objective and label embeddings."""
    return {d: model.apply({"params": params}, features, d, method="decode") for d in model.num_classes}


def compute(
    state: TrainState,
    batch: Mapping,
    *,
    model: UniversalModel,
    augment: DeviceAugment,
    seed: int,
    objective: Objective,
    label_classes: Mapping[str, Sequence[int]],
    scores: Callable = label_similarities,
    use: LabeledBatches = LabeledBatches(),
    mesh: Mesh | None = None,
) -> Computed:
    """Eq. 5 of one batch, the supervised terms plus the entropy terms, with its gradients.

    Args:
      state: extra["label_embeddings"] has [n, d] for every domain with labels.
      batch: {"labeled": {name: {"image", "label"}}, "unlabeled": {domain: {"image": [U, B, H, W, 3]}}}; U and the
        image size may differ between domains. A domain without labels is in "unlabeled" only.
      model, augment, seed, mesh: see `methods.segmentation.fit`.
      objective: hyperparameters.
      label_classes: per domain the train id of each label embedding.
      scores: whose entropies are the terms: `label_similarities`, or `decoder_scores`, which need no entropy module.
      use: how labeled batches are used.
    """
    key, embeddings = step_key(state, seed), state.extra.get("label_embeddings", {})
    scores_of = partial(scores, model=model, objective=objective, label_embeddings=embeddings)
    supervised = partial(
        labeled_loss,
        model=model,
        objective=objective,
        label_embeddings=embeddings,
        label_classes=label_classes,
        use=use,
    )
    labeled = augmented(state, batch, augment, seed, use.views)
    entropy = partial(entropy_loss, model=model, objective=objective, scores_of=scores_of, augment=augment, key=key)
    unlabeled = {d: batch["unlabeled"][d]["image"] for d in in_order(model, batch.get("unlabeled", {}))}
    ramp = jnp.minimum(1, (state.step + 1) / objective.warmup) if objective.warmup else 1.0

    found = accumulate(
        [
            Term("supervised", supervised, labeled),  # sum over domains of Eq. 1
            Term("entropy", entropy, unlabeled, micro_batches=True, weight=ramp),  # alpha * Eq. 3 + beta * Eq. 4
        ],
        state.params,
        state.batch_stats,
        mesh=mesh,
    )
    moved = {
        domain: moving_average(embeddings[domain], sums, label_classes[domain], objective.theta)  # Eq. 7
        for domain, sums in found.aux["supervised"].items()
    }
    extra = {**state.extra, "label_embeddings": {**embeddings, **moved}} if embeddings else state.extra
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
    """alpha * cross + beta * within of the u-th micro-batch {domain: images [B, H, W, 3]}, summed over domains.

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
        within, cross, monitored = entropy_terms(scores_of(params, features[domain]), domain, mean, objective.diversity)
        loss = loss + objective.alpha * cross + objective.beta * within
        scalars[f"within/{domain}"], scalars[f"cross/{domain}"] = within, cross
        for other, values in monitored.items():
            scalars.update({f"{name}/{domain}/{other}": value for name, value in values.items()})
    return loss, (stats, scalars, None)


def embed(model: UniversalModel, objective: Objective, params, features):
    """E of features [B, h, w, C]: [B, h, w, d], of unit length with `normalize_embedding`."""
    embedding = model.apply({"params": params}, features, method="embed")
    return normalized(embedding) if objective.normalize_embedding else embedding


def labeled_loss(
    params,
    batch_stats,
    labeled,
    *,
    model: UniversalModel,
    objective: Objective,
    label_embeddings: Mapping,
    label_classes: Mapping,
    use: LabeledBatches = LabeledBatches(),
):
    """Eq. 1, summed over the named batches, plus the supervision of the similarities, which is not in the paper.

    Args:
      params, batch_stats: variables of the model.
      labeled: per name {"image": [B, H, W, 3], "label": int [B, H, W]}, where the name is that of a domain, or another
        one (pseudo-labels, as `methods.supervised.supervised_loss` says). Such a batch has Eq. 1 only: it neither
        supervises similarities nor moves embeddings.
      model: the model.
      objective: hyperparameters.
      label_embeddings: per domain [n, d].
      label_classes: per domain the train id of each label embedding.
      use: decoders and weights of the batches.

    Returns:
      (loss, (new batch statistics, scalars, {domain: sums of E's output per class} if theta < 1)).
    """
    images = {name: batch["image"] for name, batch in labeled.items()}
    features, stats = encode_groups(model, {"params": params, "batch_stats": batch_stats}, images)
    loss: Any = 0.0
    scalars: dict[str, Any] = {}
    sums: dict[str, Any] = {}
    for name, batch in labeled.items():
        label = batch["label"]
        term, found = decoder_losses(model, params, features[name], name, batch, use)
        loss, scalars = loss + term, scalars | found
        if name not in label_embeddings or (not objective.embedding_supervision and objective.theta == 1):
            continue
        embedding = embed(model, objective, params, features[name])
        if objective.embedding_supervision:
            scores = similarities(embedding, label_embeddings[name], objective.similarity_scale)
            term = similarity_loss(model, scores, label, tuple(label_classes[name]))
            scalars[f"embedding_supervision/{name}"] = term
            loss = loss + objective.embedding_supervision * term
        if objective.theta < 1:
            sums[name] = sums_of_classes(model, jax.lax.stop_gradient(embedding), label, name)
    return loss, (stats, scalars, sums)


def sums_of_classes(model: UniversalModel, embedding, label, domain: str):
    """Sums for Eq. 7 of embedding [B, h, w, d] over the pixels of each class of a domain; label int [B, H, W]."""
    rows, columns = (upsample_matrix(n, model.stride, model.upsample) for n in label.shape[1:])
    return class_sums(embedding, label, rows, columns, model.num_classes[domain])


def similarity_loss(model: UniversalModel, scores, label, classes: tuple[int, ...]):
    """Mean cross-entropy of similarities [B, h, w, n] with embeddings of `classes`; label int [B, H, W]."""
    pixel_loss = partial(grouped_pixel_cross_entropy, classes=classes)
    size, stride = label.shape[1:], model.stride
    total = sum_over_pixels(pixel_loss, scores, label, size=size, stride=stride, mode=model.upsample)
    return total / count_labeled(label, classes)


COLLAPSE_SHARE = 0.95  # share of the cells nearest to one label embedding


def warn_of_collapse(scalars: Mapping[str, float]) -> dict[str, str]:
    """Warnings, by scalar, about domains whose images have nearly all their cells nearest to the same embedding.

    >>> list(warn_of_collapse({"top_share/city/town": 0.97, "top_share/town/city": 0.6}))
    ['top_share/city/town']
    """
    found = {}
    for name, share in scalars.items():
        if name.startswith("top_share/") and share > COLLAPSE_SHARE:
            _, images, embeddings = name.split("/")
            found[name] = (
                f"{100 * share:.0f} % of the cells of {images} images are nearest to the same class or embedding of "
                f"{embeddings}: these terms have collapsed and no longer teach anything"
            )
    return found
