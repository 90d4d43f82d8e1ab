"""The labelling pass: pseudo-labels for all images of a domain from a finished network.

First the scores of all images, then thresholds over all of them, then the labels. A fixed threshold needs the scores
only once, and they are not kept. Every file is written atomically and
depends on its image alone, so that a pass that was interrupted resumes with the files that it lacks.
"""

import pathlib
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from usss_jax.data.domain import Domain
from usss_jax.data.examples import Examples
from usss_jax.data.labels import read_labels
from usss_jax.data.pools import Pools
from usss_jax.data.pseudo_label_files import CONFIDENCES, LABELS, MANIFEST, create_folder, open_folder, read_manifest
from usss_jax.data.pseudo_labels import PseudoLabeled
from usss_jax.engine.job import Pass
from usss_jax.errors import InputError
from usss_jax.local_files import read_object, reason, write_object
from usss_jax.methods.self_training.scores import KeptScores, Scorer, load_scorer, progress
from usss_jax.methods.self_training.selection import most_probable, select_labels
from usss_jax.methods.self_training.settings import Labelling
from usss_jax.methods.self_training.thresholds import (
    Thresholds,
    class_thresholds,
    confidence_samples,
    probability_samples,
    rare_classes,
)
from usss_jax.parallel import hosts
from usss_jax.runs.logs import say
from usss_jax.runs.networks import best_name

SUMMARY = "summary.json"  # written last: the pass is finished
THRESHOLDS = "thresholds.json"
AMOUNTS = ("portion", "threshold")  # settings of how many pixels have a label
SCORES = "scores"  # float32 [H, W, C] of each image, until the pass is finished


def labels_pass(
    folder: pathlib.Path,
    fit_folder: pathlib.Path,
    *,
    domain: Domain,
    images: Examples,
    settings: Labelling,
    **arguments,
) -> Pass:
    """Describe the pass of `label_images`; it makes damaged labels and those of another portion again.

    Args:
      folder: of the pseudo-labels.
      fit_folder: of the training that uses them. Once it has begun, their portion does not change; once it has ended,
        they are left as they are.
      domain, images, settings, arguments: of `label_images`.
    """
    if not hosts.from_writer((fit_folder / "config.json").exists):
        hosts.from_writer(remove_other_portion, folder, settings)
    if not hosts.from_writer((fit_folder / "summary.json").exists):
        hosts.from_writer(reopen_if_damaged, folder, domain, images)
    return Pass(
        folder / SUMMARY, partial(label_images, folder, domain=domain, images=images, settings=settings, **arguments)
    )


def label_images(
    folder: pathlib.Path,
    *,
    networks: Sequence[pathlib.Path],
    decoder: str,
    domain: Domain,
    images: Examples,
    settings: Labelling,
    mesh: Mesh,
):
    """Write the pseudo-labels of all images, and SUMMARY when they are complete.

    Args:
      folder: of the pseudo-labels; made by process 0.
      networks: folders of finished jobs; the mean of their best checkpoints labels.
      decoder: name of their decoder, which has the classes of `domain`.
      domain: of the images, at domain.size.
      images: examples; only their "image" is read.
      settings: see `Labelling`.
      mesh: devices.

    Raises:
      InputError: if no pixel reaches a threshold, or the folder has pseudo-labels of something else.
    """
    scorer, checkpoint = load_scorer(networks, decoder, settings, mesh)
    name = f"{folder.name}, labels"
    say(name, f"{len(images)} images with classes of {domain.name} by {checkpoint}")
    if settings.never:
        never = ", ".join(domain.class_names[c] for c in settings.never)
        say(name, f"no label of {never}: no labeled image has a pixel of that class")
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
    kept = folder / SCORES if settings.keep_scores and not settings.threshold else None
    scores = KeptScores(kept, scorer, images, domain)
    found = known_thresholds(folder, scores, settings, domain, name)
    about = {"network": checkpoint, **settings.about, "thresholds": describe_thresholds(found, domain)["thresholds"]}
    files = create_folder(folder, domain, images.ids, about)
    select = jax.jit(select_labels)
    for key in progress(files.missing(images.ids), f"{name}: selection"):
        label, confidence = select(scores.of(images.ids.index(key)), found.values)
        files.write(key, np.asarray(label), np.asarray(confidence))
    labels = read_labels(PseudoLabeled(images, files), domain.num_classes)
    pixels = labels.counts.sum(0)
    if not pixels.any():
        highest = dict(zip(domain.class_names, scores.highest().tolist(), strict=True))
        raise InputError(
            f"{folder}: no pixel of {len(images)} images reaches a threshold, so there is nothing to train on; "
            f"thresholds are {_by_class(about['thresholds'])}; highest scores are {_by_class(highest)}; "
            f"{'lower rounds.threshold' if settings.threshold else 'raise rounds.portion'}"
        )
    sizes = pixels if settings.threshold else found.sizes
    rare, priority = rare_classes(sizes, settings.rare_count, settings.rare_share)
    total = len(images) * domain.size[0] * domain.size[1]
    share = round(float(pixels.sum() / total), 6)
    summary = {
        **about,
        "sizes": dict(zip(domain.class_names, sizes.tolist(), strict=True)),
        "labeled": {c: round(float(n / total), 6) for c, n in zip(domain.class_names, pixels, strict=True)},
        "labeled_share": share,
        "images_without_labels": int((labels.counts.sum(1) == 0).sum()),
        "rare": list(rare),
        "priority": list(priority),
        "digest": labels.digest,
    }
    shutil.rmtree(folder / SCORES, ignore_errors=True)  # first: a pass with SUMMARY never runs again
    write_object(folder / SUMMARY, summary)
    say(name, f"{100 * share:.1f} % of the pixels are labeled, at {folder}")


def known_thresholds(
    folder: pathlib.Path, scores: KeptScores, settings: Labelling, domain: Domain, name: str
) -> Thresholds:
    """The thresholds of a pass: fixed ones, or those of all scores, which a pass that resumes has kept in a file."""
    if settings.threshold:
        values = np.full(domain.num_classes, settings.threshold, np.float32)
        values[list(settings.never)] = np.inf
        return Thresholds(values, np.zeros(domain.num_classes, np.int64))
    path = folder / THRESHOLDS
    if not path.exists():
        scores.check_space()
        scores.make(name)
        found = thresholds(scores, settings, domain)
        write_object(path, describe_thresholds(found, domain))
    return read_thresholds(_read(path), domain)


def thresholds(scores: Iterable[np.ndarray], settings: Labelling, domain: Domain) -> Thresholds:
    """Thresholds of all classes over the scores of all images, which are iterated over twice."""
    predict = jax.jit(most_probable)

    def samples():
        for q in scores:
            if settings.sampled == "prob":
                yield probability_samples(q, settings.stride)
            else:
                classes, confidences = map(np.asarray, predict(q))
                yield confidence_samples(classes, confidences, domain.num_classes, settings.stride)

    try:
        found = class_thresholds(samples, domain.num_classes, settings.portion, settings.policy)
    except ValueError as error:
        raise InputError(f"pseudo-labels of {domain.name}: {error}") from error
    found.values[list(settings.never)] = np.inf
    return found


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


def open_labels(
    folder: pathlib.Path, pool: Pools, images: Examples, settings: Labelling, networks: Sequence[pathlib.Path]
) -> tuple[PseudoLabeled, dict[str, Any]]:
    """Open finished pseudo-labels of some images of a domain, and their summary; the labels share its memory.

    Args:
      folder: of the pseudo-labels.
      pool, images: the domain and its images.
      settings, networks: how, and by which networks, they should have been made.

    Raises:
      InputError: if they are of other images, classes or settings, are damaged, or have changed since they were made.
    """
    summary = hosts.from_writer(_read, folder / SUMMARY)
    now = {"network": hosts.from_writer(lambda: ", ".join(map(best_name, networks))), **settings.about}
    if other := [name for name, value in now.items() if summary.get(name) != value]:
        what = ", ".join(f"{name} was {summary.get(name)}, is now {now[name]}" for name in other)
        raise InputError(f"{folder} has other pseudo-labels: {what}; remove the folder to make them again")
    pseudo = PseudoLabeled(images, open_folder(folder, pool.domain, images.ids), pool.budget)
    digest = read_labels(pseudo, pool.domain.num_classes).digest
    if digest != summary["digest"]:
        raise InputError(
            f"{folder}: the labels have changed since they were made; remove the folder to make them again"
        )
    return pseudo, summary


def remove_other_portion(folder: pathlib.Path, settings: Labelling):
    """Remove pseudo-labels that differ from `settings` only in how many pixels have one; kept scores stay."""
    if not (folder / MANIFEST).exists():
        (folder / THRESHOLDS).unlink(missing_ok=True)  # of an unknown portion
        return
    made, now = read_manifest(folder)["settings"], settings.about
    other = {name for name in (*AMOUNTS, *now) if made.get(name) != now.get(name)}
    if other and other <= {*AMOUNTS}:
        texts = (", ".join(f"{name} {of[name]}" for name in AMOUNTS if name in of) for of in (made, now))
        print(f"{folder}: made with {next(texts)}, now {next(texts)}: made again", flush=True)
        (folder / SUMMARY).unlink(missing_ok=True)
        for kind in (LABELS, CONFIDENCES):
            shutil.rmtree(folder / kind, ignore_errors=True)
        (folder / THRESHOLDS).unlink(missing_ok=True)
        (folder / MANIFEST).unlink()


def reopen_if_damaged(folder: pathlib.Path, domain: Domain, images: Examples):
    """Remove SUMMARY if pseudo-labels are absent or unreadable, and print how many, so that the pass makes them again.

    Raises:
      InputError: if the folder has pseudo-labels of other images, classes or sizes.
    """
    if not (folder / SUMMARY).exists():
        return
    if bad := open_folder(folder, domain, images.ids).missing(images.ids):
        print(f"{folder}: {len(bad)} of {len(images)} pseudo-labels are damaged or absent: made again", flush=True)
        (folder / SUMMARY).unlink()


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({reason(error)}); remove {path.parent} to make these pseudo-labels again"
        ) from error


def _by_class(values: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {'none' if value is None else f'{value:.3f}'}" for name, value in values.items())
