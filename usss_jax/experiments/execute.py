"""Running the commands of a sweep one after another, each in a process of its own."""

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
    """Run commands in their order; one that fails is told in a line, and the next one follows.

    Returns:
      Titles of the commands that failed.
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
    """Run one command and keep its results; return what is wrong, or nothing.

    The process writes to the log, which stays locked as long as the process lives: two sweeps, or one that was killed
    and its next, cannot work on the same workdir.
    """
    if command.needs_singles and (absent := command.absent_singles()):
        return f"it needs the single-domain networks, and {absent[0]} is missing"
    say(f"  {command.printed()}")
    command.log.parent.mkdir(parents=True, exist_ok=True)
    with command.log.open("a", encoding="utf-8") as log:
        try:
            if fcntl:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return f"another process works on it; see {command.log}"
        log.write(f"\n$ {command.printed()}\n")
        log.flush()
        code = wait_for(subprocess.Popen([sys.executable, *command.words()], stdout=log, stderr=subprocess.STDOUT))
    if code:
        return f"exit code {code}: {last_line(command.log)} (log: {command.log})"
    for result, path in command.results().items():
        try:
            keep_result(command.workdir / command.jobs[result] / "summary.json", path, command.asked)
        except InputError as e:
            return f"{e} (log: {command.log})"
    return ""


def wait_for(process: subprocess.Popen) -> int:
    """Wait for a process, and end it if this one is told to end; return its exit code.

    Raises:
      Ended: if this one was told to end, as soon as the process, which may save a checkpoint first, has ended.
    """
    told = 0

    def end(number, frame):
        nonlocal told
        if told and number == signal.SIGINT:  # again
            process.kill()
        elif not told:
            told = number
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
    if told:
        raise signals.Ended("told to end; the same command resumes with the command that was running", 128 + told)
    return code


def remaining(names: Sequence[str], seconds: Sequence[tuple[str, float]]) -> float | None:
    """Seconds that commands will take, by the mean of finished ones of the same name, else of all; None: unknown."""
    if not seconds:
        return None
    total = 0.0
    for name in names:
        same = [s for other, s in seconds if other == name] or [s for _, s in seconds]
        total += sum(same) / len(same)
    return total


def last_line(path: pathlib.Path) -> str:
    """Last line of a log that says something."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def clock(seconds: float) -> str:
    """Format seconds as m:ss or h:mm:ss."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
