"""Progress of a long pass over images, on stderr."""

import sys
import time
from collections.abc import Callable

from tqdm import tqdm


class Progress:
    """Counts images on stderr: in a progress bar, or if stderr is not a terminal in a line every 10 seconds."""

    def __init__(self):
        self._bar = None

    def start(self, name: str, total: int, done: int) -> Callable[[], None]:
        """Start with `done` of `total` images; return a function that counts one more."""
        if done:
            print(f"{name}: {done} of {total} images were done before", file=sys.stderr)
        self._bar = tqdm(total=total, initial=done, desc=name, unit=" images", disable=None)
        self._name, self._total, self._before, self._done = name, total, done, done
        self._started = self._shown = time.monotonic()
        return self._step

    def _step(self):
        self._done += 1
        self._bar.update()
        now = time.monotonic()
        if self._bar.disable and now - self._shown >= 10:
            self._shown = now
            meter = tqdm.format_meter(
                *(self._done, self._total, now - self._started),
                prefix=self._name,
                unit=" images",
                initial=self._before,
                bar_format="{desc}: {n_fmt}/{total_fmt} {rate_fmt}, {remaining} to go",
            )
            print(meter, file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the progress bar's line."""
        if self._bar is not None:
            self._bar.close()
