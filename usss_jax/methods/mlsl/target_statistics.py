"""How certain and how diverse a network's predictions of the target are: a rule to choose a network without labels.

Self-training always raises the certainty, so that alone says little: a network that predicts one class everywhere is
certain, too. Mutual information is the entropy of the mean prediction minus the mean entropy of the predictions (Shi
and Sha, ICML 2012). Among the networks of a run, the one with the largest is chosen.
"""

import pathlib
from collections.abc import Iterator
from functools import partial

import jax
import numpy as np

from usss_jax.engine.job import Fit, Job, Pass
from usss_jax.evaluation.evaluate import one_behind
from usss_jax.methods.training import Run
from usss_jax.objectives.losses import pixel_entropy
from usss_jax.runs import logs
from usss_jax.runs.logs import say
from usss_jax.runs.networks import load_best

FILE = "target_statistics.json"


def measured(run: Run, target: str, job: Fit) -> Iterator[Job]:
    """Yield a training, then the pass that measures its network on the target's images, without labels."""
    yield job
    yield statistics_pass(run, target, job.folder)


def statistics_pass(run: Run, target: str, folder: pathlib.Path) -> Pass:
    """Describe the pass that writes FILE of a finished job with a decoder named `target`."""
    return Pass(folder / FILE, partial(write_statistics, run, target, folder))


def write_statistics(run: Run, target: str, folder: pathlib.Path):
    """Write {"images", "mean_entropy", "entropy_of_mean", "mutual_information"} in nats, over all cells."""
    model, variables, _, checkpoint = load_best(folder, run.mesh)

    @jax.jit
    def sums(variables, images):
        features = model.apply(variables, images, method="encode")
        logits = model.apply(variables, features, target, method="decode")
        return jax.nn.softmax(logits, axis=-1).mean((0, 1, 2)), pixel_entropy(logits).mean()

    images = run.pools[target].unlabeled
    found = [
        jax.device_get(pair)
        for pair in one_behind(sums(variables, images[i]["image"][None]) for i in range(len(images)))
    ]
    mean = np.mean([np.asarray(p, np.float64) for p, _ in found], 0)
    entropy = float(np.mean([float(h) for _, h in found]))
    of_mean = float(-(mean * np.log(np.maximum(mean, 1e-300))).sum())
    statistics = {
        "network": checkpoint,
        "images": len(images),
        "mean_entropy": entropy,
        "entropy_of_mean": of_mean,
        "mutual_information": of_mean - entropy,
    }
    logs.write_json(folder / FILE, statistics)
    say(folder.name, f"mutual information on the target's images: {statistics['mutual_information']:.3f} nats")
