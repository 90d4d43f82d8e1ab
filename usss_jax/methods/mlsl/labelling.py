"""The labelling pass: pseudo-labels for all images of a domain from a finished network.

First the scores of all images, then thresholds over all of them, then the labels. Every file is written atomically and
depends on its image alone, so that a pass that was interrupted resumes with the files that it lacks.
"""

import dataclasses
import io
import json
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from usss_jax.data.decode import resize_image
from usss_jax.data.domain import Domain
from usss_jax.data.examples import Examples
from usss_jax.data.labels import read_labels
from usss_jax.data.progress import Progress
from usss_jax.data.pseudo_label_files import create_folder, open_folder
from usss_jax.data.pseudo_labels import PseudoLabeled
from usss_jax.errors import InputError
from usss_jax.local_files import read_object, reason, write_whole
from usss_jax.methods.mlsl.patches import Inference, image_probabilities, patch_corners
from usss_jax.methods.mlsl.selection import most_probable, select_labels
from usss_jax.methods.mlsl.spatial_prior import apply_prior
from usss_jax.methods.mlsl.target_images import best, class_balanced_score
from usss_jax.methods.mlsl.thresholds import (
    Thresholds,
    class_thresholds,
    confidence_samples,
    probability_samples,
    rare_classes,
)
from usss_jax.models.universal import UniversalModel
from usss_jax.models.upsample import upsample, upsample_bicubic
from usss_jax.parallel import hosts
from usss_jax.parallel.sharding import batch_sharding, replicated
from usss_jax.runs.logs import say
from usss_jax.runs.networks import load_best

REPORT = "report.json"  # written last: the pass is finished
SCORES = "scores"  # float32 [H, W, C] of each image, until the pass is finished


@dataclasses.dataclass(frozen=True)
class Labelling:
    """How images get pseudo-labels.

    Attributes:
      portion: p, see `class_thresholds`.
      policy: see `class_thresholds`.
      values: "conf" or "prob" (`confidence_samples`, `probability_samples`).
      stride: of these samples.
      patches: K; 0: single inference.
      inference: see `Inference`.
      upsample: "bicubic" or "bilinear", how probabilities of cells are enlarged.
      scale: factor on the image size for single inference.
      seed, round: of the patches.
      rare_count, rare_share: see `rare_classes`.
      keep_scores: whether scores stay on disk during the pass, or are computed again when needed.
    """

    portion: float
    policy: str
    values: str
    stride: int
    patches: int
    inference: Inference
    upsample: str
    scale: float
    seed: int
    round: int
    rare_count: int
    rare_share: float
    keep_scores: bool

    @property
    def about(self) -> dict[str, Any]:
        """What tells the pseudo-labels of a round from those of another round or variant, as JSON."""
        return {"round": self.round, "portion": self.portion, "policy": self.policy, "patches": self.patches}


def labelling(rounds: ConfigDict, *, portion: float, policy: str, patches: bool, seed: int, round: int) -> Labelling:
    """Settings of one round, by the config's section `rounds`; `patches`: whether its `patches` are used."""
    patches = patches and rounds.patches > 0
    inference = Inference(
        patch=rounds.patch_size,
        batch=rounds.patch_batch,
        full_image=rounds.full_image,
        flip=rounds.flip,
        vote=rounds.vote,
        uncovered=rounds.uncovered,
    )
    return Labelling(
        portion=portion,
        policy=policy,
        values=rounds.values,
        stride=rounds.sample_stride,
        patches=rounds.patches if patches else 0,
        inference=inference,
        upsample=rounds.upsample,
        scale=1.0 if patches else rounds.label_scale,
        seed=seed,
        round=round,
        rare_count=rounds.mine_classes,
        rare_share=rounds.mine_below,
        keep_scores=rounds.keep_scores,
    )


@dataclasses.dataclass(frozen=True)
class Scorer:
    """Scores of images by a network.

    Attributes:
      probabilities: of `network_probabilities`.
      settings: see `Labelling`.
      prior: float32 [H, W, C], or None.
    """

    probabilities: Callable
    settings: Labelling
    prior: np.ndarray | None = None

    def __call__(self, key: str, image: np.ndarray) -> np.ndarray:
        """Scores q of an image uint8 [H, W, 3], float32 [H, W, C]; `key` is its id."""
        settings, size = self.settings, image.shape[:2]
        corners = np.zeros((0, 2), np.int32)
        if settings.patches:
            corners = patch_corners(
                size, settings.inference.patch, settings.patches, seed=settings.seed, round=settings.round, image=key
            )
        if settings.scale != 1:
            image = resize_image(image, tuple(max(1, round(side * settings.scale)) for side in size))
        found = image_probabilities(self.probabilities, image, corners, settings.inference)
        if found.shape[:2] != size:
            found = jax.image.resize(found, (*size, found.shape[-1]), "cubic")
        return np.asarray(found if self.prior is None else apply_prior(found, self.prior))


def network_probabilities(
    model: UniversalModel, variables: Mapping, decoder: str, mesh: Mesh, bicubic: bool = True
) -> Callable:
    """Return the jitted function images [B, H, W, 3] -> class probabilities [B, H, W, C] of a network.

    The softmax is that of the cells, enlarged bicubically, so that values may lie slightly outside [0, 1], or by the
    upsampling of the model.
    """

    @jax.jit
    def probabilities(variables, images):
        if images.shape[0] % mesh.size == 0:
            images = jax.lax.with_sharding_constraint(images, batch_sharding(mesh))
        features = model.apply(variables, images, method="encode")
        cells = jax.nn.softmax(model.apply(variables, features, decoder, method="decode"), axis=-1)
        size, stride = images.shape[1:3], model.stride
        found = upsample_bicubic(cells, size, stride) if bicubic else upsample(cells, size, stride, model.upsample)
        return jax.lax.with_sharding_constraint(found, replicated(mesh))

    return partial(probabilities, variables)


def load_scorer(
    network: pathlib.Path, decoder: str, settings: Labelling, mesh: Mesh, prior: np.ndarray | None = None
) -> tuple[Scorer, str]:
    """Load the best checkpoint of a finished job to score images with, and return its name, too.

    Of several processes, each has a scorer on its own first device.
    """
    model, variables, _, checkpoint = load_best(network, mesh)
    if jax.process_count() > 1:
        mesh = Mesh(np.array(jax.local_devices()[:1]), mesh.axis_names)
        variables = jax.device_put(jax.device_get(variables), replicated(mesh))
    return Scorer(
        network_probabilities(model, variables, decoder, mesh, settings.upsample == "bicubic"), settings, prior
    ), checkpoint


def label_images(
    folder: pathlib.Path,
    *,
    network: pathlib.Path,
    decoder: str,
    domain: Domain,
    images: Examples,
    settings: Labelling,
    mesh: Mesh,
    prior: np.ndarray | None = None,
):
    """Write the pseudo-labels of all images, and REPORT when they are complete.

    Args:
      folder: of the pseudo-labels; made by process 0.
      network: folder of the finished job whose best checkpoint labels.
      decoder: name of its decoder, which has the classes of `domain`.
      domain: of the images, at domain.size.
      images: examples; only their "image" is read.
      settings: see `Labelling`.
      mesh: devices.
      prior: spatial prior [H, W, C], or None.

    Raises:
      InputError: if no pixel reaches a threshold, or the folder has pseudo-labels of something else.
    """
    scorer, checkpoint = load_scorer(network, decoder, settings, mesh, prior)
    name = f"{folder.name}, labels"
    say(name, f"{len(images)} images of {domain.name} by {checkpoint}")
    hosts.from_writer(partial(write_labels, folder, scorer, domain, images, settings, checkpoint, name))


def write_labels(
    folder: pathlib.Path,
    scorer: Scorer,
    domain: Domain,
    images: Examples,
    settings: Labelling,
    checkpoint: str,
    name: str,
):
    """Write the pseudo-labels of `label_images` with a scorer; `checkpoint` is its name, `name` that of the pass."""
    known = folder / "thresholds.json"
    scores = _Scores(folder / SCORES if settings.keep_scores else None, scorer, images, domain)
    if not known.exists():
        scores.check_space()
        scores.make(name)
        found = thresholds(scores, settings, domain)
        write_whole(known, json.dumps(describe_thresholds(found, domain), indent=1) + "\n")
    found = read_thresholds(_read(known), domain)
    about = {"network": checkpoint, **settings.about, "thresholds": describe_thresholds(found, domain)["thresholds"]}
    files = create_folder(folder, domain, images.ids, about)
    select = jax.jit(select_labels)
    missing = files.missing(images.ids)
    for key in _progress(missing, f"{name}: selection"):
        label, confidence = select(scores.of(images.ids.index(key)), found.values)
        files.write(key, np.asarray(label), np.asarray(confidence))
    pseudo = PseudoLabeled(images, files)
    labels = read_labels(pseudo, domain.num_classes)
    pixels = labels.counts.sum(0)
    if not pixels.any():
        highest = dict(zip(domain.class_names, scores.highest().tolist(), strict=True))
        raise InputError(
            f"{folder}: no pixel of {len(images)} images reaches a threshold, so there is nothing to train on; "
            f"thresholds are {_by_class(about['thresholds'])}; highest scores are {_by_class(highest)}; "
            "raise rounds.portion"
        )
    rare, priority = rare_classes(found.sizes, settings.rare_count, settings.rare_share)
    total = len(images) * domain.size[0] * domain.size[1]
    share = round(float(pixels.sum() / total), 6)
    report = {
        **about,
        "sizes": dict(zip(domain.class_names, found.sizes.tolist(), strict=True)),
        "labeled": {c: round(float(n / total), 6) for c, n in zip(domain.class_names, pixels, strict=True)},
        "labeled_share": share,
        "images_without_labels": int((labels.counts.sum(1) == 0).sum()),
        "rare": list(rare),
        "priority": list(priority),
        "digest": labels.digest,
    }
    shutil.rmtree(folder / SCORES, ignore_errors=True)  # first: a pass with REPORT never runs again
    write_whole(folder / REPORT, json.dumps(report, indent=1) + "\n")
    say(name, f"{100 * share:.1f} % of the pixels are labeled, at {folder}")


class _Scores:
    """Scores of all images, kept in files or computed when asked for."""

    def __init__(self, folder: pathlib.Path | None, scorer: Scorer, images: Examples, domain: Domain):
        self._folder, self._scorer, self._images, self._domain = folder, scorer, images, domain

    def check_space(self):
        """Raise InputError if the disk has no room for the scores."""
        if self._folder is None:
            return
        height, width = self._domain.size
        missing = sum(not self._path(i).exists() for i in range(len(self._images)))
        needed = missing * height * width * self._domain.num_classes * 4
        self._folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._folder).free
        if needed > free:
            raise InputError(
                f"{self._folder}: the scores of {missing} images need {needed / 1e9:.1f} GB of disk, and "
                f"{free / 1e9:.1f} GB are free; free some, label fewer images (data.unlabeled_list), or set "
                "rounds.keep_scores=False"
            )

    def make(self, name: str):
        """Compute and keep the scores that are not kept yet."""
        if self._folder is None:
            return
        for i in _progress([i for i in range(len(self._images)) if not self._path(i).exists()], f"{name}: scores"):
            content = io.BytesIO()
            np.save(content, self._compute(i))
            write_whole(self._path(i), content.getvalue())

    def of(self, index: int) -> np.ndarray:
        """Scores of an image, float32 [H, W, C]."""
        if self._folder is not None and self._path(index).exists():
            return np.load(self._path(index), allow_pickle=False)
        return self._compute(index)

    def highest(self) -> np.ndarray:
        """Highest score of every class in all images, [C]."""
        return np.max([scores.max((0, 1)) for scores in self], 0)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.of(i) for i in range(len(self._images)))

    def _path(self, index: int) -> pathlib.Path:
        assert self._folder is not None
        return self._folder / f"{self._images.ids[index]}.npy"

    def _compute(self, index: int) -> np.ndarray:
        return self._scorer(self._images.ids[index], self._images[index]["image"])


def thresholds(scores: Iterable[np.ndarray], settings: Labelling, domain: Domain) -> Thresholds:
    """Thresholds of all classes over the scores of all images, which are iterated over twice."""
    predict = jax.jit(most_probable)

    def samples():
        for q in scores:
            if settings.values == "prob":
                yield probability_samples(q, settings.stride)
            else:
                classes, confidences = map(np.asarray, predict(q))
                yield confidence_samples(classes, confidences, domain.num_classes, settings.stride)

    try:
        return class_thresholds(samples, domain.num_classes, settings.portion, settings.policy)
    except ValueError as error:
        raise InputError(f"pseudo-labels of {domain.name}: {error}") from error


def describe_thresholds(found: Thresholds, domain: Domain) -> dict[str, Any]:
    """Thresholds as JSON, by class; None for infinity."""
    values = [float(v) if np.isfinite(v) else None for v in found.values]
    return {
        "thresholds": dict(zip(domain.class_names, values, strict=True)),
        "sizes": dict(zip(domain.class_names, found.sizes.tolist(), strict=True)),
    }


def read_thresholds(content: Mapping[str, Any], domain: Domain) -> Thresholds:
    """Invert `describe_thresholds`."""
    values = [content["thresholds"][c] for c in domain.class_names]
    sizes = [content["sizes"][c] for c in domain.class_names]
    return Thresholds(np.array([np.inf if v is None else v for v in values], np.float32), np.array(sizes, np.int64))


def choose_images(scorer: Scorer, images: Examples, count: int, name: str) -> list[str]:
    """Ids of the `count` images with the highest class-balanced score (target_images.py)."""
    predict = jax.jit(most_probable)
    found = []
    for i in _progress(list(range(len(images))), name):
        q = scorer(images.ids[i], images[i]["image"])
        found.append(class_balanced_score(*map(np.asarray, predict(q))))
    return best(images.ids, found, count)


def open_labels(
    folder: pathlib.Path, domain: Domain, images: Examples, settings: Labelling
) -> tuple[PseudoLabeled, dict[str, Any]]:
    """Open finished pseudo-labels, and their report.

    Raises:
      InputError: if they are of other images, classes or settings, are damaged, or have changed since they were made.
    """
    report = hosts.from_writer(_read, folder / REPORT)
    if other := [name for name, value in settings.about.items() if report.get(name) != value]:
        what = ", ".join(f"{name} was {report.get(name)}, is now {settings.about[name]}" for name in other)
        raise InputError(f"{folder} has other pseudo-labels: {what}; remove the folder to make them again")
    pseudo = PseudoLabeled(images, open_folder(folder, domain, images.ids))
    digest = read_labels(pseudo, domain.num_classes).digest
    if digest != report["digest"]:
        raise InputError(
            f"{folder}: the labels have changed since they were made; remove the folder to make them again"
        )
    return pseudo, report


def reopen_if_damaged(folder: pathlib.Path, domain: Domain, images: Examples):
    """Remove REPORT if pseudo-labels are absent or unreadable, and print how many, so that the pass makes them again.

    Raises:
      InputError: if the folder has pseudo-labels of other images, classes or sizes.
    """
    if not (folder / REPORT).exists():
        return
    if bad := open_folder(folder, domain, images.ids).missing(images.ids):
        print(f"{folder}: {len(bad)} of {len(images)} pseudo-labels are damaged or absent: made again", flush=True)
        (folder / REPORT).unlink()


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({reason(error)}); remove {path.parent} to make these pseudo-labels again"
        ) from error


def _by_class(values: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {'none' if value is None else f'{value:.3f}'}" for name, value in values.items())


def _progress(items: list, what: str) -> Iterator:
    progress = Progress()
    try:
        step = progress.start(what, len(items), 0) if items else lambda: None
        for item in items:
            yield item
            step()
    finally:
        progress.close()
