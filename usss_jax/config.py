"""All fields of a config with their defaults, and the reading of fields that may differ between domains."""

import os
import re
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict, FieldReference

from usss_jax.errors import InputError
from usss_jax.local_files import check_paths

VARIANTS = ("single", "frozen", "finetune", "hung", "basic", "cross", "full", "direct")

ENCODER_FAMILIES = ("drn_", "resnet", "convnext_")  # how the names of models/universal.py's ENCODERS begin
PAPER_BATCH = 10  # labeled images per domain and step, to which `lr` belongs

# What `checked` asks of the fields.
CHOICES = {"on_bad_example": ("error", "skip"), "lr_rule": ("fixed", "linear")}
AT_LEAST_ONE = (
    *("steps", "single_steps", "batch_size", "unlabeled_batch_size", "eval_batch_size", "embed_dim"),
    *("eval_every", "checkpoint_every", "log_every", "loader_threads", "embeddings_per_class", "min_classes"),
)
POSITIVE = ("lr", "similarity_scale", "width", "rare_temperature", "embedding_lr_scale", "hung_lr")
NOT_NEGATIVE = (
    *("alpha", "beta", "momentum", "weight_decay", "poly_power", "cache_gb"),
    *("embedding_supervision", "diversity", "theta", "entropy_warmup"),
    *("hung_adversarial", "hung_adversarial_unlabeled", "hung_semi", "hung_threshold", "hung_semi_start"),
)
SHARES = ("theta", "hung_threshold", "hung_semi_start")
SEEDS = ("seed", "split_seed")
PATHS = ("domains", "data_root", "labeled_list", "unlabeled_list", "pretrained", "single_from", "label_embeddings")


def flexible(value) -> FieldReference:
    """Field that may be overridden by a value of another type: 100, or the string "camvid=all,cityscapes=375"."""
    return FieldReference(value, field_type=object)


def default_config() -> ConfigDict:
    """Return the paper's settings; the files in configs/ change what their run needs.

    Fields marked * take one value for all domains, or "name=value,name=value".
    """
    c = ConfigDict()
    # Data
    c.domains = flexible(["cityscapes", "camvid"])  # names (data/domains.py) or YAML files
    c.data_root = ""  # * folder with one sub-folder per domain; given by name the domain's own; "tfds:DIR": records
    # * N, or "all"; or 0: without labels, trained by the entropy terms alone, no decoder of its own, needs no masks
    c.labeled_per_domain = flexible(100)
    c.split_seed = 0  # chooses the labeled images
    c.labeled_list = ""  # * text file that names the labeled images, in place of labeled_per_domain
    c.unlabeled_splits = ""  # * splits of the unlabeled images, such as train+train_extra; empty: the domain's own
    c.unlabeled_list = ""  # * text file that names the unlabeled images among them; empty: all
    c.unlabeled_includes_labeled = True  # the labeled images are used without their masks too, as in the paper
    c.on_bad_example = (
        "error"  # or "skip": read all files once first, leave out and report what is damaged or has no mask
    )
    c.min_classes = (
        2  # that the labeled images, and each evaluated split, of a domain must show; 1: a lone one is meant
    )
    c.image_size = ""  # * HEIGHTxWIDTH at which images are loaded and evaluated; empty: the domain's own
    c.crop_size = ""  # * HEIGHTxWIDTH of training examples; empty: the domain's own, the whole image if resized
    c.cache_gb = 4.0  # memory for decoded images, all domains together; 0: decode them every time
    c.loader_threads = 4
    c.sampling = "uniform"  # * of labeled images; or "rare": images of rare classes more often
    c.rare_temperature = 0.01  # of "rare": lower, rarer
    # Augmentation; the paper's is crop and flip alone
    c.flip = True  # left and right, in half of the cases
    c.scale = ""  # * LOW-HIGH, such as 0.5-2.0: random scale before the crop
    c.color_jitter = 0.0  # strength
    c.grey = 0.0  # probability
    c.blur = 0.0  # probability
    c.mix = "none"  # labeled images: or "cutmix", "classmix"
    # Model
    # or drn_d_38, drn_d_54, drn_d_105 (= resnet18, 34, 50, 101 of the paper), convnext_tiny, _small, _base
    c.encoder = "drn_d_22"  # docs/encoders.md: another one, or one's own
    c.width = 1.0  # factor on the encoder's channels
    c.embed_dim = 128  # d
    c.pretrained = ""  # weights of the encoder: .safetensors, .npz, .pth, or the folder of a finished stage of ours
    c.normalize = "imagenet"  # or "none": division by 255 alone
    c.upsample = "bilinear"  # or "drn": the reference's, which fades at the border
    c.precision = "float32"  # or "tf32", "bfloat16"
    c.label_embeddings = "prototypes"  # or "random", "words:FILE" (word vectors), or the path of an .npz file
    c.embeddings_per_class = 1  # K: of "prototypes", K-means inside each class (appendix B.3); of "random"
    # What is trained, in this order : of single, frozen, finetune, hung, basic, cross, full, direct
    c.variants = flexible(["single", "basic", "full"])
    c.single_from = ""  # another run's workdir whose single-domain networks are used; empty: trained in this one
    # Objective (Eq. 5)
    c.alpha = 1.0  # weight of the cross term (variants cross and full)
    c.beta = 1.0  # weight of the within term (variant full)
    c.similarity_scale = 1.0  # inverse temperature of the similarities
    c.theta = 1.0  # Eq. 7, moving average of the label embeddings; 1: they stay
    # Against the collapse of the entropy terms (docs/collapse.md); the paper has none of these
    c.embedding_supervision = 0.0  # weight of the cross-entropy of the similarities on labeled images
    c.diversity = 0.0  # weight of the entropy of the mean prediction, which the entropy terms are less by
    c.normalize_embedding = False  # pixel embeddings of unit length
    c.embedding_lr_scale = 1.0  # factor on the learning rate of the entropy module
    c.embedding_bias = True
    c.entropy_warmup = 0  # steps over which the weights of the entropy terms rise from 0 in a straight line
    # Hung et al. 2018 (variant hung): weights, confidence, share of the steps before the self-taught term, Adam's lr
    c.hung_adversarial = 0.01
    c.hung_adversarial_unlabeled = 0.001
    c.hung_semi = 0.1
    c.hung_threshold = 0.2
    c.hung_semi_start = 0.25
    c.hung_lr = 1e-4
    # Training
    c.steps = 2000  # universal stage: 200 epochs of N / batch_size steps
    c.single_steps = 2000  # single-domain stage
    c.batch_size = 10  # labeled images per domain and step
    c.unlabeled_batch_size = 10  # unlabeled images per domain and micro-batch
    c.unlabeled_batches = flexible("pool")  # * micro-batches per step; "pool": the whole pool every epoch
    c.lr = 1e-3
    c.lr_rule = "fixed"  # lr as given whatever the batch size; or "linear": times batch_size / 10, the paper's batch
    c.momentum = 0.9
    c.weight_decay = 1e-4
    c.poly_power = 0.9
    c.seed = 0
    # Levels of the encoder, such as 0-2 or all, that the backward pass computes again to save memory; not on CPU.
    c.remat = ""
    c.shard_parameters = False  # split large parameters and their momentum over the devices: less memory on each
    # Rhythm, in steps
    c.eval_every = 50
    c.eval_batch_size = 10
    c.checkpoint_every = 100
    c.log_every = 10
    return c


def checked(config: ConfigDict) -> ConfigDict:
    """Copy of the config with the lists read; InputError names a wrong field.

    Fields marked * are read where the domains are known (data/pools.py, methods/usss/stages.py).
    """
    config = config.copy_and_resolve_references()
    unknown = sorted(set(config) - set(default_config()))
    missing = sorted(set(default_config()) - set(config))
    if unknown or missing:
        raise InputError(
            f"config: unknown fields {unknown}, missing fields {missing}; give a config file such as "
            "configs/demo.py (all fields: usss_jax/config.py)"
        )
    domains, variants = names(config.domains), names(config.variants)
    for field, values in (("domains", domains), ("variants", variants)):
        if not values or len(set(values)) != len(values):
            raise InputError(f"{field}={values}: give at least one name, each once")
    for field, values, words in (("variants", variants, VARIANTS), *((f, [config[f]], w) for f, w in CHOICES.items())):
        if wrong := [value for value in values if value not in words]:
            raise InputError(f"{field}: {wrong[0]!r} is not one of {', '.join(words)}")
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
            raise InputError(f"{field}={config[field]} must be from 0 to 1")
    for field in SEEDS:
        check_seed(field, config[field])
    for field in PATHS:
        check_paths(",".join(domains) if field == "domains" else str(config[field]), field)
    if config.embeddings_per_class > 1 and config.theta < 1:
        raise InputError(f"embeddings_per_class={config.embeddings_per_class} needs theta=1: Eq. 7 moves class means")
    plain = config.to_dict() | {"domains": tuple(domains), "variants": tuple(variants)}
    return ConfigDict(plain)


def check_seed(field: str, value: int):
    """Raise InputError for a seed that grain refuses, or of which JAX would leave out the upper bits."""
    if not 0 <= value < 2**32:
        raise InputError(f"{field}={value} must be from 0 to {2**32 - 1}")


def names(value: str | Sequence[str]) -> list[str]:
    """Read a list of names: a sequence, or "a,b"; anything else is one name, which nothing has."""
    items = value.split(",") if isinstance(value, str) else value if isinstance(value, Sequence) else [value]
    return [str(item).strip() for item in items if str(item).strip()]


def per_domain(value: Any, domains: Sequence[str], field: str, read: Callable[[str], Any]) -> dict[str, Any]:
    """Read a field that takes one value for all domains, or "name=value,name=value".

    Args:
      value: of the field.
      domains: names of all domains of the run.
      field: its name, for messages.
      read: reads one value from its text; raises ValueError if it cannot.

    Returns:
      Value of every domain; None where a name=value list leaves it out, or the field is empty.

    Raises:
      InputError: for an unknown domain, or a value that cannot be read.
    """
    text = str(value).strip()
    given: dict[str, str] = {}
    if "=" in text:
        for item in text.split(","):
            domain, equals, one = (part.strip() for part in item.partition("="))
            if not equals or domain not in domains:
                raise InputError(f"{field}={text}: {domain!r} is not a domain of this run ({', '.join(domains)})")
            if domain in given:
                raise InputError(f"{field}={text}: {domain!r} is given twice")
            given[domain] = one
    elif text:
        given = dict.fromkeys(domains, text)
    out: dict[str, Any] = dict.fromkeys(domains)
    for domain, one in given.items():
        try:
            out[domain] = read(one)
        except ValueError as e:
            raise InputError(f"{field}={text}: cannot read {one!r} for {domain}: {e}") from e
    return out


def per_domain_paths(value: str, domains: Sequence[str], field: str) -> dict[str, str]:
    """Read a field that takes one path for all domains, or "name=path,name=path"; paths may hold "=" and commas.

    Returns:
      Path of every domain, "" where there is none.

    Raises:
      InputError: for what begins like a list of names and names no domain, unless there is such a path.
    """
    text = value.strip()
    given: dict[str, str] = {}
    name = "|".join(map(re.escape, domains))
    parts = re.split(rf",(?=\s*(?:{name})\s*=)", text) if re.match(rf"(?:{name})\s*=", text) else []
    for part in parts:
        domain, _, path = (word.strip() for word in part.partition("="))
        if domain in given:
            raise InputError(f"{field}={text}: {domain!r} is given twice")
        given[domain] = path
    for path in given.values() if parts else [text]:
        stranger = re.search(r"," + _NAMED, path) if parts else re.match(_NAMED, path)
        if stranger and not os.path.exists(os.path.expanduser(path)):
            known = ", ".join(domains)
            raise InputError(
                f"{field}={text}: {stranger[1]!r} is not a domain of this run ({known}), and there is no {path}"
            )
    return {domain: given.get(domain, "") if parts else text for domain in domains}


_NAMED = r"\s*([a-z][a-z0-9_]*)\s*="  # what a list of names and paths begins with


def with_absolute_paths(config: ConfigDict, domains: Sequence[str]) -> ConfigDict:
    """Copy of a checked config whose domain files, lists and data_root are absolute: it can be read from any folder."""
    changed: dict[str, Any] = {
        "domains": tuple(absolute(d) if d.lower().endswith((".yaml", ".yml")) else d for d in config.domains)
    }
    for field in ("data_root", "labeled_list", "unlabeled_list"):
        paths = {d: absolute(path) for d, path in per_domain_paths(config[field], domains, field).items() if path}
        by_name = config[field].strip() not in per_domain_paths(config[field], domains, field).values()
        changed[field] = ",".join(f"{d}={p}" for d, p in paths.items()) if by_name else next(iter(paths.values()), "")
    return ConfigDict(config.to_dict() | changed)


def absolute(path: str) -> str:
    """Absolute path; "tfds:" before the folder of records stays there."""
    prefix = "tfds:" if path.startswith("tfds:") else ""
    return prefix + os.path.abspath(os.path.expanduser(path.removeprefix(prefix)))


def read_size(text: str) -> tuple[int, int]:
    """Read "HEIGHTxWIDTH"."""
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise ValueError("give HEIGHTxWIDTH, for instance 360x480")
    return int(height), int(width)


def read_one_of(*words: str) -> Callable[[str], str]:
    """Return a reader of one of the given words."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"give one of {', '.join(words)}")
        return text

    return read


def read_range(text: str) -> tuple[float, float]:
    """Read "LOW-HIGH", two positive numbers."""
    low, _, high = text.partition("-")
    try:
        values = float(low), float(high)
    except ValueError:
        values = 0.0, 0.0
    if not 0 < values[0] <= values[1] < float("inf"):
        raise ValueError("give LOW-HIGH, for instance 0.5-2.0")
    return values


def read_splits(text: str) -> tuple[str, ...]:
    """Read "train+train_extra"."""
    splits = tuple(part.strip() for part in text.split("+"))
    if not all(splits) or len(set(splits)) < len(splits):
        raise ValueError("give splits, each once, with + between them")
    return splits


def read_count(word: str, least: int = 1) -> Callable[[str], int | str]:
    """Return a reader of a whole number, `least` or more, or the given word."""

    def read(text: str) -> int | str:
        if text == word:
            return word
        if not text.isdigit() or int(text) < least:
            raise ValueError(f"give a whole number, {least} or more, or {word}")
        return int(text)

    return read


# Fields that may change between two runs of the same workdir: they alter no number.
FREE_FIELDS = (
    *("variants", "single_from", "data_root", "checkpoint_every", "log_every", "cache_gb", "loader_threads"),
    *("shard_parameters", "remat", "min_classes"),
)

# Fields that say where data and files are: what they name is compared, by value (data/content.py), not how.
NAMING_FIELDS = (
    *("domains", "labeled_per_domain", "split_seed", "labeled_list", "unlabeled_splits", "unlabeled_list"),
    *("unlabeled_includes_labeled", "image_size", "crop_size", "pretrained", "label_embeddings"),
)

# Fields that single-domain networks do not depend on: they may differ between a run and that of its `single_from`.
NOT_OF_SINGLES = (
    *FREE_FIELDS,
    *("label_embeddings", "embeddings_per_class", "embed_dim", "theta", "alpha", "beta", "similarity_scale"),
    *("embedding_supervision", "diversity", "normalize_embedding", "embedding_lr_scale", "embedding_bias"),
    *("entropy_warmup", "steps", "unlabeled_batch_size", "unlabeled_batches", "unlabeled_splits", "unlabeled_list"),
    *("unlabeled_includes_labeled", "hung_adversarial", "hung_adversarial_unlabeled", "hung_semi", "hung_threshold"),
    *("hung_semi_start", "hung_lr"),
)

# Beside the paper's objective: the similarities learn from the labeled images too, the entropy terms weigh a tenth.
# What it was chosen from, on val, is in docs/claims.md.
ANCHORED = {"embedding_supervision": 1.0, "alpha": 0.1, "beta": 0.1}


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
    config.precision = "float32"
    config.width = 0.25
    config.embed_dim = 64
    config.image_size = image_size
    config.batch_size = config.unlabeled_batch_size = 4
    config.unlabeled_batches = 1
    config.lr = 0.02
    config.steps = config.single_steps = 600
    config.eval_every = config.checkpoint_every = 100


def set_epochs(config: ConfigDict, n: int, epochs: int = 200):
    """Set the paper's schedule for N labeled images: `epochs` of ceil(N / batch) steps, evaluated every 5 epochs."""
    steps = -(-n // config.batch_size)
    config.steps = config.single_steps = epochs * steps
    config.eval_every = config.checkpoint_every = 5 * steps
