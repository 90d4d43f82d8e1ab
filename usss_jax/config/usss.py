"""Declarations of the fields of USSS, and of its variant hung (Hung et al.)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from usss_jax.config import rounds, teacher
from usss_jax.config.field import (
    AT_LEAST_1,
    BOOL,
    FILE,
    NAMES,
    NOT_NEGATIVE,
    NOTHING,
    PATH,
    POSITIVE,
    SHARE,
    Field,
    Method,
    Range,
    one_of,
    universal,
)
from usss_jax.config.shared import SHARED
from usss_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Variant:
    """What a variant trains.

    Attributes:
      title: in tables.
      per: "run": one network for all domains; "domain": one for each; "pair": one for each (source, target).
      terms: its entropy terms, "cross" (Eq. 3) and "within" (Eq. 4).
      embeddings: whether it can have an entropy module with label embeddings.
      teacher: whether a teacher makes pseudo-labels.
      start: variant whose network labels first, in rounds of pseudo-labels; empty: it has no rounds.
    """

    title: str
    per: str = "run"
    terms: tuple[str, ...] = ()
    embeddings: bool = False
    teacher: bool = False
    start: str = ""


_BOTH = ("cross", "within")
VARIANTS = {
    "single": Variant("single", per="domain"),
    "frozen": Variant("frozen encoder", per="pair"),
    "finetune": Variant("fine-tuned", per="pair"),
    "hung": Variant("Hung et al.", per="domain"),
    "basic": Variant("Univ-basic"),
    "cross": Variant("Univ-cross", terms=("cross",), embeddings=True),
    "full": Variant("Univ-full", terms=_BOTH, embeddings=True),
    "direct": Variant("Direct entropy", terms=_BOTH),
    "teacher": Variant("Univ-basic, teacher", embeddings=True, teacher=True),
    "teacher_own": Variant("Univ-basic, teacher, labeled images only", embeddings=True, teacher=True),
    "teacher_single": Variant("teacher", per="domain", teacher=True),
    "self": Variant("Univ-basic, self-training", start="basic"),
    "self_own": Variant("Univ-basic, self-training, labeled images only", start="basic"),
    "self_full": Variant("Univ-full, self-training", terms=_BOTH, embeddings=True, start="full"),
}
UNIVERSAL = [name for name, variant in VARIANTS.items() if variant.per == "run"]

_EMBEDDINGS = Range('"prototypes", "random", "words:FILE" or an .npz file')
_WITH_EMBEDDINGS = tuple(name for name, variant in VARIANTS.items() if variant.embeddings)
_WITH_CROSS = tuple(name for name, variant in VARIANTS.items() if "cross" in variant.terms)
_WITH_WITHIN = tuple(name for name, variant in VARIANTS.items() if "within" in variant.terms)
_WITH_TEACHER = tuple(name for name, variant in VARIANTS.items() if variant.teacher)
_WITH_ROUNDS = tuple(name for name, variant in VARIANTS.items() if variant.start)
_WITHOUT_HUNG = tuple(name for name in VARIANTS if name != "hung")
# Batches are by train.batch_size, of every domain and kind of labels, and their losses are Eq. 1.
_NO_ROUNDS = ("rounds.batch_size", "rounds.pairing", "rounds.loss")
_ROUNDS: dict[str, dict[str, Any]] = {
    "rounds.count": {"default": 1},
    "rounds.epochs": {
        "default": 0.0,
        "range": NOT_NEGATIVE,
        "meaning": "passes over the pseudo-labeled images of the domain with most, per round; 0: `train.steps` steps",
    },
    "rounds.lr": {"default": 1e-3},
    "rounds.portion": {"default": 0.5},
    "rounds.patches": {"default": 0},
}


def has_rounds(variant: str) -> bool:
    """Whether a variant, or a job of this name, trains further in rounds.

    >>> has_rounds("self"), has_rounds("single_camvid")
    (True, False)
    """
    return variant in VARIANTS and bool(VARIANTS[variant].start)


def last_job(variant: str, count: int) -> str:
    """Last job of a variant that trains one network for all domains, with so many rounds.

    >>> last_job("full", 2), last_job("self", 2)
    ('full', 'self_round1')
    """
    return f"{variant}_round{count - 1}" if has_rounds(variant) else variant


def _of_rounds(name: str, field: Field) -> Field:
    """Field of self-training with the default of USSS; configs set `rounds.lr` as they set `optim.lr`."""
    makes = () if field.is_free or name == "rounds.lr" else _WITH_ROUNDS
    return dataclasses.replace(field, **{"makes": makes, **_ROUNDS.get(name, {})})


def _check(values: Mapping[str, Any]):
    per_class = values["usss.embeddings_per_class"]
    if per_class > 1 and values["usss.theta"] < 1:
        raise InputError(f"usss.embeddings_per_class={per_class} needs usss.theta=1, since Eq. 7 moves class means")


FIELDS: dict[str, Field] = {
    "variants": Field(
        ["single", "basic", "full"],
        NAMES,
        f"variants to train, of {', '.join(VARIANTS)}",
        mixed=True,
        changes=NOTHING,
        sweep="set",
    ),
    # ---- usss: label embeddings, Eq. 5, and options against the collapse of the entropy terms (docs/collapse.md) ----
    "usss.single_steps": Field(2000, AT_LEAST_1, "steps of the single-domain networks"),
    "usss.class_balance": Field(
        0.0,
        SHARE,
        "exponent e of the weights frequency^-e that classes have in the supervised losses; 0: none; not of hung",
        makes=_WITHOUT_HUNG,
    ),
    "usss.single_from": Field(
        "",
        PATH,
        "workdir of another run whose single-domain networks to use; empty: train them",
        path=True,
        changes=NOTHING,
        sweep="set",
    ),
    "usss.label_embeddings": universal(
        "prototypes", _EMBEDDINGS, "source of the label embeddings", path=True, changes=FILE, makes=_WITH_EMBEDDINGS
    ),
    "usss.embeddings_per_class": universal(
        1,
        AT_LEAST_1,
        "K, embeddings per class: random, or prototypes by K-means (appendix B.3)",
        makes=_WITH_EMBEDDINGS,
    ),
    "usss.embed_dim": universal(128, AT_LEAST_1, "d, the dimension of the embeddings"),
    "usss.alpha": universal(1.0, NOT_NEGATIVE, "weight of the cross term in Eq. 5", makes=_WITH_CROSS),
    "usss.beta": universal(1.0, NOT_NEGATIVE, "weight of the within term in Eq. 5", makes=_WITH_WITHIN),
    "usss.similarity_scale": universal(
        1.0, POSITIVE, "inverse temperature of the similarities", makes=_WITH_EMBEDDINGS
    ),
    "usss.theta": universal(
        1.0,
        SHARE,
        "decay of the moving average of the label embeddings (Eq. 7); 1: they stay fixed",
        makes=_WITH_EMBEDDINGS,
    ),
    "usss.embedding_supervision": universal(
        0.0, NOT_NEGATIVE, "weight of the cross-entropy of the similarities on labeled images", makes=_WITH_EMBEDDINGS
    ),
    "usss.diversity": universal(
        0.0,
        NOT_NEGATIVE,
        "weight of the entropy of the mean prediction, subtracted from the entropy terms",
        makes=_WITH_CROSS,
    ),
    "usss.normalize_embedding": universal(
        False, BOOL, "whether to scale pixel embeddings to unit length", makes=_WITH_EMBEDDINGS
    ),
    "usss.embedding_lr_scale": universal(
        1.0, POSITIVE, "factor on the learning rate of the entropy module", makes=_WITH_EMBEDDINGS
    ),
    "usss.embedding_decay_scale": universal(
        1.0, NOT_NEGATIVE, "factor on the weight decay of the entropy module", makes=_WITH_EMBEDDINGS
    ),
    "usss.embedding_bias": universal(
        True, BOOL, "whether the entropy module's linear map has a bias", makes=_WITH_EMBEDDINGS
    ),
    "usss.entropy_warmup": universal(
        0,
        NOT_NEGATIVE,
        "steps over which the weights of the entropy terms rise linearly from 0",
        makes=_WITH_CROSS,
    ),
    # ---- hung: Hung et al. 2018 ----
    "hung.adversarial": universal(0.01, NOT_NEGATIVE, "weight of the adversarial term on labeled images"),
    "hung.adversarial_unlabeled": universal(0.001, NOT_NEGATIVE, "weight of the adversarial term on unlabeled images"),
    "hung.semi": universal(0.1, NOT_NEGATIVE, "weight of the self-taught term"),
    "hung.threshold": universal(0.2, SHARE, "confidence above which a pixel takes part in the self-taught term"),
    "hung.semi_start": universal(0.25, SHARE, "share of the steps before the self-taught term starts"),
    "hung.lr": universal(1e-4, POSITIVE, "learning rate of the discriminator (Adam)", remedy=True),
    # ---- self, self_full ----
    **{name: _of_rounds(name, field) for name, field in rounds.FIELDS.items() if name not in _NO_ROUNDS},
    "rounds.threshold": universal(
        0.0,
        SHARE,
        "confidence from which a pixel gets a label, instead of `rounds.portion`; 0: by the portion",
        fixed_by="*_round*/config.json",
        makes=_WITH_ROUNDS,
    ),
    "rounds.networks": universal(
        "",
        PATH,
        "folders of finished jobs, such as RUN/basic, separated by commas, whose mean prediction labels in round 0; "
        "empty: the network of the variant before its rounds, trained first",
        path=True,
        changes=FILE,
        sweep="set",
    ),
    "rounds.images": universal(
        "all",
        Range('a number, or "all"'),
        "number of unlabeled images that are labeled, those that are predicted with most confidence in every class",
        per_domain=True,
        mixed=True,
        makes=_WITH_ROUNDS,
    ),
    "rounds.start": universal(
        "network",
        one_of("network", "pretrained"),
        "what a round starts from: the network that made its pseudo-labels (the first one), or what other trainings do",
        makes=_WITH_ROUNDS,
    ),
    "rounds.strong": universal(
        False,
        BOOL,
        "whether images with pseudo-labels are seen as the teacher's strong views (`teacher.color_jitter`, `grey`, "
        "`blur`, `mix`); if not, as labeled images are",
        makes=_WITH_ROUNDS,
    ),
    "rounds.pseudo_weight": universal(
        1.0, NOT_NEGATIVE, "weight of the loss of a batch with pseudo-labels", makes=_WITH_ROUNDS
    ),
    "rounds.across_weight": universal(
        0.0,
        NOT_NEGATIVE,
        "weight of the pseudo-labels that the other domains' decoders give the same images, beside "
        "`rounds.pseudo_weight`; 0: they give none",
        makes=_WITH_ROUNDS,
    ),
    # ---- teacher, teacher_own ----
    **{name: dataclasses.replace(field, makes=_WITH_TEACHER) for name, field in teacher.FIELDS.items()},
}

METHOD = Method(
    sections={
        "usss": "Label embeddings and entropy terms of USSS",
        "hung": "Adversarial training of Hung et al. (2018), variant hung",
        **rounds.SECTION,
        **teacher.SECTION,
    },
    own=FIELDS,
    shared=tuple(SHARED),
    tiny={"usss.embed_dim": 8, "usss.single_steps": 2},
    variants=tuple(VARIANTS),
    check=_check,
)
