"""Optimisers and schedules of the learning rate; the paper's are SGD as in PyTorch and poly (appendix A)."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from usss_jax.config import PAPER_BATCH
from usss_jax.errors import InputError

PARTS = ("encoder", "heads", "embedding")  # of a model; heads are all decoders
SAME: Mapping[str, float] = {}  # factor 1 for every part


def learning_rate(lr: float, rule: str, batch_size: int) -> tuple[float, str]:
    """Learning rate by the config's `lr_rule`, and the line that says so.

    "fixed": as given. "linear": times batch_size / PAPER_BATCH (Goyal et al., 2017).
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
    """Learning rate of every step, falling from `lr` to 0 at `steps`.

    "poly" is lr * (1 - step / steps) ** power (the paper steps it once per epoch, here every step), "cosine" half a
    period of the cosine. In the first `warmup_steps` steps it is multiplied by (step + 1) / warmup_steps.

    Raises:
      InputError: if the kind is unknown.
    """
    if kind == "poly":
        falling = optax.polynomial_schedule(init_value=lr, end_value=0.0, power=power, transition_steps=steps)
    elif kind == "cosine":
        falling = optax.cosine_decay_schedule(lr, steps)
    else:
        raise InputError(f"optim.schedule={kind!r} is not one of poly, cosine")
    if not warmup_steps:
        return falling
    return lambda step: falling(step) * jnp.minimum(1, (step + 1) / warmup_steps)


def create_optimizer(
    schedule: optax.Schedule,
    *,
    name: str = "sgd",
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    lr_scales: Mapping[str, float] = SAME,
    decay_scales: Mapping[str, float] = SAME,
    trainable: Callable[[str], bool] | None = None,
) -> optax.GradientTransformation:
    """SGD with momentum as in PyTorch, or AdamW, with factors for parts of the model.

    "sgd" adds the decay of every parameter to its gradient before the momentum. "adamw" (Loshchilov and Hutter, 2019)
    decays weights beside the gradient, and leaves one-dimensional parameters (norm scales, biases) without decay;
    `momentum` is its beta1, beta2 is 0.999. A step's decay is in proportion to the learning rate, a part's factor on it
    included, as in PyTorch.

    Args:
      schedule: step -> learning rate.
      name: "sgd" or "adamw".
      momentum: see above.
      weight_decay: see above.
      lr_scales: factor on the learning rate per part (one of PARTS), 1 for those not given.
      decay_scales: the same for the decay.
      trainable: whether to change the parameters below a top-level name (encoder, decoder_DOMAIN, embedding), decay
        included; None: change all.

    Raises:
      InputError: if the name is unknown.
      ValueError: if there is no such part.
    """
    if unknown := {*lr_scales, *decay_scales} - {*PARTS}:
        raise ValueError(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if name == "sgd":
        tx = optax.chain(*_decays(weight_decay, decay_scales), optax.sgd(schedule, momentum=momentum))
    elif name == "adamw":
        decays = _decays(weight_decay, decay_scales, lambda leaf: leaf.ndim > 1)
        tx = optax.chain(optax.scale_by_adam(b1=momentum), *decays, optax.scale_by_learning_rate(schedule))
    else:
        raise InputError(f"optim.name={name!r} is not one of sgd, adamw")
    if scaled := [
        optax.masked(optax.scale(f), _leaves(partial(_is_in, part))) for part, f in lr_scales.items() if f != 1
    ]:
        tx = optax.chain(tx, *scaled)
    if trainable is None:
        return tx
    others = optax.masked(optax.set_to_zero(), _leaves(lambda name, _: not trainable(name)))
    return optax.chain(optax.masked(tx, _leaves(lambda name, _: trainable(name))), others)


def _decays(
    weight_decay: float, scales: Mapping[str, float], takes: Callable[[Any], bool] | None = None
) -> list[optax.GradientTransformation]:
    """Decay of the leaves for which takes(leaf) is true, None: of all; one transformation per different factor."""
    if takes is None and set(scales.values()) <= {1}:
        return [optax.add_decayed_weights(weight_decay)]

    def mask(factor):
        return _leaves(lambda name, leaf: (takes is None or takes(leaf)) and scales.get(_part(name), 1) == factor)

    return [optax.add_decayed_weights(weight_decay * f, mask(f)) for f in sorted({1, *scales.values()})]


def _part(name: str) -> str:
    """Part of the model that a top-level name of its parameters belongs to."""
    return "heads" if name.startswith("decoder_") else name


def _is_in(part: str, name: str, leaf) -> bool:
    return _part(name) == part


def _leaves(chosen: Callable[[str, Any], bool]) -> Callable:
    """Mask of the leaves for which chosen(top-level name, leaf) is true."""
    return lambda params: {name: jax.tree.map(partial(chosen, name), part) for name, part in params.items()}
