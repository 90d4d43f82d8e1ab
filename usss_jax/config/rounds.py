"""Declarations of the fields of self-training, which several methods have: pseudo-labels and training on them."""

import re

from usss_jax.config.field import (
    AT_LEAST_1,
    BOOL,
    NOT_NEGATIVE,
    NOTHING,
    POSITIVE,
    POSITIVE_SHARE,
    SHARE,
    Field,
    Range,
    one_of,
    universal,
)

_TRAINED = "*_round*/config.json"  # until a round has begun to train, its pseudo-labels can be made again
SECTION = {"rounds": "Pseudo-labels and rounds of self-training"}


def variant_of(job: str) -> str:
    """Name of a job without its round.

    >>> variant_of("sisc_round2"), variant_of("full")
    ('sisc', 'full')
    """
    return re.sub(r"_round\d+$", "", job)


def round_of(job: str) -> int:
    """Round of a job VARIANT_roundR.

    >>> round_of("sisc_round2")
    2
    """
    return int(job.rpartition("_round")[2])


FIELDS: dict[str, Field] = {
    "rounds.count": universal(6, AT_LEAST_1, "number of rounds; each makes pseudo-labels, then trains on them"),
    "rounds.epochs": universal(
        2.0, POSITIVE, "passes over the pseudo-labeled images per round; usss: over those of the domain with most"
    ),
    "rounds.batch_size": universal(2, AT_LEAST_1, "images per step; with `rounds.pairing=summed`, of each kind"),
    "rounds.lr": universal(
        1e-4, POSITIVE, "learning rate of the first round, which falls by sqrt(2) each round", remedy=True
    ),
    "rounds.pairing": universal(
        "shuffled",
        one_of("shuffled", "summed"),
        "batches of images with labels and with pseudo-labels; shuffled: drawn from all of them together; summed: a "
        "batch of each, whose losses are added (Eq. 3 of MLSL)",
    ),
    "rounds.loss": universal(
        "ce",
        one_of("ce", "ohem"),
        "cross-entropy of all labeled pixels, or of those whose label has a probability of at most 0.6 (at least 256)",
    ),
    # ---- Pseudo-labels ----
    "rounds.portion": universal(
        0.15, POSITIVE_SHARE, "share of the pixels of a class that get labels in round 0", fixed_by=_TRAINED
    ),
    "rounds.portion_step": universal(0.05, SHARE, "growth of `rounds.portion` per round", fixed_by=_TRAINED),
    "rounds.portion_max": universal(0.5, POSITIVE_SHARE, "maximal portion", fixed_by=_TRAINED),
    "rounds.sampled": universal(
        "conf",
        one_of("conf", "prob"),
        "values that the portion counts; conf: of the pixels predicted as the class; prob: of all pixels",
    ),
    "rounds.sample_stride": universal(4, AT_LEAST_1, "every so many of these values are sampled"),
    "rounds.flip": universal(True, BOOL, "whether predictions are averaged with those of the mirror image"),
    "rounds.upsample": universal(
        "bicubic",
        one_of("bicubic", "bilinear"),
        "enlargement of the probabilities of cells; bicubic, as in the released code, overshoots beside edges, so that "
        "the most confident pixels lie there",
    ),
    "rounds.label_scale": universal(1.0, POSITIVE, "factor on the size of images whose prediction is not by patches"),
    "rounds.patches": universal(
        50, Range("at least 0; 0: single inference", lambda value: value >= 0), "K, random patches per image (SISC)"
    ),
    "rounds.patch_size": universal(512, AT_LEAST_1, "side of a patch in pixels"),
    "rounds.patch_batch": universal(10, AT_LEAST_1, "patches per call of the network", changes=NOTHING),
    "rounds.full_image": universal(True, BOOL, "whether the whole image votes beside its patches"),
    "rounds.vote": universal(
        "prob", one_of("prob", "onehot"), "whether image and patches vote with probabilities or with their arg max"
    ),
    "rounds.uncovered": universal(
        "ignore",
        one_of("ignore", "full"),
        "pixels in no patch, without `rounds.full_image`: no label, or by the whole image",
    ),
    "rounds.keep_scores": universal(
        True,
        BOOL,
        "whether a pass keeps the scores of all images on disk until it ends (4 bytes per pixel and class), or "
        "computes them three times",
        changes=NOTHING,
    ),
    # ---- Crops around rare classes ----
    "rounds.mine_share": universal(0.8, SHARE, "probability that a crop is centred on a pixel of a rare class"),
    "rounds.mine_classes": universal(3, NOT_NEGATIVE, "number of rare classes"),
    "rounds.mine_below": universal(0.001, SHARE, "classes with a smaller share of the predictions come first"),
}
