"""Summaries of an experiment: read from result folders or workdirs, and checked to be comparable."""

import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from usss_jax.config.rounds import variant_of
from usss_jax.errors import InputError
from usss_jax.experiments.comparable import check_comparable
from usss_jax.experiments.found import Found
from usss_jax.experiments.layout import Experiment, read_experiment, read_json, read_result, summary_files
from usss_jax.experiments.naming import check_named, named_by_content
from usss_jax.experiments.summaries import labeled, method_of, value

NEEDED = ("job", "domains", "steps", "split_hash", "config")
NEEDED_FIELDS = ("train.seed", "model.encoder", "model.width")


def read_folders(folders: Iterable[pathlib.Path], pair: str, scale: str) -> list[Found]:
    """Read the summaries in result folders and workdirs, by experiment.

    Args:
      folders: RESULTS, RESULTS/<pair>_n<N>_<scale>, or a workdir with job folders.
      pair: only experiments of this pair; also the pair of a workdir. Empty: all, a workdir's pair being its name.
      scale: of a workdir; empty: unknown.

    Raises:
      InputError: for a folder without summaries, a damaged summary, or summaries that are not comparable.
    """
    found: dict[Experiment, Found] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; give result folders or workdirs")
        inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and read_experiment(path.name)]
        for one in inside or [folder]:
            results = list(read_results(one))
            if not results and not inside:
                raise InputError(f"{one}: has no */seed0.json and no */summary.json; give result folders or workdirs")
            for name, path, summary in results:
                experiment = read_experiment(one.name)
                if experiment:
                    check_named(experiment, name, path, summary)
                else:
                    n = None if method_of(summary) == "mlsl" else labeled(summary)
                    experiment = Experiment(pair or one.resolve().name, n, scale)
                    name, summary = named_by_content(summary)
                if not pair or experiment.pair == pair:
                    found.setdefault(experiment, Found(experiment)).add(name, path, summary)
    for together in found.values():
        check_comparable(together)
    return sorted(found.values(), key=lambda f: (f.experiment.pair, f.experiment.scale, f.experiment.n or 0))


def read_results(folder: pathlib.Path) -> Iterator[tuple[str, pathlib.Path, dict[str, Any]]]:
    """Yield name, file and summary of all results of an experiment or, in a workdir, of all its jobs."""
    files = sorted(folder.glob("*/seed*.json"))
    for path in files:
        yield path.parent.name, path, checked(path, read_json(path))
    of_jobs = [] if files else sorted(folder.glob("*/summary.json"))
    for job in dict.fromkeys(variant_of(path.parent.name) for path in of_jobs):
        path = summary_files(folder, job)[-1]
        yield job, path, checked(path, read_result(folder, job))


def checked(path: pathlib.Path, summary: dict[str, Any]) -> dict[str, Any]:
    """Return a summary; raise InputError if a key is missing or the name of its file has another seed."""
    if missing := [key for key in NEEDED if key not in summary]:
        raise InputError(f"{path} is not a job's summary: {missing[0]!r} is missing; move it away")
    if missing := [name for name in NEEDED_FIELDS if value(summary, name) is None]:
        raise InputError(f"{path} is not a job's summary: its config lacks {missing[0]}; move it away")
    seed = value(summary, "train.seed")
    match = re.fullmatch(r"seed(\d+)", path.stem)
    if match and int(match[1]) != seed:
        raise InputError(f"{path}: has seed {seed}, unlike its name; rename it seed{seed}.json")
    return summary
