"""Where a sweep keeps its runs and results, and what their names say.

RUNS/<pair>_n<N>_<scale>/seed<k>/<workdir>/<job>/summary.json  what training leaves behind
RESULTS/<pair>_n<N>_<scale>/<row or job>/seed<k>.json           the same summary, and under "row" what was asked for
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from usss_jax.errors import InputError
from usss_jax.local_files import read_object, reason, write_whole

SCALES = ("cpu", "full")


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all rows beside each other share: a config (its file's name), N and the scale."""

    pair: str
    n: int
    scale: str

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return f"{self.pair}_n{self.n}_{self.scale}"


def read_setting(folder: str) -> Setting | None:
    """Setting that a folder's name states; None if it states none."""
    match = re.fullmatch(r"(.+)_n(\d+)_(cpu|full)", folder)
    return Setting(match[1], int(match[2]), match[3]) if match else None


def seed_folder(runs: pathlib.Path, setting: Setting, seed: int) -> pathlib.Path:
    """Folder of all workdirs of a seed."""
    return runs / setting.folder / f"seed{seed}"


def result_file(results: pathlib.Path, setting: Setting, job: str, seed: int) -> pathlib.Path:
    """File of the summary of a row (or of a job that several rows share)."""
    return results / setting.folder / job / f"seed{seed}.json"


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Read a summary; InputError names the file."""
    try:
        return read_object(path)
    except (OSError, ValueError) as e:
        raise InputError(f"{path} cannot be read ({reason(e)}); restore it, or remove it to have it made again") from e


def keep_result(summary: pathlib.Path, path: pathlib.Path, asked: Mapping[str, Any]):
    """Copy a job's summary to its place in the results, with `asked` (config, overrides) under "row"."""
    write_whole(path, json.dumps({**read_json(summary), "row": dict(asked)}, indent=2, allow_nan=False) + "\n")
