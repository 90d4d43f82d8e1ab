"""Speed and memory of self-training: SISC against a plain loop over patches, and a step of a round against a plain one.

    python -m benchmarks.self_training --out=benchmarks/results/self_training.json

`ratio.sisc` is the time per image of a loop that calls the network for one patch after the other and adds up on the
host, over that of `image_probabilities`; `network_share` is the share of the latter's time inside the network;
`memory_growth` the peak memory of the process in a labelling pass over four times `--images` images, over that in one
over `--images` (Linux). `ratio.step` is the time of a supervised step over that of a step of a round with image-level
labels, on the same images. Random images and weights.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import tempfile
import time
from functools import partial

import jax
import numpy as np

from benchmarks.step_cpu import peak_bytes
from usss_jax.config import default_config, read_size
from usss_jax.data.augment_device import DeviceAugment
from usss_jax.data.domains import get_domain
from usss_jax.engine import optim
from usss_jax.engine.state import create_state
from usss_jax.engine.step import jit_step
from usss_jax.methods import supervised
from usss_jax.methods.mlsl import terms
from usss_jax.methods.self_training import labelling, scores
from usss_jax.methods.self_training.patches import image_probabilities, patch_corners
from usss_jax.methods.self_training.settings import Labelling, labelling_of
from usss_jax.models.universal import create_model
from usss_jax.parallel import sharding
from usss_jax.runs.logs import environment, write_json


class RandomImages:
    """`count` random images of one size."""

    def __init__(self, count: int, size: tuple[int, int]):
        self.ids = [f"{i:04d}" for i in range(count)]
        self._image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index: int) -> dict:
        return {"image": self._image + np.uint8(index)}


def plain_loop(probabilities, image: np.ndarray, corners: np.ndarray, patch: int) -> np.ndarray:
    """SISC without batches: whole image and patches one after the other, each with its mirror image."""

    def vote(part):
        found, mirrored = (np.asarray(probabilities(x[None]))[0] for x in (part, part[:, ::-1]))
        return (found + mirrored[:, ::-1]) / 2

    total, counts = vote(image), np.ones((*image.shape[:2], 1), np.float32)
    for row, column in corners:
        place = np.s_[row : row + patch, column : column + patch]
        total[place] += vote(image[place])
        counts[place] += 1
    return total / counts


def measure_sisc(model, variables, domain, settings: Labelling, mesh, repeats: int) -> dict:
    """Seconds per image of both, alternately, and the share of time in the network."""
    probabilities = scores.network_probabilities(model, variables, domain.name, mesh)
    inside = 0.0

    def timed(images):
        nonlocal inside
        images = jax.block_until_ready(images)
        began = time.perf_counter()
        found = jax.block_until_ready(probabilities(images))
        inside += time.perf_counter() - began
        return found

    seconds: dict[str, list[float]] = {"plain": [], "sisc": []}
    shares, patch = [], settings.inference.patch
    for r in range(repeats + 1):  # the first compiles
        image = RandomImages(1, domain.size)[0]["image"] + np.uint8(r)
        corners = patch_corners(domain.size, patch, settings.patches, seed=0, round=0, image=str(r))
        began = time.perf_counter()
        plain = plain_loop(probabilities, image, corners, patch)
        seconds["plain"].append(time.perf_counter() - began)
        began = time.perf_counter()
        sisc = np.asarray(image_probabilities(probabilities, image, corners, settings.inference))
        seconds["sisc"].append(time.perf_counter() - began)
        np.testing.assert_allclose(sisc, plain, atol=1e-4)
        inside, began = 0.0, time.perf_counter()
        np.asarray(image_probabilities(timed, image, corners, settings.inference))
        shares.append(inside / (time.perf_counter() - began))
    medians = {name: statistics.median(each[1:]) for name, each in seconds.items()}
    images = {f"images_per_second_{name}": 1 / value for name, value in medians.items()}
    return {"seconds_per_image": medians, **images, "network_share": statistics.median(shares[1:])}


def measure_memory(model, variables, domain, settings: Labelling, mesh, images: int) -> list[int]:
    """Peak bytes of this process in the passes over `images` and over four times as many images."""
    peaks = []
    for count in (images, 4 * images):
        scorer = scores.Scorer(scores.network_probabilities(model, variables, domain.name, mesh), settings)
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak is that of this pass alone
        with tempfile.TemporaryDirectory() as folder:
            labelling.write_labels(
                pathlib.Path(folder), scorer, domain, RandomImages(count, domain.size), settings, "random", "benchmark"
            )
        peaks.append(peak_bytes())
    return peaks


def measure_steps(encoder: str, mesh, size: tuple[int, int], batch: int, repeats: int) -> dict[str, float]:
    """Seconds of a supervised step, and of a step of a round, on batches of the source and of the target."""
    rng = np.random.default_rng(0)
    part = {
        "image": rng.integers(0, 256, (batch, *size, 3), dtype=np.uint8),
        "label": rng.integers(0, 11, (batch, *size), dtype=np.uint8),
    }
    classes = {"classes": np.ones((batch, 11), np.float32)}
    tx = optim.create_optimizer(optim.create_schedule(1e-3, 10**6))
    runs = {}
    for name, of, image_head, compute in (
        ("supervised", {"a": 11, "b": 11}, "none", supervised.compute),
        ("round", {"b": 11}, "every_relu", partial(terms.compute, supervision=terms.Supervision(image_weight=0.025))),
    ):
        model = create_model(encoder, of, lateral=8, stride=32, image_head=image_head, image_head_width=0.0625)
        extra = classes if image_head != "none" else {}
        data = sharding.put(
            {"labeled": {d: {**part, **extra} for d in ("a", "b")}}, {"labeled": sharding.batch_sharding(mesh)}
        )
        state, _ = create_state(model, tx, 0, mesh)
        bound = partial(compute, model=model, augment=DeviceAugment(), seed=0, mesh=mesh)
        shardings = {"labeled": sharding.batch_sharding(mesh)}
        runs[name] = [jit_step(mesh, state, compute=bound, tx=tx, batch_shardings=shardings), state, data]
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 2):
        for name, run in runs.items():
            began = time.perf_counter()
            run[1], scalars = run[0](run[1], run[2])
            float(scalars["loss"])
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(each[2:]) for name, each in seconds.items()}


def main():
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="efficientnet_lite0")
    parser.add_argument("--size", type=read_size, default=(240, 320), help="HEIGHTxWIDTH of target images")
    parser.add_argument("--patch", type=int, default=160)
    parser.add_argument("--patches", type=int, default=50)
    parser.add_argument("--batch", type=int, default=10, help="patches per call of the network")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("benchmarks/results/self_training.json"))
    args = parser.parse_args()

    rounds = default_config("mlsl").rounds
    rounds.patches, rounds.patch_size, rounds.patch_batch = args.patches, args.patch, args.batch
    settings = labelling_of(rounds, portion=0.5, policy="cb", patches=True, seed=0, round=0)
    mesh = sharding.create_mesh()
    domain = dataclasses.replace(get_domain("camvid"), size=args.size)
    model = create_model(args.encoder, {domain.name: domain.num_classes}, stride=32, lateral=8)
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 64, 64, 3), np.uint8))
    variables = jax.device_put(variables, sharding.replicated(mesh))

    result = {key: value for key, value in vars(args).items() if key != "out"}
    result |= measure_sisc(model, variables, domain, settings, mesh, args.repeats)
    steps = measure_steps(args.encoder, mesh, (192, 192), 4, args.repeats)
    result["seconds_per_step"] = steps
    seconds = result["seconds_per_image"]
    result["ratio"] = {"sisc": seconds["plain"] / seconds["sisc"], "step": steps["supervised"] / steps["round"]}
    peaks = measure_memory(model, variables, domain, settings, mesh, args.images)
    result |= {"peak_bytes": peaks, "memory_growth": peaks[1] / peaks[0]}
    write_json(args.out, {**result, **environment()})
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
