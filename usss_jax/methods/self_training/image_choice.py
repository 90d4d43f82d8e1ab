"""The pass that chooses the images that get pseudo-labels: those that networks predict best (target_images.py)."""

import pathlib
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from usss_jax.data.examples import Examples
from usss_jax.engine.job import Pass
from usss_jax.local_files import write_whole
from usss_jax.methods.self_training.scores import Scorer, load_scorer, progress
from usss_jax.methods.self_training.selection import most_probable
from usss_jax.methods.self_training.settings import Labelling
from usss_jax.methods.self_training.target_images import best, class_balanced_score
from usss_jax.parallel import hosts


def images_pass(
    path: pathlib.Path,
    *,
    networks: Sequence[pathlib.Path],
    decoder: str,
    images: Examples,
    count: int,
    settings: Labelling,
    mesh: Mesh,
) -> Pass:
    """Describe the choice of the `count` images with the highest class-balanced score, as a list of ids in a file.

    Args:
      path: of the file; `chosen` reads it.
      networks, decoder, settings, mesh: as for `labelling.label_images`.
      images: examples; only their "image" is read.
      count: number of images.
    """

    def make():
        scorer, _ = load_scorer(networks, decoder, settings, mesh)
        ids = hosts.from_writer(choose_images, scorer, images, count, f"choice of {count} images")
        if hosts.is_writer():
            write_whole(path, "\n".join(ids) + "\n")

    return Pass(path, make)


def choose_images(scorer: Scorer, images: Examples, count: int, name: str) -> list[str]:
    """Ids of the `count` images with the highest class-balanced score."""
    predict = jax.jit(most_probable)
    found = []
    for i in progress(list(range(len(images))), name):
        q = scorer(images.ids[i], images[i]["image"])
        found.append(class_balanced_score(*map(np.asarray, predict(q))))
    return best(images.ids, found, count)


def chosen(path: pathlib.Path, images: Examples) -> Examples:
    """The images that a finished `images_pass` has chosen."""
    return images.select(hosts.from_writer(path.read_text).splitlines())
