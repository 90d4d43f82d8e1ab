"""Folders and file names of a sweep's runs and results.

RUNS/<pair>_n<N>_<scale>/seed<k>/<workdir>/<job>/summary.json  written by training
RESULTS/<pair>_n<N>_<scale>/<row or job>/seed<k>.json           the same summary, with the requested row under "row"
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from usss_jax.errors import InputError
from usss_jax.local_files import read_object, reason, write_whole

SCALES = ("cpu", "light", "full")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What all rows of one printed table share.

    Attributes:
      pair: name of the config file, which names the domains (mostly two).
      n: number of labeled images per domain.
      scale: one of SCALES.

    >>> Experiment("cs_cvd", 100, "full").folder
    'cs_cvd_n100_full'
    """

    pair: str
    n: int
    scale: str

    @property
    def folder(self) -> str:
        """Name of its folder in RUNS and RESULTS."""
        return f"{self.pair}_n{self.n}_{self.scale}"


def read_experiment(folder: str) -> Experiment | None:
    """Parse the name of an experiment's folder; return None for any other name.

    >>> read_experiment("cs_cvd_n100_full")
    Experiment(pair='cs_cvd', n=100, scale='full')
    """
    match = re.fullmatch(rf"(.+)_n(\d+)_({'|'.join(SCALES)})", folder)
    return Experiment(match[1], int(match[2]), match[3]) if match else None


def result_file(results: pathlib.Path, experiment: Experiment, job: str, seed: int) -> pathlib.Path:
    """Return the file of the summary of a row, or of a job that several rows share.

    >>> result_file(pathlib.Path("results"), Experiment("cs_cvd", 100, "full"), "basic", 0).as_posix()
    'results/cs_cvd_n100_full/basic/seed0.json'
    """
    return results / experiment.folder / job / f"seed{seed}.json"


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Read a summary; raise InputError, naming the file, if it cannot be read."""
    try:
        return read_object(path)
    except (OSError, ValueError) as e:
        raise InputError(f"{path} cannot be read ({reason(e)}); restore it, or remove it and run again") from e


def keep_result(summary: pathlib.Path, path: pathlib.Path, requested: Mapping[str, Any]):
    """Copy a job's summary to the results, adding `requested` (config, variants, overrides) under "row"."""
    write_whole(path, json.dumps({**read_json(summary), "row": dict(requested)}, indent=2, allow_nan=False) + "\n")
