"""To which config a workdir belongs, and which networks may come from another one."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from ml_collections import ConfigDict

from usss_jax.config import FREE_FIELDS, NOT_OF_SINGLES, default_config
from usss_jax.errors import InputError
from usss_jax.local_files import local_path, read_object, reason
from usss_jax.training import hosts, logs


def read_summary(path: pathlib.Path) -> dict[str, Any] | None:
    """Read a stage's summary.json; None if there is none, or a damaged one: the stage is not finished then."""
    if not path.exists():
        return None
    try:
        summary = read_object(path)
        check_summary(summary)
    except (OSError, ValueError) as e:
        again = "made again from its last checkpoint" if (path.parent / "checkpoints").exists() else "trained again"
        print(f"{path} is damaged ({reason(e)}): the stage counts as not finished, and is {again}", flush=True)
        return None
    return summary


def check_summary(summary: Mapping[str, Any]):
    """Raise ValueError for what is no summary of a stage."""
    if not isinstance(summary.get("domains"), dict):
        raise ValueError("it has no 'domains'")
    if not all(isinstance(scores, dict) and "iou" in scores for scores in summary["domains"].values()):
        raise ValueError("its 'domains' have no 'iou'")


def claim_workdir(config: ConfigDict, workdir: pathlib.Path):
    """Write the config into a fresh workdir; raise InputError if it belongs to another one, or is not all hosts'."""
    hosts.from_writer(_claim, config, workdir)
    hosts.check_shared(workdir)


def _claim(config: ConfigDict, workdir: pathlib.Path):
    path = workdir / "config.json"
    mine = json.loads(json.dumps(config.to_dict()))
    try:
        theirs = read_object(path) if path.exists() else None
        logs.write_json(path, theirs or mine)
    except (OSError, ValueError) as e:
        raise InputError(f"workdir {workdir}: {path} cannot be used ({e}); give another --workdir") from e
    if theirs:
        theirs = {**default_config().to_dict(), **theirs}  # a field that came later had its default then
        changed = [f for f in mine if f not in FREE_FIELDS and theirs[f] != mine[f]]
        if changed:
            text = ", ".join(f"{f} was {theirs[f]!r}, is now {mine[f]!r}" for f in changed)
            raise InputError(f"workdir {workdir} belongs to another config: {text}; give another --workdir")


@contextlib.contextmanager
def alone_in(workdir: pathlib.Path) -> Iterator[None]:
    """Keep other processes from training the same workdir meanwhile; a process that dies lets go of it.

    A file system that knows no locks does not stop the run. Of several processes that train together, process 0 holds
    the lock.

    Raises:
      InputError: if another process trains it.
    """
    with contextlib.ExitStack() as stack:
        hosts.from_writer(_lock, workdir, stack)
        yield


def _lock(workdir: pathlib.Path, stack: contextlib.ExitStack):
    """Lock the workdir until the stack is closed."""
    path = workdir / ".lock"
    try:
        descriptor = _open_lock(path)
    except OSError as e:
        raise InputError(
            f"{path} cannot be opened ({reason(e)}); remove it if no other process trains this workdir"
        ) from e
    stack.callback(os.close, descriptor)
    try:
        if fcntl:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        raise InputError(f"workdir {workdir}: another process trains it now; wait for it or give another") from e
    except OSError as e:
        print(f"workdir {workdir} cannot be locked ({e}): see to it that no other process trains it")


def _open_lock(path: pathlib.Path) -> int:
    """Open the file, which may be a colleague's: to read it is enough for a lock (but over NFS)."""
    quick = getattr(os, "O_NONBLOCK", 0)  # a named pipe does not wait for its other end
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | quick, 0o666)
    except PermissionError:
        return os.open(path, os.O_RDONLY | quick)


def singles_folder(config: ConfigDict, workdir: pathlib.Path, domains: Sequence[str]) -> pathlib.Path:
    """Workdir of the single-domain networks: this one, or that of `single_from`.

    Raises:
      InputError: if that one has no finished networks, or its config makes other ones.
    """
    if not config.single_from:
        return workdir
    folder = local_path(config.single_from, "single_from")
    hosts.from_writer(_check_singles, config, folder, list(domains))
    return folder


def _check_singles(config: ConfigDict, folder: pathlib.Path, domains: Sequence[str]):
    try:
        theirs = read_object(folder / "config.json")
    except (OSError, ValueError) as e:
        raise InputError(f"single_from={folder}: no workdir of a run ({e})") from e
    mine = json.loads(json.dumps(config.to_dict()))
    theirs = {**default_config().to_dict(), **theirs}
    for field in sorted(set(mine) - set(NOT_OF_SINGLES)):
        if theirs[field] != mine[field]:
            raise InputError(f"single_from={folder}: {field} was {theirs[field]!r} there and is {mine[field]!r} here")
    for name in domains:
        path = folder / f"single_{name}" / "summary.json"
        if not path.exists():
            raise InputError(f"single_from={folder}: single_{name} is not finished there; run it with variants=single")
        try:
            check_summary(read_object(path))
        except (OSError, ValueError) as e:
            raise InputError(f"{path} is damaged ({reason(e)}); run that workdir's own command again") from e
