"""Code that config files share: their argument and common changes."""

from typing import Any

from ml_collections import ConfigDict

from usss_jax import packages
from usss_jax.config.checking import fields
from usss_jax.config.methods import METHODS
from usss_jax.config.reading import names
from usss_jax.errors import InputError

# Prefixes of the names in models.encoders.ENCODERS.
ENCODER_FAMILIES = ("drn_", "resnet", "convnext_", "efficientnet_", "mobilenet_", "dinov2_", "rna_")

# A variation of the paper's objective: supervised similarities, and a tenth of the weight on the entropy terms.
# docs/claims.md lists the candidates that it was selected from, on val.
ANCHORED = {"usss.embedding_supervision": 1.0, "usss.alpha": 0.1, "usss.beta": 0.1}

# Methods of the field as settings of variant `teacher`: FixMatch (Sohn et al. 2020), Mean Teacher (Tarvainen and
# Valpola 2017) with CutMix, as in French et al. (2020), and UniMatch (Yang et al. 2023).
TEACHERS: dict[str, dict[str, Any]] = {
    "fixmatch": {"teacher.decay": 0.0, "teacher.mix": "none"},
    "mean_teacher": {"teacher.targets": "soft", "teacher.threshold": 0.0},
    "unimatch": {"teacher.decay": 0.0, "teacher.views": 2, "teacher.feature_dropout": 0.5},
}


def parse_arg(arg: str | None, **defaults) -> ConfigDict:
    """Parse the argument of `get_config` into changes of the defaults.

    A bare word sets the boolean default of that name to True, or sets `encoder` if it starts as the name of one of the
    project's encoders; `encoder=NAME` takes any name.

    Raises:
      InputError: for an unknown word.

    >>> parse_arg("resnet50,n=375", encoder="drn_d_22", n=100, cpu=False).to_dict()
    {'cpu': False, 'encoder': 'resnet50', 'n': 375}
    """
    values = dict(defaults)
    for item in names(arg or ""):
        key, equals, text = item.partition("=")
        if not equals and isinstance(values.get(key), bool):
            values[key] = True
        elif not equals and "encoder" in values and key.startswith(ENCODER_FAMILIES):
            values["encoder"] = key
        elif equals and key in values and not isinstance(values[key], bool):
            try:
                values[key] = type(values[key])(text)
            except ValueError as e:
                raise InputError(f"config argument {item!r}: {e}") from e
        else:
            known = (k if isinstance(v, bool) else f"{k}={v}" for k, v in defaults.items())
            raise InputError(f"config argument {item!r} is unknown; give some of {', '.join(known)}")
    return ConfigDict(values)


# Fine-tuning of a light encoder from its ImageNet weights; docs/encoders.md has the search on val that chose these.
LIGHT = {
    "model.pretrained": packages.IMAGENET,
    "model.stride": 32,
    "model.lateral": 8,
    "model.frozen_levels": 3,
    "data.scale": "0.75-2.0",
    "optim.name": "adamw",
    "optim.lr": 0.01,
    "optim.encoder_lr_scale": 0.15,
    "optim.weight_decay": 0.01,
    "optim.warmup_steps": 30,
}
# What two CPU cores train in minutes: for every network, for a light encoder, and for the others.
CPU = {
    "model.precision": "float32",
    "train.batch_size": 4,
    "train.unlabeled_batch_size": 4,
    "train.unlabeled_batches": 1,
    "train.steps": 600,
    "usss.single_steps": 600,
    "train.eval_every": 100,
    "train.checkpoint_every": 100,
}
CPU_LIGHT = {
    "data.crop_size": "192x192",
    "model.batch_norm": "joint",
    "train.eval_every": 200,
    "train.checkpoint_every": 200,
}
CPU_OTHERS = {"model.width": 0.25, "usss.embed_dim": 64, "optim.lr": 0.02}
# As long as CamVid and Cityscapes at 256x256 gain from it with 20 labeled images (docs/unlabeled.md).
LONG = {"train.steps": 1200, "usss.single_steps": 1200, "train.eval_every": 400, "train.checkpoint_every": 400}
# One round of self-training from the start that other trainings have, and the best that we have found.
ROUNDS: dict[str, Any] = {
    "rounds.start": "pretrained",
    "rounds.portion": 0.7,
    "rounds.portion_max": 0.7,
    "rounds.mine_share": 0.0,
    "rounds.upsample": "bilinear",
}
BEST: dict[str, Any] = {**ROUNDS, "rounds.across_weight": 1.0}


def default_encoder(tiny: bool) -> str:
    """Name of the light encoder if its ImageNet weights are installed, else of the paper's, from scratch.

    The smallest run has the paper's, which compiles in half the time.
    """
    return packages.DEFAULT if packages.installed(packages.DEFAULT) and not tiny else "drn_d_22"


def apply_arg(config: ConfigDict, arg: ConfigDict, *, cpu_image_size: str, light_image_size: str):
    """Change a config by the arguments that the configs of two data sets share: encoder, n, anchored, cpu and tiny.

    Some configs also accept a name from `TEACHERS`, which trains the variants `basic` and `teacher`.

    `cpu_image_size` is that of `cpu`, `light_image_size` that of `cpu` with an encoder that has weights in a package.

    >>> from usss_jax.config import default_config
    >>> config = default_config()
    >>> arg = parse_arg("anchored", encoder="drn_d_22", n=375, anchored=False, cpu=False, tiny=False)
    >>> apply_arg(config, arg, cpu_image_size="128x256", light_image_size="256x512")
    >>> config.train.steps, config.usss.alpha
    (7600, 0.1)
    """
    config.model.encoder = arg.encoder
    set_epochs(config, arg.n)
    light = arg.encoder in packages.WEIGHTS
    changes: dict[str, Any] = {}
    if arg.anchored:
        changes |= ANCHORED
    chosen = [name for name in TEACHERS if arg.get(name)]
    if len(chosen) > 1:
        raise InputError(f"config arguments {' and '.join(chosen)}: give one of them")
    for name in chosen:
        config.variants = ["basic", "teacher"]
        changes |= TEACHERS[name]
    if light:
        changes |= LIGHT
    if arg.cpu:
        changes |= CPU | (CPU_LIGHT if light else CPU_OTHERS)
        changes["data.image_size"] = light_image_size if light else cpu_image_size
    if arg.get("long"):
        changes |= LONG
    if arg.get("best"):
        config.variants = ["basic", "self"]
        changes |= BEST
    config.update_from_flattened_dict(changes)
    config.rounds.lr = config.optim.lr
    if arg.tiny:
        shrink_to_tiny(config)


def shrink_to_tiny(config: ConfigDict):
    """Reduce a config to the smallest run of all its jobs, which takes about a minute, to see that they work.

    >>> from usss_jax.config import default_config
    >>> config = default_config()
    >>> shrink_to_tiny(config)
    >>> config.train.steps
    2
    """
    known = fields(config.method)
    config.update_from_flattened_dict({name: value for name, value in _TINY.items() if name in known})
    config.update_from_flattened_dict(dict(METHODS[config.method].tiny))


_TINY = {
    "data.labeled_per_domain": 4,
    "data.image_size": "32x48",
    "data.crop_size": "32x48",
    "data.loader_threads": 2,
    "data.scale": "",
    "model.width": 0.0625,
    "model.pretrained": "",
    "model.frozen_levels": 0,
    "model.precision": "float32",
    "train.steps": 2,
    "train.batch_size": 2,
    "train.unlabeled_batch_size": 2,
    "train.unlabeled_batches": 1,
    "train.eval_every": 2,
    "train.eval_batch_size": 32,
    "train.checkpoint_every": 2,
    "train.log_every": 1,
    "train.quick_compile": True,
}


def set_epochs(config: ConfigDict, n: int, epochs: int = 200):
    """Set the paper's schedule for `n` labeled images: ceil(n / batch size) steps per epoch, an evaluation every 5.

    >>> from usss_jax.config import default_config
    >>> config = default_config()
    >>> set_epochs(config, n=100)
    >>> config.train.steps, config.train.eval_every
    (2000, 50)
    """
    steps = -(-n // config.train.batch_size)
    config.train.steps = config.usss.single_steps = epochs * steps
    config.train.eval_every = config.train.checkpoint_every = 5 * steps
