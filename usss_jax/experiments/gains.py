"""What rows gain over Univ-basic, and which share of its distance to the oracle, which has all labels."""

import statistics
from collections.abc import Mapping, Sequence

from scipy.stats import t as student

from usss_jax.experiments.found import Found, averages
from usss_jax.experiments.rows import Row

BASIC, ORACLE, OWN = "basic", "oracle", ("rounds_own", "teacher_own")  # the controls, on labeled images alone


def gains(one: Mapping[int, float], other: Mapping[int, float]) -> dict[int, float]:
    """Differences of the seeds that both have.

    >>> gains({0: 40.5, 1: 42.0}, {0: 40.0, 2: 1.0})
    {0: 0.5}
    """
    return {seed: one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())}


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Confidence interval of the mean of some differences, by Student's t; None for less than two.

    >>> low, high = interval([1.0, 2.0, 3.0])
    >>> f"{low:.3f} {high:.3f}"  # 2 - 4.303 / sqrt(3), 2 + 4.303 / sqrt(3)
    '-0.484 4.484'
    """
    if len(values) < 2:
        return None
    half = student.ppf((1 + level) / 2, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.fmean(values) - half, statistics.fmean(values) + half


def gain_lines(found: Found, rows: Sequence[Row]) -> list[list[str]]:
    """Cells of a table: rows x (gain over Univ-basic, interval, share of the gap, gain over the control, cost).

    The average of all domains, of the best checkpoint on test. Empty without Univ-basic or the oracle.
    """
    by_row = {row.name: averages(found, row, "best") for row in rows}
    if not by_row.get(BASIC) or not by_row.get(ORACLE):
        return []
    gap = statistics.fmean(by_row[ORACLE].values()) - statistics.fmean(by_row[BASIC].values())
    controls = [name for name in OWN if by_row.get(name)]
    heads = ["", "gain", "95 % interval", "share of the gap", *(f"over {name}" for name in controls)]
    lines = [[*heads, "seeds", "seconds", "unlabeled views"]]
    for row in rows:
        if row.name == BASIC or not by_row[row.name]:
            continue
        gain = list(gains(by_row[row.name], by_row[BASIC]).values())
        over = [gains(by_row[row.name], by_row[name]) if name != row.name else {} for name in controls]
        lines.append(
            [
                row.title,
                mean(gain),
                "-" if (span := interval(gain)) is None else f"{span[0]:+.2f} to {span[1]:+.2f}",
                f"{100 * statistics.fmean(gain) / gap:.0f} %" if gain and gap > 0 else "-",
                *(mean(list(values.values())) for values in over),
                str(len(gain)),
                *costs(found, row),
            ]
        )
    return lines


def mean(values: Sequence[float]) -> str:
    """Format the mean of differences.

    >>> mean([1.0, 2.0]), mean([])
    ('+1.50', '-')
    """
    return f"{statistics.fmean(values):+.2f}" if values else "-"


def costs(found: Found, row: Row) -> list[str]:
    """Mean seconds of the training, and views of images without labels, of a row that is one job."""
    (job,) = set(row.jobs.values()) if len(set(row.jobs.values())) == 1 else ("",)
    summaries = list(found.summaries.get(job, {}).values())
    if not summaries:
        return ["-", "-"]
    seconds = statistics.fmean(summary["seconds"] for summary in summaries)
    views = summaries[0].get("views", {})
    unlabeled = sum(count for name, count in views.items() if name.startswith("unlabeled ") or name.endswith(" pseudo"))
    return [f"{seconds:.0f}", str(unlabeled) if views else "-"]
