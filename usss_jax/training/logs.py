"""What a run leaves behind and shows: JSON files, metrics.jsonl, TensorBoard scalars, the console line."""

import importlib.metadata
import json
import math
import os
import pathlib
import subprocess
from collections.abc import Mapping
from typing import Any

import jax

from usss_jax.training import hosts


def write_json(path: pathlib.Path, content: Mapping[str, Any]):
    """Write a JSON file in one piece: a reader sees the old one or the new one; NaN is refused. Process 0 does."""
    if not hosts.is_writer():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    os.replace(partial, path)


class MetricWriter:
    """Scalars of one stage, to metrics.jsonl and TensorBoard; process 0 writes them.

    Going on after a restart at `start` drops the lines of later steps, which will be written again.
    """

    def __init__(self, folder: pathlib.Path, start: int):
        self._writes = hosts.is_writer()
        if not self._writes:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "metrics.jsonl"
        lines = self._path.read_text().splitlines(keepends=True) if self._path.exists() else []
        # The last line may be cut short if the process was killed while writing it.
        kept = [line for line in lines if line.endswith("}\n") and json.loads(line)["step"] <= start]
        partial = self._path.with_name("metrics.jsonl.partial")
        partial.write_text("".join(kept))
        os.replace(partial, self._path)
        import tensorboardX  # not above: where PyTorch is installed it imports that too

        self._board = tensorboardX.SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)

    def write(self, step: int, scalars: Mapping[str, Any]):
        """Append one line; a value that is not finite becomes null."""
        if not self._writes:
            return
        clean = {k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in scalars.items()}
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **clean}) + "\n")
        for name, value in clean.items():
            if value is not None:
                self._board.add_scalar(name, value, step)

    def close(self):
        """Flush."""
        if self._writes:
            self._board.close()


def say(stage: str, text: str):
    """Print a progress line of a stage."""
    print(f"[{stage}] {text}", flush=True)


def duration(seconds: float) -> str:
    """Format seconds as m:ss or h:mm:ss."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


def environment() -> dict[str, Any]:
    """Device, versions and commit, for the summary."""
    packages = ("usss_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    devices = jax.devices()
    of = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return {
        "device": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform}){of}, {os.cpu_count()} CPU cores",
        "versions": {name: _version(name) for name in packages},
        "commit": _commit(),
    }


def _version(package: str) -> str | None:
    """Version of an installed package; None for one that is used without being installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the project's checkout, with "+changes" if files differ from it; None outside a checkout."""
    here = pathlib.Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        tracked = git("ls-files", pathlib.Path(__file__).name)
        return (
            git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
            if tracked
            else None
        )
    except (OSError, subprocess.CalledProcessError):
        return None
