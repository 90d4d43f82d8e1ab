"""Code that the config files of method=mlsl share: their argument and its presets."""

from typing import Any

from ml_collections import ConfigDict

from usss_jax import packages
from usss_jax.config.checking import default_config, fields
from usss_jax.config.methods import METHODS
from usss_jax.config.mlsl import WITH_IMAGE_LABELS
from usss_jax.config.presets import CPU, CPU_LIGHT, CPU_OTHERS, LIGHT, parse_arg, shrink_to_tiny

# Presets of method=mlsl besides its variants: the settings of the released code, with what they train.
_RELEASED: dict[str, tuple[str, dict[str, Any]]] = {
    "released_sisc": ("sisc", {"rounds.patches": 25, "rounds.loss": "ohem"}),
    "released_pwl": (
        "sisc_pwl",
        {
            "rounds.patches": 25,
            "mlsl.image_weight": 0.04,
            "mlsl.eta": 0.0225,
            "mlsl.source_rule": "threshold",
            "mlsl.image_head": "first_relu",
        },
    ),
}
# ResNet-38 as in the released recipe: RNA-A1 with frozen batch statistics, its head, loss and SGD.
_RNA = {
    "model.encoder": "rna_a1",
    "model.head": "dilated",
    "model.batch_norm": "frozen",
    "mlsl.loss_at": "cells",
    "optim.lr": 0.0016,
    "optim.schedule": "constant",
    "optim.weight_decay": 5e-4,
    "optim.bias_lr_scale": 2.0,
    "optim.bias_decay_scale": 0.0,
    "data.scale": "0.7-1.3",
    "data.crop_size": "504x504",
    "train.batch_size": 16,
    "train.unlabeled_batch_size": 16,
}
# Rounds that two CPU cores finish in minutes with a light encoder.
_CPU_ROUNDS = {
    "rounds.count": 3,
    "rounds.batch_size": 4,
    "rounds.lr": 0.003,
    "rounds.portion": 0.2,
    "rounds.portion_step": 0.15,
    "rounds.patches": 8,
    "rounds.patch_size": 160,
    "rounds.patch_batch": 8,
    "mlsl.image_head_width": 0.0625,
    "mlsl.image_head_start": "random",
    "mlsl.discriminator_width": 0.25,
}


def parse_uda_arg(arg: str | None) -> ConfigDict:
    """Parse the argument of the configs of method=mlsl: any variants or presets, an encoder, cpu and tiny.

    >>> [word for word, on in parse_uda_arg("cbst,minent").items() if on is True]
    ['cbst', 'minent']
    """
    words = dict.fromkeys((*METHODS["mlsl"].variants, *_RELEASED, "cpu", "tiny"), False)
    return parse_arg(arg, **words, encoder="")


def uda_config(source: str, target: str, *, source_size: str, target_size: str) -> ConfigDict:
    """Return the defaults of method=mlsl for a source, all of it labeled, and a target with built-in class map.

    >>> uda_config("gta5", "cityscapes", source_size="1052x1914", target_size="1024x2048").data.labeled_per_domain
    'gta5=all,cityscapes=0'
    """
    config = default_config("mlsl")
    config.data.domains = [source, target]
    config.data.class_map = f"{source}_to_{target}"
    config.data.labeled_per_domain = f"{source}=all,{target}=0"
    config.data.image_size = f"{source}={source_size},{target}={target_size}"
    config.mlsl.target = target
    return config


def apply_uda_arg(config: ConfigDict, arg: ConfigDict, *, label_scale: float = 1.0):
    """Change a config of method=mlsl by its argument; without a variant it trains the source and `sisc_pwl`.

    `label_scale` is the `rounds.label_scale` of st, cbst and cbst_sp.

    >>> from usss_jax.config import default_config
    >>> config = default_config("mlsl")
    >>> apply_uda_arg(config, parse_uda_arg("released_sisc"))
    >>> config.variants, config.rounds.patches, config.model.encoder
    (['source', 'sisc'], 25, 'rna_a1')
    """
    presets = [_RELEASED[word] for word in _RELEASED if arg[word]]
    chosen = [v for v in METHODS["mlsl"].variants if arg[v] or v in [variant for variant, _ in presets]]
    config.variants = ["source"] + [v for v in chosen or ["sisc_pwl"] if v != "source"]
    light = arg.encoder in packages.WEIGHTS
    others = {"model.encoder": arg.encoder, "rounds.upsample": "bilinear"}
    changes: dict[str, Any] = dict(_RNA) if arg.encoder in ("", "rna_a1") else others
    if light:
        changes |= LIGHT
    if arg.cpu:
        known = fields("mlsl")
        changes |= {k: v for k, v in (CPU | (CPU_LIGHT if light else CPU_OTHERS)).items() if k in known}
        changes |= _CPU_ROUNDS
    if {*WITH_IMAGE_LABELS} & {*config.variants} and not arg.cpu:
        changes["rounds.batch_size"] = 1
    for _, values in presets:
        changes |= values
    if arg.st or arg.cbst or arg.cbst_sp:
        changes["rounds.label_scale"] = label_scale
    config.update_from_flattened_dict(changes)
    if arg.tiny:
        labeled = config.data.labeled_per_domain
        shrink_to_tiny(config)
        config.data.labeled_per_domain = labeled.replace("all", "4")
