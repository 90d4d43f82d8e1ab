"""Config and data of a workdir, and its lock."""

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

from usss_jax import packages
from usss_jax.config import FIELDS, default_config, fields, flat, nested, no_such_field
from usss_jax.config.field import Changes
from usss_jax.data.content import differences
from usss_jax.errors import InputError
from usss_jax.local_files import read_object, reason
from usss_jax.parallel import hosts
from usss_jax.runs import divergence, logs


def read_summary(path: pathlib.Path) -> dict[str, Any] | None:
    """Read a job's summary.json; None if it is missing or damaged, which means that the job is unfinished."""
    if not path.exists():
        return None
    try:
        summary = _summary_of(path)
    except (OSError, ValueError) as e:
        remedy = "resumes from its last checkpoint" if (path.parent / "checkpoints").exists() else "is trained again"
        print(f"{path} is damaged ({reason(e)}): the job counts as not finished and {remedy}", flush=True)
        return None
    return summary


def _summary_of(path: pathlib.Path) -> dict[str, Any]:
    """Read the summary of the job in whose folder it is; raises OSError or ValueError if it is damaged or another's."""
    summary = read_object(path)
    check_summary(summary)
    if summary.get("job") != path.parent.name:
        raise ValueError(f"it is of job {summary.get('job')}")
    return summary


def check_summary(summary: Mapping[str, Any]):
    """Raise ValueError if a JSON object is not the summary of a job."""
    if not isinstance(summary.get("best_step"), int):
        raise ValueError("it has no 'best_step'")
    domains = summary.get("domains", {})  # of a segmentation network
    if not isinstance(domains, dict) or not all(isinstance(d, dict) and "iou" in d for d in domains.values()):
        raise ValueError("its 'domains' have no 'iou'")


def written_summaries(workdir: pathlib.Path) -> dict[str, Any]:
    """Summaries of all finished jobs of a workdir by name; prints a line for each unusable file."""
    summaries = {}
    for path in sorted(workdir.glob("*/summary.json")):
        try:
            summaries[path.parent.name] = _summary_of(path)
        except (OSError, ValueError) as e:
            print(f"{path} is not a summary of a job ({reason(e)}): left out of the table", flush=True)
    return summaries


def claim_workdir(config: ConfigDict, workdir: pathlib.Path, data: Mapping[str, Any]):
    """Write config and data into a workdir.

    `data` is the content of every domain (Pools.content). The content of data and files counts, not their location.

    Raises:
      InputError: if the workdir belongs to another config or other data, or is not shared by all hosts.
    """
    hosts.from_writer(_claim, config, workdir, data)
    hosts.check_shared(workdir)


def _claim(config: ConfigDict, workdir: pathlib.Path, data: Mapping[str, Any]):
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"workdir {workdir}: is a file; give another --workdir")
    config_path, data_path = workdir / "config.json", workdir / "data.json"
    known, mine = fields(config.method), values_of(config.to_dict())
    files = [name for name, field in known.items() if field.changes is Changes.FILE]
    named = {"domains": dict(data), "files": {name: _identity(mine[name]) for name in files}}
    try:
        theirs = read_object(config_path) if config_path.exists() else None
    except (OSError, ValueError) as e:
        raise InputError(
            f"workdir {workdir}: {config_path} cannot be used ({reason(e)}); restore it, or delete it if config and "
            "data are what they were"
        ) from e
    before = read_data(data_path) if theirs else None
    if theirs:
        theirs = their_values(theirs, mine, config_path)
        theirs |= {f: mine[f] for f, of in known.items() if of.fixed_by and not any(workdir.glob(of.fixed_by))}
        compared = [f for f, of in known.items() if not of.is_free and not (before and of.is_compared_by_content)]
        changed = {f: f"{f} was {theirs[f]!r}, is now {mine[f]!r}" for f in compared if theirs[f] != mine[f]}
        if remedies := [f for f in divergence.may_change(workdir) if f in changed]:
            print(f"workdir {workdir}: {', '.join(map(changed.pop, remedies))}, after a training diverged", flush=True)
            theirs |= {f: mine[f] for f in remedies}
        if changed:
            raise InputError(
                f"workdir {workdir} belongs to another config: {', '.join(changed.values())}; give another --workdir"
            )
    if theirs and before:
        other = differences(before.get("domains"), named["domains"])
        other += [
            f"{field} was {theirs[field]!r}, is now {mine[field]!r}, with other content"
            for field in files
            if before["files"].get(field) != named["files"][field] and not _is_gone(mine[field], theirs[field])
        ]
        if other:
            more = f" and {len(other) - 3} more" if len(other) > 3 else ""
            raise InputError(
                f"workdir {workdir} was trained on other data: {'; '.join(other[:3])}{more}; give another --workdir, "
                "or restore the data"
            )
    logs.write_json(data_path, named)
    by_content = {name: mine[name] for name, field in known.items() if field.is_compared_by_content}
    logs.write_json(config_path, nested({**(theirs or mine), **by_content}).to_dict())


def values_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a config by dotted name, with the types of JSON."""
    return flat(json.loads(json.dumps(config)))


def their_values(written: Mapping[str, Any], mine: Mapping[str, Any], path: pathlib.Path) -> dict[str, Any]:
    """Fields of a workdir's config by dotted name, with defaults for newer fields.

    Raises:
      InputError: for an unknown field.
    """
    theirs = values_of(written)
    if unknown := [name for name in theirs if name not in FIELDS]:
        raise InputError(f"{path}: {unknown[0]}: {no_such_field(unknown[0], FIELDS)}; give another --workdir")
    return {**values_of(default_config(mine["method"]).to_dict()), **theirs}


def read_data(path: pathlib.Path) -> dict[str, Any] | None:
    """Read data.json; None if it is missing, as in workdirs of older versions."""
    if not path.exists():
        return None
    try:
        data = read_object(path)
        if not all(isinstance(data.get(key), dict) for key in ("domains", "files")):
            raise ValueError("it lacks domains or files")
    except (OSError, ValueError) as e:
        raise InputError(f"{path} is damaged ({reason(e)}); restore it, or delete it if the data is what it was") from e
    return data


def _identity(value: str) -> str:
    """Hash of the content if a field names a file or a job, or several, else its value."""
    if value == packages.IMAGENET:  # not a path; the file is known by its hash
        return value
    if "," in value:
        return ",".join(map(_identity, value.split(",")))
    kind, path = ("words:", value[6:]) if value.startswith("words:") else ("", value)
    file = pathlib.Path(os.path.expanduser(path))
    file = file / "summary.json" if file.is_dir() else file
    if not path or not file.is_file():
        return value
    with file.open("rb") as content:
        return f"{kind}sha256 {hashlib.file_digest(content, 'sha256').hexdigest()}"


def _is_gone(mine: str, theirs: str) -> bool:
    """Whether a field is unchanged but its file is missing; the workdir keeps what was computed from it."""
    return mine == theirs and _identity(mine) == mine


@contextlib.contextmanager
def alone_in(workdir: pathlib.Path) -> Iterator[None]:
    """Lock a workdir against other runs; the lock is released when the process ends.

    On a file system without locks the run continues unlocked. Of processes that train together, process 0 holds the
    lock.

    Raises:
      InputError: if another process trains the workdir.
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
        text = f"workdir {workdir}: another process trains it now; wait for it, or give another --workdir"
        raise InputError(text) from e
    except OSError as e:
        print(f"workdir {workdir} cannot be locked ({e}): make sure that no other process trains it")


def _open_lock(path: pathlib.Path) -> int:
    """Open the lock file, read-only if it belongs to another user, which suffices for a lock (except over NFS)."""
    quick = getattr(os, "O_NONBLOCK", 0)  # do not wait for the other end of a named pipe
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | quick, 0o666)
    except PermissionError:
        return os.open(path, os.O_RDONLY | quick)
