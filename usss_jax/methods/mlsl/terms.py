"""Losses of MLSL and its baselines: all domains share one decoder, which has the classes of the target."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial

import jax.numpy as jnp
from jax.sharding import Mesh

from usss_jax.data import augment_device
from usss_jax.data.augment_device import DeviceAugment
from usss_jax.engine.accumulate import Term, accumulate
from usss_jax.engine.state import TrainState
from usss_jax.engine.step import Computed
from usss_jax.methods.discriminator import only_decoder
from usss_jax.methods.supervised import augmented, decoder_loss, step_key
from usss_jax.models.universal import UniversalModel, encode_groups
from usss_jax.models.upsample import upsample
from usss_jax.objectives.losses import cross_entropy, pixel_entropy
from usss_jax.objectives.self_training import class_ratio_loss, hard_example_cross_entropy, image_level_loss


@dataclasses.dataclass(frozen=True)
class Supervision:
    """The loss of images with labels or pseudo-labels.

    Attributes:
      loss: "ce" (Eq. 1 and 2 of MLSL, as a mean over the labeled pixels of the batch) or "ohem".
      at: "pixels", or "cells": at the network's stride, with the label of a cell's middle pixel.
      image_weight: lambda, weight of the image-level loss (Eq. 6); 0: none.
    """

    loss: str = "ce"
    at: str = "pixels"
    image_weight: float = 0.0


def compute(
    state: TrainState,
    batch: Mapping,
    *,
    model: UniversalModel,
    augment: DeviceAugment,
    seed: int,
    supervision: Supervision,
    on_target: Callable | None = None,
    mesh: Mesh | None = None,
) -> Computed:
    """Eq. 7 of MLSL, or its source part plus a term on the target's unlabeled images, with its gradients.

    Args:
      state: of the training.
      batch: {"labeled": {name: {"image", "label", and "classes" float [B, C] with an image-level loss}}}, and with
        `on_target` {"unlabeled": {target: {"image": [1, B, H, W, 3]}}}.
      model, augment, seed, mesh: see `methods.segmentation.fit`.
      supervision: the loss of "labeled".
      on_target: term on the target: logits [B, H, W, C] -> (loss, scalars); None: none.
    """
    loss = partial(total_loss, model=model, supervision=supervision, on_target=on_target, dropout=step_key(state, seed))
    found = accumulate(
        [Term("all", loss, all_images(state, batch, augment, seed))], state.params, state.batch_stats, mesh=mesh
    )
    return Computed(found.gradients, found.batch_stats, {"loss": found.loss, **found.scalars}, state.extra)


def all_images(state: TrainState, batch: Mapping, augment: DeviceAugment, seed: int) -> dict[str, Mapping]:
    """Augmented batch {"labeled": as in the batch, "target": {domain: images [B, H, W, 3]}} of one step."""
    key = step_key(state, seed)
    target = {
        domain: augment_device.change_micro_batch(part["image"][0], 0, key=key, domain=domain, settings=augment)
        for domain, part in batch.get("unlabeled", {}).items()
    }
    return {"labeled": augmented(state, batch, augment, seed), "target": target}


def total_loss(
    params, batch_stats, batch, *, model: UniversalModel, supervision: Supervision, on_target=None, dropout=None
):
    """Sum of the losses of the labeled batches, each with its weighted image-level loss (Eq. 6), and `on_target`.

    All images share a forward pass if their shapes are equal.

    Args:
      params, batch_stats: variables of the model.
      batch: of `all_images`.
      model, supervision, on_target: see `compute`.
      dropout: random key, or None.

    Returns:
      (loss, (new batch statistics, scalars, None)).
    """
    images = {name: part["image"] for name, part in batch["labeled"].items()}
    features, stats = encode_groups(
        model, {"params": params, "batch_stats": batch_stats}, {**images, **batch["target"]}, dropout
    )
    decoder = only_decoder(model)
    loss, scalars = 0.0, {}
    for name, part in batch["labeled"].items():
        term = segmentation_loss(model, params, features[name], decoder, part["label"], supervision)
        scalars[f"supervised/{name}"] = term
        loss = loss + term
        if supervision.image_weight:
            logits = model.apply({"params": params}, features[name], decoder, method="image_scores")
            scalars[f"image_level/{name}"] = image_level_loss(logits, part["classes"])
            loss = loss + supervision.image_weight * scalars[f"image_level/{name}"]
    for name, x in batch["target"].items():
        term, found = on_target(pixel_logits(model, params, features[name], decoder, x.shape[1:3]))
        loss = loss + term
        scalars |= {f"{what}/{name}": value for what, value in found.items()}
    return loss, (stats, scalars, None)


def pixel_logits(model: UniversalModel, params, features, decoder: str, size: tuple[int, int]):
    """Upsampled logits of features [B, h, w, C]: [B, H, W, classes], (H, W) = `size`."""
    cells = model.apply({"params": params}, features, decoder, method="decode")
    return upsample(cells, size, model.stride, model.upsample)


def segmentation_loss(model: UniversalModel, params, features, decoder: str, label, supervision: Supervision):
    """Loss of features [B, h, w, C] and label int [B, H, W] by `supervision`, without the image-level loss."""
    if supervision == Supervision(image_weight=supervision.image_weight):
        return decoder_loss(model, params, features, decoder, label)
    loss = cross_entropy if supervision.loss == "ce" else hard_example_cross_entropy
    if supervision.at == "cells":
        cells = model.apply({"params": params}, features, decoder, method="decode")
        return loss(cells, cell_labels(label, model.stride))
    return loss(pixel_logits(model, params, features, decoder, label.shape[1:]), label)


def cell_labels(label, stride: int):
    """Labels of the middle pixels of the cells, [B, H, W] -> [B, ceil(H / stride), ceil(W / stride)].

    A last cell whose middle is outside the image has the label of the image's last pixel.

    >>> cell_labels(jnp.arange(16).reshape(1, 1, 16), 8).tolist()
    [[[4, 12]]]
    """
    rows, columns = (jnp.minimum(jnp.arange(0, n, stride) + stride // 2, n - 1) for n in label.shape[1:])
    return label[:, rows[:, None], columns]


def entropy_term(logits, *, weight: float, ratios=None, ratio_weight: float = 0.0, mu: float = 0.5):
    """MinEnt (ADVENT, CVPR 2019): the mean entropy of logits [B, H, W, C], divided by ln C, times `weight`.

    Args:
      logits: of the target.
      weight: of the entropy.
      ratios: shares of the classes in the source, [C], for the class-ratio term; None: without it.
      ratio_weight, mu: weight and mu of `class_ratio_loss`.

    Returns:
      (loss, scalars).
    """
    entropy = pixel_entropy(logits).mean() / jnp.log(logits.shape[-1])
    if ratios is None:
        return weight * entropy, {"entropy": entropy}
    ratio = class_ratio_loss(logits, ratios, mu)
    return weight * entropy + ratio_weight * ratio, {"entropy": entropy, "class_ratio": ratio}
