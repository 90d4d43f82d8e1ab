"""What a method's plan is made of: a Fit trains, a Pass makes something from finished networks and keeps it."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import grain
import jax
import numpy as np

from usss_jax.engine.state import TrainState


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Scores during training.

    Attributes:
      value: chooses the best checkpoint; higher is better.
      scalars: for metrics.jsonl and the checkpoint, by name; None where there is no score.
      text: for the console.
    """

    value: float
    scalars: Mapping[str, float | None]
    text: str


def _no_arrays(variables) -> dict[str, np.ndarray]:
    return {}


def _no_warnings(scalars: Mapping[str, float]) -> dict[str, str]:
    return {}


@dataclasses.dataclass(frozen=True)
class Fit:
    """A training: all that the loop (engine/loop.py) knows of it.

    Attributes:
      folder: what it leaves goes there; the last part is the job's name.
      steps: number of optimiser steps.
      create_state: returns a new state and a line to log.
      make_step: returns the jitted step for states with the shardings of the given one.
      make_batches: opens the data; item s is the batch of step s.
      batch_shardings: a tree prefix of a batch.
      images_per_step: of all batches of a step, to tell the speed.
      evaluate: scores variables while it trains.
      data: what its data is, as JSON; a run whose data has changed does not resume.
      network: what a predictor needs to know beside the variables, as JSON; every checkpoint carries it.
      config: of the run, as JSON, to read.
      eval_every, checkpoint_every, log_every: steps.
      loader_threads: that prepare batches.
      test: scores variables at the end; arrays by name, which are kept in test.npz.
      summarize: (the arrays of test for "last" and "best", progress) -> the method's part of summary.json.
      warnings: what is worth a warning in the scalars, by a key under which it is said once.
    """

    folder: pathlib.Path
    steps: int
    create_state: Callable[[], tuple[TrainState, str]]
    make_step: Callable[[TrainState], jax.stages.Wrapped]
    make_batches: Callable[[], grain.MapDataset]
    batch_shardings: Mapping[str, Any]
    images_per_step: int
    evaluate: Callable[[Mapping], Evaluation]
    data: Mapping[str, Any]
    network: Mapping[str, Any]
    config: Mapping[str, Any]
    eval_every: int
    checkpoint_every: int
    log_every: int
    loader_threads: int = 4
    test: Callable[[Mapping], dict[str, np.ndarray]] = _no_arrays
    summarize: Callable[[Mapping[str, Mapping], Mapping], Mapping[str, Any]] = lambda tests, progress: {}
    warnings: Callable[[Mapping[str, float]], Mapping[str, str]] = _no_warnings

    @property
    def name(self) -> str:
        """Name of the job."""
        return self.folder.name


@dataclasses.dataclass(frozen=True)
class Pass:
    """Something made from finished networks, and kept.

    Attributes:
      path: of its file or folder; there is nothing to do if it is there.
      make: makes it. All processes call it, and process 0 writes.
    """

    path: pathlib.Path
    make: Callable[[], None]


Job = Fit | Pass
