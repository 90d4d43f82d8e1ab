"""Numbers of the MLSL paper (Iqbal and Ali, WACV 2020), Tables 1 to 4: mIoU and IoU in % on Cityscapes' val split.

As printed, even where the mean of a row is not its mIoU. Rows have the names of experiments/rows_mlsl.py. Numbers of
`st`, and of `cbst` for gta_cs, are from the README of CBST's code instead. What Table 3 calls CBST is, for gta_cs,
the CBST-SP of Table 1.
"""

from collections.abc import Mapping

DOMAINS = {"gta_cs": ("gta5", "cityscapes"), "synthia_cs": ("synthia", "cityscapes16")}  # source and target
LEFT_OUT = {"synthia_cs": ["wall", "fence", "pole"]}  # of mIoU*, the second mean of Table 2
ORIGIN = {  # of numbers that are not in the paper
    "gta_cs": "The numbers of ST and CBST in the paper's column are from the README of CBST's code.",
    "synthia_cs": "The number of ST in the paper's column is from the README of CBST's code.",
}
# IoU of every class in the order of the domain's classes. Of the pair in Table 1 or 2.
_CLASSES = {
    "gta_cs": {
        "source": "70.0 23.7 67.8 15.4 18.1 40.2 41.9 25.3 78.8 11.7 31.4 62.9 29.8 60.1 21.5 26.8 7.7 28.1 12.0",
        "cbst": "86.8 46.7 76.9 26.3 24.8 42.0 46.0 38.6 80.7 15.7 48.0 57.3 27.9 78.2 24.5 49.6 17.7 25.5 45.1",
        "cbst_sp": "88 56.2 77 27.4 22.4 40.7 47.3 40.9 82.4 21.6 60.3 50.2 20.4 83.8 35 51 15.2 20.6 37",
        "sisc": "91.0 49.3 79.9 24.4 27.9 37.9 45.1 45.1 81.3 19.0 61.7 63.9 28.0 86.5 23.9 42.3 41.9 33.1 44.4",
        "sisc_pwl": "89.0 45.2 78.2 22.9 27.3 37.4 46.1 43.8 82.9 18.6 61.2 60.4 26.7 85.4 35.9 44.9 36.4 37.2 49.3",
    },
    "synthia_cs": {
        "source": "32.6 21.5 46.5 4.81 0.03 26.5 14.8 13.1 70.8 60.3 56.6 3.5 74.1 20.4 8.9 13.1",
        "cbst": "53.6 23.7 75.0 12.5 0.3 36.4 23.5 26.3 84.8 74.7 67.2 17.5 84.5 28.4 15.2 55.8",
        "sisc": "73.7 34.4 78.7 13.7 2.9 36.6 28.2 22.3 86.1 76.8 65.3 20.5 81.7 31.4 13.9 47.3",
        "sisc_pwl": "59.2 30.2 68.5 22.9 1.0 36.2 32.7 28.3 86.2 75.4 68.6 27.7 82.7 26.3 24.3 52.7",
    },
}
CLASSES: dict[str, dict[str, tuple[float, ...]]] = {
    pair: {row: tuple(map(float, text.split())) for row, text in rows.items()} for pair, rows in _CLASSES.items()
}
# mIoU of Tables 1 and 2, then mIoU* of Table 2.
MIOU: dict[str, dict[str, float | None]] = {
    "gta_cs": {
        "source": 35.4,
        "adaptsegnet": 42.4,
        "saleh": 42.5,
        "minent_cited": 42.3,
        "dlow": 42.3,
        "clan": 43.2,
        "all_structure": 45.4,
        "st": 41.5,
        "cbst": 45.2,
        "cbst_sp": 46.2,
        "sisc": 48.7,
        "sisc_pwl": 49.0,
    },
    "synthia_cs": {
        "source": 29.2,
        "road": 36.2,
        "adaptsegnet": 39.6,
        "minent_cited": 38.1,
        "clan": None,
        "all_structure": 41.5,
        "st": 32.2,
        "cbst": 42.5,
        "sisc": 44.4,
        "sisc_pwl": 45.2,
    },
}
WITHOUT: dict[str, dict[str, float]] = {
    "synthia_cs": {
        "source": 33.6,
        "road": 41.8,
        "adaptsegnet": 45.8,
        "minent_cited": 44.2,
        "clan": 47.8,
        "all_structure": 48.7,
        "cbst": 48.4,
        "sisc": 50.8,
        "sisc_pwl": 51.0,
    }
}
# Table 3: gain over the source network, of the mIoU for gta_cs and of mIoU* for synthia_cs.
GAINS: dict[str, dict[str, float]] = {
    "gta_cs": {
        "fcn_wild": 5.9,
        "curriculum": 6.6,
        "adaptsegnet": 5.8,
        "minent_cited": 5.7,
        "clan": 6.6,
        "all_structure": 8.8,
        "cbst_sp": 10.8,
        "sisc": 13.3,
        "sisc_pwl": 13.6,
    },
    "synthia_cs": {
        "fcn_wild": 1.8,
        "curriculum": 6.42,
        "adaptsegnet": 8.1,
        "minent_cited": 5.6,
        "clan": 9.2,
        "all_structure": 10.1,
        "cbst": 14.8,
        "sisc": 17.2,
        "sisc_pwl": 17.4,
    },
}
# Table 4: mIoU of SISC + PWL for gta_cs.
TABLE_4: dict[str, float] = {
    "lambda01": 46.0,
    "lambda005": 48.1,
    "sisc_pwl": 49.0,
    "lambda0001": 48.24,
    "eta0": 45.5,
    "eta01": 46.0,
    "eta0025": 47.33,
}


def table_scores(table: int, pair: str) -> Mapping[str, Mapping[str, float | None]]:
    """Return the scores of a table for a pair, column -> row -> score; empty if the table does not have the pair.

    The columns are "miou" and "without" (the second mean); of Table 3 "from", "to" and "gain".

    >>> table_scores(2, "synthia_cs")["without"]["sisc"], table_scores(3, "gta_cs")["gain"]["sisc"]
    (50.8, 13.3)
    >>> table_scores(1, "synthia_cs")
    {}
    """
    if table == 4 and pair == "gta_cs":
        return {"miou": TABLE_4}
    if table == 3 and pair in GAINS:
        scores = WITHOUT.get(pair, MIOU[pair])
        ours = [row for row in GAINS[pair] if row in CLASSES[pair]]
        return {
            "from": dict.fromkeys(ours, scores["source"]),
            "to": {row: scores[row] for row in ours},
            "gain": GAINS[pair],
        }
    if (table, pair) in ((1, "gta_cs"), (2, "synthia_cs")):
        return {"miou": MIOU[pair], **({"without": WITHOUT[pair]} if pair in WITHOUT else {})}
    return {}


def class_scores(table: int, pair: str) -> Mapping[str, tuple[float, ...]]:
    """Return the IoU of every class by row; empty if the table does not print them for the pair.

    >>> class_scores(1, "gta_cs")["sisc"][0]
    91.0
    """
    return CLASSES[pair] if (table, pair) in ((1, "gta_cs"), (2, "synthia_cs")) else {}
