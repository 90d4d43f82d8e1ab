"""Communication between processes, one per host or per accelerator; with a single process all of this is trivial.

Process 0 is the writer: only it writes files other than checkpoints, and its view of files counts. All processes must
call every function that communicates, in the same order.
"""

import hashlib
import json
import pathlib
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from usss_jax.errors import InputError

PATIENCE = 20.0  # seconds to wait until a network file system shows a file of another host
PREEMPTED = 75  # exit code of several processes after SIGTERM: "try again later" in sysexits.h


def is_writer() -> bool:
    """Whether this process is process 0, which writes files."""
    return jax.process_index() == 0


def share() -> tuple[int, int]:
    """(index, count): this process loads the index-th of `count` equal parts of every batch."""
    return jax.process_index(), jax.process_count()


def gather_texts(text: str) -> list[str]:
    """Gather the texts of all processes, in order of the processes."""
    if jax.process_count() == 1:
        return [text]
    content = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(content)))
    padded = np.pad(content, (0, int(lengths.max()) + 1 - len(content)))  # never empty
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:length]).decode() for row, length in zip(rows, lengths, strict=True)]


def broadcast(content: bytes) -> bytes:
    """Return the content given by process 0 on all processes."""
    if jax.process_count() == 1:
        return content
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    padded = np.zeros(length + 1, np.uint8)  # never empty
    if is_writer():
        padded[:length] = np.frombuffer(content, np.uint8)
    return multihost_utils.broadcast_one_to_all(padded)[:length].tobytes()


def from_writer(function: Callable, *args) -> Any:
    """Call function(*args) on process 0 only; every process returns its value or raises its InputError.

    The value must be representable as JSON; tuples become lists.
    """
    if jax.process_count() == 1:
        return function(*args)
    outcome: dict[str, Any] = {}
    if is_writer():
        try:
            outcome["value"] = function(*args)
        except InputError as e:
            outcome["error"] = str(e)
    outcome = json.loads(broadcast(json.dumps(outcome).encode()))
    if "error" in outcome:
        raise InputError(outcome["error"])
    return outcome["value"]


def together(function: Callable, *args) -> Any:
    """Call function(*args) on every process; if one raises InputError, all processes raise it."""
    value, error = None, ""
    try:
        value = function(*args)
    except InputError as e:
        error = str(e)
    for index, text in enumerate(gather_texts(error)):
        if text:
            raise InputError(error or f"process {index}: {text}")
    return value


def check_same(what: Mapping[str, Any], remedy: str):
    """Raise InputError on all processes if a JSON value of `what` differs between them; its keys name the values."""
    hashes = {k: hashlib.sha256(json.dumps(v, sort_keys=True).encode()).hexdigest()[:16] for k, v in what.items()}
    first, *others = map(json.loads, gather_texts(json.dumps(hashes)))
    for index, other in enumerate(others, start=1):
        if changed := [name for name in {**first, **other} if first.get(name) != other.get(name)]:
            raise InputError(f"process {index} has another {changed[0]} than process 0; {remedy}")


def check_shared(folder: pathlib.Path):
    """Raise InputError on all processes unless each of them sees what process 0 writes into a folder."""
    if jax.process_count() == 1:
        return
    path = folder / ".shared"

    def write() -> str:
        word = uuid.uuid4().hex
        path.write_text(word, encoding="utf-8")
        return word

    word = from_writer(write)
    seen = gather_texts("yes" if sees(path, word) else "no")
    if is_writer():
        path.unlink(missing_ok=True)
    if "no" in seen:
        raise InputError(
            f"workdir {folder}: process {seen.index('no')} does not see the files that process 0 writes; "
            "give a --workdir on a file system that all hosts share"
        )


def sees(path: pathlib.Path, word: str, patience: float = PATIENCE) -> bool:
    """Whether a file contains exactly `word`, at the latest after `patience` seconds."""
    deadline = time.monotonic() + patience
    while True:
        try:
            if path.read_text(encoding="utf-8") == word:
                return True
        except OSError:
            pass
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)


def preempted(step: int) -> bool:
    """Whether all processes must stop after this step, because one of them received SIGTERM.

    Must be called after every step. False with a single process, whose signals are handled by signals.py.
    """
    return jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step)
