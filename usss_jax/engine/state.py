"""Everything that a training step changes, and its creation on the mesh."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from usss_jax.models import pretrained
from usss_jax.models.universal import UniversalModel
from usss_jax.parallel.sharding import place, replicated, tree_shardings

DUMMY_IMAGES = np.zeros((1, 8, 8, 3), np.float32)  # parameters do not depend on the image's size


def abstract_variables(model: UniversalModel, mesh: Mesh) -> dict:
    """Shapes, dtypes and sharding of {"params", "batch_stats"}, to restore a checkpoint onto."""
    shapes = jax.eval_shape(partial(_init, model), seed_bits(0))
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=replicated(mesh)), shapes)


def _init(model: UniversalModel, bits) -> dict:
    """Random variables by `seed_bits`; "batch_stats" is empty where an encoder keeps no statistics."""
    return {"batch_stats": {}, **seeded(model)(bits, DUMMY_IMAGES)}


@flax.struct.dataclass
class TrainState:
    """State of training.

    Attributes:
      step: int32 scalar, number of finished steps.
      params, batch_stats: variables of the `UniversalModel`.
      opt_state: of the optax optimiser.
      label_embeddings: per domain float32 [n, d]; empty where no entropy module is trained.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    label_embeddings: Any

    @property
    def variables(self) -> dict:
        """What `model.apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_state(
    model: UniversalModel,
    tx: optax.GradientTransformation,
    seed: int,
    mesh: Mesh,
    label_embeddings: Mapping[str, Any] | None = None,
    weights: Mapping[str, Any] | None = None,
    initial: Mapping[str, Any] | None = None,
    *,
    split: bool = False,
) -> tuple[TrainState, pretrained.Report | None]:
    """Create the state on the mesh: whole on every device, or its large arrays split over them from the start.

    Args:
      model: the model.
      tx: the optimiser.
      seed: of the random initialisation.
      mesh: devices.
      label_embeddings: per domain [n, d].
      weights: state dict of a pretrained encoder (models/pretrained.py); heads in it are not used.
      initial: variables of another network with this encoder: its parts that this model has too are taken from it.
      split: whether large parameters, and what the optimiser keeps of them, are split over the devices.

    Returns:
      (state, report of what the pretrained weights matched or None).

    Raises:
      InputError: if a pretrained tensor does not fit; the message names the first one.
    """
    # The "rbg" generator, because dozens of "threefry" draws of different shapes take long to compile.
    variables, shardings = born_on(mesh, partial(_init, model), seed_bits(seed), split=split)
    report = None
    if weights is not None:
        names = model.encoder.tensor_names
        variables, report = pretrained.from_state_dict(weights, variables, encoder_only=True, names=names)
        variables = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), variables)
    for kind, parts in (initial or {}).items():
        variables[kind] = {**variables[kind], **{name: parts[name] for name in variables[kind] if name in parts}}
    variables = place(variables, shardings)
    others = {
        "step": jnp.zeros((), jnp.int32),
        "label_embeddings": {d: jnp.asarray(e) for d, e in (label_embeddings or {}).items()},
    }
    state = TrainState(
        **place(others, jax.tree.map(lambda _: replicated(mesh), others)),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=born_on(mesh, tx.init, variables["params"], split=split)[0],
    )
    return state, report


def seed_bits(seed: int, *fold: int) -> np.ndarray:
    """Key of the "rbg" generator as NumPy bits, which can be handed over to the devices of several processes."""
    key = jax.random.key(seed, impl="rbg")
    for value in fold:
        key = jax.random.fold_in(key, value)
    return np.asarray(jax.random.key_data(key))


def seeded(module) -> Callable:
    """The module's `init` with the bits of `seed_bits` in place of a key."""
    return lambda bits, *args: module.init(jax.random.wrap_key_data(bits, impl="rbg"), *args)


def born_on(mesh: Mesh, create: Callable, *args, split: bool):
    """Value of create(*args) and its shardings (`tree_shardings`): every device computes what it holds."""
    shardings = tree_shardings(mesh, jax.eval_shape(create, *args), split)
    return jax.jit(create, out_shardings=shardings)(*args), shardings
