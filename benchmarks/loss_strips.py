"""Losses over the upsampled pixels: in strips of rows (models/strips.py) against logits at image size.

    python -m benchmarks.loss_strips --out=benchmarks/results/loss_strips.json

Cross-entropy and pixel entropy, value and gradient in the scores, for B x H x W x {11, 19, 37, 150} classes. Memory is
the compiler's own analysis of temporaries; ratios are plain over strips, taken in one run.
"""

import argparse
import json
import pathlib
import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from usss_jax.config import read_size
from usss_jax.models.strips import sum_over_pixels
from usss_jax.models.upsample import upsample
from usss_jax.objectives.losses import pixel_cross_entropy, pixel_entropy
from usss_jax.training.logs import environment, write_json


def entropy(scores, labels):
    """`pixel_entropy`, which needs no labels."""
    return pixel_entropy(scores)


FUNCTIONS = {"cross_entropy": pixel_cross_entropy, "entropy": entropy}


def plain(scores, labels, *, function, size):
    """Mean over the pixels by way of logits at image size."""
    return function(upsample(scores, size), labels).mean()


def in_strips(scores, labels, *, function, size):
    """The same, strip by strip."""
    return sum_over_pixels(function, scores, labels, size=size) / labels.size


def measure(loss, scores, labels, repeats: int) -> dict:
    """Value, gradient, temporaries and seconds."""
    program = jax.jit(jax.value_and_grad(loss)).lower(scores, labels).compile()
    value, gradient = jax.block_until_ready(program(scores, labels))
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(program(scores, labels))
        seconds.append(time.perf_counter() - began)
    memory = program.memory_analysis().temp_size_in_bytes
    numbers = {"seconds": statistics.median(seconds), "temporary_bytes": memory}
    return {"value": float(value), "gradient": np.asarray(gradient), "numbers": numbers}


def compare(function, batch: int, size: tuple[int, int], classes: int, repeats: int) -> dict:
    """Both ways: numbers, ratios, and the largest differences relative to the largest value."""
    r = np.random.default_rng(0)
    scores = jnp.asarray(3 * r.standard_normal((batch, -(-size[0] // 8), -(-size[1] // 8), classes)), jnp.float32)
    labels = jnp.asarray(r.integers(0, classes, (batch, *size)), jnp.uint8)
    ways = (("plain", plain), ("strips", in_strips))
    out = {name: measure(partial(loss, function=function, size=size), scores, labels, repeats) for name, loss in ways}
    one, other = out["plain"], out["strips"]
    gap = np.abs(one["gradient"] - other["gradient"]).max() / np.abs(one["gradient"]).max()
    return {
        **{name: result["numbers"] for name, result in out.items()},
        "ratio": {key: one["numbers"][key] / other["numbers"][key] for key in one["numbers"]},
        "difference": {"value": abs(one["value"] / other["value"] - 1), "gradient": float(gap)},
    }


def markdown(result: dict) -> str:
    """Table of the result."""
    lines = ["| loss | classes | plain | strips | ratio | plain, temporaries | strips' | ratio |", "|---|" + "---|" * 7]
    for name, by_classes in result["losses"].items():
        for classes, numbers in by_classes.items():
            plain, strips, ratio = (numbers[key] for key in ("plain", "strips", "ratio"))
            cells = [name.replace("_", "-"), classes, *(f"{way['seconds']:.2f} s" for way in (plain, strips))]
            cells += [f"{ratio['seconds']:.1f}", *(f"{way['temporary_bytes'] / 1e6:.0f} MB" for way in (plain, strips))]
            lines.append("| " + " | ".join([*cells, f"{ratio['temporary_bytes']:.0f}"]) + " |")
    return "\n".join(lines)


def main():
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=read_size, default=(512, 512), help="HEIGHTxWIDTH")
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--classes", type=int, nargs="*", default=(11, 19, 37, 150))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/loss_strips.json"))
    args = parser.parse_args()
    result: dict = {k: v for k, v in vars(args).items() if k != "out"}
    result["losses"] = {}
    for name, function in FUNCTIONS.items():
        for classes in args.classes:
            numbers = compare(function, args.batch, args.size, classes, args.repeats)
            result["losses"].setdefault(name, {})[str(classes)] = numbers
            print(f"{name}, {classes} classes: {json.dumps(numbers['ratio'])} {json.dumps(numbers['difference'])}")
    write_json(args.out, {**result, **environment()})


if __name__ == "__main__":
    main()
