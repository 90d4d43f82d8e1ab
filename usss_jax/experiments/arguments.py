"""What the arguments of a sweep ask for: rows, custom rows and overrides."""

import pathlib
import re
from collections.abc import Mapping, Sequence

from usss_jax.config import fields, names, no_such_field
from usss_jax.config.files import find_config, read_config
from usss_jax.config.usss import UNIVERSAL
from usss_jax.data.domains import get_domain
from usss_jax.errors import InputError
from usss_jax.experiments.rows import ONE_DOMAIN, SINGLES, Row, all_rows, expand, rows_of_table


def read_extra(text: str, domains: Sequence[str]) -> Row:
    """Parse a custom row, "NAME:FIELD=VALUE,FIELD=VALUE": Univ-full, or the variant given as `variants=`.

    >>> read_extra("half:usss.alpha=0.5", ["a", "b"]).title
    'half: usss.alpha=0.5'
    """
    name, colon, given = text.partition(":")
    if not colon or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise InputError(
            f"extra={text}: give NAME:FIELD=VALUE,FIELD=VALUE with a NAME of lower-case letters, digits, _"
        )
    if name == SINGLES or name in all_rows(domains) or name.startswith(tuple(f"{word}_" for word in ONE_DOMAIN)):
        raise InputError(f"extra={text}: {name!r} is the name of a built-in row; choose another")
    overrides = {}
    for item in given.split(","):
        field, equals, value = (part.strip() for part in item.partition("="))
        if not equals:
            raise InputError(f"extra={text}: {item!r} is not FIELD=VALUE")
        if field not in fields():
            raise InputError(f"extra={text}: {field}: {no_such_field(field, fields())}")
        if (fields()[field].sweep and field != "variants") or field in overrides:
            raise InputError(f"extra={text}: {field} is the same for all rows, or given twice; remove it")
        overrides[field] = check_value(f"extra={text}", field, value)
    variant = overrides.pop("variants", "full")
    if variant not in UNIVERSAL:
        raise InputError(f"extra={text}: variants={variant} must be one of {', '.join(UNIVERSAL)}")
    title = f"{name}: {', '.join(f'{k}={v}' for k, v in overrides.items()) or variant}"
    row = Row(name, title, (variant,), overrides, dict.fromkeys(domains, name))
    if row.needs_singles and (of_singles := [name for name in overrides if fields()[name].is_of_singles]):
        raise InputError(
            f"extra={text}: {of_singles[0]} changes the single-domain networks, which all rows share; run a separate "
            f"sweep with --config.{of_singles[0]} and its own --runs and --results"
        )
    return row


def check_value(where: str, field: str, text: str, method: str = "usss") -> str:
    """Return the text of a field's value; raise InputError if it does not parse as the field's type.

    >>> check_value("--config.optim.lr", "optim.lr", "0.1")
    '0.1'
    """
    about = fields(method)[field]
    default = about.default
    try:
        if isinstance(default, bool):
            if text.lower() not in ("true", "false"):
                raise ValueError("give True or False")
        elif isinstance(default, int | float) and not about.mixed:
            type(default)(text)
    except ValueError as e:
        raise InputError(f"{where}: {field}={text}: {e}") from e
    return text


def requested_rows(
    table: int, domains: Sequence[str], chosen: Sequence[str], extra: Sequence[str], words: str = ""
) -> list[Row]:
    """Return the rows to run.

    Args:
      table: whose rows run if neither `chosen` nor `extra` are given, without the optional ones.
      domains: names.
      chosen: names of rows of any table, as `expand` takes them.
      extra: custom rows, as `read_extra` takes them.
      words: file of word vectors.

    >>> [row.name for row in requested_rows(3, ["a", "b"], ["k*"], ["half:usss.alpha=0.5"])]
    ['k3', 'k5', 'half']
    """
    if chosen:
        known = all_rows(domains, words)
        rows = [row for name in chosen for row in expand(name, known)]
    else:
        rows = [] if extra else [row for row in rows_of_table(table, domains, words) if not row.optional]
    rows += [read_extra(text, domains) for text in extra]
    return to_run(rows, chosen)


def to_run(rows: Sequence[Row], chosen: Sequence[str]) -> list[Row]:
    """Return the rows without cited ones; raise InputError for a cited one that is chosen, or a name given twice."""
    if len({row.name for row in rows}) < len(rows):
        raise InputError(f"rows: {', '.join(row.name for row in rows)}: a name is given twice; remove one")
    if chosen and (cited := [row.name for row in rows if not row.variants]):
        raise InputError(f"rows: {cited[0]} is another work, which the paper only cites; remove it")
    return [row for row in rows if row.variants]


def read_overrides(arguments: Sequence[str], method: str = "usss") -> dict[str, str]:
    """Parse --config.SECTION.FIELD=VALUE arguments, which go to every command of a method.

    >>> read_overrides(["--config.optim.lr=0.1"])
    {'optim.lr': '0.1'}
    """
    overrides, known = {}, fields(method)
    for argument in arguments:
        field, equals, value = argument.lstrip("-").removeprefix("config.").partition("=")
        if not equals:
            raise InputError(f"{argument}: give --config.SECTION.FIELD=VALUE")
        if field not in known:
            raise InputError(f"{argument}: {no_such_field(field, known)}")
        if known[field].sweep == "set":
            raise InputError(f"{argument}: {field} is set by the sweep (--pair, --n, --seeds, --rows, --data_root)")
        overrides[field] = check_value(argument, field, value, method)
    return overrides


def config_file(pair: str) -> pathlib.Path:
    """Return the config file of a pair, given as a path or as a name in configs/; raise InputError if missing."""
    try:
        return find_config(pair if pair.endswith(".py") else f"configs/{pair}.py")
    except InputError as e:
        raise InputError(f"pair={pair}: {e}") from e


def domain_names(path: pathlib.Path, argument: str, overrides: Mapping[str, str]) -> list[str]:
    """Return the names of a config's domains; raise InputError for a wrong file or argument."""
    domains = names(overrides.get("data.domains", read_config(path, argument).data.domains))
    return [get_domain(domain).name for domain in domains]
