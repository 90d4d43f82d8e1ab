"""The mesh and the three shardings: state replicated, batches split over the devices on their batch axis."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def create_mesh(devices=None) -> Mesh:
    """One-axis mesh ("data",) over all devices (or the given ones).

    Auto axes: the compiler places the collectives, so batch statistics, losses and prototype sums are global because
    the arrays are. (`jax.make_mesh` alone gives Explicit axes since jax 0.9.)
    """
    devices = jax.devices() if devices is None else devices
    return Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array: parameters, statistics, optimiser state, label embeddings."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Split on the first axis: labeled and evaluation batches [B, ...]."""
    return NamedSharding(mesh, PartitionSpec("data"))


def micro_batch_sharding(mesh: Mesh) -> NamedSharding:
    """Split on the second axis: unlabeled micro-batches [U, B, ...], which the step scans over."""
    return NamedSharding(mesh, PartitionSpec(None, "data"))


def step_batch_shardings(mesh: Mesh) -> dict:
    """Shardings for the batch of one training step, as prefix of its tree (see data/streams.py)."""
    return {"labeled": batch_sharding(mesh), "unlabeled": micro_batch_sharding(mesh)}


def put(tree: dict, shardings: dict) -> dict:
    """Place a host batch on the mesh; every process gives its own share of the global batch.

    `shardings` is a tree prefix: {"labeled": sharding, ...}.
    """
    return {
        key: jax.tree.map(lambda a, s=shardings[key]: jax.make_array_from_process_local_data(s, a), part)
        for key, part in tree.items()
    }


def widest_mesh(devices: Sequence, *batch_sizes: int) -> Mesh:
    """Mesh over as many of the devices as divide every batch size; says so if that is not all of them."""
    count = max(n for n in range(1, len(devices) + 1) if not any(size % n for size in batch_sizes))
    if count < len(devices):
        print(f"uses {count} of {len(devices)} devices: batch_size and unlabeled_batch_size are no multiples of more")
    return create_mesh(devices[:count])
