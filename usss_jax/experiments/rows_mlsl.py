"""Rows of MLSL's tables: the variant and overrides of each; every row runs with any config of method=mlsl.

Tables 1 and 2 have the IoU of every class, Table 3 the gains over the source network, Table 4 lambda and eta. The rows
of Tables 1, 2 and 4 have the full names `mlsl/table1/sisc`; those of Table 3 are rows of Tables 1 and 2.
"""

from collections.abc import Sequence

from usss_jax import packages
from usss_jax.errors import InputError
from usss_jax.experiments.arguments import to_run
from usss_jax.experiments.rows import Row, expand

MAIN = {"gta_cs": 1, "synthia_cs": 2}  # pair -> table with its IoU per class
PAPER_PAIRS = {1: ("gta_cs",), 2: ("synthia_cs",), 3: ("gta_cs", "synthia_cs"), 4: ("gta_cs",)}
ENCODER = "rna_a1"  # the paper's ResNet-38

# Rows of every table, in order; those in brackets are ours and not the paper's.
_BASELINES = "[minent] [minent_prior] [adversarial] [oracle]"
TABLE_ROWS = {
    1: "source [source_pwl] adaptsegnet saleh minent_cited dlow clan all_structure [st] [cbst] cbst_sp [cbst_pwl] sisc "
    f"sisc_pwl {_BASELINES}",
    2: "source [source_pwl] road adaptsegnet minent_cited clan all_structure [st] cbst [cbst_sp] [cbst_pwl] sisc "
    f"sisc_pwl {_BASELINES}",
    3: "fcn_wild curriculum adaptsegnet minent_cited clan all_structure",  # then the rows of Table 1 or 2
    4: "lambda01 lambda005 sisc_pwl lambda0001 eta0 eta01 eta0025",
}


def _rows() -> dict[str, Row]:
    image_weight, eta = "mlsl.image_weight", "mlsl.eta"
    table: tuple[tuple[str, str, str, dict[str, str]], ...] = (
        ("source", "Source only", "source", {}),
        ("source_pwl", "Source only, with image-level head", "source_pwl", {}),
        ("minent", "MinEnt", "minent", {}),
        ("minent_prior", "MinEnt, class-ratio prior", "minent_prior", {}),
        ("adversarial", "Adversarial", "adversarial", {}),
        ("st", "ST", "st", {}),
        ("cbst", "CBST", "cbst", {}),
        ("cbst_sp", "CBST-SP", "cbst_sp", {}),
        ("cbst_pwl", "CBST + PWL", "cbst_pwl", {}),
        ("sisc", "SISC", "sisc", {}),
        ("sisc_pwl", "SISC + PWL", "sisc_pwl", {}),
        ("oracle", "Oracle (trained on the target's labels)", "oracle", {}),
        ("lambda01", "SISC + PWL, lambda = 0.1", "sisc_pwl", {image_weight: "0.1"}),
        ("lambda005", "SISC + PWL, lambda = 0.05", "sisc_pwl", {image_weight: "0.05"}),
        ("lambda0001", "SISC + PWL, lambda = 0.001", "sisc_pwl", {image_weight: "0.001"}),
        ("eta0", "SISC + PWL, eta = 0", "sisc_pwl", {eta: "0"}),
        ("eta01", "SISC + PWL, eta = 0.1", "sisc_pwl", {eta: "0.1"}),
        ("eta0025", "SISC + PWL, eta = 0.025", "sisc_pwl", {eta: "0.025"}),
    )
    cited = {
        "fcn_wild": "FCN in the wild",
        "curriculum": "Curriculum",
        "road": "Road",
        "adaptsegnet": "AdaptSegNet",
        "saleh": "Saleh et al.",
        "minent_cited": "MinEnt (Vu et al.)",
        "dlow": "DLOW",
        "clan": "CLAN",
        "all_structure": "All-Structure",
    }
    missing = {"source_pwl": "sisc_pwl trains it where mlsl.image_head_start is source"}
    rows = {name: Row(name, t, (v,), o, {}, missing=missing.get(name, "")) for name, t, v, o in table}
    return rows | {name: Row(name, title, (), {}, {}) for name, title in cited.items()}


ROWS = _rows()


def check_table(table: int):
    """Raise InputError for a table that MLSL's paper does not have."""
    if table not in TABLE_ROWS:
        raise InputError(f"table={table}: is not of MLSL; give one of {', '.join(map(str, TABLE_ROWS))}")


def rows_of_table(table: int, pair: str) -> dict[str, bool]:
    """Names of the rows of a table for a pair, and whether each is optional: not in the paper.

    >>> list(rows_of_table(4, "gta_cs"))[:3]
    ['lambda01', 'lambda005', 'sisc_pwl']
    >>> "source" in rows_of_table(3, "gta_cs"), rows_of_table(3, "gta_cs")["sisc"]
    (False, False)
    """
    check_table(table)
    items = TABLE_ROWS[table].split()
    if table == 3:
        of_pair = TABLE_ROWS[MAIN.get(pair, 1)].split()
        items += [item for item in of_pair if item != "source" and item.strip("[]") in _run()]
    return {item.strip("[]"): item.startswith("[") for item in items}


def _run() -> list[str]:
    return [name for name, row in ROWS.items() if row.variants]


def requested_rows(table: int, pair: str, chosen: Sequence[str]) -> list[Row]:
    """Return the rows to run: the chosen ones, or those of a table that are the paper's.

    >>> [row.name for row in requested_rows(1, "gta_cs", [])]
    ['source', 'cbst_sp', 'sisc', 'sisc_pwl']
    >>> [row.name for row in requested_rows(1, "gta_cs", ["eta*"])]
    ['eta0', 'eta01', 'eta0025']
    """
    if chosen:
        return to_run([row for name in chosen for row in expand(name, ROWS)], chosen)
    return to_run([ROWS[name] for name, optional in rows_of_table(table, pair).items() if not optional], chosen)


def config_argument(variant: str, scale: str) -> str:
    """Return the argument of the config for a variant; the config sets some fields by it.

    Raises:
      InputError: for the scale "cpu", random weights.

    >>> config_argument("sisc", "full"), config_argument("sisc", "light")
    ('sisc', 'efficientnet_lite0,cpu,sisc')
    """
    if scale == "cpu":
        raise InputError("--scale=cpu: MLSL's rows start from ImageNet weights; give light (for two cores) or full")
    return variant if scale == "full" else f"{packages.DEFAULT},cpu,{variant}"


def named_rows() -> dict[str, tuple[str, Row]]:
    """Return config and row of every row of the paper, by full name.

    >>> named_rows()["mlsl/table2/cbst"][0]
    'configs/synthia_cs.py:cbst'
    """
    return {
        f"mlsl/table{table}/{name}": (f"configs/{pair}.py:{''.join(ROWS[name].variants)}", ROWS[name])
        for table, (pair, *others) in PAPER_PAIRS.items()
        for name, optional in rows_of_table(table, pair).items()
        if not others and not optional
    }
