"""Scores of a finished network on the images of a domain."""

import pathlib
from typing import Any

import jax

from usss_jax.data.domains import get_domain
from usss_jax.data.sources import open_source
from usss_jax.errors import InputError
from usss_jax.evaluation import metrics
from usss_jax.evaluation.evaluate import create_evaluator
from usss_jax.inference.predictor import load
from usss_jax.parallel import sharding


def evaluate(
    folder: str | pathlib.Path, domain: str, *, root: str | None = None, split: str | None = None, batch_size: int = 8
) -> dict[str, Any]:
    """Score the best checkpoint of a finished job on a split of a domain: whole images, one confusion matrix.

    Args:
      folder: folder of the job, such as RUN/full.
      domain: name of a built-in domain, or a YAML file; the network needs a decoder of its name and classes.
      root: the domain's folder; None for a synthetic domain.
      split: name of the split; None: the domain's test split.
      batch_size: images per batch.

    Returns:
      {"miou": mean over the classes with labeled pixels, "iou": {class: IoU, or None if absent}, "confusion": int64
      [C, C], rows are labels, "images": their number, "size": [height, width], "split": its name}.

    Raises:
      InputError: if the folder is not a finished job, or the domain or its data does not fit.

    >>> import usss_jax
    >>> scores = usss_jax.evaluate("runs/demo/full", "city_street", batch_size=4)
    >>> scores["split"], 0 <= scores["miou"] <= 1, scores["confusion"].shape == (len(scores["iou"]),) * 2
    ('val', True, True)
    """
    predictor, known = load(folder), get_domain(domain)
    decoder = predictor.domains.get(known.name)
    if decoder is None:
        raise InputError(
            f"domain={domain}: {folder} has no decoder for {known.name}; give one of {', '.join(predictor.domains)}"
        )
    if tuple(decoder["classes"]) != known.class_names:
        raise InputError(
            f"domain={domain}: {folder} was trained with other classes of {known.name}; restore the domain's file"
        )
    split = split or known.test_split
    source = open_source(known, root, split, size=tuple(decoder["size"]))
    mesh = sharding.create_mesh(jax.local_devices()[:1])
    evaluator = create_evaluator(mesh, known.name, model=predictor.model)
    confusion = evaluator(predictor.variables, source, batch_size)
    return {
        "miou": metrics.mean_iou(confusion),
        "iou": dict(zip(known.class_names, metrics.iou(confusion), strict=True)),
        "confusion": confusion,
        "images": len(source),
        "size": list(decoder["size"]),
        "split": split,
    }
