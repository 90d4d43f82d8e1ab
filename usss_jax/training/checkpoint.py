"""Checkpoints with Orbax: trees of arrays, and a JSON of everything else that is needed to go on exactly."""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from usss_jax.training import hosts


class Checkpoints:
    """Checkpoints of one folder, of which the newest `keep` are kept.

    A checkpoint appears under its step's number only when it is complete, so a killed process leaves none that is
    half written. Use as a context, or call `close`. Several processes make every call together, and each writes
    the shards that it has: the folder must be on a file system that all of them share.
    """

    def __init__(self, folder: pathlib.Path, keep: int = 2):
        self._checkpointer = ocp.training.Checkpointer(
            folder.absolute(),
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=True,
        )

    def latest_step(self) -> int | None:
        """Step of the newest checkpoint, None if there is none; of several processes, what process 0 sees."""
        return hosts.from_writer(lambda: getattr(self._checkpointer.latest, "step", None))

    def save(self, step: int, trees: Mapping[str, Any], meta: Mapping[str, Any]):
        """Write named trees of arrays and the JSON dict `meta`; replaces an earlier checkpoint of the same step."""
        exists = any(c.step == step for c in self._checkpointer.checkpoints)
        self._checkpointer.save_checkpointables(step, {**trees, "meta": dict(meta)}, force=True, overwrite=exists)

    def meta(self) -> dict[str, Any]:
        """Read the JSON dict of the newest checkpoint."""
        return self._checkpointer.load_checkpointables(self.latest_step(), {"meta": None})["meta"]

    def restore(self, step: int | None = None, **like: Any) -> dict[str, Any]:
        """Read the named trees of the checkpoint of `step`, or of the newest.

        Args:
          step: one of those kept.
          **like: for every wanted tree one of the same structure, whose leaves (arrays or `jax.ShapeDtypeStruct`s
            with a sharding) say where the values go; another number of devices than at writing is fine.

        Returns:
          The trees by name.
        """
        abstract = {name: jax.tree.map(_abstract, tree) for name, tree in like.items()}
        return self._checkpointer.load_checkpointables(self.latest_step() if step is None else step, abstract)

    def close(self):
        """Finish pending work."""
        self._checkpointer.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


def _abstract(array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)
