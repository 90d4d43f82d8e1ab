"""To which config a workdir belongs, and which networks may come from another one."""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from ml_collections import ConfigDict

from usss_jax.config import FREE_FIELDS, NAMING_FIELDS, NOT_OF_SINGLES, default_config
from usss_jax.data.content import differences
from usss_jax.errors import InputError
from usss_jax.training import hosts, logs


def read_object(path: pathlib.Path) -> dict[str, Any]:
    """Read a JSON file that holds an object; OSError or ValueError if it cannot be read or holds something else."""
    content = json.loads(path.read_text())
    if not isinstance(content, dict):
        raise ValueError("it holds no JSON object")
    return content


def claim_workdir(config: ConfigDict, workdir: pathlib.Path, data: Mapping[str, Any]):
    """Write config and data into a fresh workdir; raise InputError if it belongs to others, or is not all hosts'.

    `data` is the content of every domain (Pools.content). Where data and files lie is no matter, what they are is.
    """
    hosts.from_writer(_claim, config, workdir, data)
    hosts.check_shared(workdir)


def _claim(config: ConfigDict, workdir: pathlib.Path, data: Mapping[str, Any]):
    config_path, data_path = workdir / "config.json", workdir / "data.json"
    mine = json.loads(json.dumps(config.to_dict()))
    named = {"domains": dict(data), "files": {field: _identity(mine[field]) for field in FILE_FIELDS}}
    try:
        theirs = read_object(config_path) if config_path.exists() else None
        before = read_object(data_path) if theirs and data_path.exists() else None
    except (OSError, ValueError) as e:
        raise InputError(f"workdir {workdir}: {config_path} cannot be used ({e}); give another --workdir") from e
    if theirs:
        theirs = {**default_config().to_dict(), **theirs}  # a field that came later had its default then
        compared = set(mine) - set(FREE_FIELDS) - (set(NAMING_FIELDS) if before else set())
        changed = [f"{f} was {theirs[f]!r}, is now {mine[f]!r}" for f in mine if f in compared and theirs[f] != mine[f]]
        if changed:
            raise InputError(
                f"workdir {workdir} belongs to another config: {', '.join(changed)}; give another --workdir"
            )
    if theirs and before:
        changed = differences(before.get("domains"), named["domains"])
        changed += [
            f"{field} was {theirs[field]!r}, is now {mine[field]!r}, whose content is another"
            for field in FILE_FIELDS
            if before["files"].get(field) != named["files"][field] and not _is_gone(mine[field], theirs[field])
        ]
        if changed:
            more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
            raise InputError(
                f"workdir {workdir} was trained on other data: {'; '.join(changed[:3])}{more}; give another --workdir, "
                "or restore the data"
            )
    logs.write_json(data_path, named)
    logs.write_json(config_path, {**(theirs or mine), **{field: mine[field] for field in NAMING_FIELDS}})


FILE_FIELDS = ("pretrained", "label_embeddings")


def _identity(value: str) -> str:
    """What a field that may name a file stands for, wherever the file is: the hash of its content, or the value."""
    kind, path = ("words:", value[6:]) if value.startswith("words:") else ("", value)
    file = pathlib.Path(os.path.expanduser(path))
    file = file / "summary.json" if file.is_dir() else file  # of a stage
    if not path or not file.is_file():
        return value
    with file.open("rb") as content:
        return f"{kind}sha256 {hashlib.file_digest(content, 'sha256').hexdigest()}"


def _is_gone(mine: str, theirs: str) -> bool:
    """Whether a field names what it did, and that is no longer there: what was made of it is in the workdir."""
    return mine == theirs and _identity(mine) == mine


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


def singles_folder(config: ConfigDict, workdir: pathlib.Path, data: Mapping[str, Any]) -> pathlib.Path:
    """Workdir of the single-domain networks: this one, or that of `single_from`; `data` as for claim_workdir.

    Raises:
      InputError: if that one has no finished networks, or its config makes other ones.
    """
    if not config.single_from:
        return workdir
    folder = pathlib.Path(config.single_from).expanduser()
    hosts.from_writer(_check_singles, config, folder, data)
    return folder


def _check_singles(config: ConfigDict, folder: pathlib.Path, data: Mapping[str, Any]):
    try:
        theirs = read_object(folder / "config.json")
        before = read_object(folder / "data.json") if (folder / "data.json").exists() else None
    except (OSError, ValueError) as e:
        raise InputError(f"single_from={folder}: no workdir of a run ({e})") from e
    mine = json.loads(json.dumps(config.to_dict()))
    theirs = {**default_config().to_dict(), **theirs}
    for field in sorted(set(mine) - set(NOT_OF_SINGLES) - (set(NAMING_FIELDS) if before else set())):
        if theirs[field] != mine[field]:
            raise InputError(f"single_from={folder}: {field} was {theirs[field]!r} there and is {mine[field]!r} here")
    for name, content in data.items():
        if before and name not in before["domains"]:
            raise InputError(f"single_from={folder}: it has no network of {name}; run it with that domain, too")
        theirs_of = before["domains"][name] if before else content
        without = {"unlabeled images": None}  # which single-domain networks do not see
        changed = differences({**theirs_of, **without}, {**content, **without}, name)
        if changed:
            raise InputError(f"single_from={folder}: was trained on other data of {name}: {changed[0]}; train it again")
        if not (folder / f"single_{name}" / "summary.json").exists():
            raise InputError(f"single_from={folder}: single_{name} is not finished there; run it with variants=single")
