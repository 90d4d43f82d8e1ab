"""Readers of fields: lists of names, values per domain, sizes and counts."""

import os
import re
from collections.abc import Callable, Sequence
from typing import Any

from usss_jax.config.field import Range
from usss_jax.errors import InputError


def names(value: str | Sequence[str]) -> list[str]:
    """Read a list of names, given as a sequence or as "a,b"; any other value becomes one (unknown) name.

    >>> names("camvid, cityscapes,")
    ['camvid', 'cityscapes']
    """
    items = value.split(",") if isinstance(value, str) else value if isinstance(value, Sequence) else [value]
    return [str(item).strip() for item in items if str(item).strip()]


def per_domain(value: Any, domains: Sequence[str], field: str, read: Callable[[str], Any]) -> dict[str, Any]:
    """Read a field that takes one value for all domains, or "name=value,name=value".

    Args:
      value: of the field.
      domains: names of all domains of the run.
      field: name of the field, for messages.
      read: reads one value from its text, or raises ValueError.

    Returns:
      Value of every domain; None for domains that a name=value list omits, or if the field is empty.

    Raises:
      InputError: for an unknown domain, or a value that cannot be read.

    >>> per_domain("camvid=360x480", ["camvid", "mine"], "data.image_size", read_size)
    {'camvid': (360, 480), 'mine': None}
    """
    text = str(value).strip()
    given: dict[str, str] = {}
    if "=" in text:
        for item in text.split(","):
            domain, equals, item_value = (part.strip() for part in item.partition("="))
            if not equals or domain not in domains:
                raise InputError(f"{field}={text}: {domain!r} is not a domain of this run ({', '.join(domains)})")
            if domain in given:
                raise InputError(f"{field}={text}: {domain!r} is given twice")
            given[domain] = item_value
    elif text:
        given = dict.fromkeys(domains, text)
    out: dict[str, Any] = dict.fromkeys(domains)
    for domain, item_value in given.items():
        try:
            out[domain] = read(item_value)
        except ValueError as e:
            raise InputError(f"{field}={text}: cannot read {item_value!r} for {domain}: {e}") from e
    return out


def per_domain_paths(value: str, domains: Sequence[str], field: str) -> dict[str, str]:
    """Read a field that takes one path for all domains, or "name=path,name=path"; paths may contain "=" and commas.

    Returns:
      Path of every domain, "" for domains without one.

    Raises:
      InputError: for a name=path list that names an unknown domain, unless it is an existing path.

    >>> per_domain_paths("camvid=/data/a,b", ["camvid", "mine"], "data.root")
    {'camvid': '/data/a,b', 'mine': ''}
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
                f"{field}={text}: {stranger[1]!r} is not a domain of this run ({known}), and {path} does not exist"
            )
    return {domain: given.get(domain, "") if parts else text for domain in domains}


_NAMED = r"\s*([a-z][a-z0-9_]*)\s*="  # start of a name=path list


def read_size(text: str) -> tuple[int, int]:
    """Read "HEIGHTxWIDTH".

    >>> read_size("360x480")
    (360, 480)
    """
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise ValueError("give HEIGHTxWIDTH, such as 360x480")
    return int(height), int(width)


def read_one_of(*words: str) -> Callable[[str], str]:
    """Return a reader of one of the given words.

    >>> read_one_of("uniform", "rare")("rare")
    'rare'
    """

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"give one of {', '.join(words)}")
        return text

    return read


def read_whole(text: str) -> int:
    """Read a whole number, at least 1.

    >>> read_whole("4")
    4
    """
    if not text.isdigit() or int(text) < 1:
        raise ValueError("give a whole number, 1 or more")
    return int(text)


def read_number(values: Range) -> Callable[[str], float]:
    """Return a reader of a number in a range.

    >>> from usss_jax.config.field import SHARE
    >>> read_number(SHARE)("0.5")
    0.5
    """

    def read(text: str) -> float:
        number = float(text)
        if not values.holds(number):
            raise ValueError(f"give a number {values.text}")
        return number

    return read


def read_range(text: str) -> tuple[float, float]:
    """Read "LOW-HIGH", two positive numbers.

    >>> read_range("0.5-2")
    (0.5, 2.0)
    """
    low, _, high = text.partition("-")
    try:
        values = float(low), float(high)
    except ValueError:
        values = 0.0, 0.0
    if not 0 < values[0] <= values[1] < float("inf"):
        raise ValueError("give LOW-HIGH, such as 0.5-2.0")
    return values


def read_splits(text: str) -> tuple[str, ...]:
    """Read names of splits, joined by "+".

    >>> read_splits("train+train_extra")
    ('train', 'train_extra')
    """
    splits = tuple(part.strip() for part in text.split("+"))
    if not all(splits) or len(set(splits)) < len(splits):
        raise ValueError("give names of splits, each once, joined by +")
    return splits


def read_count(word: str, least: int = 1) -> Callable[[str], int | str]:
    """Return a reader of a whole number, at least `least`, or the given word.

    >>> read_count("all")("12"), read_count("all")("all")
    (12, 'all')
    """

    def read(text: str) -> int | str:
        if text == word:
            return word
        if not text.isdigit() or int(text) < least:
            raise ValueError(f"give a whole number, {least} or more, or {word}")
        return int(text)

    return read
