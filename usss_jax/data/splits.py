"""Which images are labeled: committed lists, a seeded rule for the rest, and the hash that goes into every result."""

import hashlib
import json
import pathlib
from collections.abc import Container, Mapping, Sequence

from usss_jax.data import lists
from usss_jax.errors import InputError

LISTS = pathlib.Path(__file__).parent / "labeled_lists"  # DOMAIN/n100_seed0.txt: one id per line, # comments


def committed_list(domain: str, n: int | str, seed: int) -> pathlib.Path | None:
    """File of the committed list of labeled images, None if there is none for this domain, number and seed."""
    path = LISTS / domain / f"n{n}_seed{seed}.txt"
    return path if path.is_file() else None


def choose_labeled(ids: Sequence[str], n: int | str, seed: int, domain: str) -> list[str]:
    """Choose `n` of the pool's ids ("all": every one), sorted: by the committed list if there is one, else by rule.

    The rule, which made the lists too: ids are ranked by the SHA-256 of "seed:domain:id" and the first n taken, so that
    the choice depends neither on the order of a listing nor on a random generator's version, and a smaller n is a
    subset of a larger one.

    Raises:
      InputError: if n is larger than the pool or not positive, or an image of the committed list is missing.
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
    """Raise InputError unless every domain has one of a number and a list, and some domain is labeled."""
    field = f"data.labeled_per_domain={text}"
    some = any(listed[name] or labeled[name] for name in labeled)
    for name, value in labeled.items():
        if value is None and not listed[name]:
            given = {n: (0 if some else "all") if v is None and not listed[n] else v for n, v in labeled.items()}
            raise InputError(
                f"{field} says nothing of {name}; give its number of labeled images, all, or 0 for a domain without "
                f"labels: {labeled_field(given)}"
            )
    if wrong := [name for name, value in labeled.items() if value == 0 and listed[name]]:
        remedy = f"give {labeled_field({**labeled, **dict.fromkeys(wrong, 'all')})}, whose place the list takes"
        if any(n not in wrong and (listed[n] or labeled[n]) for n in labeled):
            remedy = f"give {list_field(listed, wrong)}, or {remedy}"
        raise InputError(
            f"{field}: {wrong[0]} is to have no labels, but data.labeled_list={listed[wrong[0]]} names some; {remedy}"
        )
    if not some:
        raise InputError(f"{field}: no domain has labels; give one of {', '.join(labeled)} a number or all")


def labeled_field(values: Mapping[str, int | str | None]) -> str:
    """The field data.labeled_per_domain with these values; None: left out, since a labeled_list takes its place."""
    given = ",".join(f"{name}={value}" for name, value in values.items() if value is not None)
    return f"data.labeled_per_domain={given}"


def list_field(listed: Mapping[str, str | None], without: Container[str]) -> str:
    """The field labeled_list with these files, but for some domains."""
    files = ",".join(f"{n}={path}" for n, path in listed.items() if path and n not in without)
    return f"data.labeled_list={files}" if files else "an empty data.labeled_list"


def rank(ids: Sequence[str], seed: int, domain: str) -> list[str]:
    """Order of the ids by the rule: the first n of it are labeled."""
    return sorted(ids, key=lambda i: hashlib.sha256(f"{seed}:{domain}:{i}".encode()).digest())


def split_hash(labeled: Mapping[str, Sequence[str]]) -> str:
    """Hash of the labeled ids of every domain: first 16 hex digits of a SHA-256."""
    text = json.dumps({domain: sorted(ids) for domain, ids in labeled.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
