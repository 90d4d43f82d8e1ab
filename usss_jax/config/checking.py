"""Configs by the declarations of their fields: defaults, checks, dotted names."""

import dataclasses
import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict, FieldReference

from usss_jax.config.field import SEED, Changes, Field
from usss_jax.config.methods import FIELDS, METHODS
from usss_jax.config.reading import names, per_domain_paths
from usss_jax.config.shared import SHARED
from usss_jax.errors import InputError
from usss_jax.local_files import check_paths


def fields(method: str = "usss") -> dict[str, Field]:
    """Declarations of the fields of a method, by dotted name; raises InputError for an unknown method.

    >>> fields()["optim.lr"].default, fields("imagenet")["optim.lr"].default
    (0.001, 0.1)
    """
    if method not in METHODS:
        raise InputError(f"method={method} must be one of {', '.join(METHODS)}")
    chosen = METHODS[method]
    defaults = {"method": method, **chosen.defaults}
    shared = {name: SHARED[name] for name in chosen.shared}
    shared |= {name: dataclasses.replace(SHARED[name], default=default) for name, default in defaults.items()}
    return shared | dict(chosen.own)


def default_config(method: str = "usss") -> ConfigDict:
    """Return the defaults of a method, which are the values of its paper.

    >>> default_config().optim.momentum
    0.9
    """
    config = ConfigDict()
    for name, field in fields(method).items():
        section, _, last = name.rpartition(".")
        if section and section not in config:
            config[section] = ConfigDict()
        default = FieldReference(field.default, field_type=object) if field.mixed else field.default
        (config[section] if section else config)[last] = default
    return config


def flat(config: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a config, or of its JSON, by dotted name.

    >>> flat({"method": "usss", "optim": {"lr": 0.1}})
    {'method': 'usss', 'optim.lr': 0.1}
    """
    found: dict[str, Any] = {}
    for name, value in (config.to_dict() if isinstance(config, ConfigDict) else config).items():
        found |= {f"{name}.{k}": v for k, v in flat(value).items()} if isinstance(value, Mapping) else {name: value}
    return found


def filled(written: Mapping[str, Any]) -> ConfigDict:
    """Config from its JSON, of an older version: with defaults for the fields that it lacks.

    Fields that its method no longer has did nothing, and are left out.

    >>> filled({"method": "usss", "optim": {"lr": 0.1}}).optim.to_dict()["momentum"]
    0.9
    """
    config = default_config(written.get("method", "usss"))
    known = fields(config.method)
    values = {name: value for name, value in flat(written).items() if name in known or name not in FIELDS}
    config.update_from_flattened_dict(values)
    return config


def nearest(name: str, known: Iterable[str]) -> str:
    """Name among `known` that a wrong name most likely means; empty if none is similar.

    >>> nearest("lr", ["optim.lr", "train.steps"]), nearest("something", ["optim.lr"])
    ('optim.lr', '')
    """

    def similarity(other: str) -> float:
        pairs = ((name, other), (last_part(name), last_part(other)))
        return max(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

    best = max(known, key=similarity, default="")
    return best if best and similarity(best) > 0.65 else ""


def no_such_field(name: str, known: Iterable[str]) -> str:
    """Error message for a wrong name.

    >>> no_such_field("optim.lrr", ["optim.lr"])
    'the config has no such field; did you mean config.optim.lr?'
    """
    close = nearest(name, known)
    hint = f"did you mean config.{close}?" if close else "docs/config.md lists all fields"
    return f"the config has no such field; {hint}"


def last_part(name: str) -> str:
    """Name without its section.

    >>> last_part("optim.lr")
    'lr'
    """
    return name.rpartition(".")[2]


def checked(config: ConfigDict, method: str = "") -> ConfigDict:
    """Check a config and return a copy in which lists of names are tuples.

    Fields per domain are checked later, where the domains are known.

    Args:
      config: the config.
      method: the required method; empty: any.

    Raises:
      InputError: for a wrong field, named in the message.

    >>> config = default_config()
    >>> config.variants = "basic, full"
    >>> checked(config).variants
    ('basic', 'full')
    """
    values = flat(config.copy_and_resolve_references())
    if method and values.get("method", method) != method:
        raise InputError(f"method={values['method']}: use a config of method={method}")
    known = fields(values.get("method", "usss"))
    check_names(values, known)
    chosen = METHODS[values["method"]]
    for name in ("data.domains", "variants"):
        if name in known:
            values[name] = tuple(names(values[name]))
            if not values[name] or len(set(values[name])) != len(values[name]):
                raise InputError(f"{name}={list(values[name])}: give at least one name, each once")
    if wrong := [value for value in values.get("variants", ()) if value not in chosen.variants]:
        raise InputError(f"variants: {wrong[0]!r} is not one of {', '.join(chosen.variants)}")
    for name, field in known.items():
        if not field.per_domain and not field.range.holds(values[name]):
            raise InputError(f"{name}={values[name]} must be {field.range.text}")
        if field.path:
            check_paths(",".join(values[name]) if name == "data.domains" else str(values[name]), name)
    chosen.check(values)
    return nested(values)


def check_names(values: Mapping[str, Any], known: Mapping[str, Field]):
    """Raise InputError for unknown or missing fields."""
    if unknown := [name for name in values if name not in known]:
        raise InputError(f"config.{unknown[0]}: {no_such_field(unknown[0], known)}")
    if missing := [name for name in known if name not in values]:
        raise InputError(f"config.{missing[0]} is missing; start from default_config(), as configs/demo.py does")


def check_seed(name: str, value: int):
    """Raise InputError for a seed that grain rejects, or whose upper bits JAX would drop."""
    if not SEED.holds(value):
        raise InputError(f"{name}={value} must be {SEED.text}")


def nested(values: Mapping[str, Any]) -> ConfigDict:
    """Config from fields by dotted name: the inverse of `flat`.

    >>> nested({"optim.lr": 0.1}).optim.lr
    0.1
    """
    config = ConfigDict()
    for name, value in values.items():
        section, _, last = name.rpartition(".")
        if section and section not in config:
            config[section] = ConfigDict()
        (config[section] if section else config)[last] = value
    return config


def with_absolute_paths(config: ConfigDict, domains: Sequence[str]) -> ConfigDict:
    """Copy of a checked config with absolute paths to domain files, lists and data.root."""
    values = flat(config)
    values["data.domains"] = tuple(
        absolute(d) if d.lower().endswith((".yaml", ".yml")) else d for d in config.data.domains
    )
    for name, field in fields(config.method).items():
        if field.path and field.per_domain:
            read = per_domain_paths(values[name], domains, name)
            paths = {d: absolute(path) for d, path in read.items() if path}
            by_name = values[name].strip() not in read.values()
            shared = next(iter(paths.values()), "")
            values[name] = ",".join(f"{d}={p}" for d, p in paths.items()) if by_name else shared
    return nested(values)


def absolute(path: str) -> str:
    """Absolute path; keeps the prefix "tfds:" of a folder of records.

    >>> absolute("tfds:/data/../records")
    'tfds:/records'
    """
    prefix = "tfds:" if path.startswith("tfds:") else ""
    return prefix + os.path.abspath(os.path.expanduser(path.removeprefix(prefix)))


def same_on_hosts(config: ConfigDict) -> dict[str, Any]:
    """Fields, by dotted name, that must be the same on all hosts.

    >>> sorted(set(fields()) - set(same_on_hosts(default_config())))
    ['data.cache_gb', 'data.loader_threads', 'data.root']
    """
    known = fields(config.method)
    return {name: value for name, value in flat(config).items() if known[name].changes is not Changes.HOST}
