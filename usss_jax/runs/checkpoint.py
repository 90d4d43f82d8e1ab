"""Checkpoints with Orbax: trees of arrays, and a JSON dict with everything else that an exact resume needs."""

import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from usss_jax.errors import InputError
from usss_jax.local_files import reason
from usss_jax.parallel import hosts


class Checkpoints:
    """Checkpoints in one folder, of which the newest `keep` are kept.

    A checkpoint appears under its step number only when it is complete, so a killed process leaves no partial one. Use
    it as a context, or call `close`. All processes must make every call, and each writes its own shards: the folder
    must be on a shared file system.
    """

    def __init__(self, folder: pathlib.Path, keep: int = 2):
        self._folder = folder
        self._keep = keep
        self._failed = False
        self._open()

    def _open(self):
        self._checkpointer = ocp.training.Checkpointer(
            self._folder.absolute(),
            preservation_policy=ocp.training.preservation_policies.LatestN(self._keep),
            cleanup_tmp_directories=True,
        )

    def steps(self) -> list[int]:
        """Steps of all checkpoints that process 0 sees, oldest first."""
        return hosts.from_writer(lambda: [checkpoint.step for checkpoint in self._checkpointer.checkpoints])

    def save(self, step: int, trees: Mapping[str, Any], meta: Mapping[str, Any]):
        """Write named trees of arrays and the JSON dict `meta`, replacing an earlier checkpoint of the same step.

        Raises:
          OSError: if writing fails (disk full); the error names the folder. Earlier checkpoints remain.
        """
        exists = any(c.step == step for c in self._checkpointer.checkpoints)
        content = {**trees, "meta": dict(meta)}
        try:
            self._checkpointer.save_checkpointables(step, content, force=True, overwrite=exists)
        except Exception as e:
            self._failed = True
            if number := _system_error(e):
                raise OSError(number, os.strerror(number), str(self._folder / str(step))) from e
            raise

    def resume(self, say: Callable[[str], None], **like: Any) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Read trees and `meta` of the newest intact checkpoint; None if there are no checkpoints.

        Damaged checkpoints are reported and renamed, so that they are kept but no longer used.

        Args:
          say: prints a line.
          **like: as for `restore`.

        Raises:
          InputError: if all are damaged. With several processes, if the newest is, since they may see different files.
        """
        damaged: list[int] = []
        for step in reversed(self.steps()):
            try:
                found = self.restore(step, **like), self.meta(step)
            except InputError as e:
                if jax.process_count() > 1:
                    text = f"{self._folder / str(step)} is damaged; move it away, and the one before it is used"
                    raise InputError(text) from e
                damaged.append(step)
            else:
                self._set_aside(damaged, f"resumes from step {step}", say)
                return found
        if damaged:
            raise InputError(
                f"{self._folder}: all checkpoints are damaged; move {self._folder.parent} away, and the same command "
                "trains it from the start"
            )
        return None

    def _set_aside(self, steps: list[int], then: str, say: Callable[[str], None]):
        for step in steps:
            path = self._folder / str(step)
            aside = next(p for i in range(1000) if not (p := self._folder / f"damaged_{step}{'_' * i}").exists())
            path.rename(aside)
            say(f"checkpoint {path} is damaged: renamed to {aside.name}; training {then}")
        if steps:
            self.close()
            self._open()

    def meta(self, step: int) -> dict[str, Any]:
        """Read the JSON dict of the checkpoint of a step; raises InputError if it is missing or damaged."""
        return self._load(step, {"meta": None})["meta"]

    def restore(self, step: int, **like: Any) -> dict[str, Any]:
        """Read the named trees of the checkpoint of a step.

        Args:
          step: one of `steps`.
          **like: for every tree to read, a tree of the same structure of arrays or `jax.ShapeDtypeStruct`s with the
            shardings to use; the number of devices may differ from that at saving.

        Returns:
          The trees by name.

        Raises:
          InputError: if the checkpoint is missing or damaged.
        """
        return self._load(step, {name: jax.tree.map(_abstract, tree) for name, tree in like.items()})

    def _load(self, step: int, wanted: dict[str, Any]) -> dict[str, Any]:
        path = self._folder / str(step)
        try:
            return self._checkpointer.load_checkpointables(step, wanted)
        except Exception as e:  # Orbax and TensorStore raise various exceptions
            what = f"is damaged ({_cause(e)})" if path.exists() else "is missing"
            remedy = f"restore it, or move {self._folder.parent} away and run its training again"
            raise InputError(f"{path}: the checkpoint {what}; {remedy}") from e

    def close(self):
        """Wait for pending writes."""
        try:
            self._checkpointer.close()
        except Exception:
            if not self._failed:  # else `save` has raised
                raise

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


def _abstract(array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes, the first cause last."""
    while error:
        yield error
        error = error.__cause__ or error.__context__


def _system_error(error: Exception) -> int:
    """The errno behind an error of Orbax or TensorStore; 0 if there is none."""
    for cause in _chain(error):
        if isinstance(cause, OSError) and cause.errno:
            return cause.errno
        if match := re.search(r"os_error_code='(\d+)'", str(cause)):
            return int(match[1])
    return 0


def _cause(error: Exception) -> str:
    """The first cause of an error of Orbax, shortened."""
    return f"{reason(list(_chain(error))[-1]):.100}"  # type: ignore[arg-type]
