"""All fields of a pretraining config with their defaults."""

from ml_collections import ConfigDict

from usss_jax.config import check_seed
from usss_jax.errors import InputError
from usss_jax.local_files import check_paths

# What `checked` asks of the fields.
CHOICES = {"on_bad_example": ("error", "skip")}
AT_LEAST_ONE = (
    *("batch_size", "eval_batch_size", "crop", "eval_resize", "checkpoint_every", "log_every", "loader_threads"),
)
POSITIVE = ("lr", "width", "epochs", "decay_epochs", "eval_epochs", "decay", "min_scale")
NOT_NEGATIVE = ("momentum", "weight_decay", "color_jitter")
SHARES = ("decay", "min_scale", "color_jitter")


def default_config() -> ConfigDict:
    """Return the settings of the DRN paper (Yu, Koltun, Funkhouser, 2017, section 4.1); configs/imagenet.py uses them.

    Batch and crop are the field's usual ones, which that paper does not print.
    """
    c = ConfigDict()
    # Data
    c.data = ""  # folder with train/CLASS/IMAGE and val/CLASS/IMAGE, or "tfds:DIR": records of imagenet2012
    c.on_bad_example = "error"  # or "skip": read all files once first, leave out and report what is damaged
    c.crop = 224  # side of the images that the network sees
    c.eval_resize = 256  # shorter side of an evaluated image before its centre is cropped
    c.loader_threads = 16
    # Augmentation
    c.min_scale = 0.08  # least share of an image's area that a random crop takes
    c.flip = True  # left and right, in half of the cases
    c.color_jitter = 0.0  # strength (data/augment_device.py)
    # Model
    # or drn_d_38, drn_d_54, drn_d_105 (= resnet18, 34, 50, 101 of the USSS paper), convnext_tiny, _small, _base
    c.encoder = "drn_d_22"
    c.width = 1.0  # factor on the encoder's channels
    c.normalize = "imagenet"  # or "none": division by 255 alone; segmentation must use the same
    c.precision = "float32"  # or "tf32", "bfloat16"
    # Training
    c.epochs = 120.0
    c.batch_size = 256
    c.lr = 0.1
    c.decay_epochs = 30.0  # after each so many epochs the learning rate is multiplied by `decay`
    c.decay = 0.1
    c.momentum = 0.9
    c.weight_decay = 1e-4
    c.seed = 0
    # Rhythm
    c.eval_epochs = 1.0
    c.eval_batch_size = 256
    c.checkpoint_every = 1000  # steps
    c.log_every = 50  # steps
    return c


def checked(config: ConfigDict) -> ConfigDict:
    """Copy of the config; InputError names a wrong field."""
    config = config.copy_and_resolve_references()
    unknown = sorted(set(config) - set(default_config()))
    missing = sorted(set(default_config()) - set(config))
    if unknown or missing:
        raise InputError(
            f"config: unknown fields {unknown}, missing fields {missing}; give a config file such as "
            "configs/imagenet.py (all fields: usss_jax/methods/imagenet/config.py)"
        )
    for field, words in CHOICES.items():
        if config[field] not in words:
            raise InputError(f"{field}: {config[field]!r} is not one of {', '.join(words)}")
    for field in AT_LEAST_ONE:
        if config[field] < 1:
            raise InputError(f"{field}={config[field]} must be at least 1")
    for field in POSITIVE:
        if not 0 < config[field] < float("inf"):
            raise InputError(f"{field}={config[field]} must be positive")
    for field in NOT_NEGATIVE:
        if not 0 <= config[field] < float("inf"):
            raise InputError(f"{field}={config[field]} must be a number from 0 on")
    for field in SHARES:
        if config[field] > 1:
            raise InputError(f"{field}={config[field]} must be at most 1")
    check_seed("seed", config.seed)
    check_paths(config.data, "data")
    if config.crop > config.eval_resize:
        raise InputError(f"crop={config.crop} must be at most eval_resize={config.eval_resize}, which it is cut from")
    if not config.data:
        raise InputError(
            "data is empty: give --config.data=DIR with train/CLASS/IMAGE and val/CLASS/IMAGE, or tfds:DIR"
        )
    return config
