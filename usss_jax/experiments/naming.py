"""Names of rows by the content of a summary."""

import pathlib
from collections.abc import Mapping
from typing import Any

from usss_jax.config import fields, flat
from usss_jax.config.rounds import variant_of
from usss_jax.config.usss import last_job
from usss_jax.errors import InputError
from usss_jax.experiments import rows_mlsl
from usss_jax.experiments.layout import Experiment
from usss_jax.experiments.rows import Row, field_text, universal_rows
from usss_jax.experiments.summaries import kind, labeled, method_of, value


def changed_fields(summary: Mapping) -> dict[str, str]:
    """Return the method fields that make a row of their own and differ from the paper's, as text."""
    values, variant = flat(summary["config"]), variant_of(summary["job"])
    makes = {name: field.default for name, field in fields(method_of(summary)).items() if variant in field.makes}
    given = {name: of_type(values.get(name, default), default) for name, default in makes.items()}
    return {name: field_text(value) for name, value in given.items() if value != makes[name]}


def of_type(value, default):
    """Convert a value of a field to the type of its default; values by domain remain text.

    >>> of_type(1, 0.5), of_type("0.5", 0.5), of_type("a=0.5", 0.5)
    (1.0, 0.5, 'a=0.5')
    """
    try:
        return type(default)(value)
    except ValueError:
        return value


def row_of_content(summary: Mapping) -> str:
    """Return the short name of the built-in row that a summary's variant and fields make; empty if none."""
    changed = changed_fields(summary)
    if changed.get("usss.label_embeddings", "").startswith("words:"):
        changed["usss.label_embeddings"] = "words:FILE"
    rows, known = built_in_rows(method_of(summary)).values(), fields(method_of(summary))
    same = (
        row.name
        for row in rows
        if row.variants == (last_variant(summary),)
        and dict(row.overrides) == changed
        and all(known[name].makes for name in row.overrides)
    )
    return next(same, "")


def is_row(row: Row, summary: Mapping) -> bool:
    """Whether a summary's variant and fields are those of a built-in row."""
    known = fields(method_of(summary))
    shared = {name: text for name, text in row.overrides.items() if not known[name].makes}
    if not shared:
        return row_of_content(summary) == row.name
    given = all(field_text(value(summary, name)) == text for name, text in shared.items())
    return given and row.variants == (last_variant(summary),) and not changed_fields(summary)


def built_in_rows(method: str) -> Mapping[str, Row]:
    """Return the rows of a method that are known by their variant and fields, by name."""
    return rows_mlsl.ROWS if method == "mlsl" else universal_rows(())


def last_variant(summary: Mapping) -> str:
    """Return the variant of a job; of a round before the last of USSS, whose row is only the last, its name.

    >>> [last_variant({"job": f"self_round{r}", "config": {"rounds": {"count": 2}}}) for r in range(2)]
    ['self_round0', 'self']
    """
    job = summary["job"]
    unfinished = method_of(summary) == "usss" and job != last_job(variant_of(job), value(summary, "rounds.count") or 1)
    return job if unfinished else variant_of(job)


def named_by_content(summary: Mapping) -> tuple[str, dict[str, Any]]:
    """Name the row of a workdir's job by its variant and fields; add the fields if no built-in row has them."""
    changed, name = changed_fields(summary), row_of_content(summary)
    variant = last_variant(summary)
    if not changed or name:
        return name or variant, dict(summary)
    text = ",".join(f"{name}={new}" for name, new in changed.items())
    return f"{variant}:{text}", {**summary, "row": {"overrides": changed}}


def check_named(experiment: Experiment, name: str, path: pathlib.Path, summary: Mapping):
    """Raise InputError if the method, row or N of a summary differs from its folder's."""
    method = method_of(summary)
    if method != experiment.method:
        raise InputError(f"{path}: is of method={method}, unlike its folder; move it to the folder of its experiment")
    row = built_in_rows(method).get(name)
    if row and not is_row(row, summary):
        text = ", ".join(f"{field}={new}" for field, new in changed_fields(summary).items()) or "nothing else"
        raise InputError(f"{path} is not {name!r} but {summary['job']} with {text}; rename its folder")
    if experiment.n is None or (row and "data.labeled_per_domain" in row.overrides):
        return
    count = labeled(summary)
    if count > experiment.n or (kind(name) == "universal" and count != experiment.n):
        raise InputError(
            f"{path}: has {count} labeled images per domain, but its folder says {experiment.n}; move it to the "
            "folder of its experiment"
        )
