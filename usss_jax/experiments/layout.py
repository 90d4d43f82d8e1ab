"""Folders and file names of a sweep's runs and results.

RUNS/<pair>_n<N>_<scale>/seed<k>/<workdir>/<job>/summary.json  written by training
RESULTS/<pair>_n<N>_<scale>/<row or job>/seed<k>.json           the same summary, with the requested row under "row"

In the scale lite0, every seed has labeled images of its own.

N is `all` for MLSL, which uses all labels of the source. Its rows have several jobs, `<variant>_round<r>`; the result
is the summary of the last round, with the scores of every round under "rounds".
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from usss_jax.config.rounds import variant_of
from usss_jax.errors import InputError
from usss_jax.local_files import read_object, reason, write_whole

SCALES = ("cpu", "light", "lite0", "full")
STATISTICS = "target_statistics"  # JSON file of a job with a mutual information, and its key in a result
OF_ROUND = ("job", "domains", "without_labels", STATISTICS)  # what a result keeps of every round


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What all rows of one printed table share.

    Attributes:
      pair: name of the config file, which names the domains (mostly two).
      n: number of labeled images per domain; None: all of the source, for MLSL.
      scale: one of SCALES.

    >>> Experiment("cs_cvd", 100, "full").folder
    'cs_cvd_n100_full'
    """

    pair: str
    n: int | None
    scale: str

    @property
    def method(self) -> str:
        """Method whose rows it has.

        >>> Experiment("gta_cs", None, "full").method
        'mlsl'
        """
        return "mlsl" if self.n is None else "usss"

    @property
    def splits_by_seed(self) -> bool:
        """Whether a seed also chooses the labeled images (`data.split_seed`)."""
        return self.scale == "lite0"

    @property
    def folder(self) -> str:
        """Name of its folder in RUNS and RESULTS."""
        return f"{self.pair}_n{'all' if self.n is None else self.n}_{self.scale}"


def read_experiment(folder: str) -> Experiment | None:
    """Parse the name of an experiment's folder; return None for any other name.

    >>> read_experiment("cs_cvd_n100_full")
    Experiment(pair='cs_cvd', n=100, scale='full')
    >>> read_experiment("gta_cs_nall_full")
    Experiment(pair='gta_cs', n=None, scale='full')
    """
    match = re.fullmatch(rf"(.+)_n(\d+|all)_({'|'.join(SCALES)})", folder)
    return Experiment(match[1], None if match[2] == "all" else int(match[2]), match[3]) if match else None


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


def summary_files(workdir: pathlib.Path, job: str) -> list[pathlib.Path]:
    """Files of the summaries of a job, or of every round of a variant in order."""
    rounds = workdir.glob(f"{job}_round*/summary.json")
    in_order = sorted(rounds, key=lambda path: int(path.parent.name.removeprefix(f"{job}_round")))
    return in_order or [workdir / job / "summary.json"]


def read_result(workdir: pathlib.Path, job: str) -> dict[str, Any]:
    """Read the summary of a job; of a variant with rounds the last one, with the scores of all under "rounds"."""
    summaries = []
    for path in summary_files(workdir, job):
        statistics = path.with_name(f"{STATISTICS}.json")
        summaries.append(read_json(path) | ({STATISTICS: read_json(statistics)} if statistics.exists() else {}))
    if variant_of(summaries[-1].get("job", "")) == summaries[-1].get("job", ""):
        return summaries[-1]
    rounds = [{key: summary[key] for key in OF_ROUND if key in summary} for summary in summaries]
    return {**summaries[-1], "rounds": rounds}


def keep_result(workdir: pathlib.Path, job: str, path: pathlib.Path, requested: Mapping[str, Any]):
    """Copy a job's summary to the results, adding `requested` (config, variants, overrides) under "row"."""
    result = {**read_result(workdir, job), "row": dict(requested)}
    write_whole(path, json.dumps(result, indent=2, allow_nan=False) + "\n")
