"""Trainings that diverged: what is recorded of them, and which fields may change so that they go on.

A job that diverged has a file `diverged.json` with an event for every time: what was not finite, the values of the
fields that may change (`Field.remedy`), and the newest checkpoint. Until the job has saved a later one, a run in its
workdir may have other values of these fields.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from usss_jax.config import FIELDS, flat
from usss_jax.errors import Diverged, InputError
from usss_jax.local_files import read_object, reason, write_object
from usss_jax.parallel import hosts
from usss_jax.runs.checkpoint import Checkpoints, steps_in

FILE = "diverged.json"


def record(folder: pathlib.Path, config: Mapping[str, Any], what: str, last: Checkpoints) -> str:
    """Record that a job diverged; return a line that says what happened and how to go on.

    A checkpoint from which it has diverged twice is set aside, so that the one before it is next.

    Args:
      folder: of the job.
      config: of the run, with the sections as dicts.
      what: what is not finite, and when.
      last: checkpoints of the job.
    """
    events, steps = hosts.from_writer(_read, folder), last.steps()
    newest = steps[-1] if steps else None
    if events and newest is not None and events[-1]["checkpoint"] == newest:
        print(f"[{folder.name}] {last.set_aside(newest, 'training diverged from it twice')}", flush=True)
        newest = steps[-2] if len(steps) > 1 else None
    events.append({"what": what, "fields": _fields(config), "checkpoint": newest})
    if hosts.is_writer():
        write_object(folder / FILE, {"events": events})
    then = "starts again" if newest is None else f"resumes from step {newest}"
    return f"{folder.name} diverged: {what}; give the same command {_lower(config)}, and it {then}"


def check(folder: pathlib.Path, config: Mapping[str, Any]):
    """Raise Diverged if a job diverged with the values that the fields still have, which it would do again."""
    events = hosts.from_writer(_read, folder)
    if events and events[-1]["fields"] == _fields(config):
        raise Diverged(
            f"{folder.name} diverged with this config: {events[-1]['what']}; give the same command {_lower(config)}, "
            f"or remove {folder / FILE} to try the same again"
        )


def summary(folder: pathlib.Path) -> dict[str, Any]:
    """{"diverged": events} for the summary of a job; empty if it never diverged."""
    events = hosts.from_writer(_read, folder)
    return {"diverged": events} if events else {}


def may_change(workdir: pathlib.Path) -> list[str]:
    """Fields that may change in a workdir, since one of its jobs diverged and has trained no further since."""
    for path in workdir.glob(f"*/{FILE}"):
        steps = steps_in(path.parent / "checkpoints")
        events = _read(path.parent)
        if events and events[-1]["checkpoint"] == (steps[-1] if steps else None):
            return list(events[-1]["fields"])
    return []


def _read(folder: pathlib.Path) -> list[dict[str, Any]]:
    path = folder / FILE
    try:
        return read_object(path)["events"] if path.exists() else []
    except (OSError, ValueError, KeyError) as e:
        raise InputError(f"{path} is damaged ({reason(e)}); remove it") from e


def _fields(config: Mapping[str, Any]) -> dict[str, Any]:
    values = flat(config)
    return {name: values[name] for name, field in FIELDS.items() if field.remedy and name in values}


def _lower(config: Mapping[str, Any]) -> str:
    rates = [f"{name} was {value:g}" for name, value in _fields(config).items() if name.endswith("lr")]
    return "with a lower learning rate" + (f" ({', '.join(rates)})" if rates else "")
