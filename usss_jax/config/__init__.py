"""Configs: declarations of all fields, defaults, checks, reading."""

from usss_jax.config.checking import (
    check_seed,
    checked,
    default_config,
    fields,
    filled,
    flat,
    nearest,
    nested,
    no_such_field,
    same_on_hosts,
    with_absolute_paths,
)
from usss_jax.config.methods import FIELDS, METHODS
from usss_jax.config.presets import (
    ANCHORED,
    LIGHT,
    apply_arg,
    default_encoder,
    parse_arg,
    set_epochs,
    shrink_to_tiny,
)
from usss_jax.config.presets_mlsl import apply_uda_arg, parse_uda_arg
from usss_jax.config.reading import (
    names,
    per_domain,
    per_domain_paths,
    read_count,
    read_one_of,
    read_range,
    read_size,
    read_splits,
)
from usss_jax.config.shared import PAPER_BATCH

__all__ = [
    "ANCHORED",
    "FIELDS",
    "LIGHT",
    "METHODS",
    "PAPER_BATCH",
    "apply_arg",
    "apply_uda_arg",
    "check_seed",
    "checked",
    "default_config",
    "default_encoder",
    "fields",
    "filled",
    "flat",
    "names",
    "nearest",
    "nested",
    "no_such_field",
    "parse_arg",
    "parse_uda_arg",
    "per_domain",
    "per_domain_paths",
    "read_count",
    "read_one_of",
    "read_range",
    "read_size",
    "read_splits",
    "same_on_hosts",
    "set_epochs",
    "shrink_to_tiny",
    "with_absolute_paths",
]
