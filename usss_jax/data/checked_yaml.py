"""YAML files with checked keys and values; every error names the file and the key."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from usss_jax.errors import InputError


class _Loader(yaml.SafeLoader):
    """YAML in which a repeated key is an error."""

    def construct_mapping(self, node, deep=False):
        """Make a dict."""
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} occurs twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_mapping(path: str, allowed: Sequence[str], required: Sequence[str]) -> dict[str, Any]:
    """Read a YAML file that is a mapping with these keys; raise InputError if it is not."""
    try:
        with open(path, encoding="utf-8") as file:
            spec = yaml.load(file, _Loader)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"{path}: cannot read this file ({reason}); check the path") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(spec, dict):
        raise InputError(f"{path}: must be a mapping with the keys {', '.join(allowed)}")
    check_keys(spec, path, allowed, required)
    return spec


def check_keys(entry: Mapping, where: str, allowed: Sequence[str], required: Sequence[str]):
    """Raise InputError for an unknown or a missing key.

    >>> check_keys({"imges": "train"}, "mine.yaml: splits: train", ["images", "masks"], required=["images"])
    Traceback (most recent call last):
    usss_jax.errors.InputError: mine.yaml: splits: train: unknown key 'imges'; did you mean images?
    """
    for key in entry:
        if key not in allowed:
            close = difflib.get_close_matches(str(key), allowed, n=1)
            hint = f"did you mean {close[0]}?" if close else f"allowed are {', '.join(allowed)}"
            raise InputError(f"{where}: unknown key {key!r}; {hint}")
    for key in required:
        if key not in entry:
            raise InputError(f"{where}: the key {key!r} is missing; add it")


def check_distinct(values: Iterable, where: str, what: str):
    """Raise InputError for a repeated value.

    >>> check_distinct(["road", "sky", "road"], "mine.yaml: classes", "class name")
    Traceback (most recent call last):
    usss_jax.errors.InputError: mine.yaml: classes: class name 'road' occurs twice; remove one
    """
    seen = set()
    for value in values:
        if value in seen:
            raise InputError(f"{where}: {what} {value!r} occurs twice; remove one")
        seen.add(value)


def read_list(value: Any, where: str) -> list:
    """Return the value if it is a list; raise InputError if not.

    >>> read_list(["train"], "mine.yaml: unlabeled_splits")
    ['train']
    """
    if not isinstance(value, list):
        raise InputError(f"{where}: {value!r} must be a list")
    return value


def read_integers(value: Any, where: str, length: int | None, low: int, high: int) -> tuple:
    """Return a list of `length` integers from `low` to `high` (None: any number of them) as a tuple.

    Raises:
      InputError: for anything else.

    >>> read_integers([256, 512], "mine.yaml: size", 2, 1, 65535)
    (256, 512)
    """
    right = isinstance(value, list) and all(type(v) is int and low <= v <= high for v in value)
    if not right or (length is not None and len(value) != length):
        count = "" if length is None else f"{length} "
        raise InputError(f"{where}: {value!r} must be a list of {count}whole numbers from {low} to {high}")
    return tuple(value)
