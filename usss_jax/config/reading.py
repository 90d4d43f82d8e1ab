"""Reading of fields: lists of names, values that may differ between domains, sizes and counts."""

import os
import re
from collections.abc import Callable, Sequence
from typing import Any

from usss_jax.errors import InputError


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
