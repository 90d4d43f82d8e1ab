"""Rows of the paper's tables: the config, variants and overrides that reproduce each.

A row has a short name (`full`) in its table and a full one (`table3/n100/full`). Every row runs with any config that
takes `n=` and an encoder as arguments.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from usss_jax import packages
from usss_jax.config import ANCHORED, BEST, LONG, ROUNDS, TEACHERS
from usss_jax.config.usss import VARIANTS
from usss_jax.errors import InputError

RESNET18 = "drn_d_22"  # as the configs call the paper's ResNet-18
# Config of every table of the paper; and its encoder by N, the labeled images per domain.
PAPER_PAIR = {2: "cs_cvd", 3: "cs_cvd", 4: "cs_cvd", 5: "cs_idd", 6: "cs_sun", 7: "cs_cvd", 8: "cs_cvd"}
ENCODERS = {
    2: {100: RESNET18},
    3: {50: RESNET18, 100: RESNET18},
    4: {375: "resnet101"},
    5: {100: RESNET18, 1500: "resnet50"},
    6: {1500: "resnet50"},
    7: {50: RESNET18, 100: RESNET18},
    8: {100: RESNET18},
}

SAME_ENCODER = {"resnet18": RESNET18, "resnet50": "drn_d_54", "resnet101": "drn_d_105"}  # two names of one network

# Rows of every table, in order; those in brackets are ours and not the paper's. A name that ends in _* stands for
# a row per domain. `souly` and `scenenet` are cited scores of other works, which cannot be run.
TABLE_ROWS = {
    2: "train_on_* basic full",
    3: "train_on_* [finetune_*] [teacher_single_*] basic cross full [anchored] [teacher] [teacher_own] [fixmatch] "
    "[mean_teacher] [unimatch] [self] [self_own] [self_full] [basic_time] [rounds] [rounds_own] [rounds2] [best] "
    "[oracle]",
    4: "train_on_* hung_* souly basic cross full",
    5: "train_on_* basic full",
    6: "train_on_* scenenet basic full",
    7: "theta05 words full k3 k5 direct [random]",
    8: "full k3 k5",
}
# Jobs that are trained on one domain: <this>_..._<domain>.
ONE_DOMAIN = tuple(name for name, variant in VARIANTS.items() if variant.per != "run")
SINGLES = "single"  # workdir of the single-domain networks that all rows of a seed share


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
      name: short name.
      title: printed name.
      variants: `variants` of the config; empty: a cited score, which cannot be run.
      overrides: config fields that define the row.
      jobs: domain -> job whose summary has the score; a domain without one has no score.
      start: row whose network labels first (`rounds.networks`); empty: none.
      optional: not in the paper: run only if named, shown only if it was run.
      missing: why the row cannot be run; empty: it can.
    """

    name: str
    title: str
    variants: tuple[str, ...]
    overrides: Mapping[str, str]
    jobs: Mapping[str, str]
    start: str = ""
    optional: bool = False
    missing: str = ""

    @property
    def needs_singles(self) -> bool:
        """Whether its label embeddings are prototypes of the single-domain networks."""
        if self.overrides.get("usss.label_embeddings", "prototypes") != "prototypes":
            return False
        similar = float(self.overrides.get("teacher.similarity_weight", 0)) > 0
        used = (VARIANTS[v] for v in self.variants)
        return any(v.per == "pair" or (v.embeddings and (similar or not v.teacher)) for v in used)


def field_text(value) -> str:
    """Format the value of a config field for a command line.

    >>> field_text(1.0), field_text(True), field_text("none")
    ('1', 'True', 'none')
    """
    return f"{value:g}" if isinstance(value, float) else str(value)


def universal_rows(domains: Sequence[str], words: str = "") -> dict[str, Row]:
    """Return the rows that train one network for all domains, by name.

    Args:
      domains: names.
      words: file of word vectors for the row `words`, which cannot be run without it.

    >>> universal_rows(["a", "b"])["k3"].overrides
    {'usss.embeddings_per_class': '3'}
    """

    def texts(values: Mapping[str, Any]) -> dict[str, str]:
        return {field: field_text(value) for field, value in values.items()}

    table: tuple[tuple[str, str, str, dict[str, str]], ...] = (
        ("basic", "", "basic", {}),
        ("cross", "", "cross", {}),
        ("full", "", "full", {}),
        ("k3", "Univ-full, K = 3", "full", {"usss.embeddings_per_class": "3"}),
        ("k5", "Univ-full, K = 5", "full", {"usss.embeddings_per_class": "5"}),
        ("theta05", "Univ-full, theta = 0.5", "full", {"usss.theta": "0.5"}),
        ("words", "Univ-full, word vectors", "full", {"usss.label_embeddings": f"words:{words or 'FILE'}"}),
        ("random", "Univ-full, random label embeddings", "full", {"usss.label_embeddings": "random"}),
        ("direct", "", "direct", {}),
        ("anchored", "Univ-full, anchored", "full", texts(ANCHORED)),
        ("teacher", "", "teacher", {}),
        ("teacher_own", "", "teacher_own", {}),
        ("fixmatch", "Univ-basic, FixMatch", "teacher", texts(TEACHERS["fixmatch"])),
        ("mean_teacher", "Univ-basic, Mean Teacher", "teacher", texts(TEACHERS["mean_teacher"])),
        ("unimatch", "Univ-basic, UniMatch", "teacher", texts(TEACHERS["unimatch"])),
        ("self", "", "self", {}),
        ("self_own", "", "self_own", {}),
        ("self_full", "", "self_full", {}),
        ("basic_time", "Univ-basic, twice the steps", "basic", {"train.steps": str(2 * LONG["train.steps"])}),
        ("rounds", "Self-training", "self", texts(ROUNDS)),
        ("rounds2", "Self-training, two rounds", "self", texts({**ROUNDS, "rounds.count": 2})),
        ("rounds_own", "Self-training, labeled images only", "self_own", texts(ROUNDS)),
        ("best", "Best", "self", texts(BEST)),
        ("oracle", "Univ-basic, all images labeled", "basic", {"data.labeled_per_domain": "all"}),
    )
    rows = {name: Row(name, t or VARIANTS[v].title, (v,), o, dict.fromkeys(domains, name)) for name, t, v, o in table}
    for name in ("rounds", "rounds2", "rounds_own", "best"):
        rows[name] = dataclasses.replace(rows[name], start="basic")
    if not words:
        rows["words"] = dataclasses.replace(rows["words"], missing="--words=FILE is not given")
    return rows


def all_rows(domains: Sequence[str], words: str = "") -> dict[str, Row]:
    """Return every built-in row, by name.

    >>> all_rows(["a", "b"])["train_on_a"].jobs
    {'a': 'single_a', 'b': 'frozen_a_b'}
    """
    rows = {}
    for source in domains:
        frozen = {d: f"frozen_{source}_{d}" for d in domains if d != source}
        jobs = {d: frozen.get(d, f"single_{d}") for d in domains}
        variants = ("single", "frozen") if frozen else ("single",)
        rows[f"train_on_{source}"] = Row(f"train_on_{source}", f"Train on {source}", variants, {}, jobs)
        for target in frozen:
            name = f"finetune_{source}_{target}"
            title = f"Train on {source}, then fine-tune on {target}"
            rows[name] = Row(name, title, ("single", "finetune"), {}, {source: name, target: name})
    for domain in domains:
        name = f"hung_{domain}"
        rows[name] = Row(name, f"Hung et al. on {domain}", ("hung",), {}, {domain: name})
        name = f"teacher_single_{domain}"
        rows[name] = Row(name, f"Teacher on {domain}", ("teacher_single",), {}, {domain: name})
    for name, title in (("souly", "Souly et al."), ("scenenet", "SceneNet")):
        rows[name] = Row(name, title, (), {}, {})
    return rows | universal_rows(domains, words)


def expand(pattern: str, rows: Mapping[str, Row]) -> list[Row]:
    """Return the rows that a name, a name without its domain, or a prefix and * stands for.

    Raises:
      InputError: if there is no such row.

    >>> [row.name for row in expand("k*", universal_rows(["a", "b"]))]
    ['k3', 'k5']
    """
    if pattern.endswith("*"):
        found = [row for name, row in rows.items() if name.startswith(pattern[:-1])]
    else:
        names = [pattern] if pattern in rows else [name for name in rows if name.startswith(f"{pattern}_")]
        found = [rows[name] for name in names]
    if not found:
        known = ", ".join(name for name, row in rows.items() if row.variants)
        raise InputError(f"rows: {pattern!r} is not one of {known}")
    return found


def check_table(table: int):
    """Raise InputError for a table without rows to run."""
    if table not in TABLE_ROWS:
        raise InputError(f"table={table}: has no rows to run; give one of {', '.join(map(str, TABLE_ROWS))}")


def rows_of_table(table: int, domains: Sequence[str], words: str = "") -> list[Row]:
    """Return the rows of a table for the given domains; those that the paper lacks are optional.

    >>> [row.name for row in rows_of_table(8, ["a", "b"])]
    ['full', 'k3', 'k5']
    """
    check_table(table)
    rows = all_rows(domains, words)
    out = []
    for item in TABLE_ROWS[table].split():
        pattern = item.strip("[]")
        if pattern.endswith("_*") and not any(name.startswith(pattern[:-1]) for name in rows):
            continue  # with a single domain there is no fine-tuning
        out += [dataclasses.replace(row, optional=item != pattern) for row in expand(pattern, rows)]
    return out


def config_argument(table: int, n: int, scale: str) -> str:
    """Return the argument of the config for a table and N labeled images per domain.

    An N that the table lacks gets the table's encoder. The scales "light" and "lite0" have a light encoder with
    ImageNet weights, and the latter twice the steps.

    Raises:
      InputError: for such an N if the table has several encoders.

    >>> config_argument(5, 1500, "cpu")
    'resnet50,n=1500,cpu'
    >>> config_argument(3, 100, "light")
    'efficientnet_lite0,n=100,cpu'
    """
    encoders = ENCODERS[table]
    if n not in encoders and len(set(encoders.values())) > 1:
        raise InputError(
            f"n={n}: table {table} has a different encoder for each n; give {', '.join(map(str, encoders))}"
        )
    encoder = encoders.get(n, next(iter(encoders.values())))
    encoder = packages.DEFAULT if scale in ("light", "lite0") else encoder
    words = {"full": [], "lite0": ["cpu", "long"]}.get(scale, ["cpu"])
    return ",".join([encoder, f"n={n}", *words])


def named_rows(domains: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, Row]]:
    """Return config and row of every row of the paper, by full name; `domains` gives the domains of every config."""
    return {
        f"table{table}/n{n}/{row.name}": (f"configs/{pair}.py:{config_argument(table, n, 'full')}", row)
        for table, pair in PAPER_PAIR.items()
        for n in ENCODERS[table]
        for row in rows_of_table(table, domains[pair])
        if not row.optional
    }
