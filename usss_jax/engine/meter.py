"""Speed and data wait of training: console lines and metrics."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from usss_jax.errors import Diverged
from usss_jax.runs import logs
from usss_jax.runs.logs import say


class Meter:
    """Measures speed and data wait, and logs every interval to console and files.

    `warnings` maps scalars to {key: warning}; the warning of a key is printed once.
    """

    def __init__(
        self,
        name: str,
        steps: int,
        images_per_step: int,
        progress: dict[str, Any],
        warnings: Callable[[Mapping[str, float]], Mapping[str, str]],
    ):
        self._name, self._steps, self._images_per_step, self._progress = name, steps, images_per_step, progress
        self._warnings = warnings
        self._mark: tuple[int, float] | None = None  # step and time of the interval's start; None until compiled
        self._wait = self._pause = 0.0
        self._warned: set[str] = set()

    def waiting(self, running=None):
        """Context that waits for data; not counted while `running`, a result of the step, is still being computed."""
        return _Stopwatch(self, "_wait", running)

    def paused(self):
        """Context whose time counts neither as training nor as waiting."""
        return _Stopwatch(self, "_pause")

    def log(self, step: int, scalars: Mapping[str, Any], writer: logs.MetricWriter):
        """Log the scalars of `step`; the first call only starts the clock, since its interval includes compilation.

        Raises:
          Diverged: if loss or gradient norm is not finite; the message says which, and the step.
        """
        now = time.monotonic()
        values = {name: float(value) for name, value in scalars.items()}
        for name, what in (("loss", "loss"), ("grad_norm", "gradient norm")):
            if not np.isfinite(values.get(name, 0.0)):
                raise Diverged(f"the {what} is {values[name]} at step {step}")
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
        say(self._name, line)
        writer.write(step, values)
        self._warn(step, values)
        self._mark, self._wait, self._pause = (step, time.monotonic()), 0.0, 0.0

    def _warn(self, step: int, values: Mapping[str, float]):
        for key, text in self._warnings(values).items():
            if key not in self._warned:
                self._warned.add(key)
                say(self._name, f"warning: step {step}: {text}")


class _Stopwatch:
    """Context that adds its time to an attribute of the meter."""

    def __init__(self, meter: Meter, attribute: str, running=None):
        self._meter, self._attribute, self._running = meter, attribute, running

    def __enter__(self):
        self._start = time.monotonic()

    def __exit__(self, *exception):
        if self._running is not None and not self._running.is_ready():
            return  # the devices were busy all the time
        spent = time.monotonic() - self._start
        setattr(self._meter, self._attribute, getattr(self._meter, self._attribute) + spent)
