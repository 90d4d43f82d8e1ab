"""Output of a run: JSON files, metrics.jsonl, TensorBoard scalars, console lines."""

import importlib.metadata
import io
import json
import math
import os
import pathlib
import subprocess
import time
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from usss_jax.errors import InputError
from usss_jax.local_files import named, reason, write_object, write_whole
from usss_jax.parallel import hosts

FLUSH_SECONDS = 60.0  # interval for flushing the TensorBoard file


def write_json(path: pathlib.Path, content: Mapping[str, Any]):
    """Write a JSON file atomically with a checksum, on process 0 only; raises ValueError for NaN."""
    if hosts.is_writer():
        write_object(path, content)


def write_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray]):
    """Write an .npz file atomically, on process 0 only, unless there are no arrays."""
    if hosts.is_writer() and arrays:
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
        write_whole(path, content.getvalue())


def write_array(path: pathlib.Path, array: np.ndarray):
    """Write an array as .npz file, whose format has checksums, atomically, on process 0 only."""
    if hosts.is_writer():
        content = io.BytesIO()
        np.savez(content, array=array)
        write_whole(path, content.getvalue())


def read_array(path: pathlib.Path) -> np.ndarray:
    """Read a file of `write_array`; raises InputError if it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["array"]
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile) as e:
        raise InputError(f"{path} is damaged ({reason(e)}); remove it, and the same command makes it again") from e


class MetricWriter:
    """Writes the scalars of one job to metrics.jsonl and TensorBoard, on process 0 only.

    Resuming at step `start` drops the lines of later steps, which will be written again, and damaged lines, and prints
    the number of the latter.

    Raises:
      OSError: here and in the methods, if writing fails; the error names the file.
      InputError: if the folder was removed or renamed during the run.
    """

    def __init__(self, folder: pathlib.Path, start: int):
        self._writes = hosts.is_writer()
        if not self._writes:
            return
        self._path = folder / "metrics.jsonl"
        kept, damaged = read_metrics(self._path) if self._path.exists() else ([], 0)
        if damaged:
            print(f"{self._path}: {damaged} damaged line(s) dropped", flush=True)
        write_whole(self._path, "".join(map(_line, (values for values in kept if values["step"] <= start))))
        self._board = ScalarEvents(folder / "tensorboard", start)

    def write(self, step: int, scalars: Mapping[str, Any]):
        """Append one line; values that are not finite become null."""
        if not self._writes:
            return
        clean = {k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in scalars.items()}
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(_line({"step": step, **clean}))
            self._board.write(step, {name: value for name, value in clean.items() if value is not None})
        except OSError as e:
            raise self._explained(e) from e

    def close(self):
        """Flush and close the files."""
        if self._writes:
            try:
                self._board.close()
            except OSError as e:
                raise self._explained(e) from e

    def _explained(self, error: OSError) -> Exception:
        folder = self._path.parent
        if folder.exists():
            return named(error, self._path)
        return InputError(f"{folder} was removed or renamed during the run; put it back, then the same command resumes")


def read_metrics(path: pathlib.Path) -> tuple[list[dict[str, Any]], int]:
    """Read metrics.jsonl: {"step", values by name} of every whole line, and the number of damaged lines.

    A killed process or a full disk leaves damaged lines. Lines of older versions have no checksum.

    Raises:
      OSError: if the file cannot be read.
    """
    lines, damaged = [], 0
    for raw in path.read_bytes().split(b"\n"):
        body, _, found = raw.rpartition(b', "crc": ')
        try:
            line = json.loads(raw)
            crc = line.pop("crc", None)
            whole = found == _crc(body) if crc is not None else all(isinstance(v, _NUMBER) for v in line.values())
        except (ValueError, RecursionError, AttributeError, TypeError):  # TypeError: a list
            whole = False
        if whole and isinstance(line.get("step"), int):
            lines.append(line)
        elif raw:
            damaged += 1
    return lines, damaged


_NUMBER = (int, float, type(None))


def _line(values: Mapping[str, Any]) -> str:
    """Line of metrics.jsonl, with a checksum of itself."""
    body = json.dumps(values)[:-1]
    return f'{body}, "crc": {_crc(body.encode()).decode()}\n'


def _crc(body: bytes) -> bytes:
    return b'"%08x"}' % zlib.crc32(body)


class ScalarEvents:
    """A TensorBoard file of scalars, written in the caller's thread.

    The thread of tensorboardX.SummaryWriter dies if the disk is full, and its callers then wait forever.
    """

    def __init__(self, folder: pathlib.Path, start: int):
        from tensorboardX import event_file_writer  # not at the top: it imports PyTorch where installed
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        folder.mkdir(parents=True, exist_ok=True)
        self._event, self._scalar = Event, scalar
        self._writer = event_file_writer.EventsWriter(str(folder.absolute() / "events"))
        self._flushed = time.monotonic()
        begins = SessionLog(status=SessionLog.START)  # TensorBoard then hides later steps
        self._writer.write_event(Event(step=start + 1, wall_time=time.time(), session_log=begins))

    def write(self, step: int, scalars: Mapping[str, Any]):
        """Write the scalars of a step; they are flushed once a minute."""
        for name, value in scalars.items():
            self._writer.write_event(self._event(step=step, wall_time=time.time(), summary=self._scalar(name, value)))
        if time.monotonic() > self._flushed + FLUSH_SECONDS:
            self._writer.flush()
            self._flushed = time.monotonic()

    def close(self):
        """Flush and close the file."""
        self._writer.close()


def say(job: str, text: str):
    """Print a progress line of a job."""
    print(f"[{job}] {text}", flush=True)


def duration(seconds: float) -> str:
    """Format seconds as m:ss or h:mm:ss.

    >>> duration(0), duration(61), duration(3599.6), duration(7325)
    ('0:00', '1:01', '1:00:00', '2:02:05')
    """
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


def environment() -> dict[str, Any]:
    """Device, versions of packages and commit, for the summary."""
    packages = ("usss_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    devices = jax.devices()
    of = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return {
        "device": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform}){of}, {os.cpu_count()} CPU cores",
        "versions": {name: _version(name) for name in packages},
        "commit": _commit(),
    }


def _version(package: str) -> str | None:
    """Version of a package; None if it is not installed, such as this one run from its checkout."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the project's checkout, with "+changes" if tracked files differ; None outside a checkout."""
    here = pathlib.Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if not git("ls-files", pathlib.Path(__file__).name):  # not tracked
            return None
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
