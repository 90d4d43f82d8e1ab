"""Ctrl-C and SIGTERM: a process ends with one line, inside a training loop after saving a checkpoint."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

NUMBERS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 2.0  # seconds to wait for buffered output


class Ended(Exception):
    """Training was interrupted and has saved a checkpoint; the message is one line.

    Attributes:
      code: exit code of the process.
    """

    def __init__(self, text: str, code: int):
        super().__init__(text)
        self.code = code


def end_in_one_line(line: str, before: Callable[[int], None] | None = None):
    """Make SIGINT and SIGTERM end this process with one line and exit code 128 + number; for entry points.

    A thread ends the process at once: a handler in the main thread would wait for a running compilation, and its
    exception could be raised inside any library. Handlers that are set later, such as `Interrupt`, take precedence.

    Args:
      line: printed to stderr.
      before: called with the exit code before the process ends.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    once = threading.Lock()

    def end(number: int, frame: FrameType | None = None):
        if not once.acquire(blocking=False):
            return  # already ending
        print(f"\n{line}" if sys.stderr.isatty() else line, file=sys.stderr, flush=True)
        if before:
            before(128 + number)
        threading.Thread(target=_flush, daemon=True).start()
        _flushed.wait(PATIENCE)
        os._exit(128 + number)  # skips the clean-up of libraries, which may hang or print

    def wait():
        while word := os.read(reader, 1):
            if signal.getsignal(word[0]) is end:
                end(word[0])

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in _handled():
        signal.signal(number, end)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=wait, daemon=True).start()


_flushed = threading.Event()


def _handled() -> list[int]:
    """Signals to handle: those that are not ignored, as after nohup or &."""
    return [number for number in NUMBERS if signal.getsignal(number) not in (signal.SIG_IGN, None)]


def _flush():
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    _flushed.set()


class Interrupt:
    """Records SIGINT and SIGTERM from `listen` on, for a training loop that checks `code` after every step.

    The first signal sets `code` to the exit code (before it is 0) and prints a line to stderr. A later Ctrl-C acts as
    before `listen`. Later SIGTERMs are ignored, since job systems send several to every process of a job. Outside the
    main thread, which alone may handle signals, nothing is recorded.
    """

    def __init__(self, job: str):
        self.code = 0
        self._job = job
        self._before: dict[int, Any] = {}

    def listen(self):
        """Handle SIGINT and SIGTERM from now on, unless they are ignored."""
        if threading.current_thread() is threading.main_thread():
            for number in _handled():
                self._before[number] = signal.signal(number, self._record)

    def close(self):
        """Restore the previous handlers."""
        while self._before:
            signal.signal(*self._before.popitem())

    def _record(self, number: int, frame: FrameType | None):
        if self.code and number == signal.SIGINT:
            self.close()
            signal.raise_signal(number)
        elif not self.code:
            self.code = 128 + number
            with contextlib.suppress(RuntimeError, OSError):  # the signal arrived during a write to stderr
                print(
                    f"[{self._job}] interrupted: finishes the step and saves a checkpoint; "
                    "Ctrl-C (again) ends at once, without saving",
                    file=sys.stderr,
                    flush=True,
                )
