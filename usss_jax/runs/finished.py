"""Finished jobs of one or several runs, and their networks."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from usss_jax.config import checked, filled
from usss_jax.data.content import differences, label_space
from usss_jax.data.domain import Domain
from usss_jax.errors import InputError
from usss_jax.local_files import read_object, reason
from usss_jax.models.universal import UniversalModel
from usss_jax.runs.networks import load_best, read_network
from usss_jax.runs.workdir import check_summary, read_data


@dataclasses.dataclass(frozen=True)
class FinishedJob:
    """A finished job.

    Attributes:
      folder: folder of the job.
      title: title for figures; distinct among jobs opened together.
      config: config of the run.
      summary: content of summary.json.
      network: description of the network in its checkpoints (runs/networks.py).
    """

    folder: pathlib.Path
    title: str
    config: ConfigDict
    summary: dict[str, Any]
    network: dict[str, Any]

    @property
    def class_names(self) -> dict[str, tuple[str, ...]]:
        """Names of the classes of every decoder, in the order of the train ids."""
        return {name: tuple(decoder["classes"]) for name, decoder in self.network["decoders"].items()}

    def restore(self, mesh: Mesh) -> tuple[UniversalModel, dict, str]:
        """Restore (model, variables, name of the best checkpoint); raises InputError if it is damaged."""
        model, variables, _, name = load_best(self.folder, mesh)
        return model, variables, name


def open_jobs(folders: Sequence[pathlib.Path]) -> list[FinishedJob]:
    """Open jobs to compare, which must have the same domains, classes and image sizes.

    Raises:
      InputError: if a folder is not a finished job, or jobs cannot be compared.
    """
    opened = [open_job(folder) for folder in folders]
    for job in opened[1:]:
        for what, mine, theirs in (
            ("domains", sorted(job.class_names), sorted(opened[0].class_names)),
            ("classes", job.class_names, opened[0].class_names),
            ("data.image_size", _sizes(job), _sizes(opened[0])),
        ):
            if mine != theirs:
                raise InputError(
                    f"{job.folder} has other {what} than {opened[0].folder} ({_differing(mine, theirs)}); "
                    "give jobs of runs on the same data"
                )
    titles = _distinct_titles(opened)
    return [dataclasses.replace(job, title=title) for job, title in zip(opened, titles, strict=True)]


def open_job(folder: pathlib.Path) -> FinishedJob:
    """Open the folder of a finished job, such as RUN/full; needs neither data nor a config file.

    Raises:
      InputError: if it is not a job or not finished, or if its best checkpoint is missing.
    """
    written = _read(folder, "config.json", "is not a job of a run; give a folder such as RUN/full")
    if "job" not in written:
        inside = sorted(p.parent.name for p in folder.glob("*/summary.json"))
        raise InputError(f"{folder} is a whole run; give one of its jobs: {', '.join(inside) or 'none is finished'}")
    name = written.pop("job")
    if name == "prototypes":
        raise InputError(f"{folder} has label embeddings but no network; give a job such as {folder.parent / 'full'}")
    summary = _read(folder, "summary.json", "is not finished: run its command again")
    return FinishedJob(folder, name, checked(filled(written)), summary, read_network(folder, summary["best_step"]))


def find_job(folder: pathlib.Path) -> pathlib.Path:
    """Find the job of a run to predict with: of the finished jobs with most decoders, the one that finished last.

    Args:
      folder: workdir of a run, finished or not; or folder of one of its jobs, which is returned.

    Raises:
      InputError: if it is neither, or no network is finished.
    """
    hint = "give the folder of a run such as runs/demo, or of one of its jobs such as runs/demo/full"
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; {hint}")
    if "job" in _read(folder, "config.json", f"is not a run; {hint}"):
        return folder
    jobs = [path.parent for path in folder.glob("*/summary.json") if (path.parent / "best").is_dir()]
    if not jobs:
        raise InputError(f"{folder}: no network of this run is finished; run its command again, which resumes")
    return max(jobs, key=lambda job: (len(open_job(job).class_names), (job / "summary.json").stat().st_mtime))


def check_labels(job: FinishedJob, domain: Domain):
    """Raise InputError if a domain of the job's run has other classes, ids or files than in training."""
    data = read_data(job.folder.parent / "data.json") or {"domains": {}}
    now, before = label_space(domain), data["domains"].get(domain.name, {})
    if changed := differences({key: before.get(key, now[key]) for key in now}, now, domain.name):
        raise InputError(f"{job.folder} was trained on other data: {changed[0]}; restore the domain")


def _read(folder: pathlib.Path, file: str, otherwise: str) -> dict[str, Any]:
    try:
        content = read_object(folder / file)
        if file == "summary.json":
            check_summary(content)
        return content
    except FileNotFoundError as e:
        raise InputError(f"{folder} {otherwise} ({file} is missing)") from e
    except (OSError, ValueError) as e:
        raise InputError(f"{folder / file} cannot be read ({reason(e)}); restore it, or run its training again") from e


def _distinct_titles(jobs: Sequence[FinishedJob]) -> list[str]:
    """Titles of jobs, followed by the run's folder or the whole path where needed to distinguish them."""
    with_run = [f"{job.title} ({job.folder.absolute().parent.name})" for job in jobs]
    for titles in ([job.title for job in jobs], with_run):
        if len(set(titles)) == len(titles):
            return titles
    return [f"{job.title} ({job.folder})" for job in jobs]


def _sizes(job: FinishedJob) -> dict[str, Any]:
    return {name: decoder.get("size") for name, decoder in job.network["decoders"].items()}


def _differing(mine, theirs) -> str:
    if isinstance(mine, dict):
        domain = next(d for d in mine if mine[d] != theirs.get(d))
        mine, theirs = f"{domain}: {mine[domain]}", theirs.get(domain)
    return f"{mine} and {theirs}"
