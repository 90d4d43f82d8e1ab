"""Bytes of the training state on each device, whole and with shard_parameters, computed from shapes alone.

    python -m benchmarks.state_bytes

Writes benchmarks/results/state_bytes.json; docs/multihost.md has its table.
"""

import json
import math
import pathlib

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType

from usss_jax.engine.optim import create_optimizer
from usss_jax.engine.state import DUMMY_IMAGES
from usss_jax.models.universal import create_model
from usss_jax.parallel.sharding import tree_shardings

RESULT = pathlib.Path(__file__).parent / "results" / "state_bytes.json"
ENCODER, CLASSES, DIM, DEVICES = "drn_d_105", {"cityscapes": 19, "camvid": 11}, 128, 8


def state_bytes(encoder: str, devices: int, split: bool) -> dict[str, int]:
    """Bytes on one device by part of the state."""
    model = create_model(encoder, CLASSES, embed_dim=DIM)
    variables = jax.eval_shape(model.init, jax.random.key(0), DUMMY_IMAGES)
    momentum = jax.eval_shape(create_optimizer(1e-3, 1000).init, variables["params"])
    mesh = AbstractMesh((devices,), ("data",), axis_types=(AxisType.Auto,))
    parts = {"parameters": variables["params"], "momentum": momentum, "statistics": variables["batch_stats"]}

    def on_a_device(tree) -> int:
        shardings = tree_shardings(mesh, tree, split)
        sizes = jax.tree.map(
            lambda a, s: math.prod(s.shard_shape(a.shape)) * np.dtype(a.dtype).itemsize, tree, shardings
        )
        return sum(jax.tree.leaves(sizes))

    return {name: on_a_device(tree) for name, tree in parts.items()}


def measure() -> dict:
    """Everything that the table needs."""
    found = {how: state_bytes(ENCODER, DEVICES, how == "split") for how in ("whole", "split")}
    return {"encoder": ENCODER, "classes": CLASSES, "embed_dim": DIM, "devices": DEVICES, **found}


def markdown(result: dict) -> str:
    """Table of the result."""
    lines = ["| MB on each device | parameters | momentum | statistics | together |", "|---|---|---|---|---|"]
    for how, title in (("whole", "whole"), ("split", f"split over {result['devices']} devices")):
        parts = [result[how][part] for part in ("parameters", "momentum", "statistics")]
        lines.append(f"| {title} | " + " | ".join(f"{value / 1e6:.2f}" for value in (*parts, sum(parts))) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    result = measure()
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(markdown(result))
