"""Checkpoints with Orbax: trees of arrays, and a JSON of everything else that is needed to resume exactly."""

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
    """Checkpoints of one folder, of which the newest `keep` are kept.

    A checkpoint appears under its step's number only when it is complete, so a killed process leaves none that is
    half written. Use as a context, or call `close`. Several processes make every call together, and each writes
    the shards that it has: the folder must be on a file system that all of them share.
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
        """Steps of all checkpoints, oldest first; of several processes, what process 0 sees."""
        return hosts.from_writer(lambda: [checkpoint.step for checkpoint in self._checkpointer.checkpoints])

    def save(self, step: int, trees: Mapping[str, Any], meta: Mapping[str, Any]):
        """Write named trees of arrays and the JSON dict `meta`; replaces an earlier checkpoint of the same step.

        Raises:
          OSError: if it cannot be written (disk full); it names the folder. Earlier checkpoints stay.
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
        """Read trees and `meta` of the newest checkpoint that is whole; None if there are no checkpoints.

        Those that are damaged are said, and renamed, so that they neither count as the newest nor are lost.

        Args:
          say: prints a line.
          **like: as of `restore`.

        Raises:
          InputError: if none is whole. Of several processes, if the newest is not: one may see what others do not.
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
                f"{self._folder}: no checkpoint in it is whole; move {self._folder.parent} away, and the same command "
                "trains it from the start"
            )
        return None

    def _set_aside(self, steps: list[int], then: str, say: Callable[[str], None]):
        for step in steps:
            path = self._folder / str(step)
            aside = next(p for i in range(1000) if not (p := self._folder / f"damaged_{step}{'_' * i}").exists())
            path.rename(aside)
            say(f"checkpoint {path} is damaged: it is now called {aside.name}, and training {then}")
        if steps:
            self.close()
            self._open()

    def meta(self, step: int) -> dict[str, Any]:
        """Read the JSON dict of the checkpoint of a step; InputError if it is not there, or damaged."""
        return self._load(step, {"meta": None})["meta"]

    def restore(self, step: int, **like: Any) -> dict[str, Any]:
        """Read the named trees of the checkpoint of a step.

        Args:
          step: one of those kept.
          **like: for every wanted tree one of the same structure, whose leaves (arrays or `jax.ShapeDtypeStruct`s
            with a sharding) say where the values go; another number of devices than at writing is fine.

        Returns:
          The trees by name.

        Raises:
          InputError: if the checkpoint is not there, or damaged.
        """
        return self._load(step, {name: jax.tree.map(_abstract, tree) for name, tree in like.items()})

    def _load(self, step: int, wanted: dict[str, Any]) -> dict[str, Any]:
        path = self._folder / str(step)
        try:
            return self._checkpointer.load_checkpointables(step, wanted)
        except Exception as e:  # Orbax and TensorStore raise whatever the damage led to
            what = f"is damaged ({_cause(e)})" if path.exists() else "is missing"
            remedy = f"restore it, or move {self._folder.parent} away and run its training again"
            raise InputError(f"{path}: the checkpoint {what}; {remedy}") from e

    def close(self):
        """Finish pending work."""
        try:
            self._checkpointer.close()
        except Exception:
            if not self._failed:  # else `save` has told it
                raise

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


def _abstract(array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that led to it."""
    while error:
        yield error
        error = error.__cause__ or error.__context__


def _system_error(error: Exception) -> int:
    """Number of the system's error behind one of Orbax or TensorStore; 0: it is none."""
    for one in _chain(error):
        if isinstance(one, OSError) and one.errno:
            return one.errno
        if match := re.search(r"os_error_code='(\d+)'", str(one)):
            return int(match[1])
    return 0


def _cause(error: Exception) -> str:
    """What an error of Orbax began with, shortly."""
    return f"{reason(list(_chain(error))[-1]):.100}"  # type: ignore[arg-type]
