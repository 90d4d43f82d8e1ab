"""Table of all networks of an MLSL run, and a picture of the last one of each variant."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from usss_jax.config import names
from usss_jax.config.mlsl import JOBS
from usss_jax.config.rounds import round_of
from usss_jax.evaluation.metrics import CONVENTION, mean_iou, percent
from usss_jax.local_files import read_object, write_whole
from usss_jax.methods.mlsl.target_statistics import FILE
from usss_jax.methods.predictions import draw_predictions
from usss_jax.methods.training import Run
from usss_jax.parallel import hosts

RULE = (
    "The rule without target labels chooses the network of a variant with the largest mutual information between image "
    "and prediction on the target's unlabeled images"
)


def write(run: Run, source: str, target: str, summaries: Mapping[str, Mapping]):
    """Write table.md and predictions.png of a run, and print the table."""
    information = hosts.from_writer(read_information, run.workdir, list(summaries))
    without = names(run.config.mlsl.without)
    second = hosts.from_writer(second_means, run, target, without, list(summaries)) if without else {}
    text = table(summaries, source, target, information, second, without)
    if hosts.is_writer():
        write_whole(run.workdir / "table.md", text)
    print(f"\n{text}")
    jobs = [job for jobs in by_variant(summaries).values() for job in jobs[-1:]]
    draw_predictions(run, {job: title(job) for job in jobs if job in summaries}, {source: [target], target: [target]})


def by_variant(jobs: Sequence[str] | Mapping[str, Any]) -> dict[str, list[str]]:
    """Jobs of every variant, in the order of the rounds.

    >>> by_variant(["cbst_round1", "source", "cbst_round0"])
    {'source': ['source'], 'cbst': ['cbst_round0', 'cbst_round1']}
    """
    found: dict[str, list[str]] = {}
    for variant, about in JOBS.items():
        of_rounds = [job for job in jobs if job.rpartition("_round")[0] == variant]
        of = sorted(of_rounds, key=round_of) if about.rounds else [variant] if variant in jobs else []
        if of:
            found[variant] = of
    return found


def title(job: str) -> str:
    """Title of a job's row.

    >>> title("sisc_round2"), title("minent")
    ('SISC, round 2', 'MinEnt')
    """
    variant, _, number = job.rpartition("_round")
    return f"{JOBS[variant].title}, round {number}" if variant else JOBS[job].title


def table(
    summaries: Mapping[str, Mapping],
    source: str,
    target: str,
    information: Mapping[str, float],
    second: Mapping[str, float | None],
    without: Sequence[str] = (),
) -> str:
    """Markdown table of mIoU in per cent: a row per network, every round included.

    Args:
      summaries: by job.
      source, target: names of the domains.
      information: mutual information of jobs, in nats.
      second: mean IoU of jobs without the classes `without`.
      without: names of these classes.

    >>> target = {"without_labels": {"town": {"miou_best": 0.5, "val_miou_best": 0.25}}}
    >>> summary = {"domains": {"city": {"val_miou_best": 0.75}}, **target}
    >>> print(table({"source": summary}, "city", "town", {"source": 1.0}, {}).splitlines()[-3])
    | source only | 50.00 | 25.00 | 75.00 | 1.000 | |
    """
    heads = [f"{target} (test)", f"{target} (val)", f"{source} (val)", "mutual information", "chosen"]
    if without:
        heads.insert(1, f"without {', '.join(without)}")
    lines = [
        f"mIoU in %. {CONVENTION}. Source and baselines: best checkpoint on the source's val split; rounds: last step.",
        "",
        f"| | {' | '.join(heads)} |",
        "|---" * (len(heads) + 1) + "|",
    ]
    for jobs in by_variant(summaries).values():
        chosen = choose(jobs, information)
        for job in jobs:
            of_source, of_target = (all_domains(summaries[job]).get(domain, {}) for domain in (source, target))
            cells = [percent(of_target.get("miou_best"))]
            if without:
                cells.append(percent(second.get(job)))
            cells.append(percent(of_target.get("val_miou_best")))
            cells.append(percent(of_source.get("val_miou_best")))
            cells.append(f"{information[job]:.3f}" if job in information else "-")
            lines.append(f"| {title(job)} | {' | '.join(cells)} | {'x' if job == chosen and len(jobs) > 1 else ''} |")
    lines = [line.replace("|  |", "| |") for line in lines]
    return "\n".join([*lines, "", f"{RULE} (chosen)."]) + "\n"


def all_domains(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Scores of all domains in a summary, by name."""
    return {**summary.get("domains", {}), **summary.get("without_labels", {})}


def choose(jobs: Sequence[str], information: Mapping[str, float]) -> str | None:
    """Job with the largest mutual information; None if none has been measured.

    >>> choose(["a", "b"], {"a": 1.0, "b": 1.5})
    'b'
    """
    measured = [job for job in jobs if job in information]
    return max(measured, key=information.__getitem__) if measured else None


def read_information(workdir: pathlib.Path, jobs: Sequence[str]) -> dict[str, float]:
    """Mutual information of the jobs for which it was measured."""
    paths = {job: workdir / job / FILE for job in jobs}
    return {job: read_object(path)["mutual_information"] for job, path in paths.items() if path.exists()}


def second_means(run: Run, target: str, without: Sequence[str], jobs: Sequence[str]) -> dict[str, float | None]:
    """Mean IoU on the target's test split over the classes that are not in `without`, from the confusion matrices."""
    classes = [i for i, name in enumerate(run.pools[target].domain.class_names) if name not in without]
    found = {}
    for job in jobs:
        with np.load(run.workdir / job / "test.npz", allow_pickle=False) as arrays:
            matrix = next((arrays[key] for key in arrays.files if key == f"best/{target}"), None)
        if matrix is not None:
            found[job] = mean_iou(matrix, classes)
    return found
