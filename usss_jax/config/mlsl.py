"""Declarations of the fields of MLSL: self-training from a labeled source to a target without labels, and baselines."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

from usss_jax.config import rounds
from usss_jax.config.field import (
    BOOL,
    FILE,
    NAMES,
    NOT_NEGATIVE,
    NOTHING,
    PATH,
    POSITIVE,
    POSITIVE_SHARE,
    SHARE,
    Field,
    Method,
    Range,
    one_of,
)
from usss_jax.config.shared import SHARED
from usss_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Variant:
    """What a variant trains.

    Attributes:
      title: in tables.
      rounds: whether it has rounds of pseudo-labels (methods/mlsl/rounds.py), which the other attributes describe.
      policy: of the thresholds, see `class_thresholds`.
      patches: whether scores come from patches (SISC).
      prior: whether scores are multiplied by the spatial prior; None: as `mlsl.prior` says.
      image_labels: whether training has the image-level loss (PWL).
    """

    title: str
    rounds: bool = False
    policy: str = "cb"
    patches: bool = False
    prior: bool | None = False
    image_labels: bool = False


_rounds = partial(Variant, rounds=True)
VARIANTS = {
    "source": Variant("source only"),
    "minent": Variant("MinEnt"),
    "minent_prior": Variant("MinEnt, class-ratio prior"),
    "adversarial": Variant("adversarial"),
    "st": _rounds("ST", policy="global"),
    "cbst": _rounds("CBST"),
    "cbst_sp": _rounds("CBST-SP", prior=True),
    "cbst_pwl": _rounds("CBST + PWL", image_labels=True),
    "sisc": _rounds("SISC", patches=True, prior=None),
    "sisc_pwl": _rounds("SISC + PWL", patches=True, prior=None, image_labels=True),
    "oracle": Variant("oracle (trained on the target's labels)"),
}
# Variants by the name of their job or its part before the round: also of the job that trains the image-level head with
# the source, for the variants that start from it.
JOBS = {
    "source": VARIANTS["source"],
    "source_pwl": Variant("source only, with image-level head", image_labels=True),
    **VARIANTS,
}
WITH_IMAGE_LABELS = tuple(name for name, variant in VARIANTS.items() if variant.image_labels)

# Only the unlabeled images of the target are used, which has no labels, in one batch per step.
_NOT_SHARED = ("train.unlabeled_batches", "data.unlabeled_includes_labeled")


def _check(values: Mapping[str, Any]):
    domains, target = values["data.domains"], values["mlsl.target"]
    if len(domains) != 2:
        raise InputError(f"data.domains={list(domains)}: method=mlsl takes two domains, a source and a target")
    if not target:
        raise InputError(f"mlsl.target is empty: give the domain without labels, one of {', '.join(domains)}")
    if values["data.mix"] != "none" and {*WITH_IMAGE_LABELS} & {*values["variants"]}:
        raise InputError(f"data.mix: image-level labels ({', '.join(WITH_IMAGE_LABELS)}) need data.mix=none")


FIELDS: dict[str, Field] = {
    "variants": Field(
        ["source", "sisc_pwl"],
        NAMES,
        f"networks to train, of {', '.join(VARIANTS)} (docs/mlsl.md)",
        mixed=True,
        changes=NOTHING,
        sweep="set",
    ),
    "mlsl.target": Field(
        "cityscapes", Range("one of `data.domains`"), "the domain whose labels are not used for training"
    ),
    "mlsl.target_images": Field(
        0, NOT_NEGATIVE, "number of target images to label, those with the highest class-balanced score; 0: all"
    ),
    "mlsl.source_from": Field(
        "",
        PATH,
        "folder of a finished network to start the rounds from, such as RUN/source; empty: train it",
        path=True,
        changes=FILE,
        sweep="set",
    ),
    "mlsl.loss_at": Field(
        "pixels",
        one_of("pixels", "cells"),
        "where the loss is; cells: at the stride of the network, with the label of a cell's middle pixel",
    ),
    "mlsl.without": Field(
        "", Range("names of classes, or empty"), "classes left out of a second mean IoU of the target", changes=NOTHING
    ),
    # ---- Rounds ----
    "mlsl.source_portion": Field(0.03, POSITIVE_SHARE, "share of the source images in the training of round 0"),
    "mlsl.source_step": Field(0.0025, SHARE, "growth of `mlsl.source_portion` per round"),
    "mlsl.source_max": Field(0.06, POSITIVE_SHARE, "maximal share of the source images"),
    "mlsl.source_policy": Field(
        "cumulative",
        one_of("cumulative", "random"),
        "cumulative: a round has the source images of the rounds before; random: others each round",
    ),
    "mlsl.prior": Field(False, BOOL, "whether sisc and sisc_pwl use the spatial prior, as cbst_sp"),
    "mlsl.prior_sigma": Field(
        20.0, POSITIVE, "standard deviation of the Gaussian that smooths the spatial prior, in pixels of the target"
    ),
    # ---- Image-level labels (PWL) ----
    "mlsl.image_weight": Field(
        0.025, NOT_NEGATIVE, "lambda, weight of the image-level loss (Eq. 6)", makes=WITH_IMAGE_LABELS
    ),
    "mlsl.eta": Field(
        0.05,
        NOT_NEGATIVE,
        "share of its mean size in the source that makes a class present",
        makes=WITH_IMAGE_LABELS,
    ),
    "mlsl.image_scope": Field(
        "crop", one_of("crop", "image"), "whether image-level labels are of the crop or of the whole image"
    ),
    "mlsl.source_rule": Field(
        "presence",
        one_of("presence", "threshold"),
        "image-level labels of the source: any pixel, or the same threshold as for the target",
    ),
    "mlsl.image_head": Field(
        "every_relu",
        one_of("every_relu", "first_relu"),
        "image-level head with a ReLU after each layer but the last (paper), or after the first (released code)",
    ),
    "mlsl.image_head_width": Field(1.0, POSITIVE, "factor on the channels of the image-level head"),
    "mlsl.image_head_start": Field(
        "source",
        one_of("source", "random"),
        "start of the image-level head in round 0; source: trained with the source network (source_pwl)",
    ),
    # ---- Baselines ----
    "mlsl.entropy_weight": Field(0.001, NOT_NEGATIVE, "weight of the entropy on the target (minent)"),
    "mlsl.class_ratio_weight": Field(0.001, NOT_NEGATIVE, "weight of the class-ratio term (minent_prior)"),
    "mlsl.class_ratio_mu": Field(0.5, SHARE, "share of the source's class ratios that the target must reach"),
    "mlsl.adversarial_weight": Field(0.001, NOT_NEGATIVE, "weight of the adversarial term on the target"),
    "mlsl.adversarial_input": Field(
        "probabilities",
        one_of("probabilities", "information"),
        "what the discriminator sees: probabilities p (AdaptSegNet), or -p log p (AdvEnt)",
    ),
    "mlsl.discriminator_lr": Field(1e-4, POSITIVE, "learning rate of the discriminator (Adam)", remedy=True),
    "mlsl.discriminator_width": Field(1.0, POSITIVE, "factor on the channels of the discriminator"),
    **rounds.FIELDS,
}

METHOD = Method(
    sections={
        "mlsl": "Self-training from a source to a target (MLSL), and its baselines",
        **rounds.SECTION,
    },
    own=FIELDS,
    shared=tuple(name for name in SHARED if name not in _NOT_SHARED),
    defaults={"data.domains": ["gta5", "cityscapes"], "data.labeled_per_domain": "gta5=all,cityscapes=0"},
    tiny={
        "rounds.count": 2,
        "rounds.epochs": 0.01,
        "rounds.batch_size": 2,
        "rounds.patches": 2,
        "rounds.patch_size": 32,
        "rounds.patch_batch": 2,
        "mlsl.image_head_width": 0.01,
        "mlsl.image_head_start": "random",
        "mlsl.discriminator_width": 0.0625,
        "mlsl.prior_sigma": 4.0,
        "mlsl.source_portion": 1.0,
        "mlsl.source_max": 1.0,
    },
    variants=tuple(VARIANTS),
    check=_check,
)
