"""Scores of the rounds of MLSL, on the target and the source."""

from collections.abc import Mapping

from usss_jax.config import names
from usss_jax.experiments import paper_mlsl, summaries
from usss_jax.experiments.found import Found
from usss_jax.experiments.layout import STATISTICS

Scores = dict[int, float]  # by seed
WHICH = ("last", "best", "chosen")


def target_of(found: Found) -> str:
    """Name of the target."""
    return next((summaries.value(s, "mlsl.target") for _, _, s in found.all()), None) or paper_domains(found)[1]


def source_of(found: Found) -> str:
    """Name of the source."""
    return next((d for _, _, s in found.all() for d in s["domains"]), paper_domains(found)[0])


def paper_domains(found: Found) -> tuple[str, str]:
    """Names of the paper's source and target."""
    return paper_mlsl.DOMAINS.get(found.experiment.pair, ("source", "target"))


def network(summary: Mapping, which: str) -> Mapping | None:
    """Return the part of a result that scores its "last", "best" or "chosen" round; None if it is not known.

    >>> def of(score, bits):
    ...     return {"without_labels": {"t": {"miou_best": score}}, "target_statistics": {"mutual_information": bits}}
    >>> config = {"mlsl": {"target": "t"}, "rounds": {"count": 3}}
    >>> made = {"rounds": [of(0.5, 1.0), of(0.4, 2.0), of(0.3, 1.5)], "config": config}
    >>> [score(network(made, which), "t") for which in ("last", "best", "chosen")]
    [0.3, 0.5, 0.4]
    """
    if "rounds" not in summary:
        return summary if which == "last" else None
    rounds, target = summary["rounds"], summaries.value(summary, "mlsl.target")
    if len(rounds) != summaries.value(summary, "rounds.count"):
        return None
    if which == "last":
        return rounds[-1]
    if which == "chosen":
        known = all(STATISTICS in one for one in rounds)
        return max(rounds, key=lambda one: one[STATISTICS]["mutual_information"]) if known else None
    known = all(score(one, target) is not None for one in rounds)
    return max(rounds, key=lambda one: score(one, target) or 0.0) if known else None


def score(part: Mapping, target: str) -> float | None:
    """Return the mIoU of the target in a summary or one of its rounds; None if the target has no masks."""
    return summaries.all_domains({"domains": {}, **part}).get(target, {}).get("miou_best")


def without_of(found: Found) -> list[str]:
    """Return the classes that the second mean leaves out."""
    of_paper = paper_mlsl.LEFT_OUT.get(found.experiment.pair, [])
    return next((names(summaries.value(summary, "mlsl.without")) for _, _, summary in found.all()), of_paper)


def scores(found: Found, name: str, which: str, measure: str = "miou") -> Scores:
    """Return the scores of a row in %, by seed.

    `measure`: "miou" of the target, "without" some of its classes, or "source": on the source's val split.
    """
    target, source = target_of(found), source_of(found)
    values: dict[int, float | None] = {}
    for seed, summary in found.summaries.get(name, {}).items():
        part = network(summary, which) or {"domains": {}}
        domains = summaries.all_domains(part)
        if measure == "source":
            values[seed] = domains.get(source, {}).get("val_miou_best")
        elif measure == "without":
            iou = domains.get(target, {}).get("iou", {})
            kept = [value for label, value in iou.items() if label not in without_of(found) and value is not None]
            values[seed] = sum(kept) / len(kept) if kept else None
        else:
            values[seed] = score(part, target)
    return {seed: 100 * value for seed, value in values.items() if value is not None}


def class_scores(found: Found, name: str) -> dict[str, Scores]:
    """Return the IoU in % of the last round per class and seed; empty for a class that the split lacks."""
    out: dict[str, Scores] = {}
    for seed, summary in found.summaries.get(name, {}).items():
        part = network(summary, "last") or {"domains": {}}
        for label, value in summaries.all_domains(part).get(target_of(found), {}).get("iou", {}).items():
            out.setdefault(label, {}).update({} if value is None else {seed: 100 * value})
    return out


def gains(found: Found, name: str, measure: str) -> Scores:
    """Return what the last round of a row gains over the source network, for every seed that has both."""
    before, after = scores(found, "source", "last", measure), scores(found, name, "last", measure)
    return {seed: after[seed] - before[seed] for seed in sorted(set(before) & set(after))}
