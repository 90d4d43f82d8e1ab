"""The teacher: a moving average of the student's parameters and batch statistics, in `state.extra`."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from usss_jax.engine.state import TrainState


def begin(state: TrainState) -> TrainState:
    """Add a teacher that equals the student, in arrays of its own, since the step reuses the memory of its state."""
    variables = state.variables
    shardings = jax.tree.map(lambda a: a.sharding, variables)
    copy = jax.jit(partial(jax.tree.map, jnp.copy), out_shardings=shardings)
    return dataclasses.replace(state, extra={**state.extra, "teacher": copy(variables)})


def follow(state: TrainState, *, decay: float, warmup: bool) -> TrainState:
    """Move the teacher towards the student, after a step of the student."""
    rate = decay_at(state.step, decay, warmup)
    teacher = jax.tree.map(partial(moved, rate), state.extra["teacher"], state.variables)
    return dataclasses.replace(state, extra={**state.extra, "teacher": teacher})


def decay_at(step, decay: float, warmup: bool):
    """Decay after so many finished steps; with `warmup` at most 1 - 1 / (step + 1), as of Mean Teacher.

    At first the teacher is then the mean of the initial student and those after every step.

    >>> [float(decay_at(step, 0.75, True)) for step in (1, 3, 9)]
    [0.5, 0.75, 0.75]
    """
    return jnp.minimum(decay, 1 - 1 / (step + 1)) if warmup else jnp.asarray(decay)


def moved(decay, teacher, student):
    """Average of two arrays; exactly the student's for decay 0, and unchanged where both are equal, as frozen levels.

    >>> moved(0.75, jnp.array([4.0, 3.0]), jnp.array([8.0, 3.0])).tolist()
    [5.0, 3.0]
    """
    rate = jnp.asarray(1 - decay, teacher.dtype)
    return jnp.where(rate == 1, student, teacher + rate * (student - teacher))
