"""What config files share: their argument, and settings by name."""

from ml_collections import ConfigDict

from usss_jax.config.methods import METHODS
from usss_jax.config.reading import names
from usss_jax.errors import InputError

ENCODER_FAMILIES = ("drn_", "resnet", "convnext_")  # how the names of models/universal.py's ENCODERS begin

# Beside the paper's objective: the similarities learn from the labeled images too, the entropy terms weigh a tenth.
# What it was chosen from, on val, is in docs/claims.md.
ANCHORED = {"usss.embedding_supervision": 1.0, "usss.alpha": 0.1, "usss.beta": 0.1}


def parse_arg(arg: str | None, **defaults) -> ConfigDict:
    """Read the argument of `get_config`: "resnet50,n=1500,cpu" -> defaults with these changes.

    A bare word sets a boolean default of that name to True, or is the value of the string default `encoder` if it
    begins like the encoders of the project; `encoder=NAME` takes any.

    Raises:
      InputError: for a word that the config does not know.
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
            raise InputError(f"config argument {item!r} is not understood; give some of {', '.join(known)}")
    return ConfigDict(values)


def shrink_for_cpu(config: ConfigDict, image_size: str):
    """Change a config to what two CPU cores can do in minutes: size, width, batches and schedule."""
    config.model.precision = "float32"
    config.model.width = 0.25
    config.usss.embed_dim = 64
    config.data.image_size = image_size
    config.train.batch_size = config.train.unlabeled_batch_size = 4
    config.train.unlabeled_batches = 1
    config.optim.lr = 0.02
    config.train.steps = config.usss.single_steps = 600
    config.train.eval_every = config.train.checkpoint_every = 100


def shrink_to_tiny(config: ConfigDict):
    """Change a config to the smallest run of all its jobs, which shows in about a minute that they work."""
    smallest = {"model.precision": "float32", "data.loader_threads": 2, "train.log_every": 1}
    config.update_from_flattened_dict(smallest | {"train.quick_compile": True} | dict(METHODS[config.method].tiny))


def set_epochs(config: ConfigDict, n: int, epochs: int = 200):
    """Set the paper's schedule for N labeled images: `epochs` of ceil(N / batch) steps, evaluated every 5 epochs."""
    steps = -(-n // config.train.batch_size)
    config.train.steps = config.usss.single_steps = epochs * steps
    config.train.eval_every = config.train.checkpoint_every = 5 * steps
