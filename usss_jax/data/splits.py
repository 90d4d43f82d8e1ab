"""Chooses the labeled images: by committed lists or a seeded rule; their hash is part of every result."""

import hashlib
import itertools
import json
import pathlib
from collections.abc import Container, Mapping, Sequence

from usss_jax.data import lists
from usss_jax.errors import InputError

LISTS = pathlib.Path(__file__).parent / "labeled_lists"  # DOMAIN/n100_seed0.txt: one id per line, # comments


def committed_list(domain: str, n: int | str, seed: int) -> pathlib.Path | None:
    """Return the committed list of labeled images, or None.

    >>> committed_list("camvid", 100, 0).name
    'n100_seed0.txt'
    """
    path = LISTS / domain / f"n{n}_seed{seed}.txt"
    return path if path.is_file() else None


def choose_labeled(ids: Sequence[str], n: int | str, seed: int, domain: str) -> list[str]:
    """Choose `n` of the ids ("all": every one), sorted, by the committed list or else by rule.

    The rule, which the lists of 100 and more also follow (those of fewer: `spread`), takes the first n ids by `rank`:
    the choice is independent of the order of the ids and of any random generator, and a smaller n gives a subset of a
    larger one.

    Raises:
      InputError: if n is not from 1 to the number of ids, or an image of the committed list is missing.

    >>> choose_labeled(["a", "b", "c", "d"], 2, seed=0, domain="mine")
    ['a', 'd']
    """
    if isinstance(n, str):
        if n != "all":
            raise InputError(f"data.labeled_per_domain: {domain}={n} is neither a number nor all")
        return sorted(ids)
    if not 1 <= n <= len(ids):
        raise InputError(
            f"data.labeled_per_domain: {domain} asks for {n} labeled images, its training pool has {len(ids)}; "
            f"give 1 to {len(ids)}, or {domain}=all"
        )
    path = committed_list(domain, n, seed)
    if path is None:
        return sorted(rank(ids, seed, domain)[:n])
    chosen = sorted(line for _, line in lists.read_lines(path))
    if missing := sorted(set(chosen) - set(ids)):
        raise InputError(
            f"data.split_seed={seed}: {len(missing)} of the {n} labeled images of {domain} are not in its training "
            f"images, the first is {missing[0]!r}; complete the data, give a data.labeled_list, or a data.split_seed "
            f"without a committed list (those are in {path.parent})"
        )
    return chosen


def check_given(text: str, labeled: Mapping[str, int | str | None], listed: Mapping[str, str | None]):
    """Raise InputError unless every domain has a number or a list of labeled images, and some domain has labels.

    Args:
      text: data.labeled_per_domain as given.
      labeled: number or "all" by domain; None: not given.
      listed: data.labeled_list by domain; None or "": not given.
    """
    field = f"data.labeled_per_domain={text}"
    some = any(listed[name] or labeled[name] for name in labeled)
    for name, value in labeled.items():
        if value is None and not listed[name]:
            given = {n: (0 if some else "all") if v is None and not listed[n] else v for n, v in labeled.items()}
            raise InputError(
                f"{field} lacks {name}; give its number of labeled images, all, or 0 for a domain without labels: "
                f"{labeled_field(given)}"
            )
    if wrong := [name for name, value in labeled.items() if value == 0 and listed[name]]:
        remedy = f"give {labeled_field({**labeled, **dict.fromkeys(wrong, 'all')})}, which the list replaces"
        if any(n not in wrong and (listed[n] or labeled[n]) for n in labeled):
            remedy = f"give {list_field(listed, wrong)}, or {remedy}"
        raise InputError(f"{field} gives {wrong[0]} no labels, but data.labeled_list={listed[wrong[0]]} does; {remedy}")
    if not some:
        raise InputError(f"{field}: no domain has labels; give one of {', '.join(labeled)} a number or all")


def labeled_field(values: Mapping[str, int | str | None]) -> str:
    """Format the field data.labeled_per_domain; None is left out, as a data.labeled_list replaces it.

    >>> labeled_field({"camvid": 100, "idd": "all", "sun13": None})
    'data.labeled_per_domain=camvid=100,idd=all'
    """
    given = ",".join(f"{name}={value}" for name, value in values.items() if value is not None)
    return f"data.labeled_per_domain={given}"


def list_field(listed: Mapping[str, str | None], without: Container[str]) -> str:
    """Format the field data.labeled_list, without some domains.

    >>> list_field({"camvid": "a.txt", "idd": "b.txt"}, without=["idd"])
    'data.labeled_list=camvid=a.txt'
    """
    files = ",".join(f"{n}={path}" for n, path in listed.items() if path and n not in without)
    return f"data.labeled_list={files}" if files else "an empty data.labeled_list"


def rank(ids: Sequence[str], seed: int, domain: str) -> list[str]:
    """Sort ids by the SHA-256 of "seed:domain:id"; the first n are the labeled ones."""
    return sorted(ids, key=lambda i: hashlib.sha256(f"{seed}:{domain}:{i}".encode()).digest())


def spread(ids: Sequence[str], seed: int, domain: str, n: int) -> list[str]:
    """Choose n ids that spread over all of them, sorted, for the committed lists of few images.

    The sorted ids, in which the frames of a video or a city are neighbours, are cut into n parts whose sizes differ by
    at most one. Of each part the first by `rank` is chosen.

    >>> spread(["a1", "a2", "a3", "b1", "b2", "b3"], seed=0, domain="mine", n=2)
    ['a3', 'b2']
    """
    names = sorted(ids)
    bounds = [i * len(names) // n for i in range(n + 1)]
    return [rank(names[low:high], seed, domain)[0] for low, high in itertools.pairwise(bounds)]


def split_hash(labeled: Mapping[str, Sequence[str]]) -> str:
    """Hash the labeled ids of every domain, in any order: the first 16 hex digits of a SHA-256.

    >>> split_hash({"a": ["1", "2"], "b": ["3"]}) == split_hash({"b": ["3"], "a": ["2", "1"]})
    True
    """
    text = json.dumps({domain: sorted(ids) for domain, ids in labeled.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
