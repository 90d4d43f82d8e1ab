"""Where two networks differ: pictures of images, and the difference of every class, with intervals over images."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from usss_jax.analysis.alignment import open_sources
from usss_jax.data import pictures
from usss_jax.data.domain import palette
from usss_jax.data.pools import Pools
from usss_jax.errors import InputError
from usss_jax.evaluation.bootstrap import compare, image_confusions
from usss_jax.inference.predictor import probabilities_of
from usss_jax.local_files import write_whole
from usss_jax.objectives import IGNORE
from usss_jax.parallel import sharding
from usss_jax.runs.finished import FinishedJob, open_jobs

BOTH, FIRST, SECOND, NEITHER, IGNORED = range(5)
COLORS = np.array([[255, 255, 255], [215, 48, 39], [26, 152, 80], [150, 150, 150], [0, 0, 0]], np.uint8)
BATCH = 8


def draw_differences(
    folders: Sequence[pathlib.Path], out: pathlib.Path, *, split: str = "test", data_root: str = "", images: int = 3
):
    """Write a picture per domain, and differences.json with the difference of every IoU (evaluation/bootstrap.py).

    A picture has the image in which the second network gains most, the one in which it loses most, and some between.

    Args:
      folders: of two finished jobs of the same domains.
      out: folder for DOMAIN.png and differences.json.
      split: "test" or "val".
      data_root: replaces `data.root` of the jobs' configs.
      images: number of images per domain; evenly spread through the order of their gains.

    Raises:
      InputError: if the jobs or the data cannot be used, or no domain has masks in the split.
    """
    if len(folders) != 2:
        raise InputError(f"--jobs: {len(folders)} given; give two finished jobs, such as RUN/basic,RUN/self_round0")
    jobs = open_jobs(folders)
    pools = {d: pool for d, pool in open_sources(jobs[0], split, data_root).items() if d in jobs[0].class_names}
    if not pools:
        raise InputError(f"--split={split}: no domain of {folders[0]} has masks in it")
    confusions: list[dict[str, np.ndarray]] = [{}, {}]
    for domain, pool in pools.items():
        source = getattr(pool, split)
        truths = [source.label(i) for i in range(len(source))]
        predictions = [predict_all(job, domain, source) for job in jobs]
        for found, of in zip(confusions, predictions, strict=True):
            found[domain] = image_confusions(truths, list(of["label"]), pool.domain.num_classes)
        judged = (judge(truth, *(of["label"][i] for of in predictions)) for i, truth in enumerate(truths))
        gains = [float(np.mean(of == SECOND) - np.mean(of == FIRST)) for of in judged]
        order = np.argsort(gains)[::-1]
        chosen = order[np.unique(np.linspace(0, len(order) - 1, images).round().astype(int))]
        rows = [row(source, int(i), gains[i], predictions, pool) for i in chosen]
        legends = {
            domain: [(c.name, c.color) for c in pool.domain.classes],
            "right": [
                (text, tuple(COLORS[value].tolist()))
                for value, text in (
                    (BOTH, "both"),
                    (FIRST, jobs[0].title),
                    (SECOND, jobs[1].title),
                    (NEITHER, "neither"),
                )
            ],
        }
        titles = ["image", "truth", jobs[0].title, jobs[1].title, "right", f"confidence of {jobs[0].title}"]
        pictures.save_png(out / f"{domain}.png", pictures.comparison(rows, titles, legends))
        better = sum(gain > 0 for gain in gains)
        print(f"{domain}: {jobs[1].title} has more pixels right in {better} of {len(gains)} images", flush=True)
    found = compare(*confusions)
    print(text := differences_text(found, {d: pool.domain.class_names for d, pool in pools.items()}))
    about = {"jobs": [str(job.folder) for job in jobs], "split": split}
    write_whole(out / "differences.json", json.dumps({**about, **found}, indent=1, allow_nan=False) + "\n")
    write_whole(out / "differences.md", text + "\n")


def differences_text(found: Mapping[str, Any], class_names: Mapping[str, Sequence[str]]) -> str:
    """Render the result of `compare` as a Markdown table, in %.

    >>> print(differences_text({"average": {"difference": 0.5, "low": -0.25, "high": 1.0}}, {}))
    | IoU of the second less the first, in % | difference | 95 % interval over images |
    |---|---|---|
    | average | +50.00 | -25.00 to +100.00 |
    """

    def line(name: str, of: Mapping[str, float]) -> str:
        difference, low, high = (f"{100 * of[key]:+.2f}" for key in ("difference", "low", "high"))
        return f"| {name} | {difference} | {low} to {high} |"

    lines = ["| IoU of the second less the first, in % | difference | 95 % interval over images |", "|---|---|---|"]
    lines.append(line("average", found["average"]))
    for domain, names in class_names.items():
        lines.append(line(f"{domain}, mIoU", found[domain]["miou"]))
        each = zip(names, found[domain]["classes"], strict=True)
        lines += [line(f"{domain}, {name}", of) for name, of in each if of is not None]
    return "\n".join(lines)


def predict_all(job: FinishedJob, domain: str, source) -> dict[str, np.ndarray]:
    """Predictions of a job's best checkpoint: "label" and "confidence" (255 times), uint8 [N, H, W]."""
    mesh = sharding.create_mesh(jax.local_devices()[:1])
    model, variables, _ = job.restore(mesh)
    likely = jax.jit(partial(probabilities_of, domains=[domain], model=model))

    @jax.jit
    def most(values):
        return values.argmax(-1).astype(np.uint8), (255 * values.max(-1)).round().astype(np.uint8)

    found: list[Any] = []
    for start in range(0, len(source), BATCH):
        part = [source[i]["image"] for i in range(start, min(start + BATCH, len(source)))]
        filled = np.stack(part + part[-1:] * (BATCH - len(part)))
        found.append([np.asarray(of)[: len(part)] for of in most(likely(variables, filled)[domain])])
    label, confidence = (np.concatenate(of) for of in zip(*found, strict=True))
    return {"label": label, "confidence": confidence}


def judge(truth: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Say which of two label maps is right at every pixel, uint8 [H, W].

    >>> judge(np.array([0, 0, 0, 0, 255]), np.array([0, 0, 1, 1, 1]), np.array([0, 1, 0, 1, 1])).tolist()
    [0, 1, 2, 3, 4]
    """
    one, two = first == truth, second == truth
    found = np.select([one & two, one, two], [BOTH, FIRST, SECOND], NEITHER)
    return np.where(truth == IGNORE, IGNORED, found).astype(np.uint8)


def row(source, index: int, gain: float, predictions: Sequence[Mapping[str, np.ndarray]], pool: Pools) -> pictures.Row:
    """The tiles of one image."""
    colors, truth = palette(pool.domain), source.label(index)
    labels = [of["label"][index] for of in predictions]
    confidence = np.repeat(predictions[0]["confidence"][index][..., None], 3, axis=-1)
    tiles = [source[index]["image"], *(pictures.colorize(label, colors) for label in (truth, *labels))]
    return pictures.Row(f"{100 * gain:+.1f} %", [*tiles, COLORS[judge(truth, *labels)], confidence])
