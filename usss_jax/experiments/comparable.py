"""What all summaries of an experiment must share."""

import pathlib
from collections.abc import Mapping
from typing import Any

from usss_jax.config import fields, flat
from usss_jax.config.field import Changes
from usss_jax.config.rounds import variant_of
from usss_jax.config.shared import SHARED
from usss_jax.config.usss import has_rounds
from usss_jax.errors import InputError
from usss_jax.experiments.found import Found
from usss_jax.experiments.naming import changed_fields
from usss_jax.experiments.rows import SAME_ENCODER
from usss_jax.experiments.summaries import all_domains, kind, weights

BY_VARIANT = ("rounds.batch_size", "rounds.label_scale")  # which the configs of MLSL set for some variants


def check_comparable(found: Found):
    """Raise InputError, naming two files, if summaries differ in what all rows of a table must share."""
    seen: dict[tuple, tuple[Any, pathlib.Path]] = {}
    for job, path, summary in found.all():
        if found.experiment.method == "mlsl":
            shared = comparable_of_mlsl(job, summary)
        else:
            shared = comparable(job, summary, found.experiment.splits_by_seed)
        for key, mine in shared.items():
            other, where = seen.setdefault(key, (mine, path))
            if other != mine:
                what = " of ".join(map(str, key))
                raise InputError(
                    f"{where} and {path} are not comparable: {what} is {other} and {mine}; show one of them alone"
                )


def comparable(job: str, summary: Mapping, splits_by_seed: bool = False) -> dict[tuple, Any]:
    """Return what all summaries of an experiment must share, by keys such as ("steps", "universal").

    With `splits_by_seed`, only those of one seed share their labeled images.
    """
    of_kind = kind(job)
    trained = tuple(sorted(summary["domains"]))
    if of_kind == "finetune":  # also evaluated on the domain of pretraining
        trained = tuple(d for d in trained for e in trained if job == f"finetune_{e}_{d}")
    given, overrides = flat(summary["config"]), summary.get("row", {}).get("overrides", {})
    of_seed = (f"seed {given['train.seed']}",) if splits_by_seed else ()
    values: dict[tuple, Any] = {("model.pretrained",): weights(summary)}
    if "train.steps" not in overrides and not has_rounds(
        variant_of(summary["job"])
    ):  # the steps of a round are by rounds.epochs
        values["steps", of_kind] = summary["steps"]
    if "data.labeled_per_domain" not in overrides:
        values["split_hash", " and ".join(trained), *of_seed] = summary["split_hash"]
    if summary.get("unlabeled_hash") and summary["job"] != "teacher_own":  # whose pool is the labeled images
        values["unlabeled_hash", " and ".join(trained)] = summary["unlabeled_hash"]
    for name, field in SHARED.items():
        # A row may differ in what defines it, the networks of one domain in what they do not depend on.
        matters = field.changes is Changes.NUMBERS and (field.singles or of_kind == "universal")
        if matters and name not in ("train.seed", *overrides):
            values[name,] = given.get(name, field.default)
    encoder = values["model.encoder",]
    values["model.encoder",] = SAME_ENCODER.get(encoder, encoder)
    if values["model.encoder",].startswith("drn_") and values.get(("data.normalize",)) == "encoder":
        values["data.normalize",] = "imagenet"  # the same for these encoders
    for domain, about in summary["domains"].items():
        values["image size", domain] = about.get("image_size")
        values["split", domain] = about.get("split")
    return values


def comparable_of_mlsl(job: str, summary: Mapping) -> dict[tuple, Any]:
    """Return what all summaries of an experiment of MLSL must share: most fields, and the steps of every row."""
    given, overrides = flat(summary["config"]), summary.get("row", {}).get("overrides", {})
    values: dict[tuple, Any] = {("steps", job): summary["steps"], ("model.pretrained",): weights(summary)}
    if "rounds" not in summary:  # whose source images are by the seed
        values["split_hash", job] = summary["split_hash"]
    for name, field in fields("mlsl").items():
        if field.changes is Changes.NUMBERS and name not in ("train.seed", *overrides, *changed_fields(summary)):
            values[(name, job) if name in BY_VARIANT else (name,)] = given.get(name, field.default)
    for domain, about in all_domains(summary).items():
        values["image size", domain] = about.get("image_size")
        values["split", domain] = about.get("split")
    return values
