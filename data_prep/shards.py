"""Writes shards: examples are encoded in threads and written in order; the statistics of a shard mark it finished."""

import collections
import contextlib
import errno
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np
from array_record.python import array_record_module

from data_prep.encode import Encoded
from data_prep.inputs import Item
from usss_jax.errors import InputError
from usss_jax.local_files import write_whole

# Encoded images do not compress further; one writer thread needs little memory.
WRITER_OPTIONS = "group_size:1,uncompressed,max_parallelism:1"


def finished_shard(path: pathlib.Path, stats_path: pathlib.Path, fingerprint: str, on_bad_example: str) -> dict | None:
    """Return the statistics of a shard if an earlier run finished it from the same files, else None."""
    try:
        stats = json.loads(stats_path.read_text("utf-8"))
        if stats["fingerprint"] != fingerprint or (stats["skipped"] and on_bad_example == "error"):
            return None
        if stats["file"] != path.name and (old := path.with_name(stats["file"])).exists():
            os.replace(old, path)  # the name includes the number of shards, which has changed
        stats["file"] = path.name
        return stats if path.stat().st_size == stats["bytes"] else None
    except (OSError, ValueError, KeyError):
        return None


def write_shard(
    path: pathlib.Path,
    stats_path: pathlib.Path,
    items: Sequence[Item],
    encode: Callable[[Item], Encoded],
    *,
    pool: Executor,
    window: int,
    fingerprint: str,
    on_bad_example: str,
    progress: Callable[[], Any],
) -> dict:
    """Write one shard under a temporary name, verify and rename it, and write its statistics.

    Args:
      path: of the shard.
      stats_path: of the statistics.
      items: examples, in order.
      encode: encodes one example, in a thread.
      pool: of threads.
      window: largest number of examples being encoded or waiting to be written.
      fingerprint: of the items and settings.
      on_bad_example: "error" or "skip".
      progress: called after each example.

    Returns:
      The statistics, as JSON.

    Raises:
      InputError: for a bad example unless `on_bad_example` is "skip", or if the file cannot be written.
    """
    started = time.monotonic()
    temporary = path.with_name(path.name + ".writing")
    ids, without_label, skipped = [], [], []
    histogram = np.zeros(256, np.int64)
    image_sizes: collections.Counter[str] = collections.Counter()
    writer = array_record_module.ArrayRecordWriter(str(temporary), WRITER_OPTIONS)
    try:
        for item, future in _in_order(pool, encode, items, window):
            try:
                encoded = future.result()
            except InputError as error:
                if on_bad_example == "error":
                    raise InputError(f"{error} (--on_bad_example=skip leaves such examples out)") from error
                skipped.append(str(error))
            else:
                _write(writer, encoded.record, path)
                ids.append(item.id)
                image_sizes[encoded.image_size] += 1
                if encoded.histogram is None:
                    without_label.append(item.id)
                else:
                    histogram += encoded.histogram
            progress()
        _close(writer, temporary, len(ids), path)
        os.replace(temporary, path)
    except BaseException:
        _abandon(writer, temporary)
        raise
    stats = {
        "file": path.name,
        "fingerprint": fingerprint,
        "bytes": path.stat().st_size,
        "ids": ids,
        "without_label": without_label,
        "histogram": histogram.tolist(),
        "image_sizes": dict(image_sizes),
        "skipped": skipped,
        "seconds": time.monotonic() - started,
    }
    write_whole(stats_path, json.dumps(stats, indent=1))
    return stats


def _in_order(pool, encode, items, window) -> Iterator[tuple[Item, Future]]:
    """Yield the examples in order, with at most `window` pending."""
    pending: collections.deque[tuple[Item, Future]] = collections.deque()
    try:
        for item in items:
            pending.append((item, pool.submit(encode, item)))
            if len(pending) >= window:
                yield pending.popleft()
        while pending:
            yield pending.popleft()
    finally:
        for _, future in pending:
            future.cancel()


def _write(writer, record, path):
    try:
        writer.write(record)
    except RuntimeError as error:
        raise cannot_write(path, error) from error


def _close(writer, temporary, count, path):
    """Close the file and verify it, since the writer reports errors late."""
    try:
        writer.close()
        reader = array_record_module.ArrayRecordReader(str(temporary))
        complete = reader.ok() and reader.num_records() == count
        reader.close()
    except RuntimeError as error:
        raise cannot_write(path, error) from error
    if not complete:
        raise cannot_write(path, "reading it back failed")
    sync(temporary)


def _abandon(writer, temporary):
    with contextlib.suppress(RuntimeError):  # the first error counts
        writer.close()
    temporary.unlink(missing_ok=True)


def cannot_write(path: os.PathLike | str, reason: object) -> InputError:
    """Return the error for a file that cannot be written, for example because the disk is full."""
    cause = reason.strerror if isinstance(reason, OSError) else str(reason).partition(";")[0]
    remedy = f"free space in {os.path.dirname(os.fspath(path))} and run again to resume: finished shards are kept"
    if isinstance(reason, OSError) and reason.errno not in (errno.ENOSPC, errno.EDQUOT):
        remedy = "give another --data_dir, or make this one writable"
    return InputError(f"{path}: cannot be written ({cause}); {remedy}")


def sync(path: os.PathLike | str) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
