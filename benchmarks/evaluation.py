"""Time of an evaluation: network, argmax and confusion matrix of whole images, without reading them.

    python -m benchmarks.evaluation --out=benchmarks/results/evaluation.json
    python -m benchmarks.evaluation --images=8 --batch=2 --repeats=1     # a CPU

Random images in memory, by default of Cityscapes' 512x1024; the first batch, with compilation, is measured separately.
"""

import argparse
import json
import pathlib
import statistics
import time

import jax
import numpy as np

from usss_jax.config import read_size
from usss_jax.evaluation.evaluate import create_evaluator
from usss_jax.models.universal import create_model
from usss_jax.parallel import sharding
from usss_jax.runs.logs import environment, write_json

CLASSES = {"cityscapes": 19}


class RandomImages:
    """A source of `count` random examples of one size."""

    def __init__(self, count: int, size: tuple[int, int]):
        r = np.random.default_rng(0)
        self.count = count
        self.image = r.integers(0, 256, (*size, 3), dtype=np.uint8)
        self.label = r.integers(0, CLASSES["cityscapes"], size, dtype=np.uint8)

    def __len__(self):
        return self.count

    def __getitem__(self, index: int) -> dict:
        """Return an example with new arrays, like a decoded file."""
        return {"image": self.image + np.uint8(index), "label": self.label.copy()}


def main():
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--size", type=read_size, default=(512, 1024), help="HEIGHTxWIDTH")
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--encoder", default="drn_d_22")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/evaluation.json"))
    args = parser.parse_args()

    mesh = sharding.create_mesh()
    model = create_model(args.encoder, CLASSES, width=args.width, precision=args.precision)
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 32, 32, 3), np.uint8))
    variables = jax.device_put(variables, sharding.replicated(mesh))
    evaluate = create_evaluator(mesh, "cityscapes", model=model)
    began = time.perf_counter()
    evaluate(variables, RandomImages(1, args.size), args.batch)
    first = time.perf_counter() - began
    source, seconds = RandomImages(args.images, args.size), []
    for _ in range(args.repeats):
        began = time.perf_counter()
        confusion = evaluate(variables, source, args.batch)
        seconds.append(time.perf_counter() - began)
    assert confusion.sum() == args.images * np.prod(args.size), "a pixel was lost"
    result = {key: value for key, value in vars(args).items() if key != "out"}
    result |= {"seconds": statistics.median(seconds), "seconds_each": seconds, "seconds_of_first_batch": first}
    result["images_per_second"] = args.images / result["seconds"]
    write_json(args.out, {**result, **environment()})
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
