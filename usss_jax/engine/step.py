"""One optimiser step as a pure function of state and batch, compiled for the mesh."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from usss_jax.engine.state import TrainState
from usss_jax.parallel.sharding import on_cpu, replicated, state_shardings


@dataclasses.dataclass(frozen=True)
class Computed:
    """What a method computes from a state and a batch.

    Attributes:
      gradients: of state.params.
      batch_stats: new running statistics.
      scalars: to be logged, by name; with "loss".
      extra: new value of state.extra.
    """

    gradients: Any
    batch_stats: Any
    scalars: Mapping[str, Any]
    extra: Any


_QUICK: dict[str, Any] = {"xla_backend_optimization_level": 0}
if jax.__version__.startswith("0.10."):  # another version may not know this option
    _QUICK["xla_cpu_use_fusion_emitters"] = False

Compute = Callable[[TrainState, Mapping], Computed]


def train_step(
    state: TrainState,
    batch: Mapping,
    *,
    compute: Compute,
    tx: optax.GradientTransformation,
    mesh: Mesh | None = None,
):
    """Make one optimiser step: a pure function of (state, batch). Returns (new state, scalars).

    With a `mesh`, parameters that are split over its devices are gathered for the passes through the network;
    gradients, what the optimiser keeps, and the update are split again.
    """
    computed = compute(gathered(state, mesh), batch)
    updates, opt_state = tx.update(computed.gradients, state.opt_state, state.params)
    new_state = dataclasses.replace(
        state,
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=computed.batch_stats,
        opt_state=opt_state,
        extra=computed.extra,
    )
    return new_state, {**computed.scalars, "grad_norm": optax.tree.norm(computed.gradients)}


def gathered(state: TrainState, mesh: Mesh | None) -> TrainState:
    """The state, inside jit, with every parameter whole on every device; without a mesh as it is."""
    if mesh is None:
        return state
    return dataclasses.replace(state, params=jax.lax.with_sharding_constraint(state.params, replicated(mesh)))


def jit_step(
    mesh: Mesh,
    like: TrainState | None = None,
    *,
    compute: Compute,
    tx: optax.GradientTransformation,
    batch_shardings: Any,
    quick_compile: bool = False,
) -> jax.stages.Wrapped:
    """Jit `train_step` for the mesh; it donates the state.

    Args:
      mesh: devices.
      compute, tx: see `train_step`.
      batch_shardings: a tree prefix of the batch.
      like: a state whose shardings the state has; None: it is replicated.
      quick_compile: on CPU compile without optimisation, in about a fifth of the time.
    """
    of_state = state_shardings(mesh, like)
    return jax.jit(
        partial(train_step, compute=compute, tx=tx, mesh=mesh),
        in_shardings=(of_state, batch_shardings),
        out_shardings=(of_state, replicated(mesh)),
        donate_argnums=0,
        compiler_options=_QUICK if quick_compile and on_cpu(mesh) else None,
    )
