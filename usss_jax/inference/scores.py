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
      folder: of the job, such as RUN/full.
      domain: name of a built-in domain, or a YAML file; the network has a decoder of its name and classes.
      root: the domain's folder; None for a drawn domain.
      split: None: the one that the domain is tested on.
      batch_size: images at a time.

    Returns:
      {"miou": mean over the classes that the split has, "iou": {class: IoU, or None if absent}, "confusion": int64
      [C, C], rows are labels, "images": their number, "size": [height, width], "split": its name}.

    Raises:
      InputError: for a folder, domain or data that cannot be used.

    >>> import usss_jax
    >>> scores = usss_jax.evaluate("runs/demo/full", "city_street", batch_size=4)
    >>> scores["split"], 0 <= scores["miou"] <= 1, scores["confusion"].shape == (len(scores["iou"]),) * 2
    ('val', True, True)
    """
    predictor, of = load(folder), get_domain(domain)
    decoder = predictor.domains.get(of.name)
    if decoder is None:
        raise InputError(f"{folder} has decoders for {', '.join(predictor.domains)}, none for {of.name}; give one")
    if tuple(decoder["classes"]) != of.class_names:
        raise InputError(f"{folder} was trained with other classes of {of.name} than {domain} has; restore its file")
    split = split or of.test_split
    source = open_source(of, root, split, size=tuple(decoder["size"]))
    mesh = sharding.create_mesh(jax.local_devices()[:1])
    confusion = create_evaluator(mesh, of.name, of.num_classes, model=predictor.model)(
        predictor.variables, source, batch_size
    )
    return {
        "miou": metrics.mean_iou(confusion),
        "iou": dict(zip(of.class_names, metrics.iou(confusion), strict=True)),
        "confusion": confusion,
        "images": len(source),
        "size": list(decoder["size"]),
        "split": split,
    }
