"""Runs the commands of a sweep one after another, each in its own process."""

import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from usss_jax import signals
from usss_jax.errors import InputError
from usss_jax.experiments.commands import Command
from usss_jax.experiments.layout import keep_result


def run_commands(commands: Sequence[Command], say: Callable[[str], None]) -> list[str]:
    """Run commands in order, logging progress; a command that fails does not stop the others.

    Returns:
      Titles of the failed commands.
    """
    failed: list[str] = []
    seconds: list[tuple[str, float]] = []
    began = time.monotonic()
    for i, command in enumerate(commands):
        left = remaining([c.name for c in commands[i:]], seconds)
        hint = "" if left is None else f", about {clock(left)} left"
        say(f"command {i + 1} of {len(commands)}: {command.title}  (after {clock(time.monotonic() - began)}{hint})")
        start = time.monotonic()
        error = run_command(command, say)
        if error:
            failed.append(command.title)
            say(f"FAILED {command.title}: {error}")
        else:
            seconds.append((command.name, time.monotonic() - start))
            kept = command.results().values()
            say(f"done in {clock(seconds[-1][1])}: {', '.join(map(str, kept))}")
    return failed


def run_command(command: Command, say: Callable[[str], None]) -> str:
    """Run one command and copy its results; return the error, or an empty text.

    The process holds a lock on its log, so that two sweeps never use the same workdir, even after one was killed.
    """
    if absent := command.absent_networks():
        return f"it starts from the networks of {absent[0].parent.parent.name}, and {absent[0]} is missing"
    say(f"  {command.printed()}")
    command.log.parent.mkdir(parents=True, exist_ok=True)
    with command.log.open("a", encoding="utf-8") as log:
        try:
            if fcntl:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return f"another process is running it; see {command.log}"
        log.write(f"\n$ {command.printed()}\n")
        log.flush()
        code = wait_for(subprocess.Popen([sys.executable, *command.words()], stdout=log, stderr=subprocess.STDOUT))
    if code:
        return f"exit code {code}: {last_line(command.log)} (log: {command.log})"
    for result, path in command.results().items():
        try:
            keep_result(command.workdir, command.jobs[result], path, command.requested)
        except InputError as e:
            return f"{e} (log: {command.log})"
    return ""


def wait_for(process: subprocess.Popen) -> int:
    """Wait for a process, forwarding the signals that end this one; return its exit code.

    Raises:
      Ended: after such a signal, once the process has saved its checkpoint and exited.
    """
    received = 0

    def end(number, frame):
        nonlocal received
        if received and number == signal.SIGINT:  # pressed twice
            process.kill()
        elif not received:
            received = number
            process.terminate()

    listens = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, end) for number in signals.NUMBERS if listens}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if process.poll() is None:
            process.terminate()
            process.wait()
    if received:
        raise signals.Ended("stopped by a signal; run the same command again to resume", 128 + received)
    return code


def remaining(names: Sequence[str], seconds: Sequence[tuple[str, float]]) -> float | None:
    """Estimate the seconds that commands take: the mean of finished ones of the same name, else of all.

    Args:
      names: of the commands.
      seconds: name and seconds of each finished command.

    Returns:
      The estimate; None without a finished command.

    >>> remaining(["basic", "full"], [("basic", 10.0), ("basic", 20.0), ("full", 60.0)])
    75.0
    """
    if not seconds:
        return None
    total = 0.0
    for name in names:
        same = [s for other, s in seconds if other == name] or [s for _, s in seconds]
        total += sum(same) / len(same)
    return total


def last_line(path: pathlib.Path) -> str:
    """Return the last non-empty line of a log."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def clock(seconds: float) -> str:
    """Format seconds as m:ss or h:mm:ss.

    >>> clock(75), clock(3675)
    ('1:15', '1:01:15')
    """
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
