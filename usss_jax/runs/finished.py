"""Finished stages of one or several runs, opened to look at their networks."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from usss_jax.config import checked, filled, per_domain, read_size
from usss_jax.data.content import differences, label_space
from usss_jax.data.domains import get_domain
from usss_jax.errors import InputError
from usss_jax.local_files import read_object, reason
from usss_jax.models.universal import UniversalModel
from usss_jax.runs.networks import WITHOUT_EMBEDDINGS, best_variables, create_model_of
from usss_jax.methods.usss.results import TITLES
from usss_jax.runs.workdir import check_summary, read_data


@dataclasses.dataclass(frozen=True)
class FinishedStage:
    """A stage with a summary.json.

    Attributes:
      folder: of the stage.
      name: of the stage, such as full.
      title: for people; different among stages opened together.
      config: of the run.
      summary: content of summary.json.
      class_names: names of the classes of every domain of the config, in the order of the train ids.
    """

    folder: pathlib.Path
    name: str
    title: str
    config: ConfigDict
    summary: dict[str, Any]
    class_names: dict[str, tuple[str, ...]]

    def restore(self, mesh: Mesh) -> tuple[UniversalModel, dict, str]:
        """Model, variables and name of the best checkpoint; InputError if that is no longer there."""
        step = self.summary["best_step"]
        if not (self.folder / "best" / str(step)).is_dir():
            raise InputError(
                f"{self.folder}: its best checkpoint best/{step} is missing; restore it, or move this folder away and "
                "run its command again"
            )
        embeds = self.name in TITLES and self.name not in WITHOUT_EMBEDDINGS
        decoders = {domain: len(scores["iou"]) for domain, scores in self.summary["domains"].items()}
        model = create_model_of(self.config, decoders, self.config.usss.embed_dim if embeds else 0)
        return model, *best_variables(self.folder, model, mesh)


def open_stages(folders: Sequence[pathlib.Path]) -> list[FinishedStage]:
    """Open stages that are to be compared: of the same domains, label spaces and image sizes.

    Raises:
      InputError: for a folder that is no finished stage, or stages that cannot be compared.
    """
    opened = [open_stage(folder) for folder in folders]
    for stage in opened[1:]:
        for what, mine, theirs in (
            ("domains", sorted(stage.class_names), sorted(opened[0].class_names)),
            ("classes", stage.class_names, opened[0].class_names),
            ("data.image_size", _sizes(stage), _sizes(opened[0])),
        ):
            if mine != theirs:
                raise InputError(
                    f"{stage.folder} has other {what} than {opened[0].folder} ({_differing(mine, theirs)}); "
                    "give stages of runs on the same data"
                )
    titles = _told_apart(opened)
    return [dataclasses.replace(stage, title=title) for stage, title in zip(opened, titles, strict=True)]


def open_stage(folder: pathlib.Path) -> FinishedStage:
    """Open the folder of one stage, such as RUNS/full; InputError if it is none, or not finished."""
    written = _read(folder, "config.json", "is no stage of a run; give a folder such as RUN/full")
    if "stage" not in written:
        inside = sorted(p.parent.name for p in folder.glob("*/summary.json"))
        raise InputError(f"{folder} is a whole run; give one of its stages: {', '.join(inside) or 'none is finished'}")
    name = written.pop("stage")
    if name == "prototypes":
        raise InputError(f"{folder} has label embeddings and no network; give a stage such as {folder.parent / 'full'}")
    summary = _read(folder, "summary.json", "is not finished: run its command again")
    config = checked(filled(written))
    domains = [get_domain(domain) for domain in config.data.domains]
    class_names = {domain.name: domain.class_names for domain in domains}
    data = read_data(folder.parent / "data.json") or {"domains": {}}
    for domain in domains:
        now, before = label_space(domain), data["domains"].get(domain.name, {})
        if changed := differences({key: before.get(key, now[key]) for key in now}, now, domain.name):
            raise InputError(f"{folder} was trained on other data: {changed[0]}; restore the domain")
    for domain, scores in summary["domains"].items():
        if tuple(scores["iou"]) != class_names.get(domain):
            raise InputError(f"{folder} was trained with other classes of {domain} than it has now; restore them")
    return FinishedStage(folder, name, TITLES.get(name, name), config, summary, class_names)


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


def _told_apart(stages: Sequence[FinishedStage]) -> list[str]:
    """Titles of stages; with the name of the run's folder, or the whole path, where that is needed."""
    with_run = [f"{s.title} ({s.folder.absolute().parent.name})" for s in stages]
    for titles in ([s.title for s in stages], with_run):
        if len(set(titles)) == len(titles):
            return titles
    return [f"{s.title} ({s.folder})" for s in stages]


def _sizes(stage: FinishedStage) -> dict[str, Any]:
    names = list(stage.class_names)
    return per_domain(stage.config.data.image_size, names, "data.image_size", read_size)


def _differing(mine, theirs) -> str:
    if isinstance(mine, dict):
        domain = next(d for d in mine if mine[d] != theirs.get(d))
        mine, theirs = f"{domain}: {mine[domain]}", theirs.get(domain)
    return f"{mine} and {theirs}"
