"""The optimiser of a segmentation network, by the config."""

from collections.abc import Callable

import optax
from ml_collections import ConfigDict

from usss_jax.engine import optim
from usss_jax.models.universal import UniversalModel


def is_trained(model: UniversalModel, trainable: Callable[[str], bool] | None) -> Callable[[str], bool] | None:
    """Return whether a parameter is trained, by name: `trainable`, without frozen levels of the encoder."""
    encoder = model.encoder
    if not encoder.frozen:
        return trainable

    def trained(name: str) -> bool:
        part, _, inside = name.partition("/")
        frozen = part == "encoder" and encoder.level_of(inside) < encoder.frozen
        return not frozen and (trainable is None or trainable(name))

    return trained


def make_optimizer(
    config: ConfigDict, lr: float, steps: int, entropy_module: bool, trainable: Callable[[str], bool] | None
) -> optax.GradientTransformation:
    """Create the optimiser and schedule of the config's `optim` section; arguments as for `fit`."""
    fields = config.optim
    lr_scales = {"encoder": fields.encoder_lr_scale, "heads": fields.heads_lr_scale}
    decay_scales = {"encoder": fields.encoder_decay_scale, "heads": fields.heads_decay_scale}
    if entropy_module:
        lr_scales["embedding"] = config.usss.embedding_lr_scale
        decay_scales["embedding"] = config.usss.embedding_decay_scale
    return optim.create_optimizer(
        optim.create_schedule(
            lr, steps, kind=fields.schedule, power=fields.poly_power, warmup_steps=fields.warmup_steps
        ),
        name=fields.name,
        momentum=fields.momentum,
        weight_decay=fields.weight_decay,
        lr_scales=lr_scales,
        decay_scales=decay_scales,
        bias_lr_scale=fields.bias_lr_scale,
        bias_decay_scale=fields.bias_decay_scale,
        trainable=trainable,
    )
