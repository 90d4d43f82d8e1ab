"""The classifier: encoder, global average, 1x1 convolution; its training step and the counting of its hits.

It is a `UniversalModel` with one head named HEAD, so that its encoder is the one of segmentation down to the names.
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

HEAD = "fc"  # the name of the classifier's last layer in the DRN release
TOP = 5


def logits_of(model: UniversalModel, params, features):
    """Mean over the image, then the head: features [B, h, w, C] -> logits [B, n].

    The mean of a 1x1 convolution is the 1x1 convolution of the mean, which is cheaper.
    """
    pooled = features.mean((1, 2), keepdims=True)
    logits: Any = model.apply({"params": params}, pooled, HEAD, method="decode")
    return logits[:, 0, 0]


def classify(variables, images, *, model: UniversalModel):
    """Logits [B, n] of images [B, H, W, 3] (bytes, or floating point in [0, 1]), with the running statistics."""
    return logits_of(model, variables["params"], model.apply(variables, images, method="encode"))


def create_optimizer_with_steps(
    lr: float, decay: float, decay_steps: list[int], *, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """SGD as of training, its learning rate multiplied by `decay` at each of `decay_steps`."""
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
    """Cross-entropy of {"image": [B, H, W, 3], "label": int [B]}, averaged over the batch, and its top1."""
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
    """Images whose label is the best, and among the TOP best: int32 [2]. Labels below 0 hit nothing."""
    logits = classify(variables, batch["image"], model=model)
    best = jax.lax.top_k(logits, min(TOP, logits.shape[-1]))[1] == batch["label"][:, None]
    return jnp.stack([best[:, 0].sum(), best.any(-1).sum()])


def jit_count_hits(mesh: Mesh, *, model: UniversalModel):
    """Compile `count_hits` for the mesh."""
    return jax.jit(
        partial(count_hits, model=model),
        in_shardings=(replicated(mesh), batch_sharding(mesh)),
        out_shardings=replicated(mesh),
    )


def classifier_state_dict(variables: Mapping, names: TensorNames) -> dict[str, np.ndarray]:
    """Give the variables the names of released files, DRN's layer<level>... for one, and fc for the head.

    `pretrained.from_state_dict` reads them, and has no use for the head.
    """
    tensors = pretrained.to_state_dict(variables, [HEAD], names=names)
    renamed = (("base.", "layer"), ("seg.0.", f"{HEAD}."))
    out = {}
    for name, tensor in tensors.items():
        for theirs, ours in renamed:
            if name.startswith(theirs):
                name = ours + name.removeprefix(theirs)
        out[name] = tensor
    return out
