"""Renders tables of the paper's numbers and ours, as Markdown and as CSV with one line per number."""

import csv
import io
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence

from usss_jax.data.domains import BUILTIN
from usss_jax.experiments import paper, summaries
from usss_jax.experiments.found import Found, averages, class_scores, extra_rows, scores
from usss_jax.experiments.gains import gain_lines
from usss_jax.experiments.notes import convention, notes
from usss_jax.experiments.rows import ENCODERS, SAME_ENCODER, Row, all_rows, rows_of_table

NOT_RUN = "not run"
HEAD = "mIoU in %, best checkpoint (chosen on the val split) / last step"
CSV_FIELDS = ("table", "pair", "n", "scale", "row", "source", "domain", "class", "which", "mean", "sd", "seeds")


def mean_and_spread(values: Iterable[float]) -> str:
    """Format mean and sample standard deviation; a single value has no deviation.

    >>> mean_and_spread([33.0, 35.0]), mean_and_spread([34.0]), mean_and_spread([])
    ('34.00 ± 1.41', '34.00', 'not run')
    """
    values = list(values)
    if not values:
        return NOT_RUN
    mean = f"{statistics.fmean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def shown_rows(table: int, found: Found, with_paper: bool) -> list[Row]:
    """Return the paper's rows of a table, then ours if they were run, then the user's."""
    rows = []
    for row in rows_of_table(table, found.domains):
        was_run = any(job in found.summaries for job in row.jobs.values())
        if was_run or (with_paper and not row.variants) or (row.variants and not row.optional):
            rows.append(row)
    return rows + extra_rows(found, list(all_rows(found.domains).values()))


def markdown(table: int, found: Found) -> str:
    """Render one table for one experiment: scores, scores per class, notes."""
    experiment, domains = found.experiment, found.domains
    numbers, other = comparable_scores(table, found)
    rows = shown_rows(table, found, numbers is not None)
    scale = f" ({experiment.scale})" if experiment.scale else ""
    parts = [f"## Table {table}: {experiment.pair}, N = {experiment.n}{scale}", f"{HEAD}. {convention(found)}"]
    if numbers is None:
        parts.append(
            f"The paper's columns are left out: {other or f'{experiment.pair} with N = {experiment.n}{scale}'} is not "
            f"in its Table {table}, and these scores must not be compared with its numbers."
        )
    parts.append(score_table(found, rows, numbers))
    if lines := gain_lines(found, rows):
        parts += [
            "mIoU in % gained over Univ-basic, paired by seed; its gap is the distance to the oracle:",
            grid(lines),
        ]
    for domain in domains:
        of_paper = paper.class_scores(table, experiment.n, domain) if numbers is not None else {}
        if text := class_table(found, rows, domain, of_paper):
            parts += [f"IoU in % per class of {domain}, best checkpoint:", text]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes(found))]) + "\n"


def comparable_scores(table: int, found: Found) -> tuple[dict[str, dict[str, float | None]] | None, str]:
    """Return the paper's scores that an experiment is comparable with; if None, what differs despite equal names."""
    experiment = found.experiment
    numbers = paper.table_scores(table, experiment.pair, experiment.n, experiment.scale)
    if numbers is None:
        return None, ""
    encoder = ENCODERS[table][experiment.n or 0]
    for _, path, summary in found.all():
        theirs, width = summaries.value(summary, "model.encoder"), summaries.value(summary, "model.width")
        if SAME_ENCODER.get(theirs, theirs) != SAME_ENCODER.get(encoder, encoder) or width != 1:
            return None, f"{path.name} of {path.parent.name}, {theirs} of width {width:g},"
        if other := set(summary["domains"]) - set(paper.domains_of(table)):
            return None, f"{path.name} of {path.parent.name}, with {', '.join(sorted(other))},"
    return numbers, ""


def grid(lines: Sequence[Sequence[str]]) -> str:
    """Render a Markdown table; the first line is its header.

    >>> print(grid([["", "mIoU"], ["basic", "43.97"]]))
    |  | mIoU |
    |---|---|
    | basic | 43.97 |
    """
    rows = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([rows[0], "|---" * len(lines[0]) + "|", *rows[1:]])


def score_table(found: Found, rows: Sequence[Row], numbers: Mapping[str, Mapping] | None) -> str:
    """Render rows x (domains, average), the paper's columns first."""
    domains = found.domains
    splits = {d: about["split"] for _, _, s in found.all() for d, about in s["domains"].items()}
    heads = [f"{d} ({splits[d]})" if d in splits else d for d in domains]
    before = [f"paper: {name}" for name in (*domains, "average")] if numbers is not None else []
    on_val = {row.name: averages(found, row, "val").values() for row in rows}
    has_val = any(on_val.values())
    lines = [["", *before, *heads, "average", "seeds", *["average on val"] * has_val]]
    for row in rows:
        of_paper = (numbers or {}).get(row.name, {})
        theirs = [percent(of_paper.get(name)) for name in (*domains, "average")] if numbers is not None else []
        ours = [both(found, row, domain) for domain in domains]
        counts = [len(scores(found, row, d, "best")) for d in domains if d in row.jobs] or [0]
        seeds = str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
        chosen = [mean_and_spread(on_val[row.name]).replace(NOT_RUN, "-")] * has_val
        lines.append([row.title, *theirs, *ours, average(found, row), seeds if row.variants else "-", *chosen])
    return grid(lines)


def percent(value: float | None) -> str:
    """Format a number of the paper; None is a dash.

    >>> percent(49.8), percent(None)
    ('49.80', '-')
    """
    return "-" if value is None else f"{value:.2f}"


def both(found: Found, row: Row, domain: str) -> str:
    """Format the cell of a domain: best / last; "-" if the row cannot have a score there."""
    return _best_and_last(lambda which: scores(found, row, domain, which)) if domain in row.jobs else "-"


def average(found: Found, row: Row) -> str:
    """Format the cell of the average over domains, like `both`."""
    complete = set(row.jobs) == set(found.domains)
    return _best_and_last(lambda which: averages(found, row, which)) if complete else "-"


def _best_and_last(scores):
    best, last = scores("best").values(), scores("last").values()
    return f"{mean_and_spread(best)} / {mean_and_spread(last)}" if best else NOT_RUN


def class_table(found: Found, rows: Sequence[Row], domain: str, of_paper: Mapping[str, Sequence[float]]) -> str:
    """Render rows x classes of one domain, like Tables 2 and 8; "" without any row."""
    classes: list[str] = []
    lines = []
    for row in rows:
        if row.name in of_paper:
            lines.append([f"{row.title} (paper)", *(f"{value:.2f}" for value in of_paper[row.name])])
        if ours := class_scores(found, row, domain, "best"):
            classes = list(ours)
            cells = [mean_and_spread(by_seed.values()).replace(NOT_RUN, "absent") for by_seed in ours.values()]
            miou = mean_and_spread(scores(found, row, domain, "best").values())
            lines.append([row.title, *cells, miou])
    if not lines:
        return ""
    return grid([["", *(classes or BUILTIN[domain].class_names), "mIoU"], *lines])


def csv_text(lines: Iterable[Mapping]) -> str:
    """Render lines by CSV_FIELDS as CSV."""
    file = io.StringIO()
    writer = csv.DictWriter(file, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def csv_lines(table: int, found: Found) -> Iterator[dict]:
    """Yield all numbers of a table for one experiment, the paper's and ours, in %."""
    experiment = found.experiment
    shared = {"table": table, "pair": experiment.pair, "n": experiment.n, "scale": experiment.scale}
    numbers, _ = comparable_scores(table, found)
    for row in shown_rows(table, found, numbers is not None):
        for line in [*paper_lines(table, found, row, numbers or {}), *our_lines(found, row)]:
            yield {**shared, "row": row.name, **line}


def paper_lines(table: int, found: Found, row: Row, numbers: Mapping[str, Mapping]) -> list[dict]:
    """Return the CSV lines of the paper's numbers for a row."""
    lines = []
    for domain, value in numbers.get(row.name, {}).items():
        if value is not None:
            lines.append({"source": "paper", "domain": domain, "mean": value})
    for domain in found.domains:
        of_paper = paper.class_scores(table, found.experiment.n, domain) if numbers else {}
        named = zip(BUILTIN[domain].class_names, of_paper[row.name], strict=False) if row.name in of_paper else ()
        lines += [{"source": "paper", "domain": domain, "class": name, "mean": value} for name, value in named]
    return lines


def our_lines(found: Found, row: Row) -> list[dict]:
    """Return the CSV lines of our numbers for a row."""
    lines = []
    for which in ("best", "last"):
        for domain in found.domains:
            lines.append(line_of(domain, "", which, scores(found, row, domain, which)))
            for name, by_seed in class_scores(found, row, domain, which).items():
                lines.append(line_of(domain, name, which, by_seed))
        lines.append(line_of("average", "", which, averages(found, row, which)))
    return [line for line in lines if line]


def line_of(domain: str, name: str, which: str, by_seed: Mapping[int, float]) -> dict:
    """Return one CSV line of our numbers; empty without a score.

    >>> line_of("camvid", "sky", "best", {0: 33.0, 1: 35.0})["mean"]
    '34.0000'
    """
    values = list(by_seed.values())
    if not values:
        return {}
    sd = f"{statistics.stdev(values):.4f}" if len(values) > 1 else ""
    mean = f"{statistics.fmean(values):.4f}"
    where = {"source": "ours", "domain": domain, "class": name, "which": which}
    return {**where, "mean": mean, "sd": sd, "seeds": len(values)}
