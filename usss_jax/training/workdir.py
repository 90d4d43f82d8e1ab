"""To which config a workdir belongs, and which networks may come from another one."""

import contextlib
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from ml_collections import ConfigDict

from usss_jax.config import FREE_FIELDS, NOT_OF_SINGLES, default_config
from usss_jax.errors import InputError
from usss_jax.training import hosts, logs


def read_object(path: pathlib.Path) -> dict[str, Any]:
    """Read a JSON file that holds an object; OSError or ValueError if it cannot be read or holds something else."""
    content = json.loads(path.read_text())
    if not isinstance(content, dict):
        raise ValueError("it holds no JSON object")
    return content


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
    file = stack.enter_context((workdir / ".lock").open("w"))
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
        raise InputError(f"workdir {workdir}: another process trains it now; wait for it or give another") from e
    except OSError as e:
        print(f"workdir {workdir} cannot be locked ({e}): see to it that no other process trains it")


def singles_folder(config: ConfigDict, workdir: pathlib.Path, domains: Sequence[str]) -> pathlib.Path:
    """Workdir of the single-domain networks: this one, or that of `single_from`.

    Raises:
      InputError: if that one has no finished networks, or its config makes other ones.
    """
    if not config.single_from:
        return workdir
    folder = pathlib.Path(config.single_from).expanduser()
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
        if not (folder / f"single_{name}" / "summary.json").exists():
            raise InputError(f"single_from={folder}: single_{name} is not finished there; run it with variants=single")
