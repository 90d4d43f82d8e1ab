"""What several processes, one per host or per accelerator, agree on; with one process all of this is trivial.

Process 0 is the writer: it alone writes files other than checkpoints, and decides what files say. Every function that
talks to the other processes must be called by all of them, in the same order.
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

PATIENCE = 20.0  # seconds until a network file system shows a file of another host
PREEMPTED = 75  # exit code of several processes that were told to end: try again later (sysexits.h)


def is_writer() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def share() -> tuple[int, int]:
    """(index, count): this process has the index-th of `count` equal parts of every batch."""
    return jax.process_index(), jax.process_count()


def gather_texts(text: str) -> list[str]:
    """Text of every process, in their order."""
    if jax.process_count() == 1:
        return [text]
    content = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(content)))
    padded = np.pad(content, (0, int(lengths.max()) + 1 - len(content)))  # never empty
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:length]).decode() for row, length in zip(rows, lengths, strict=True)]


def broadcast(content: bytes) -> bytes:
    """Content of process 0; what the others give is not used."""
    if jax.process_count() == 1:
        return content
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    padded = np.zeros(length + 1, np.uint8)  # never empty
    if is_writer():
        padded[:length] = np.frombuffer(content, np.uint8)
    return multihost_utils.broadcast_one_to_all(padded)[:length].tobytes()


def from_writer(function: Callable, *args) -> Any:
    """Value of function(*args), which only process 0 calls, on every process; its InputError likewise.

    The value must be one that JSON can hold: tuples come back as lists.
    """
    if jax.process_count() == 1:
        return function(*args)
    told: dict[str, Any] = {}
    if is_writer():
        try:
            told["value"] = function(*args)
        except InputError as e:
            told["error"] = str(e)
    told = json.loads(broadcast(json.dumps(told).encode()))
    if "error" in told:
        raise InputError(told["error"])
    return told["value"]


def together(function: Callable, *args) -> Any:
    """Call function(*args) on every process; if it raises InputError on one of them, every process raises it."""
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
    """Raise InputError, on every process, if what JSON can hold of `what` differs between the processes."""
    hashes = {k: hashlib.sha256(json.dumps(v, sort_keys=True).encode()).hexdigest()[:16] for k, v in what.items()}
    first, *others = map(json.loads, gather_texts(json.dumps(hashes)))
    for index, other in enumerate(others, start=1):
        if changed := [name for name in {**first, **other} if first.get(name) != other.get(name)]:
            raise InputError(f"process {index} has another {changed[0]} than process 0; {remedy}")


def check_shared(folder: pathlib.Path):
    """Raise InputError, on every process, unless all of them see what process 0 writes into a folder."""
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
            f"workdir {folder}: process {seen.index('no')} does not see there what process 0 writes; "
            "give a --workdir on a file system that all hosts share"
        )


def sees(path: pathlib.Path, word: str, patience: float = PATIENCE) -> bool:
    """Whether a file holds a word, now or soon."""
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
    """Whether all processes stop after this step, because one of them was told to end (SIGTERM).

    Must be called after every step. False with one process, for which signals.py is there.
    """
    return jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step)
