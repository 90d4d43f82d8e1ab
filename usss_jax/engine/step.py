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
    """Results of a method's `compute` for a state and a batch.

    Attributes:
      gradients: gradients of state.params.
      batch_stats: new running statistics.
      scalars: scalars to log by name, including "loss".
      extra: new value of state.extra.
      finish: changes the new state, whose parameters are those after the optimiser's update; None: nothing.
    """

    gradients: Any
    batch_stats: Any
    scalars: Mapping[str, Any]
    extra: Any
    finish: Callable[[TrainState], TrainState] | None = None


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
    """Run one optimiser step, a pure function of (state, batch); returns (new state, scalars).

    With a `mesh`, parameters that are split over its devices are gathered for forward and backward passes; gradients,
    optimiser state and updates are split again.
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
    if computed.finish:
        new_state = computed.finish(new_state)
    return new_state, {**computed.scalars, "grad_norm": optax.tree.norm(computed.gradients)}


def gathered(state: TrainState, mesh: Mesh | None) -> TrainState:
    """Replicate the parameters of a state inside jit; without a mesh, return the state unchanged."""
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
    """Jit `train_step` for the mesh, donating the state.

    Args:
      mesh: devices.
      compute: the method's part of the step.
      tx: the optimiser.
      batch_shardings: shardings of the batch, as a tree prefix.
      like: a state with the shardings to use; None: the state is replicated.
      quick_compile: on CPU compile without optimisation, in about a fifth of the time.
    """
    shardings = state_shardings(mesh, like)
    return jax.jit(
        partial(train_step, compute=compute, tx=tx, mesh=mesh),
        in_shardings=(shardings, batch_shardings),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
        compiler_options=_QUICK if quick_compile and on_cpu(mesh) else None,
    )
