"""The fields of the sections of one method each, declared once, and the whole declaration."""

from functools import partial

from usss_jax.config.field import (
    AT_LEAST_1,
    BOOL,
    FILE,
    NOT_NEGATIVE,
    NOTHING,
    PATH,
    POSITIVE,
    POSITIVE_SHARE,
    SHARE,
    Field,
    Range,
    universal,
)
from usss_jax.config.shared import SHARED

imagenet = partial(Field, of="imagenet")

_EMBEDDINGS = Range('"prototypes", "random", "words:FILE" or an .npz file')
_WITH_EMBEDDINGS = ("cross", "full")
_UNSUPERVISED = ("cross", "full", "direct")

FIELDS: dict[str, Field] = {
    **SHARED,
    # ---- usss: label embeddings, then Eq. 5, then what keeps the entropy terms from collapse (docs/collapse.md) ----
    "usss.single_steps": Field(2000, AT_LEAST_1, "steps of the single-domain networks"),
    "usss.single_from": Field(
        "",
        PATH,
        "workdir of another run, whose single-domain networks are used; empty: train them in this one",
        path=True,
        changes=NOTHING,
        sweep="set",
    ),
    "usss.label_embeddings": universal(
        "prototypes", _EMBEDDINGS, "where label embeddings come from", path=True, changes=FILE, makes=_WITH_EMBEDDINGS
    ),
    "usss.embeddings_per_class": universal(
        1,
        AT_LEAST_1,
        "K of a class: by K-means (appendix B.3) for prototypes, or random",
        makes=_WITH_EMBEDDINGS,
    ),
    "usss.embed_dim": universal(128, AT_LEAST_1, "d, the dimension of the embeddings"),
    "usss.alpha": universal(1.0, NOT_NEGATIVE, "weight of the cross term in Eq. 5", makes=_UNSUPERVISED),
    "usss.beta": universal(1.0, NOT_NEGATIVE, "weight of the within term in Eq. 5", makes=("full", "direct")),
    "usss.similarity_scale": universal(
        1.0, POSITIVE, "inverse temperature of the similarities", makes=_WITH_EMBEDDINGS
    ),
    "usss.theta": universal(
        1.0, SHARE, "of Eq. 7, the moving average of the label embeddings; 1: they stay", makes=_WITH_EMBEDDINGS
    ),
    "usss.embedding_supervision": universal(
        0.0, NOT_NEGATIVE, "weight of the cross-entropy of the similarities on labeled images", makes=_WITH_EMBEDDINGS
    ),
    "usss.diversity": universal(
        0.0,
        NOT_NEGATIVE,
        "weight of the entropy of the mean prediction, which is subtracted from the entropy terms",
        makes=_UNSUPERVISED,
    ),
    "usss.normalize_embedding": universal(
        False, BOOL, "whether pixel embeddings have unit length", makes=_WITH_EMBEDDINGS
    ),
    "usss.embedding_lr_scale": universal(
        1.0, POSITIVE, "factor on the learning rate of the entropy module", makes=_WITH_EMBEDDINGS
    ),
    "usss.embedding_bias": universal(
        True, BOOL, "whether the entropy module's linear map has a bias", makes=_WITH_EMBEDDINGS
    ),
    "usss.entropy_warmup": universal(
        0,
        NOT_NEGATIVE,
        "steps over which the weights of the entropy terms rise linearly from 0",
        makes=_UNSUPERVISED,
    ),
    # ---- hung: Hung et al. 2018 ----
    "hung.adversarial": universal(0.01, NOT_NEGATIVE, "weight of the adversarial term on labeled images"),
    "hung.adversarial_unlabeled": universal(0.001, NOT_NEGATIVE, "weight of the adversarial term on unlabeled images"),
    "hung.semi": universal(0.1, NOT_NEGATIVE, "weight of the self-taught term"),
    "hung.threshold": universal(0.2, SHARE, "confidence from which a pixel is self-taught"),
    "hung.semi_start": universal(0.25, SHARE, "share of the steps after which the self-taught term begins"),
    "hung.lr": universal(1e-4, POSITIVE, "learning rate of the discriminator (Adam)"),
    # ---- imagenet ----
    "imagenet.crop": imagenet(224, AT_LEAST_1, "side of the images that the network sees, in pixels"),
    "imagenet.eval_resize": imagenet(
        256, AT_LEAST_1, "shorter side of an evaluated image before its centre is cropped"
    ),
    "imagenet.min_scale": imagenet(0.08, POSITIVE_SHARE, "least share of an image's area that a random crop takes"),
    "imagenet.epochs": imagenet(120.0, POSITIVE, "passes over the training images"),
    "imagenet.decay_epochs": imagenet(30.0, POSITIVE, "epochs after which the learning rate falls"),
    "imagenet.decay": imagenet(0.1, POSITIVE_SHARE, "factor on the learning rate after every `imagenet.decay_epochs`"),
    "imagenet.eval_epochs": imagenet(1.0, POSITIVE, "epochs between evaluations"),
}
