"""Declarations of the fields of ImageNet pretraining."""

from collections.abc import Mapping
from typing import Any

from usss_jax.config.field import AT_LEAST_1, POSITIVE, POSITIVE_SHARE, Field, Method
from usss_jax.errors import InputError


def _check(values: Mapping[str, Any]):
    crop, resize = values["imagenet.crop"], values["imagenet.eval_resize"]
    if crop > resize:
        raise InputError(
            f"imagenet.crop={crop} must be at most imagenet.eval_resize={resize}, since it is a crop of that"
        )
    if not values["data.root"]:
        raise InputError(
            "data.root is empty: give --config.data.root=DIR with train/CLASS/IMAGE and val/CLASS/IMAGE, or tfds:DIR"
        )


FIELDS: dict[str, Field] = {
    "imagenet.crop": Field(224, AT_LEAST_1, "side of the network's square input, in pixels"),
    "imagenet.eval_resize": Field(256, AT_LEAST_1, "shorter side of an evaluated image before the centre crop"),
    "imagenet.min_scale": Field(0.08, POSITIVE_SHARE, "minimal share of the image's area in a random crop"),
    "imagenet.epochs": Field(120.0, POSITIVE, "passes over the training images"),
    "imagenet.decay_epochs": Field(30.0, POSITIVE, "epochs between decays of the learning rate"),
    "imagenet.decay": Field(0.1, POSITIVE_SHARE, "factor on the learning rate after every `imagenet.decay_epochs`"),
    "imagenet.eval_epochs": Field(1.0, POSITIVE, "epochs between evaluations"),
}

METHOD = Method(
    sections={"imagenet": "ImageNet pretraining of the encoder"},
    own=FIELDS,
    shared=(
        "method",
        "data.root",
        "data.on_bad_example",
        "data.loader_threads",
        "data.flip",
        "data.color_jitter",
        "data.normalize",
        "model.encoder",
        "model.width",
        "model.stride",
        "model.precision",
        "optim.lr",
        "optim.momentum",
        "optim.weight_decay",
        "train.batch_size",
        "train.seed",
        "train.eval_batch_size",
        "train.checkpoint_every",
        "train.log_every",
        "train.quick_compile",
    ),
    defaults={
        "data.loader_threads": 16,
        "optim.lr": 0.1,
        "train.batch_size": 256,
        "train.eval_batch_size": 256,
        "train.checkpoint_every": 1000,
        "train.log_every": 50,
    },
    tiny={
        "imagenet.crop": 32,
        "imagenet.eval_resize": 36,
        "imagenet.epochs": 1e-5,  # of few images one step
        "imagenet.eval_epochs": 1e-5,
    },
    check=_check,
)
