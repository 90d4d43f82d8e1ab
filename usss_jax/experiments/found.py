"""The summaries of one experiment, and their scores."""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from usss_jax.errors import InputError
from usss_jax.experiments.layout import Experiment
from usss_jax.experiments.paper import TABLES
from usss_jax.experiments.rows import Row
from usss_jax.experiments.summaries import kind, value


@dataclasses.dataclass(frozen=True)
class Found:
    """Summaries of one experiment.

    Attributes:
      experiment: pair, N and scale.
      summaries: job (or row) -> seed -> summary.
      files: job (or row) -> seed -> file of the summary.
      empty_domains: domains of an experiment without summaries.
    """

    experiment: Experiment
    summaries: dict[str, dict[int, dict[str, Any]]] = dataclasses.field(default_factory=dict)
    files: dict[str, dict[int, pathlib.Path]] = dataclasses.field(default_factory=dict)
    empty_domains: tuple[str, ...] = ()

    def add(self, job: str, path: pathlib.Path, summary: dict[str, Any]):
        """Add one summary; raise InputError for a second one of the same job and seed."""
        seed = value(summary, "train.seed")
        if seed in self.files.get(job, {}):
            raise InputError(f"{path} and {self.files[job][seed]} have the same row and seed; give one of them")
        self.summaries.setdefault(job, {})[seed] = summary
        self.files.setdefault(job, {})[seed] = path

    def all(self) -> Iterator[tuple[str, pathlib.Path, dict[str, Any]]]:
        """Yield job, file and summary of every run."""
        for job, by_seed in self.summaries.items():
            for seed, summary in sorted(by_seed.items()):
                yield job, self.files[job][seed], summary

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of all domains, in the config's order if a universal job has all of them, else in the paper's."""
        if not self.summaries:
            return self.empty_domains
        found = [tuple(summary["domains"]) for _, _, summary in self.all()]
        names = {name for domains in found for name in domains}
        universal = [tuple(s["domains"]) for job, _, s in self.all() if kind(job) == "universal"]
        known = [*universal, *(table.domains for table in TABLES.values()), *found]
        return next((domains for domains in known if set(domains) == names), tuple(sorted(names)))


def scores(found: Found, row: Row, domain: str, which: str) -> dict[int, float]:
    """Return the mIoU in % of a row on a domain, by seed; empty if it was not run.

    `which`: "best" or "last" checkpoint on the test split, or "val": the best checkpoint on the val split.
    """
    by_seed = found.summaries.get(row.jobs.get(domain, ""), {})
    key = "val_miou_best" if which == "val" else f"miou_{which}"
    found_in = {seed: summary["domains"][domain].get(key) for seed, summary in by_seed.items()}
    return {seed: 100 * value for seed, value in found_in.items() if value is not None}


def averages(found: Found, row: Row, which: str) -> dict[int, float]:
    """Return the mean mIoU over the domains, for every seed that has all of them."""
    by_domain = [scores(found, row, domain, which) for domain in found.domains]
    if not by_domain or set(row.jobs) != set(found.domains):
        return {}
    seeds = set.intersection(*(set(values) for values in by_domain))
    return {seed: sum(values[seed] for values in by_domain) / len(by_domain) for seed in sorted(seeds)}


def class_scores(found: Found, row: Row, domain: str, which: str) -> dict[str, dict[int, float]]:
    """Return the IoU in % per class and seed; empty for a class that the split lacks."""
    by_seed = found.summaries.get(row.jobs.get(domain, ""), {})
    key = "iou" if which == "best" else "iou_last"
    out: dict[str, dict[int, float]] = {}
    for seed, summary in by_seed.items():
        for name, share in summary["domains"][domain].get(key, {}).items():
            out.setdefault(name, {}).update({} if share is None else {seed: 100 * share})
    return out


def extra_rows(found: Found, known: Sequence[Row]) -> list[Row]:
    """Return the rows with results that are not among the known ones, sorted by name."""
    names = {job for row in known for job in row.jobs.values()}
    out = []
    for job, by_seed in sorted(found.summaries.items()):
        if job not in names and kind(job) == "universal":
            summary = next(iter(by_seed.values()))
            given = summary.get("row", {}).get("overrides", {})
            name = job.partition(":")[0]
            title = f"{name} ({', '.join(f'{k}={v}' for k, v in given.items())})" if given else job
            out.append(Row(job, title, ("full",), given, dict.fromkeys(summary["domains"], job)))
    return out
