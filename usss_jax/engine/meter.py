"""Speed, waiting and collapse while a stage trains: the console line and what goes to the metric files."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from usss_jax.errors import InputError
from usss_jax.runs import logs
from usss_jax.runs.logs import say

COLLAPSE_SHARE = 0.95  # of the cells nearest to one label embedding


class Meter:
    """Measures speed and waiting, and writes what a log interval brought to console and files."""

    def __init__(self, stage: str, steps: int, images_per_step: int, progress: dict[str, Any]):
        self._stage, self._steps, self._images_per_step, self._progress = stage, steps, images_per_step, progress
        self._mark: tuple[int, float] | None = None  # step and time of the interval's start; None until compiled
        self._wait = self._pause = 0.0
        self._warned: set[str] = set()

    def waiting(self, running=None):
        """Context in which the loop waits for data; not counted if `running`, an array of the step, is not yet done."""
        return _Stopwatch(self, "_wait", running)

    def paused(self):
        """Context whose time counts neither as training nor as waiting."""
        return _Stopwatch(self, "_pause")

    def log(self, step: int, scalars: Mapping[str, Any], writer: logs.MetricWriter):
        """Write the scalars of `step`; the first call only starts the clock: its interval holds the compilation."""
        now = time.monotonic()
        values = {name: float(value) for name, value in scalars.items()}
        if not np.isfinite(values["loss"]):
            raise InputError(
                f"{self._stage}: the loss is {values['loss']} at step {step}; lower lr and give another --workdir, "
                "since this one keeps its lr and its last checkpoint"
            )
        line = f"step {step}/{self._steps}  loss {values['loss']:.3f}"
        if self._mark is not None:
            elapsed, steps = now - self._mark[1] - self._pause, step - self._mark[0]
            images = steps * self._images_per_step
            values |= {"images_per_second": images / elapsed, "data_wait_share": self._wait / elapsed}
            self._progress["train_seconds"] += elapsed
            self._progress["wait_seconds"] += self._wait
            self._progress["images"] += images
            remaining = (self._steps - step) * elapsed / steps
            line += (
                f"  {images / elapsed:.1f} images/s  data wait {100 * self._wait / elapsed:.1f} %"
                f"  ETA {logs.duration(remaining)}"
            )
        say(self._stage, line)
        writer.write(step, values)
        self._warn_of_collapse(step, values)
        self._mark, self._wait, self._pause = (step, time.monotonic()), 0.0, 0.0

    def _warn_of_collapse(self, step: int, values: Mapping[str, float]):
        """Say once per pair that nearly all cells of some images are nearest to one label embedding."""
        for name, share in values.items():
            if name.startswith("top_share/") and share > COLLAPSE_SHARE and name not in self._warned:
                self._warned.add(name)
                _, images, embeddings = name.split("/")
                say(
                    self._stage,
                    f"warning: {100 * share:.0f} % of the cells of {images} images are nearest to one {embeddings} "
                    f"embedding at step {step}: the entropy terms have collapsed there and teach nothing",
                )


class _Stopwatch:
    """Adds the time spent inside to an attribute of the meter."""

    def __init__(self, meter: Meter, attribute: str, running=None):
        self._meter, self._attribute, self._running = meter, attribute, running

    def __enter__(self):
        self._start = time.monotonic()

    def __exit__(self, *exception):
        if self._running is not None and not self._running.is_ready():
            return  # the devices had work all the time
        spent = time.monotonic() - self._start
        setattr(self._meter, self._attribute, getattr(self._meter, self._attribute) + spent)
