"""How a process ends when it is told to (Ctrl-C, SIGTERM): with one line, and inside a training loop after saving."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

NUMBERS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 2.0  # seconds that the last output may take


class Ended(Exception):
    """Training was told to end and has saved a checkpoint; the message says so in one line.

    Attributes:
      code: exit code of the process.
    """

    def __init__(self, text: str, code: int):
        super().__init__(text)
        self.code = code


def end_in_one_line(line: str, before: Callable[[int], None] | None = None):
    """Let SIGINT and SIGTERM end this process with one line and exit code 128 + number; for entry points.

    A thread does it, at once: Python code of the main thread would wait for whatever is being compiled, and would
    raise its exception in the midst of any library. Whoever sets handlers of their own meanwhile (`Told`) is heeded.

    Args:
      line: printed to stderr.
      before: called with the exit code after that.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    once = threading.Lock()

    def end(number: int, frame: FrameType | None = None):
        if not once.acquire(blocking=False):
            return  # it ends already
        print(f"\n{line}" if sys.stderr.isatty() else line, file=sys.stderr, flush=True)
        if before:
            before(128 + number)
        threading.Thread(target=_flush, daemon=True).start()
        _flushed.wait(PATIENCE)
        os._exit(128 + number)  # without the clean-up of libraries, which may hang, or print

    def wait():
        while word := os.read(told, 1):
            if signal.getsignal(word[0]) is end:
                end(word[0])

    told, tell = os.pipe()
    os.set_blocking(tell, False)
    heeded = [number for number in NUMBERS if signal.getsignal(number) not in (signal.SIG_IGN, None)]  # nohup, &
    for number in heeded:
        signal.signal(number, end)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    threading.Thread(target=wait, daemon=True).start()


_flushed = threading.Event()


def _flush():
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    _flushed.set()


class Told:
    """Whether this process was told to end since `listen`, which a training loop heeds after its step.

    The first signal sets `code`, the exit code (else 0), and says so on stderr; a Ctrl-C after it does what it did
    before `listen`. Further SIGTERMs change nothing: job systems send them to every process of a job, and again.
    Outside the main thread, which alone may handle signals, nothing is heard.
    """

    def __init__(self, job: str):
        self.code = 0
        self._job = job
        self._before: dict[int, Any] = {}

    def listen(self):
        """Handle SIGINT and SIGTERM from now on, unless they are ignored."""
        if threading.current_thread() is threading.main_thread():
            for number in NUMBERS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._hear)

    def close(self):
        """Give the signals back to whoever handled them before."""
        while self._before:
            signal.signal(*self._before.popitem())

    def _hear(self, number: int, frame: FrameType | None):
        if self.code and number == signal.SIGINT:
            self.close()
            signal.raise_signal(number)
        elif not self.code:
            self.code = 128 + number
            with contextlib.suppress(RuntimeError, OSError):  # the signal came while stderr was being written
                print(
                    f"[{self._job}] told to end: finishes the step and saves a checkpoint; "
                    "Ctrl-C (again) ends at once, without saving",
                    file=sys.stderr,
                    flush=True,
                )
