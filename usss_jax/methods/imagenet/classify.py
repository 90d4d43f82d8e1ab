"""The classifier: encoder, global average pooling, 1x1 convolution; its training step and its accuracy.

It is a `UniversalModel` with one head named HEAD, so its encoder is that of segmentation, with the same names.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from usss_jax.data.augment_device import DeviceAugment, change_colors
from usss_jax.engine.accumulate import Term, accumulate
from usss_jax.engine.optim import create_optimizer, create_schedule
from usss_jax.engine.state import TrainState
from usss_jax.engine.step import Computed
from usss_jax.models import pretrained
from usss_jax.models.encoder import TensorNames
from usss_jax.models.universal import UniversalModel, encode_groups
from usss_jax.parallel.sharding import batch_sharding, replicated

HEAD = "fc"  # name of the last layer in the DRN release
TOP = 5


def logits_of(model: UniversalModel, params, features):
    """Mean over the image, then the head: features [B, h, w, C] -> logits [B, n].

    Equals the mean of the head's output, since the head is a 1x1 convolution, and is cheaper.
    """
    pooled = features.mean((1, 2), keepdims=True)
    logits: Any = model.apply({"params": params}, pooled, HEAD, method="decode")
    return logits[:, 0, 0]


def classify(variables, images, *, model: UniversalModel):
    """Logits [B, n] of images [B, H, W, 3] (uint8, or floating point in [0, 1]), with running statistics."""
    return logits_of(model, variables["params"], model.apply(variables, images, method="encode"))


def create_optimizer_with_steps(
    lr: float, decay: float, decay_steps: list[int], *, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """SGD as in segmentation, with the learning rate multiplied by `decay` at each of `decay_steps`."""
    constant = create_optimizer(create_schedule(lr, 1, power=0), momentum=momentum, weight_decay=weight_decay)
    factor = optax.piecewise_constant_schedule(1.0, dict.fromkeys(decay_steps, decay))
    return optax.chain(constant, optax.scale_by_schedule(factor))


def compute(
    state: TrainState,
    batch: Mapping,
    *,
    model: UniversalModel,
    colors: DeviceAugment,
    seed: int,
    mesh: Mesh | None = None,
) -> Computed:
    """Mean cross-entropy of a batch {"image": [B, H, W, 3], "label": int [B]} with its gradients, and top1."""
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    images = change_colors(batch["image"], key, colors) if colors.changes_colors else batch["image"]

    def loss_of(params, batch_stats, batch):
        features, stats = encode_groups(model, {"params": params, "batch_stats": batch_stats}, {HEAD: batch["image"]})
        logits = logits_of(model, params, features[HEAD])
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
        return loss, (stats, {"top1": (logits.argmax(-1) == batch["label"]).mean()}, None)

    found = accumulate(
        [Term("classes", loss_of, {**batch, "image": images})],
        state.params,
        state.batch_stats,
        mesh=mesh,
    )
    return Computed(found.gradients, found.batch_stats, {"loss": found.loss, **found.scalars}, state.extra)


def count_hits(variables, batch, *, model: UniversalModel):
    """Number of images whose label has the highest, or one of the TOP highest scores: int32 [2]. Labels < 0: none."""
    logits = classify(variables, batch["image"], model=model)
    best = jax.lax.top_k(logits, min(TOP, logits.shape[-1]))[1] == batch["label"][:, None]
    return jnp.stack([best[:, 0].sum(), best.any(-1).sum()])


def jit_count_hits(mesh: Mesh, *, model: UniversalModel):
    """Jit `count_hits` for the mesh: the batch split over the devices, the variables replicated."""
    return jax.jit(
        partial(count_hits, model=model),
        in_shardings=(replicated(mesh), batch_sharding(mesh)),
        out_shardings=replicated(mesh),
    )


def classifier_state_dict(variables: Mapping, names: TensorNames) -> dict[str, np.ndarray]:
    """Variables under the names of released files, such as DRN's layer<level>..., and HEAD for the head.

    `pretrained.from_state_dict` reads the result and drops the head.
    """
    tensors = pretrained.to_state_dict(variables, [HEAD], names=names)
    renamed = (("base.", "layer"), ("seg.0.", f"{HEAD}."))
    out = {}
    for name, tensor in tensors.items():
        for segmentation, released in renamed:
            if name.startswith(segmentation):
                name = released + name.removeprefix(segmentation)
        out[name] = tensor
    return out
