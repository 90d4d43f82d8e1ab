"""Cells of tables on the target: commands of usss_jax.sweep one after another, until the time is over.

Standard library only; run.py imports it from the unpacked project.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.offline_bundle import keep, run
from usss_jax.errors import InputError

POLL_SECONDS = 0.5
SECONDS_TO_END = 15.0  # from SIGTERM to SIGKILL


@dataclasses.dataclass(frozen=True)
class Cell:
    """One command of the sweep: its text as given, and its arguments."""

    title: str
    arguments: tuple[str, ...]


def read_cells(text: str) -> list[Cell]:
    """Read "CONFIG:ARGUMENT ROWS SEEDS [--flag ...]; ..."; ROWS and SEEDS are lists with commas.

    ARGUMENT must have n=; `cpu` in it is the sweep's --scale. Encoders come from --table (default 3). Raises InputError
    for a cell that is not of this form.
    """
    cells = []
    for title in filter(None, (part.strip() for part in text.split(";"))):
        remedy = "give CONFIG:ARGUMENT ROWS SEEDS, such as 'cs256_cvd:n=100 full 0'"
        try:
            words = shlex.split(title)
        except ValueError as e:
            raise InputError(f"--cells: {title!r}: {e}; {remedy}") from e
        if len(words) < 3 or any(word.startswith("-") for word in words[:3]):
            raise InputError(f"--cells: {title!r}: {remedy}")
        pair, _, argument = words[0].partition(":")
        given = [item for item in argument.split(",") if item]
        counts = [item[2:] for item in given if re.fullmatch(r"n=\d+", item)]
        if len(counts) != 1 or (other := [i for i in given if i != "cpu" and not i.startswith("n=")]):
            what = "exactly one n=" if len(counts) != 1 else f"no {other[0]!r} (the encoder is the table's: --table)"
            raise InputError(f"--cells: {title!r}: {words[0]} must have {what}, for instance {pair}:n=100,cpu")
        scale = "cpu" if "cpu" in given else "full"
        flags = [f"--pair={pair}", f"--n={counts[0]}", f"--scale={scale}", f"--rows={words[1]}", f"--seeds={words[2]}"]
        cells.append(Cell(title, (*flags, *words[3:])))
    return cells


def main(
    flags: argparse.Namespace, manifest: Mapping[str, Any], resume: Sequence[pathlib.Path], deadline: float
) -> int:
    """Do as run_all; one line and exit code 2 for bad input."""
    try:
        return run_all(flags, manifest, resume, deadline)
    except (InputError, run.BundleError) as e:
        print(f"offline_bundle: error: {e}", file=sys.stderr, flush=True)
        return 2


def run_all(
    flags: argparse.Namespace, manifest: Mapping[str, Any], resume: Sequence[pathlib.Path], deadline: float
) -> int:
    """Run the cells until `deadline` (time.monotonic) and fill --out; return run.py's exit code.

    Raises InputError for whatever is wrong with the flags.
    """
    work: pathlib.Path = flags.work.absolute()
    limits = keep.Limits(int(flags.part_mb * 1e6), int(flags.out_mb * 1e6))
    if flags.bring:
        keep.bring(work, required(flags.out, "--out"), flags.bring, limits)
        return 0
    cells = read_cells(flags.cells)
    if not cells:
        run.say("no --cells: nothing is run")
        return 0
    required(flags.out, "--out")
    keep.restore(resume, work)
    signal.signal(signal.SIGTERM, stop)
    failed, unfinished = [], []
    try:
        for cell in cells:
            code = run_cell(cell, work, manifest, deadline)
            record_commit(work / "results", manifest["commit"])
            if code is None:
                unfinished.append(cell.title)
            elif code:
                failed.append(cell.title)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what was computed is to be brought back, come what may
        keep.fill(work, flags.out.absolute(), flags.keep, limits)
    for what, titles in (("failed", failed), ("not finished, call again", unfinished)):
        if titles:
            run.say(f"{len(titles)} of {len(cells)} cells {what}: {'; '.join(titles)}")
    return 1 if failed else 3 if unfinished else 0


def required(value: Any, flag: str) -> Any:
    """Return the flag's value; InputError if it is not given."""
    if value is None:
        raise InputError(f"{flag} is missing")
    return value


def stop(number, frame):
    """End in order when this process is told to."""
    raise SystemExit(128 + number)


def run_cell(cell: Cell, work: pathlib.Path, manifest: Mapping[str, Any], deadline: float) -> int | None:
    """Run one cell; return its exit code, None if the time is over. What it prints is shown and goes to a log.

    Raises InputError if it wants images at another size than they were packed.
    """
    if time.monotonic() >= deadline:
        return None
    project = work / "bundle" / "project"
    folders = {"runs": work / "runs", "results": work / "results", "data_root": work / "bundle" / "data"}
    arguments = [*cell.arguments, *(f"--{flag}={folder}" for flag, folder in folders.items())]
    environment = run.environment(project, work / "site", JAX_COMPILATION_CACHE_DIR=str(work / "jax_cache"))
    run.say(f"cell: {cell.title}")
    log = work / "runs" / "sweep.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as written, log.open("rb") as shown:
        shown.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            [sys.executable, "-m", "usss_jax.sweep", *arguments],
            cwd=project,
            env=environment,
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = wait(process, work, manifest, deadline, shown)
        finally:
            end(process)
        show(shown)
    if code:
        tell_logs(work / "runs")
    return code


def wait(process: subprocess.Popen, work: pathlib.Path, manifest: Mapping[str, Any], deadline: float, shown):
    """Wait for the process and show its output; None if the time is over first."""
    checked: set[pathlib.Path] = set()
    while process.poll() is None:
        show(shown)
        check_sizes(work / "runs", manifest["data"], checked)
        if time.monotonic() >= deadline:
            run.say("the time is over")
            return None
        time.sleep(POLL_SECONDS)
    return process.returncode


def show(shown):
    """Print what was written since the last time."""
    print(shown.read().decode(errors="replace"), end="", flush=True)


def end(process: subprocess.Popen):
    """End a process and those that it started, gently first."""
    for number, patience in ((signal.SIGTERM, SECONDS_TO_END), (signal.SIGKILL, None)):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(patience)
            except subprocess.TimeoutExpired:
                continue


def tell_logs(runs: pathlib.Path):
    """Print the end of the log of the training that ran last."""
    logs = sorted(runs.glob("*/seed*/*.log"), key=lambda path: path.stat().st_mtime)
    for path in logs[-1:]:
        lines = path.read_text(errors="replace").splitlines()[-20:]
        print("\n".join([f"---- {path}", *lines]), flush=True)


def check_sizes(runs: pathlib.Path, data: Mapping[str, Any], checked: set[pathlib.Path]):
    """Raise InputError if a workdir's config wants resized images at another size than that of the packed ones."""
    for path in set(runs.glob("*/seed*/*/config.json")) - checked:
        config = json.loads(path.read_text())  # written in one piece
        checked.add(path)
        for domain in config["domains"]:
            stored = data.get(domain, {}).get("size")
            if stored and stored != (asked := asked_size(config["image_size"], domain) or data[domain]["own_size"]):
                sizes = [f"{height}x{width}" for height, width in (stored, asked)]
                raise InputError(
                    f"{path.parent.name}: {domain} was packed at {sizes[0]} but is to be loaded at {sizes[1]} "
                    "(height x width); pack with the config's image_size as --size"
                )


def asked_size(image_size: str, domain: str) -> list[int] | None:
    """Height and width that the config's image_size says of a domain, or None."""
    for item in filter(None, image_size.split(",")):
        name, equals, size = item.partition("=")
        if not equals or name.strip() == domain:
            return [int(side) for side in (size if equals else item).split("x")]
    return None


def record_commit(results: pathlib.Path, commit: str):
    """Write the bundle's commit into results that have none: there is no git checkout here to ask."""
    for path in results.glob("*/*/seed*.json"):
        summary = json.loads(path.read_text())
        if summary.get("commit") is None:
            partial = path.with_name(path.name + ".partial")
            partial.write_text(json.dumps({**summary, "commit": commit}, indent=2, allow_nan=False) + "\n")
            os.replace(partial, path)
