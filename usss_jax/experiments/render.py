"""A table of the paper and ours as Markdown, and as CSV with a line per number."""

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence

from usss_jax.data.domains import BUILTIN
from usss_jax.experiments import collect, paper
from usss_jax.experiments.collect import Found
from usss_jax.experiments.rows import CONFIGS_ENCODER, ENCODERS, SAME_ENCODER, Row, all_rows, rows_of_table

NOT_RUN = "not run"
HEAD = "mIoU in %, best checkpoint (chosen on the val split) / last step"
CSV_FIELDS = ("table", "pair", "n", "scale", "row", "source", "domain", "class", "which", "mean", "sd", "seeds")


def mean_and_spread(values: Iterable[float]) -> str:
    """Format "34.01 ± 0.52", the sample standard deviation; of one value without a spread."""
    values = list(values)
    if not values:
        return NOT_RUN
    mean = f"{statistics.fmean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def shown_rows(table: int, found: Found, with_paper: bool) -> list[Row]:
    """Rows of the table, those that are not of the paper if they were run, and the user's own."""
    rows = []
    for row in rows_of_table(table, found.domains):
        was_run = any(job in found.summaries for job in row.jobs.values())
        if was_run or (with_paper and not row.variants) or (row.variants and not row.optional):
            rows.append(row)
    return rows + collect.extra_rows(found, list(all_rows(found.domains).values()))


def markdown(table: int, found: Found) -> str:
    """Section of one table and setting: scores, classes, notes."""
    setting, domains = found.setting, found.domains
    numbers, other = beside(table, found)
    rows = shown_rows(table, found, numbers is not None)
    scale = f" ({setting.scale})" if setting.scale else ""
    parts = [f"## Table {table}: {setting.pair}, N = {setting.n}{scale}", f"{HEAD}. {convention(found)}"]
    if numbers is None:
        parts.append(
            f"The paper's columns are left out: {other or f'{setting.pair} with N = {setting.n}{scale}'} is no setting "
            f"of its Table {table}, and these scores must not be put beside its numbers."
        )
    parts.append(score_table(found, rows, numbers))
    for domain in domains:
        of_paper = paper.class_scores(table, setting.n, domain) if numbers is not None else {}
        if text := class_table(found, rows, domain, of_paper):
            parts += [f"IoU in % per class of {domain}, best checkpoint:", text]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in notes(found))]) + "\n"


def beside(table: int, found: Found) -> tuple[dict[str, dict[str, float | None]] | None, str]:
    """Scores of the paper that the setting may be put beside; without any, what differs though the names agree."""
    setting = found.setting
    numbers = paper.table_scores(table, setting.pair, setting.n, setting.scale)
    if numbers is None:
        return None, ""
    encoder = ENCODERS[table][setting.n] or CONFIGS_ENCODER[setting.pair]
    for _, path, summary in found.all():
        theirs, width = collect.value(summary, "model.encoder"), collect.value(summary, "model.width")
        if theirs not in (encoder, SAME_ENCODER[encoder]) or width != 1:
            return None, f"{path.name} of {path.parent.name}, {theirs} of width {width:g},"
        if other := set(summary["domains"]) - set(paper.domains_of(table)):
            return None, f"{path.name} of {path.parent.name}, with {', '.join(sorted(other))},"
    return numbers, ""


def convention(found: Found) -> str:
    """What the summaries say of their mIoU, and of spreads."""
    said = sorted({summary.get("convention", "") for _, _, summary in found.all()} - {""})
    spread = "With several seeds: mean ± sample standard deviation."
    return " ".join([*(f"{text}." for text in said), spread])


def grid(lines: Sequence[Sequence[str]]) -> str:
    """Markdown table; the first line is its head."""
    rows = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([rows[0], "|---" * len(lines[0]) + "|", *rows[1:]])


def score_table(found: Found, rows: Sequence[Row], numbers: Mapping[str, Mapping] | None) -> str:
    """Rows x domains and average, the paper's columns first."""
    domains = found.domains
    splits = {d: about["split"] for _, _, s in found.all() for d, about in s["domains"].items()}
    heads = [f"{d} ({splits[d]})" if d in splits else d for d in domains]
    before = [f"paper: {name}" for name in (*domains, "average")] if numbers is not None else []
    on_val = {row.name: collect.averages(found, row, "val").values() for row in rows}
    tells_val = any(on_val.values())
    lines = [["", *before, *heads, "average", "seeds", *["average on val"] * tells_val]]
    for row in rows:
        of_paper = (numbers or {}).get(row.name, {})
        theirs = [percent(of_paper.get(name)) for name in (*domains, "average")] if numbers is not None else []
        ours = [both(found, row, domain) for domain in domains]
        counts = [len(collect.scores(found, row, d, "best")) for d in domains if d in row.jobs] or [0]
        seeds = str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
        chosen = [mean_and_spread(on_val[row.name]).replace(NOT_RUN, "-")] * tells_val
        lines.append([row.title, *theirs, *ours, average(found, row), seeds if row.variants else "-", *chosen])
    return grid(lines)


def percent(value: float | None) -> str:
    """Number of the paper, or its dash."""
    return "-" if value is None else f"{value:.2f}"


def both(found: Found, row: Row, domain: str) -> str:
    """Cell of a domain: best / last; "-" where the row has no score by its nature."""
    if domain not in row.jobs:
        return "-"
    cells = [collect.scores(found, row, domain, which).values() for which in ("best", "last")]
    return " / ".join(map(mean_and_spread, cells)) if cells[0] else NOT_RUN


def average(found: Found, row: Row) -> str:
    """Cell of the average over domains."""
    if set(row.jobs) != set(found.domains):
        return "-"
    cells = [collect.averages(found, row, which).values() for which in ("best", "last")]
    return " / ".join(map(mean_and_spread, cells)) if cells[0] else NOT_RUN


def class_table(found: Found, rows: Sequence[Row], domain: str, of_paper: Mapping[str, Sequence[float]]) -> str:
    """Rows x classes of one domain, as Tables 2 and 8; empty without any row."""
    classes: list[str] = []
    lines = []
    for row in rows:
        if row.name in of_paper:
            lines.append([f"{row.title} (paper)", *(f"{value:.2f}" for value in of_paper[row.name])])
        if ours := collect.class_scores(found, row, domain, "best"):
            classes = list(ours)
            cells = [mean_and_spread(by_seed.values()).replace(NOT_RUN, "absent") for by_seed in ours.values()]
            miou = mean_and_spread(collect.scores(found, row, domain, "best").values())
            lines.append([row.title, *cells, miou])
    if not lines:
        return ""
    return grid([["", *(classes or BUILTIN[domain].class_names), "mIoU"], *lines])


def notes(found: Found) -> list[str]:
    """What the numbers were made with."""
    if not found.summaries:
        return ["Nothing was run."]
    summaries = [summary for _, _, summary in found.all()]

    def each(name: str) -> str:
        return ", ".join(sorted({str(collect.value(summary, name)) for summary in summaries}))

    splits = {s["split_hash"] for s in summaries}
    devices = sorted({summary.get("device", "unknown") for summary in summaries})
    universal = {s["split_hash"] for job, _, s in found.all() if collect.kind(job) == "universal"}
    commits = sorted({short_commit(summary.get("commit")) for summary in summaries})
    sizes = {d: about["image_size"] for s in summaries for d, about in s["domains"].items()}
    files = ", ".join(sorted({collect.weights(summary) for summary in summaries} - {""}))
    weights = files or "none: random weights, which departs from the paper (ImageNet's)"
    jax = sorted({summary.get("versions", {}).get("jax", "unknown") for summary in summaries})
    out = [
        f"Split {', '.join(sorted(universal or splits))}, split_seed {each('data.split_seed')}; seeds (of the "
        f"weights and the order of the images) {each('train.seed')}.",
        f"Encoder {each('model.encoder')}, width {each('model.width')}, pretrained {weights}; images "
        + ", ".join(f"{d} {h}x{w}" for d, (h, w) in sizes.items())
        + f"; steps {steps(found)}.",
        f"Device {', '.join(devices)}; precision {each('model.precision')}; jax {', '.join(jax)}; "
        f"commit {', '.join(commits)}.",
    ]
    given = {job: s["row"]["overrides"] for job, _, s in found.all() if s.get("row", {}).get("overrides")}
    for job, overrides in given.items():
        out.append(f"{job}: {', '.join(f'{field}={value}' for field, value in overrides.items())}.")
    return out


def steps(found: Found) -> str:
    """Steps of every kind of job."""
    kinds = {collect.kind(job): summary["steps"] for job, _, summary in found.all()}
    return ", ".join(f"{count} ({kind})" for kind, count in kinds.items())


def short_commit(commit: str | None) -> str:
    """First seven digits, and whether files differed from it."""
    base, plus, _ = (commit or "unknown").partition("+")
    return base[:7] + ("+changes" if plus else "")


def csv_text(sections: Iterable[tuple[int, Found]]) -> str:
    """All numbers of the tables and settings: one line each, in per cent, of the paper and ours."""
    file = io.StringIO()
    writer = csv.DictWriter(file, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    for table, found in sections:
        setting = found.setting
        shared = {"table": table, "pair": setting.pair, "n": setting.n, "scale": setting.scale}
        numbers, _ = beside(table, found)
        for row in shown_rows(table, found, numbers is not None):
            for line in [*paper_lines(table, found, row, numbers or {}), *our_lines(found, row)]:
                writer.writerow({**shared, "row": row.name, **line})
    return file.getvalue()


def paper_lines(table: int, found: Found, row: Row, numbers: Mapping[str, Mapping]) -> list[dict]:
    """Lines of the paper's numbers for a row."""
    lines = []
    for domain, value in numbers.get(row.name, {}).items():
        if value is not None:
            lines.append({"source": "paper", "domain": domain, "mean": value})
    for domain in found.domains:
        of_paper = paper.class_scores(table, found.setting.n, domain) if numbers else {}
        named = zip(BUILTIN[domain].class_names, of_paper[row.name], strict=False) if row.name in of_paper else ()
        lines += [{"source": "paper", "domain": domain, "class": name, "mean": value} for name, value in named]
    return lines


def our_lines(found: Found, row: Row) -> list[dict]:
    """Lines of our numbers for a row."""
    lines = []
    for which in ("best", "last"):
        for domain in found.domains:
            lines.append(line_of(domain, "", which, collect.scores(found, row, domain, which)))
            for name, by_seed in collect.class_scores(found, row, domain, which).items():
                lines.append(line_of(domain, name, which, by_seed))
        lines.append(line_of("average", "", which, collect.averages(found, row, which)))
    return [line for line in lines if line]


def line_of(domain: str, name: str, which: str, by_seed: Mapping[int, float]) -> dict:
    """One line; empty without a score."""
    values = list(by_seed.values())
    if not values:
        return {}
    sd = f"{statistics.stdev(values):.4f}" if len(values) > 1 else ""
    mean = f"{statistics.fmean(values):.4f}"
    where = {"source": "ours", "domain": domain, "class": name, "which": which}
    return {**where, "mean": mean, "sd": sd, "seeds": len(values)}
