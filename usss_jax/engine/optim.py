"""Optimisers and learning rate schedules; the paper uses SGD as in PyTorch and poly (appendix A)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from usss_jax.config import PAPER_BATCH
from usss_jax.errors import InputError

PARTS = ("encoder", "heads", "embedding")  # of a model; heads: decoders, image-level heads, lateral connection
SAME: Mapping[str, float] = {}  # factor 1 for every part


def learning_rate(lr: float, rule: str, batch_size: int) -> tuple[float, str]:
    """Learning rate by the config's `lr_rule`, and a line for the log.

    "fixed": `lr`. "linear": `lr` times batch_size / PAPER_BATCH (Goyal et al., 2017).

    >>> learning_rate(0.001, "linear", 20)
    (0.002, 'lr 0.002: 0.001 times train.batch_size=20 / 10 (optim.lr_rule=linear)')
    """
    if rule == "linear":
        scaled = lr * batch_size / PAPER_BATCH
        times = f"{lr:g} times train.batch_size={batch_size} / {PAPER_BATCH}"
        return scaled, f"lr {scaled:g}: {times} (optim.lr_rule=linear)"
    if batch_size == PAPER_BATCH:
        return lr, f"lr {lr:g} (optim.lr_rule=fixed)"
    given = f"as given, though train.batch_size={batch_size} is not the paper's {PAPER_BATCH}"
    return lr, f"lr {lr:g}: {given} (optim.lr_rule=fixed)"


def create_schedule(
    lr: float, steps: int, *, kind: str = "poly", power: float = 0.9, warmup_steps: int = 0
) -> optax.Schedule:
    """Learning rate schedule, falling from `lr` to 0 at `steps`, or constant.

    "poly" is lr * (1 - step / steps) ** power, updated every step (in the paper every epoch); "cosine" is half a period
    of the cosine; "constant" is `lr`, also after `steps`. During the first `warmup_steps` steps the rate is multiplied
    by (step + 1) / warmup_steps.

    Raises:
      InputError: if the kind is unknown.

    >>> schedule = create_schedule(1.0, steps=4, power=1.0)
    >>> [float(schedule(step)) for step in range(5)]
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if kind == "poly":
        schedule = optax.polynomial_schedule(init_value=lr, end_value=0.0, power=power, transition_steps=steps)
    elif kind == "cosine":
        schedule = optax.cosine_decay_schedule(lr, steps)
    elif kind == "constant":
        schedule = optax.constant_schedule(lr)
    else:
        raise InputError(f"optim.schedule={kind!r} is not one of poly, cosine, constant")
    if not warmup_steps:
        return schedule
    return lambda step: schedule(step) * jnp.minimum(1, (step + 1) / warmup_steps)


def create_optimizer(
    schedule: optax.Schedule,
    *,
    name: str = "sgd",
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    lr_scales: Mapping[str, float] = SAME,
    decay_scales: Mapping[str, float] = SAME,
    bias_lr_scale: float = 1.0,
    bias_decay_scale: float = 1.0,
    trainable: Callable[[str], bool] | None = None,
) -> optax.GradientTransformation:
    """SGD with momentum as in PyTorch, or AdamW, with factors for parts of the model and for biases.

    "sgd" adds the weight decay to the gradient before the momentum. "adamw" (Loshchilov and Hutter, 2019) decouples the
    decay from the gradient, and does not decay one-dimensional parameters (norm scales, biases); `momentum` is its
    beta1, and beta2 is 0.999. As in PyTorch, the decay of a step is proportional to the learning rate, including the
    factor of a part.

    Args:
      schedule: step -> learning rate.
      name: "sgd" or "adamw".
      momentum: see above.
      weight_decay: see above.
      lr_scales: {part: factor on the learning rate}, parts from PARTS; 1 by default.
      decay_scales: the same for the decay.
      bias_lr_scale: another factor on the learning rate of biases, which are all parameters named "bias": those of
        layers, and the shifts of norms.
      bias_decay_scale: the same for the decay; "adamw" decays no bias.
      trainable: whether to change the parameters below a name of two levels (encoder/level0_conv,
        decoder_DOMAIN/kernel, embedding/bias), decay included; None: change all.

    Raises:
      InputError: if the name is unknown.
      ValueError: if a part is unknown.

    >>> tx, params = create_optimizer(create_schedule(0.5, 10), weight_decay=0.1), jnp.array(2.0)
    >>> updates, _ = tx.update(jnp.array(1.0), tx.init(params), params)
    >>> f"{updates:.3f}"  # -0.5 * (1 + 0.1 * 2)
    '-0.600'
    """
    if unknown := {*lr_scales, *decay_scales} - {*PARTS}:
        raise ValueError(f"unknown parts {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if name == "sgd":
        tx = optax.chain(*_decays(weight_decay, decay_scales, bias_decay_scale), optax.sgd(schedule, momentum=momentum))
    elif name == "adamw":
        decays = _decays(weight_decay, decay_scales, bias_decay_scale, lambda leaf: leaf.ndim > 1)
        tx = optax.chain(optax.scale_by_adam(b1=momentum), *decays, optax.scale_by_learning_rate(schedule))
    else:
        raise InputError(f"optim.name={name!r} is not one of sgd, adamw")
    scaled = [optax.masked(optax.scale(f), _leaves(partial(_is_in, part))) for part, f in lr_scales.items() if f != 1]
    if bias_lr_scale != 1:
        scaled.append(optax.masked(optax.scale(bias_lr_scale), _leaves(lambda path, _: _is_bias(path))))
    if scaled:
        tx = optax.chain(tx, *scaled)
    if trainable is None:
        return tx
    others = optax.masked(optax.set_to_zero(), _leaves(lambda path, _: not trainable("/".join(path[:2]))))
    return optax.chain(optax.masked(tx, _leaves(lambda path, _: trainable("/".join(path[:2])))), others)


def _decays(
    weight_decay: float, scales: Mapping[str, float], bias_scale: float, takes: Callable[[Any], bool] | None = None
) -> list[optax.GradientTransformation]:
    """Weight decay of the leaves with takes(leaf), or of all if None; one transformation per distinct factor."""
    if takes is None and {bias_scale, *scales.values()} <= {1}:
        return [optax.add_decayed_weights(weight_decay)]

    def factor_of(path):
        return scales.get(_part(path), 1) * (bias_scale if _is_bias(path) else 1)

    def mask(factor):
        return _leaves(lambda path, leaf: (takes is None or takes(leaf)) and factor_of(path) == factor)

    factors = {scale * f for scale in (1, *scales.values()) for f in (1, bias_scale)}
    return [optax.add_decayed_weights(weight_decay * f, mask(f)) for f in sorted(factors)]


def _part(path: Sequence[str]) -> str:
    """Part of the model to which a path of the parameters belongs."""
    top = path[0] if path else ""
    return "heads" if top.startswith(("decoder_", "image_", "lateral")) else top


def _is_in(part: str, path: Sequence[str], leaf) -> bool:
    return _part(path) == part


def _is_bias(path: Sequence[str]) -> bool:
    return path[-1:] == ("bias",)


def _leaves(chosen: Callable[[Sequence[str], Any], bool]) -> Callable:
    """Mask of the leaves with chosen(path, leaf); a path is a tuple of keys, empty if the parameters are one array."""
    return lambda params: jax.tree_util.tree_map_with_path(
        lambda path, leaf: chosen(tuple(key.key for key in path), leaf), params
    )
