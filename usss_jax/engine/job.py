"""The jobs of a method's plan: a Fit trains a network, a Pass derives a file from finished networks."""

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
      value: selects the best checkpoint; higher is better.
      scalars: for metrics.jsonl and the checkpoint, by name; None for a missing score.
      text: for the console.
    """

    value: float
    scalars: Mapping[str, float | None]
    text: str


@dataclasses.dataclass(frozen=True)
class Fit:
    """A training job: everything that the loop (engine/loop.py) needs.

    Attributes:
      folder: folder for all outputs; its last part is the job's name.
      steps: number of optimiser steps.
      create_state: returns a new state and a line to log.
      make_step: returns the jitted step for states with the shardings of the given one.
      make_batches: opens the data; item s is the batch of step s.
      batch_shardings: a tree prefix of a batch.
      images_per_step: number of images in all batches of a step, for the speed.
      evaluate: scores a state during training.
      data: description of the data, as JSON; a run whose data has changed does not resume.
      network: description of the network, as JSON, with which a predictor can build it; part of every checkpoint.
      config: config of the run, as JSON, for the record.
      eval_every, checkpoint_every, log_every: intervals in steps.
      loader_threads: number of threads that prepare batches.
      variables: returns the variables of a state to evaluate, test and keep in best/; by default those of the trained
        network.
      test: scores variables at the end; its arrays by name are kept in test.npz.
      summarize: (arrays of `test` for "last" and "best", progress) -> the method's part of summary.json.
      warnings: scalars -> {key: warning}; the warning of a key is printed once.
    """

    folder: pathlib.Path
    steps: int
    create_state: Callable[[], tuple[TrainState, str]]
    make_step: Callable[[TrainState], jax.stages.Wrapped]
    make_batches: Callable[[], grain.MapDataset]
    batch_shardings: Mapping[str, Any]
    images_per_step: int
    evaluate: Callable[[TrainState], Evaluation]
    data: Mapping[str, Any]
    network: Mapping[str, Any]
    config: Mapping[str, Any]
    eval_every: int
    checkpoint_every: int
    log_every: int
    loader_threads: int = 4
    variables: Callable[[TrainState], Mapping] = lambda state: state.variables
    test: Callable[[Mapping], dict[str, np.ndarray]] = lambda variables: {}
    summarize: Callable[[Mapping[str, Mapping], Mapping], Mapping[str, Any]] = lambda tests, progress: {}
    warnings: Callable[[Mapping[str, float]], Mapping[str, str]] = lambda scalars: {}

    @property
    def name(self) -> str:
        """Name of the job."""
        return self.folder.name


@dataclasses.dataclass(frozen=True)
class Pass:
    """A job that derives a file or folder from finished networks.

    Attributes:
      path: file or folder; the job is finished if it exists.
      make: creates it. All processes call it, and process 0 writes.
    """

    path: pathlib.Path
    make: Callable[[], None]


Job = Fit | Pass
