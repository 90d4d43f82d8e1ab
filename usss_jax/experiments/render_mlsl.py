"""Renders MLSL's tables: scores on the target of the last, the best and the chosen round of every row.

A row with unfinished rounds has no such score; its finished rounds are in the table of all rounds.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from usss_jax.config import fields
from usss_jax.config.mlsl import JOBS
from usss_jax.config.rounds import variant_of
from usss_jax.data.domains import BUILTIN
from usss_jax.experiments import paper_mlsl, rows_mlsl, summaries
from usss_jax.experiments.found import Found
from usss_jax.experiments.notes import convention, each, shared_notes
from usss_jax.experiments.render import NOT_RUN, grid, line_of, mean_and_spread, percent
from usss_jax.experiments.rows import Row
from usss_jax.experiments.scores_mlsl import (
    WHICH,
    class_scores,
    gains,
    network,
    score,
    scores,
    source_of,
    target_of,
    without_of,
)

HEAD = (
    "mIoU in % on the target. Rows with rounds: of the last round; of the best round on the target's test labels; of "
    "the chosen round, with the largest mutual information between image and prediction, which needs no labels. Other "
    "rows: of the best checkpoint on the source's val split"
)


# ---- Tables ----


def comparable_scores(table: int, found: Found) -> tuple[Mapping[str, Mapping[str, float | None]], str]:
    """Return the paper's scores by column and row; if empty, what differs despite an equal name."""
    experiment = found.experiment
    numbers = paper_mlsl.table_scores(table, experiment.pair) if experiment.scale == "full" else {}
    for _, path, summary in found.all() if numbers else ():
        encoder, width = summaries.value(summary, "model.encoder"), summaries.value(summary, "model.width")
        if (encoder, width) != (rows_mlsl.ENCODER, 1):
            return {}, f"{path.name} of {path.parent.name}, {encoder} of width {width:g},"
    return numbers, ""


def shown_rows(table: int, found: Found, numbers: Mapping[str, Mapping]) -> list[Row]:
    """Return the paper's rows of a table, then ours if they were run, then the user's."""
    of_paper = {row for column in numbers.values() for row in column}
    rows = []
    for name, optional in rows_mlsl.rows_of_table(table, found.experiment.pair).items():
        row = rows_mlsl.ROWS[name]
        if name in found.summaries or name in of_paper or (row.variants and not optional):
            rows.append(row)
    for name, by_seed in sorted(found.summaries.items()) if table != 4 else ():
        if name not in rows_mlsl.ROWS:
            summary = next(iter(by_seed.values()))
            rows.append(Row(name, name, (variant_of(summary["job"]),), summary.get("row", {}).get("overrides", {}), {}))
    return rows


def markdown(table: int, found: Found) -> str:
    """Render one table for one experiment: scores, every round, scores per class, notes."""
    rows_mlsl.check_table(table)
    experiment = found.experiment
    numbers, other = comparable_scores(table, found)
    rows = shown_rows(table, found, numbers)
    scale = f" ({experiment.scale})" if experiment.scale else ""
    parts = [f"## MLSL, Table {table}: {experiment.pair}{scale}", f"{HEAD}. {convention(found)}"]
    if not numbers:
        parts.append(
            f"The paper's columns are left out: {other or f'{experiment.pair}{scale}'} is not in its Table {table}, "
            "and these scores must not be compared with its numbers."
        )
    parts.append({3: gain_table, 4: field_table}.get(table, score_table)(found, rows, numbers))
    if table != 3 and (text := round_table(found, rows)):
        parts += [f"mIoU in % on {target_of(found)} after every round, and the numbers of the chosen rounds:", text]
    if table in (1, 2):
        of_paper = paper_mlsl.class_scores(table, experiment.pair) if numbers else {}
        if text := class_table(found, rows, of_paper):
            parts += [f"IoU in % per class of {target_of(found)}, last round:", text]
    origin = [paper_mlsl.ORIGIN[experiment.pair]] if table in (1, 2) and numbers else []
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in [*origin, *notes(found)])]) + "\n"


def cell(values: Mapping[int, float]) -> str:
    """Format the scores of some seeds."""
    return mean_and_spread(values.values())


def has_rounds(row: Row) -> bool:
    """Whether a row has several rounds, of which one can be chosen.

    >>> has_rounds(rows_mlsl.ROWS["source"]), has_rounds(rows_mlsl.ROWS["eta0"])
    (False, True)
    """
    return bool(row.variants) and JOBS[row.variants[0]].rounds


def our_cells(found: Found, row: Row) -> list[str]:
    """Format the last, best and chosen round of a row; a dash where it has no rounds."""
    if not row.variants:
        return ["-"] * len(WHICH)
    return [cell(scores(found, row.name, w)) if w == "last" or has_rounds(row) else "-" for w in WHICH]


def our_heads(found: Found) -> list[str]:
    """Heads of `our_cells`."""
    target = target_of(found)
    split = next((summaries.all_domains(s).get(target, {}).get("split") for _, _, s in found.all()), None)
    return [f"{target} ({split})" if split else target, "best round", "chosen round"]


def seeds(found: Found, row: Row) -> str:
    """Format the number of seeds with a score."""
    return str(len(scores(found, row.name, "last"))) if row.variants else "-"


def score_table(found: Found, rows: Sequence[Row], numbers: Mapping[str, Mapping]) -> str:
    """Render rows x rounds, as the last column of Tables 1 and 2, the paper's first."""
    second, left_out = bool(without_of(found)), f"without {', '.join(without_of(found))}"
    columns = {"miou": "paper", **({"without": f"paper, {left_out}"} if second else {})}
    heads = [text for column, text in columns.items() if column in numbers]
    lines = [["", *heads, *our_heads(found), *[left_out] * second, f"{source_of(found)} (val)", "seeds"]]
    for row in rows:
        of_paper = [percent(numbers[column].get(row.name)) for column in columns if column in numbers]
        ours = our_cells(found, row)
        ours += [cell(scores(found, row.name, "last", "without")) if row.variants else "-"] * second
        ours.append(cell(scores(found, row.name, "last", "source")) if row.variants else "-")
        lines.append([row.title, *of_paper, *ours, seeds(found, row)])
    return grid(lines)


def gain_table(found: Found, rows: Sequence[Row], numbers: Mapping[str, Mapping]) -> str:
    """Render rows x (source network, last round, gain), as Table 3, the paper's first."""
    without = without_of(found)
    measure = "without" if without else "miou"
    suffix = f" without {', '.join(without)}" if without else ""
    columns = {"from": "source only", "to": "adapted", "gain": "gain"}
    lines = [["", *(f"paper: {columns[column]}" for column in numbers), *(f"{c}{suffix}" for c in columns.values())]]
    for row in rows:
        of_paper = [percent(numbers[column].get(row.name)) for column in numbers]
        found_scores = (
            scores(found, "source", "last", measure),
            scores(found, row.name, "last", measure),
            gains(found, row.name, measure),
        )
        lines.append([row.title, *of_paper, *(cell(values) if row.variants else "-" for values in found_scores)])
    return grid(lines)


def field_table(found: Found, rows: Sequence[Row], numbers: Mapping[str, Mapping]) -> str:
    """Render rows x (lambda, eta, rounds), as Table 4, the paper's first."""
    shown = {"lambda": "mlsl.image_weight", "eta": "mlsl.eta"}
    known = fields("mlsl")
    lines = [["", *shown, *(["paper"] if numbers else []), *our_heads(found), "seeds"]]
    for row in rows:
        values = [str(row.overrides.get(field, f"{known[field].default:g}")) for field in shown.values()]
        of_paper = [percent(numbers["miou"].get(row.name))] if numbers else []
        lines.append([row.title, *values, *of_paper, *our_cells(found, row), seeds(found, row)])
    return grid(lines)


def round_table(found: Found, rows: Sequence[Row]) -> str:
    """Render rows x rounds, of finished rounds also where others are unfinished; "" without any."""
    target = target_of(found)
    with_rounds = [row for row in rows if any("rounds" in s for s in found.summaries.get(row.name, {}).values())]
    lines = []
    for row in with_rounds:
        by_seed = {seed: s for seed, s in sorted(found.summaries[row.name].items()) if "rounds" in s}
        cells = []
        for number in range(max(summaries.value(s, "rounds.count") for s in by_seed.values())):
            finished = {seed: s["rounds"][number] for seed, s in by_seed.items() if number < len(s["rounds"])}
            found_scores = {seed: score(part, target) for seed, part in finished.items()}
            cells.append(cell({seed: 100 * value for seed, value in found_scores.items() if value is not None}))
        lines.append([row.title, *cells, ", ".join(chosen_round(s) for s in by_seed.values())])
    count = max((len(line) for line in lines), default=0) - 2
    padded = [[*line[:-1], *["-"] * (count + 2 - len(line)), line[-1]] for line in lines]
    return grid([["", *(f"round {number}" for number in range(count)), "chosen"], *padded]) if lines else ""


def chosen_round(summary: Mapping[str, Any]) -> str:
    """Return the number of the chosen round, or NOT_RUN."""
    part = network(summary, "chosen")
    return NOT_RUN if part is None else part["job"].rpartition("_round")[2]


def class_table(found: Found, rows: Sequence[Row], of_paper: Mapping[str, Sequence[float]]) -> str:
    """Render rows x classes, like Tables 1 and 2; "" without any row."""
    classes: list[str] = []
    lines = []
    for row in rows:
        if row.name in of_paper:
            miou = paper_mlsl.MIOU[found.experiment.pair][row.name]
            lines.append([f"{row.title} (paper)", *map(percent, of_paper[row.name]), percent(miou)])
        if ours := class_scores(found, row.name):
            classes = list(ours)
            cells = [cell(by_seed).replace(NOT_RUN, "absent") for by_seed in ours.values()]
            lines.append([row.title, *cells, cell(scores(found, row.name, "last"))])
    if not lines:
        return ""
    return grid([["", *(classes or BUILTIN[target_of(found)].class_names), "mIoU"], *lines])


def notes(found: Found) -> list[str]:
    """List seeds, rounds, and what `shared_notes` lists."""
    if not found.summaries:
        return ["Nothing was run."]
    steps = {job: str(summary["steps"]) for job, _, summary in found.all()}
    of_rounds = {job for job, _, summary in found.all() if "rounds" in summary}
    listed = ", ".join(f"{count} ({job}{', last round' * (job in of_rounds)})" for job, count in steps.items())
    rounds = f"{each(found, 'rounds.count')} rounds, {each(found, 'rounds.patches')} patches per image (sisc)"
    return [f"Seeds {each(found, 'train.seed')}; {rounds}.", *shared_notes(found, listed)]


# ---- CSV ----


def csv_lines(table: int, found: Found) -> Iterator[dict]:
    """Yield all numbers of a table for one experiment, the paper's and ours, in %."""
    experiment = found.experiment
    shared = {"table": f"mlsl {table}", "pair": experiment.pair, "n": "all", "scale": experiment.scale}
    numbers, _ = comparable_scores(table, found)
    of_classes = paper_mlsl.class_scores(table, experiment.pair) if numbers else {}
    for row in shown_rows(table, found, numbers):
        lines = [
            {"source": "paper", "domain": target_of(found), "class": "" if column == "miou" else column, "mean": value}
            for column, by_row in numbers.items()
            if (value := by_row.get(row.name)) is not None
        ]
        if row.name in of_classes:
            labels = BUILTIN[target_of(found)].class_names
            named = zip(labels, of_classes[row.name], strict=True)
            lines += [{"source": "paper", "domain": target_of(found), "class": c, "mean": value} for c, value in named]
        for line in [*lines, *our_lines(table, found, row)]:
            yield {**shared, "row": row.name, **line}


def our_lines(table: int, found: Found, row: Row) -> list[dict]:
    """Return the CSV lines of our numbers for a row; the class "without" is the second mean, "gain" that of Table 3."""
    target, source = target_of(found), source_of(found)
    if table == 3:
        gained = gains(found, row.name, "without" if without_of(found) else "miou")
        return [line for line in [line_of(target, "gain", "last", gained)] if line]
    lines = []
    for which in WHICH:
        lines.append(line_of(target, "", which, scores(found, row.name, which)))
        if without_of(found):
            lines.append(line_of(target, "without", which, scores(found, row.name, which, "without")))
        lines.append(line_of(f"{source} (val)", "", which, scores(found, row.name, which, "source")))
    lines += [line_of(target, label, "last", by_seed) for label, by_seed in class_scores(found, row.name).items()]
    return [line for line in lines if line]
