"""Verifies all files of a workdir that a later run reads, for runs that must not go on without a damaged one."""

import pathlib
import zipfile
from collections.abc import Iterator

from usss_jax.errors import InputError
from usss_jax.local_files import read_object, reason
from usss_jax.runs.checkpoint import steps_in
from usss_jax.runs.checksums import damage, damage_of
from usss_jax.runs.logs import read_metrics

CHECKPOINTS = ("checkpoints", "best")


def verify_workdir(workdir: pathlib.Path):
    """Verify JSON files, checkpoints, metrics and arrays of a workdir; it need not exist.

    Raises:
      InputError: for the first file that is damaged or lacks the checksum that it should have.
    """
    for path, why in problems(workdir):
        raise InputError(f"{path}: {why}; restore it, or run without --strict, which goes on if another file suffices")


def problems(workdir: pathlib.Path) -> Iterator[tuple[pathlib.Path, str]]:
    """Yield every damaged file of a workdir, or checkpoint, and what is wrong with it."""
    folders = [path for name in CHECKPOINTS for path in workdir.glob(f"*/{name}")]
    for folder in folders:
        for step in steps_in(folder):
            why = damage_of(folder / str(step))
            if why or why is None:
                yield folder / str(step), why or "it has no checksums, as those of older versions"
    for path in sorted(workdir.rglob("*")):
        if path.is_file() and not any(folder in path.parents for folder in folders) and (why := _of_file(path)):
            yield path, why


def _of_file(path: pathlib.Path) -> str:
    try:
        if path.suffix == ".json":
            return damage(path.parent, read_object(path).get("checksums", {}))
        if path.name == "metrics.jsonl" and (damaged := read_metrics(path)[1]):
            return f"{damaged} damaged line(s)"
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as file:
                return f"{bad} differs from its checksum" if (bad := file.testzip()) else ""
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as e:
        return reason(e)
    return ""
