"""The state of training, and its creation on the mesh."""

import functools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.core import FrozenDict
from jax.sharding import Mesh

from usss_jax.models import pretrained
from usss_jax.models.universal import UniversalModel
from usss_jax.models.variables import random_heads, random_variables, seed_bits
from usss_jax.parallel.sharding import place, replicated, tree_shardings


@flax.struct.dataclass
class TrainState:
    """State of training.

    Attributes:
      step: int32 scalar, number of finished steps.
      params, batch_stats: variables of the `UniversalModel`.
      opt_state: state of the optax optimiser.
      extra: further state of the method by name: label embeddings, a discriminator.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    extra: Any

    @property
    def variables(self) -> dict:
        """Variables for `model.apply`."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_state(
    model: UniversalModel,
    tx: optax.GradientTransformation,
    seed: int,
    mesh: Mesh,
    extra: Mapping[str, Any] | None = None,
    weights: Mapping[str, Any] | None = None,
    initial: Mapping[str, Any] | None = None,
    *,
    split: bool = False,
) -> tuple[TrainState, pretrained.Match | None]:
    """Create the state on the mesh, replicated or with its large arrays split over the devices.

    Args:
      model: the model.
      tx: the optimiser.
      seed: seed of the random initialisation.
      mesh: devices.
      extra: `extra` of the state; host arrays are replicated, arrays on the devices keep their sharding.
      weights: state dict of a pretrained encoder (models/pretrained.py); heads in it are ignored.
      initial: variables of another network with this encoder, whose parts replace those of the same name.
      split: whether to split large parameters and their optimiser state over the devices.

    Returns:
      (state, report on the pretrained weights or None).

    Raises:
      InputError: if a pretrained tensor does not fit; the message names the first one.
    """
    bits = seed_bits(seed)
    encoder_alone = model.clone(num_classes=FrozenDict(), embed_dim=0, image_head=None)
    program, shardings = _encoder_program(encoder_alone, mesh, split)
    heads, of_heads = born_on(mesh, partial(random_heads, model), bits, split=split)
    variables, shardings = (_merged(*trees) for trees in ((program(bits), heads), (shardings, of_heads)))
    report = None
    if weights is not None:
        names = model.encoder.tensor_names
        variables, report = pretrained.from_state_dict(weights, variables, encoder_only=True, names=names)
        variables = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), variables)
    for kind, parts in (initial or {}).items():
        variables[kind] = {**variables[kind], **{name: parts[name] for name in variables[kind] if name in parts}}
    variables = place(variables, shardings)
    state = TrainState(
        step=place(jnp.zeros((), jnp.int32), replicated(mesh)),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=born_on(mesh, tx.init, variables["params"], split=split)[0],
        extra=jax.tree.map(partial(_whole_on, mesh), dict(extra or {})),
    )
    return state, report


@functools.lru_cache(maxsize=4)
def _encoder_program(model: UniversalModel, mesh: Mesh, split: bool) -> tuple[Callable, Any]:
    """Program for the random encoder of `model`, which has no heads, and the shardings of what it returns.

    Networks with the same encoder share it: it takes ten seconds to compile.
    """
    create = partial(random_variables, model)
    shardings = tree_shardings(mesh, jax.eval_shape(create, seed_bits(0)), split)
    return jax.jit(create, out_shardings=shardings), shardings


def _merged(encoder: Mapping, heads: Mapping) -> dict:
    """Merge the variables of encoder and heads."""
    return {kind: {**encoder[kind], **heads[kind]} for kind in encoder}


def _whole_on(mesh: Mesh, value):
    """Replicate a host array over the mesh; return an array on the devices unchanged."""
    return value if isinstance(value, jax.Array) else place(jnp.asarray(value), replicated(mesh))


def born_on(mesh: Mesh, create: Callable, *args, split: bool):
    """Compute create(*args) with the shardings of `tree_shardings`, each device its own part; return both."""
    shardings = tree_shardings(mesh, jax.eval_shape(create, *args), split)
    return jax.jit(create, out_shardings=shardings)(*args), shardings
