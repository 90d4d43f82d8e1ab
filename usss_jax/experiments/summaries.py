"""What a summary says."""

import pathlib
from collections.abc import Mapping
from typing import Any

from usss_jax.config import flat
from usss_jax.experiments.rows import ONE_DOMAIN


def kind(job: str) -> str:
    """Return the kind of a job: one of ONE_DOMAIN, or "universal".

    >>> kind("frozen_cityscapes_camvid"), kind("full")
    ('frozen', 'universal')
    """
    return next((word for word in ONE_DOMAIN if job.startswith(f"{word}_")), "universal")


def value(summary: Mapping, name: str) -> Any:
    """Return a config field of a summary by its dotted name; None if the summary lacks it.

    >>> value({"config": {"train": {"seed": 1}}}, "train.seed")
    1
    """
    return flat(summary["config"]).get(name)


def method_of(summary: Mapping) -> str:
    """Return the method of a summary.

    >>> method_of({"config": {"method": "mlsl"}})
    'mlsl'
    """
    return value(summary, "method") or "usss"


def labeled(summary: Mapping) -> int:
    """Return the largest number of labeled images of a domain in a summary.

    >>> labeled({"domains": {"camvid": {"images": {"labeled": 50}}, "idd": {"images": {"labeled": 0}}}})
    50
    """
    return max(about["images"]["labeled"] for about in summary["domains"].values())


def all_domains(summary: Mapping) -> dict[str, Any]:
    """Return what a summary says of every domain, also of those without labels."""
    return {**summary["domains"], **summary.get("without_labels", {})}


def weights(summary: Mapping) -> str:
    """Return the file of the encoder's initial weights with its folder, since names alone repeat; "" for none.

    >>> weights({"config": {"model": {"pretrained": "runs/imagenet/encoder.safetensors"}}})
    'imagenet/encoder.safetensors'
    """
    return "/".join(pathlib.Path(value(summary, "model.pretrained") or "").parts[-2:])
