"""The mesh and its shardings: batches are split on their batch axis, the state is replicated or split."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from usss_jax.errors import InputError

BATCH_FIELDS = ("train.batch_size", "train.unlabeled_batch_size")
SPLIT_FROM = 4096  # minimal number of elements of an array to split


def create_mesh(devices=None) -> Mesh:
    """Mesh with the single axis "data" over the given devices, or over all.

    With Auto axes the compiler inserts the collectives: batch statistics, losses and prototype sums are global because
    the arrays are. (`jax.make_mesh` has Explicit axes by default since jax 0.9.) The devices of a process are adjacent,
    so that process p has the p-th part of every batch.
    """
    devices = jax.devices() if devices is None else devices
    devices = sorted(devices, key=lambda d: d.process_index)
    return Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device: parameters, statistics, optimiser state, label embeddings."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Split on the first axis: labeled and evaluation batches [B, ...]."""
    return NamedSharding(mesh, PartitionSpec("data"))


def micro_batch_sharding(mesh: Mesh) -> NamedSharding:
    """Split on the second axis: unlabeled micro-batches [U, B, ...], over which the step scans."""
    return NamedSharding(mesh, PartitionSpec(None, "data"))


def on_cpu(mesh: Mesh) -> bool:
    """Whether the mesh's devices are CPUs."""
    return mesh.devices.flat[0].platform == "cpu"


def step_batch_shardings(mesh: Mesh) -> dict:
    """Shardings of the batch of one training step, as a tree prefix (data/streams.py)."""
    return {"labeled": batch_sharding(mesh), "unlabeled": micro_batch_sharding(mesh)}


def put(tree: Mapping[str, Any], shardings: Mapping[str, Any]) -> dict[str, Any]:
    """Place a host batch on the mesh; every process gives its own part of the global batch.

    `shardings` is a tree prefix: {"labeled": sharding, ...}. The transfer is allowed under any transfer guard.
    """
    with jax.transfer_guard_host_to_device("allow"):
        return {
            key: jax.tree.map(lambda a, s=shardings[key]: jax.make_array_from_process_local_data(s, a), part)
            for key, part in tree.items()
        }


def leaf_sharding(mesh: Mesh, shape: Sequence[int], split: bool = True) -> NamedSharding:
    """Sharding of one array of the state: split on its largest axis that the devices divide, or replicated.

    Replicated if `split` is False, if the array is small (biases, statistics), or if no axis can be divided.
    """
    axes = [axis for axis in range(len(shape)) if shape[axis] % mesh.size == 0]
    if not split or not axes or math.prod(shape) < SPLIT_FROM:
        return replicated(mesh)
    axis = max(axes, key=lambda axis: shape[axis])
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))


def tree_shardings(mesh: Mesh, tree, split: bool):
    """`leaf_sharding` of every leaf of a tree of arrays or shapes."""
    return jax.tree.map(lambda a: leaf_sharding(mesh, a.shape, split), tree)


def state_shardings(mesh: Mesh, like):
    """Shardings of the arrays of a state; for None replicated, as a tree prefix."""
    return replicated(mesh) if like is None else jax.tree.map(lambda a: a.sharding, like)


def place(tree, shardings):
    """Place a tree of arrays by a tree of shardings: global arrays, or host arrays that are equal on all processes."""

    def one(value, sharding):
        if isinstance(value, jax.Array) and (value.sharding == sharding or not value.is_fully_addressable):
            return jax.device_put(value, sharding)
        host = np.asarray(value)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(one, tree, shardings)


def whole(tree, mesh: Mesh):
    """Replicate the arrays of a tree over the mesh."""
    if all(leaf.is_fully_replicated for leaf in jax.tree.leaves(tree)):
        return tree
    return jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree)


def to_host(array: Any) -> np.ndarray:
    """Copy a global array to every process; all processes must call this."""
    if isinstance(array, jax.Array) and not (array.is_fully_addressable or array.is_fully_replicated):
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)


def widest_mesh(devices: Sequence, *batch_sizes: int) -> Mesh:
    """Mesh over the largest number of devices that divides every batch size; prints a line if some are not used.

    Several processes must use all of their devices.

    Raises:
      InputError: if there are several processes and a batch size is not a multiple of the number of devices.
    """
    fields = BATCH_FIELDS[: len(batch_sizes)]
    for field, size in zip(fields, batch_sizes, strict=True):
        if jax.process_count() > 1 and size % len(devices):
            raise InputError(
                f"{field}={size}: {jax.process_count()} processes with {len(devices)} devices share every batch "
                f"equally; give a multiple of {len(devices)}"
            )
    count = max(n for n in range(1, len(devices) + 1) if not any(size % n for size in batch_sizes))
    if count < len(devices):
        print(
            f"uses {count} of {len(devices)} devices, the most that divide {' and '.join(fields)}; give multiples of "
            f"{len(devices)} to use all"
        )
    return create_mesh(devices[:count])
