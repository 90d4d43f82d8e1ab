"""Numbers of the paper, copied from its text (arXiv 1811.10323): mIoU and IoU in %.

Rows have the names of experiments/rows.py; `None` is a dash in the paper. Averages are as printed, even if they are
not the mean of the domains. Line numbers refer to the plain text of the arXiv version.
"""

import dataclasses
from collections.abc import Mapping

from usss_jax.experiments.rows import PAPER_PAIR

CS_CVD = ("cityscapes", "camvid")
Scores = tuple[float | None, ...]


@dataclasses.dataclass(frozen=True)
class PaperTable:
    """One table of mIoU.

    Attributes:
      domains: columns.
      lines: line numbers in the text.
      rows: N -> row -> scores of the domains, then their average.
    """

    domains: tuple[str, ...]
    lines: str
    rows: Mapping[int, Mapping[str, Scores]]


TABLES = {
    3: PaperTable(
        CS_CVD,
        "585-590",
        {
            50: {
                "train_on_cityscapes": (33.33, 32.92, 33.13),
                "train_on_camvid": (19.47, 42.81, 31.14),
                "basic": (32.82, 48.56, 40.69),
                "cross": (33.86, 52.57, 43.22),
                "full": (34.01, 53.23, 43.62),
            },
            100: {
                "train_on_cityscapes": (40.97, 36.52, 38.75),
                "train_on_camvid": (22.20, 50.02, 36.11),
                "basic": (36.04, 51.90, 43.97),
                "cross": (37.82, 49.31, 43.57),
                "full": (41.03, 54.62, 47.83),
            },
        },
    ),
    4: PaperTable(
        CS_CVD,
        "637-644",
        {
            375: {
                "train_on_cityscapes": (55.07, 48.52, 51.80),
                "train_on_camvid": (26.45, 60.61, 43.53),
                "hung_cityscapes": (58.80, None, None),
                "souly": (None, 58.20, None),
                "basic": (53.14, 65.33, 59.24),
                "cross": (56.36, 63.34, 59.85),
                "full": (55.92, 64.72, 60.32),
            }
        },
    ),
    5: PaperTable(
        ("cityscapes", "idd"),
        "687-691",
        {
            100: {
                "train_on_cityscapes": (40.97, 14.64, 27.81),
                "train_on_idd": (25.05, 26.53, 25.79),
                "basic": (37.94, 25.21, 31.58),
                "full": (36.48, 27.45, 31.97),
            },
            1500: {
                "train_on_cityscapes": (64.23, 32.50, 48.37),
                "train_on_idd": (46.32, 55.01, 50.67),
                "basic": (63.55, 53.21, 58.38),
                "full": (64.12, 55.14, 59.63),
            },
        },
    ),
    6: PaperTable(
        ("cityscapes", "sun13"),
        "811-816",
        {
            1500: {
                "train_on_cityscapes": (64.23, 15.47, 39.85),
                "train_on_sun13": (15.61, 42.52, 29.07),
                "scenenet": (None, 49.8, None),
                "basic": (58.01, 31.55, 44.78),
                "full": (57.91, 43.12, 50.52),
            }
        },
    ),
    7: PaperTable(
        CS_CVD,
        "956-964",
        {
            50: {
                "theta05": (33.28, 48.7, 40.99),
                "words": (33.48, 53.19, 43.34),
                "full": (34.01, 53.23, 43.62),
                "k3": (35.23, 52.38, 43.81),
                "k5": (33.76, 52.77, 43.27),
                "direct": (21.36, 35.24, 28.30),
            },
            100: {
                "theta05": (33.51, 49.49, 41.50),
                "words": (36.18, 52.72, 44.45),
                "full": (41.03, 54.62, 47.83),
                "k3": (41.82, 54.96, 48.39),
                "k5": (40.08, 55.02, 47.55),
                "direct": (23.7, 30.67, 27.19),
            },
        },
    ),
}

# IoU per class of Tables 2 (lines 567-575) and 8 (lines 1048-1053), N = 100, in the order of the domain's classes, as
# printed; the last number of a row is the mIoU.
_PER_CLASS = {
    (2, "cityscapes"): {
        "train_on_cityscapes": "91.76 54.78 80.02 3.70 16.58 29.84 22.31 33.74 83.88 32.89 82.07 52.67 21.57 81.11 "
        "19.01 3.87 0.0 19.64 49.01 40.97",
        "basic": "87.00 44.54 77.77 10.21 11.07 25.54 14.51 25.82 80.72 22.40 78.19 49.00 19.64 75.35 1.86 0.25 "
        "10.98 8.83 41.08 36.04",
        "full": "92.18 51.29 80.07 0.0 24.01 33.73 26.16 38.71 82.30 36.39 81.61 54.38 20.48 81.71 2.37 22.79 3.85 "
        "1.31 46.23 41.03",
    },
    (2, "camvid"): {
        "train_on_camvid": "85.58 75.15 8.17 84.86 52.34 69.68 27.11 20.48 73.1 24.36 29.42 50.02",
        "basic": "87.04 76.67 9.56 83.5 51.35 70.07 27.75 22.6 73.22 33.94 35.25 51.9",
        "full": "86.3 77.23 17.13 84.99 53.35 70.57 31.99 32.45 72.94 36.61 37.22 54.62",
    },
    (8, "cityscapes"): {
        "full": "92.18 51.29 80.07 00.00 24.01 33.73 26.16 38.71 82.30 36.39 81.61 54.38 20.48 81.71 02.37 22.79 "
        "03.85 01.31 46.23 41.03",
        "k3": "93.10 56.82 80.48 00.03 17.84 32.49 24.07 33.51 82.52 38.52 80.12 53.22 15.35 81.34 07.79 20.79 04.18 "
        "22.57 49.90 41.82",
        "k5": "89.58 48.50 81.21 14.55 07.89 27.77 22.72 33.95 84.36 34.33 80.52 54.39 22.51 81.52 02.41 09.43 07.28 "
        "10.40 48.18 40.08",
    },
    (8, "camvid"): {
        "full": "86.3 77.23 17.13 84.99 53.35 70.57 31.99 32.45 72.94 36.61 37.22 54.61",
        "k3": "87.67 78.51 16.37 84.84 53.18 73.33 34.02 27.71 74.42 40.36 34.24 54.96",
        "k5": "86.07 76.39 15.25 87.87 63.6 70.95 32.6 34.6 76.63 30.42 30.9 55.02",
    },
}
# (table, domain) -> row -> IoU of every class, then the mIoU.
PER_CLASS: dict[tuple[int, str], dict[str, tuple[float, ...]]] = {
    key: {row: tuple(map(float, text.split())) for row, text in rows.items()} for key, rows in _PER_CLASS.items()
}
PER_CLASS_OF = {2: 2, 3: 2, 7: 8, 8: 8}  # table -> table with the IoU per class of its rows, all at N = 100
SCORES_OF = {2: 3, 8: 7}  # table of IoU per class -> table of their mIoU


def domains_of(table: int) -> tuple[str, ...]:
    """Return the domains of a table.

    >>> domains_of(6)
    ('cityscapes', 'sun13')
    """
    return TABLES[SCORES_OF.get(table, table)].domains


def table_scores(table: int, pair: str, n: int | None, scale: str) -> dict[str, dict[str, float | None]] | None:
    """Return the paper's scores for an experiment, row -> domain or "average" -> mIoU.

    None unless the experiment has the table's pair and one of its N, at full scale.

    >>> table_scores(3, "cs_cvd", 100, "full")["basic"]
    {'cityscapes': 36.04, 'camvid': 51.9, 'average': 43.97}
    """
    if pair != PAPER_PAIR[table] or scale != "full":
        return None
    source = TABLES[SCORES_OF.get(table, table)]
    if n is None or n not in source.rows:
        return None
    names = (*source.domains, "average")
    return {row: dict(zip(names, values, strict=True)) for row, values in source.rows[n].items()}


def class_scores(table: int, n: int | None, domain: str) -> dict[str, tuple[float, ...]]:
    """Return the paper's IoU of every class, then the mIoU, by row; empty if it does not print them.

    >>> class_scores(2, 100, "camvid")["full"][-1]
    54.62
    """
    if n != 100 or table not in PER_CLASS_OF:
        return {}
    return PER_CLASS.get((PER_CLASS_OF[table], domain), {})
