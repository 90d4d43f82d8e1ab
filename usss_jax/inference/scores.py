"""Scores of a finished network on the images of a domain: IoU, boundary IoU and calibration of any protocol."""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from usss_jax.data.examples import Source
from usss_jax.errors import InputError
from usss_jax.evaluation import boundary, calibration, metrics
from usss_jax.evaluation.bootstrap import image_confusions
from usss_jax.evaluation.evaluate import one_behind, padded_batches
from usss_jax.inference.classify import Protocol, create_classifier, create_protocol
from usss_jax.inference.predictor import Predictor, load
from usss_jax.inference.targets import Target, find_target, open_images, root_of
from usss_jax.local_files import local_path
from usss_jax.runs.finished import find_job, open_job

THREADS = 4  # to count


def evaluate(
    folder: str | pathlib.Path,
    domain: str,
    *,
    root: str | None = None,
    split: str | None = None,
    batch_size: int | None = None,
    window: int | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
) -> dict[str, Any]:
    """Score the best checkpoint of a finished job on a split of a domain, at the size of the images in training.

    Without `window`, `scales` and `flip`, images are predicted whole and once, as for a run's summary.json.

    Args:
      folder: folder of a job, such as RUN/full, or of a run (see `load`).
      domain: name of a domain of the run or of a built-in one, or a YAML file; the network needs a decoder of its name
        and classes, or one that has all of its classes by name.
      root: the domain's folder; None: as in the run's config.
      split: name of the split; None: the domain's test split.
      batch_size: images per batch; None: `train.eval_batch_size` of the run.
      window: predicts by overlapping windows of this side, in pixels (see `Predictor.predict`).
      scales: factors on the size over which the probabilities are averaged, above 0 and up to 4.
      flip: whether they are averaged with those of the mirrored images, too.

    Returns:
      {"miou": mean over the classes with labeled pixels, "iou": {class: IoU, or None if absent}, "boundary": {"miou",
      "iou", "width": d in pixels} (evaluation/boundary.py), "calibration": {"ece", "bins"}
      (evaluation/calibration.py), "confusion": int64 [C, C], rows are labels, "image_confusions": int64 [N, C, C] of
      the images in order, "images": N, "size": [height, width], "split": its name, "protocol": fields of how images
      were predicted, "decoder", "checkpoint", "seconds", "images_per_second": after the first batch}.

    Raises:
      InputError: if the folder is not a finished job, or the domain, its data or the protocol does not fit.

    >>> import usss_jax
    >>> scores = usss_jax.evaluate("runs/demo/full", "city_street", batch_size=4)
    >>> scores["split"], 0 <= scores["miou"] <= 1, scores["confusion"].shape == (len(scores["iou"]),) * 2
    ('val', True, True)
    """
    job = open_job(find_job(local_path(str(folder), "folder")))
    target, predictor = find_target(job, domain), load(job.folder)
    protocol = create_protocol(predictor, target.domain.size, window, scales, flip)
    split = split or target.domain.test_split
    source = open_images(job, target.domain, split, root or root_of(job, target.domain))
    size = batch_size or job.config.train.eval_batch_size
    return {**score(predictor, target, source, protocol, size), "split": split}


def score(
    predictor: Predictor,
    target: Target,
    source: Source,
    protocol: Protocol,
    batch_size: int,
    step: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Score a network on all images of a source; the result is that of `evaluate` without "split".

    Labels and probabilities of two batches at most are in memory. `step` is called after every image.

    Raises:
      InputError: if the device has too little memory for a batch.
    """
    classify = create_classifier(predictor, target.decoder, target.classes, protocol)
    num_classes, devices = target.domain.num_classes, predictor.mesh.size
    passes = max(protocol.scales) ** 2 * (1 + protocol.flip)  # as much memory as for whole images at scale 1
    count = -(-max(1, int(batch_size / passes)) // devices) * devices
    confusions: list[np.ndarray] = []
    began, first = time.monotonic(), 0.0
    boundaries, calibrations = np.zeros((3, num_classes), np.int64), np.zeros((3, calibration.BINS))

    def of_image(label, prediction, confidence):
        inside = label < num_classes
        return (
            image_confusions([label], [prediction], num_classes),
            boundary.boundary_counts(label, prediction, num_classes),
            calibration.calibration_counts((label == prediction)[inside], confidence[inside]),
        )

    batches = ((batch["label"], classify(batch["image"])) for batch in padded_batches(source, count))
    try:
        with ThreadPoolExecutor(THREADS) as threads:
            for labels, found in one_behind(batches):
                left = len(source) - len(confusions)  # the last batch is filled up
                for one, of_boundary, of_bins in threads.map(of_image, labels[:left], *jax.device_get(found)):
                    confusions.append(one)
                    boundaries += of_boundary
                    calibrations += of_bins
                    step()
                first = first or time.monotonic() - began
    except jax.errors.JaxRuntimeError as e:
        if "RESOURCE_EXHAUSTED" not in str(e):
            raise
        raise InputError(
            f"the device has too little memory for {count} images at once; give a smaller batch_size"
        ) from e
    seconds = time.monotonic() - began
    per_image = np.concatenate(confusions)
    confusion, names = per_image.sum(0), target.domain.class_names
    of_another = f", decoder of {target.decoder}" if target.classes else ""
    near = boundary.boundary_iou(boundaries, confusion.sum(1))
    return {
        "miou": metrics.mean_iou(confusion),
        "iou": dict(zip(names, metrics.iou(confusion), strict=True)),
        "boundary": {
            "miou": metrics.average(near),
            "iou": dict(zip(names, near, strict=True)),
            "width": boundary.boundary_width(protocol.size),
        },
        "calibration": {
            "ece": calibration.expected_calibration_error(calibrations),
            "bins": calibration.reliability(calibrations),
        },
        "confusion": confusion,
        "image_confusions": per_image,
        "images": len(source),
        "size": list(protocol.size),
        "protocol": {**dataclasses.asdict(protocol), "text": f"{protocol}{of_another}"},
        "decoder": target.decoder,
        "checkpoint": predictor.checkpoint,
        "seconds": seconds,
        "images_per_second": (len(source) - count) / (seconds - first) if len(source) > count else None,
    }
