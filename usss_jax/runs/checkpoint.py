"""Checkpoints: trees of arrays by Orbax, and a JSON dict with everything else that an exact resume needs.

The folder of a step has the files of Orbax and CHECKSUMS, a JSON object with the step and a checksum of every file. It
is written under another name and renamed when it is complete.
"""

import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from usss_jax.errors import InputError
from usss_jax.local_files import reason
from usss_jax.parallel import hosts
from usss_jax.runs.checksums import CHECKSUMS, damage_of, write_checksums

_PARTIAL = ".partial"


class Unusable(InputError):
    """A checkpoint that cannot be read.

    Attributes:
      why: what is wrong with it.
    """

    def __init__(self, path: pathlib.Path, why: str):
        job = path.parent.parent
        super().__init__(f"checkpoint {path} is unusable: {why}; restore it, or move {job} away to train it again")
        self.why = why


class Checkpoints:
    """Checkpoints in one folder, of which the newest `keep` are kept.

    A checkpoint appears under its step number only when it is complete, so a killed process leaves no partial one; it
    is verified before it is read. All processes must make every call, and each writes its own shards: the folder must
    be on a shared file system.
    """

    def __init__(self, folder: pathlib.Path, keep: int = 2):
        self._folder = folder.absolute()
        self._keep = keep
        self._verified: set[int] = set()

    def steps(self) -> list[int]:
        """Steps of all checkpoints that process 0 sees, oldest first."""
        return hosts.from_writer(steps_in, self._folder)

    def save(self, step: int, trees: Mapping[str, Any], meta: Mapping[str, Any]):
        """Write named trees of arrays and the JSON dict `meta`, replacing an earlier checkpoint of the same step.

        Raises:
          OSError: if writing fails (disk full); the error names the folder. Earlier checkpoints remain.
        """
        hosts.from_writer(self._clean)
        partial = self._folder / f"{step}{_PARTIAL}"
        try:
            ocp.save_checkpointables(partial, {**trees, "meta": dict(meta)})
            hosts.from_writer(self._complete, step, partial)
        except Exception as e:
            if hosts.is_writer():
                self._clean()
            if number := _system_error(e):
                raise OSError(number, os.strerror(number), str(self._folder / str(step))) from e
            raise
        self._verified.discard(step)

    def _clean(self):
        """Remove unfinished checkpoints, such as a killed process leaves; they may fill the disk."""
        for path in [*self._folder.glob(f"*{_PARTIAL}*"), *self._folder.glob("*.orbax-checkpoint-tmp*")]:
            shutil.rmtree(path, ignore_errors=True)

    def _complete(self, step: int, partial: pathlib.Path):
        """Add the checksums, give the checkpoint its name, and remove old ones and later ones, which are of no use."""
        write_checksums(partial, step)
        final = self._folder / str(step)
        if final.exists():
            final.rename(self._folder / f"{step}.replaced{_PARTIAL}")
        partial.rename(final)
        steps = steps_in(self._folder)
        for other in set(steps) - set([s for s in steps if s <= step][-self._keep :]):
            shutil.rmtree(self._folder / str(other))
        self._clean()

    def resume(
        self, say: Callable[[str], None], other: Callable[[dict[str, Any]], str] = lambda meta: "", **like: Any
    ) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Read trees and `meta` of the newest usable checkpoint; None if there are no checkpoints.

        Unusable ones are reported and renamed, so that they are kept but no longer used: those that are damaged, have
        values that are not finite, or are of something else.

        Args:
          say: prints a line.
          other: says by its `meta` of what else a checkpoint is; empty: it may be used.
          **like: as for `restore`.

        Raises:
          InputError: if no checkpoint is usable. With several processes, if the newest does not load though its
            checksums agree, since they may see different files.
        """
        unusable: dict[int, str] = {}
        for step in reversed(self.steps()):
            if not (why := self.damage(step)):
                try:
                    meta = self.meta(step)
                    if not (why := other(meta)):
                        trees = self.restore(step, **like)
                except Unusable as e:
                    if jax.process_count() > 1:
                        raise
                    why = e.why
            if not why:
                for bad, text in unusable.items():
                    say(f"{self.set_aside(bad, text)}; training resumes from step {step}")
                return trees, meta
            unusable[step] = why
        if unusable:
            newest, why = next(iter(unusable.items()))
            raise InputError(
                f"{self._folder}: no checkpoint is usable ({newest}: {why}); move {self._folder.parent} away, and "
                "the same command trains it from the start"
            )
        return None

    def set_aside(self, step: int, why: str) -> str:
        """Rename the checkpoint of a step to unusable_STEP, which is kept but not used; return a line that says so."""

        def rename() -> str:
            new = next(p for i in range(1000) if not (p := self._folder / f"unusable_{step}{'_' * i}").exists())
            (self._folder / str(step)).rename(new)
            return new.name

        new = hosts.from_writer(rename)
        return f"checkpoint {self._folder / str(step)} is unusable ({why}): renamed to {new}"

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
          InputError: if the checkpoint is missing or damaged, or has values that are not finite.
        """
        trees = self._load(step, {name: jax.tree.map(_abstract, tree) for name, tree in like.items()})
        if not all_finite(trees):
            raise Unusable(self._folder / str(step), "it has values that are not finite")
        return trees

    def damage(self, step: int) -> str:
        """Say what is damaged in the checkpoint of a step by its checksums; empty if nothing is.

        Prints a line if it has none, as those of older versions.
        """
        if step in self._verified:
            return ""
        found = hosts.from_writer(self._damage, step)
        if not found:
            self._verified.add(step)
        return found

    def verify(self, step: int):
        """Raise InputError if the checkpoint of a step is missing, or damaged by its checksums."""
        if why := self.damage(step):
            raise Unusable(self._folder / str(step), why)

    def _damage(self, step: int) -> str:
        folder = self._folder / str(step)
        why = damage_of(folder)
        if why is None:
            print(f"{folder} has no {CHECKSUMS}, as those of older versions: used without verification", flush=True)
        return why or ""

    def _load(self, step: int, wanted: dict[str, Any]) -> dict[str, Any]:
        self.verify(step)
        try:
            return ocp.load_checkpointables(self._folder / str(step), wanted)
        except Exception as e:  # Orbax and TensorStore raise various exceptions
            raise Unusable(self._folder / str(step), _cause(e)) from e


def steps_in(folder: pathlib.Path) -> list[int]:
    """Steps of the checkpoints in a folder, oldest first, whole or not."""
    return sorted(int(path.name) for path in folder.glob("*") if re.fullmatch("0|[1-9][0-9]*", path.name))


@jax.jit
def _finite(arrays: list[jax.Array]) -> jax.Array:
    return jnp.stack([jnp.isfinite(array).all() for array in arrays]).all()


def all_finite(tree) -> bool:
    """Whether all numbers of a tree of arrays are finite.

    >>> all_finite({"w": jnp.ones(2), "step": jnp.int32(3)}), all_finite({"w": jnp.array([1.0, jnp.inf])})
    (True, False)
    """
    arrays = [a for a in jax.tree.leaves(tree) if isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jnp.inexact)]
    return not arrays or bool(jax.device_get(_finite(arrays)))


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


def _cause(error: BaseException) -> str:
    """The first cause of an error of Orbax, shortened."""
    return f"{reason(list(_chain(error))[-1]):.100}"  # type: ignore[arg-type]
