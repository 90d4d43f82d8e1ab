"""What is brought back from the target, and goes there again: small files always, networks and checkpoints by choice.

Standard library only; run.py imports it from the unpacked project.
"""

import dataclasses
import gzip
import io
import json
import os
import pathlib
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Sequence

from benchmarks.offline_bundle import run
from benchmarks.offline_bundle.parts import MB, write_parts
from usss_jax.errors import InputError

SUMMARIES = ("config.json", "summary.json", "metrics.jsonl", "table.md", "predictions.png")
UNIVERSAL = ("basic", "cross", "full", "direct")  # stages of rows, whose workdirs have the rows' names


@dataclasses.dataclass(frozen=True)
class Limits:
    """Largest file and largest sum of files, in bytes, that --out may hold."""

    part: int
    total: int


def small_files(work: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield results, and of every workdir its config, logs, summaries, curves and label embeddings."""
    yield from (path for path in (work / "results").rglob("*.json"))
    for path in (work / "runs").rglob("*"):
        if path.is_file() and (path.name in SUMMARIES or path.suffix == ".log" or path.parent.name == "prototypes"):
            yield path


def still_read(work: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield summary.json of every finished stage whose best checkpoint is still to be read.

    A single-domain network is read by rows still to come; a row's own command reads it last, to draw predictions, and
    only then is its result file (usss_jax/tables/layout.py) written.
    """
    for summary in (work / "runs").glob("*/seed*/*/*/summary.json"):
        setting, seed, row, stage = summary.parent.relative_to(work / "runs").parts
        has_result = (work / "results" / setting / row / f"{seed}.json").exists()
        if stage.startswith("single_") or (stage in UNIVERSAL and not has_result):
            yield summary


def networks(work: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield the best checkpoint of every finished stage that is still to be read."""
    for summary in still_read(work):
        yield from files_below(summary.parent / "best" / str(json.loads(summary.read_text())["best_step"]))


def checkpoints(work: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield of every stage that was interrupted the newest checkpoint and the best one until then."""
    for folder in (work / "runs").glob("*/seed*/*/*/checkpoints"):
        steps = steps_of(folder)
        if steps and not (folder.parent / "summary.json").exists():
            yield from files_below(folder / str(steps[-1]))
            # A best one that is newer is made again, by the same steps.
            for step in [s for s in steps_of(folder.parent / "best") if s <= steps[-1]][-1:]:
                yield from files_below(folder.parent / "best" / str(step))


def steps_of(folder: pathlib.Path) -> list[int]:
    """Steps of the complete checkpoints in a folder, the newest last."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())


def files_below(folder: pathlib.Path) -> list[pathlib.Path]:
    """All files below a folder."""
    return [path for path in folder.rglob("*") if path.is_file()]


def fill(work: pathlib.Path, out: pathlib.Path, level: str, limits: Limits):
    """Empty `out` of earlier loads and write summaries.tar.gz and the first load of the state to it.

    The state (networks and checkpoints, by `level`: summaries, stages, checkpoints) is cut into parts; those that do
    not fit come with `bring`.
    """
    store = work / "state"
    shutil.rmtree(store, ignore_errors=True)
    wanted = {"summaries": (), "stages": (networks,), "checkpoints": (networks, checkpoints)}[level]
    paths = sorted(path for choose in wanted for path in choose(work))
    store.mkdir(parents=True)
    named = [(str(path.relative_to(work)), path) for path in paths]
    parts, hashes = write_parts(named, store, "state", limits.part) if named else ([], {})
    (store / "state.json").write_text(json.dumps({"parts": parts, "files": hashes}) + "\n")
    with tarfile.open(store / "summaries.tar.gz", "w:gz", compresslevel=6) as tar:
        for path in sorted(small_files(work)):
            tar.add(path, str(path.relative_to(work)))
    bring(work, out, 1, limits)


def bring(work: pathlib.Path, out: pathlib.Path, load: int, limits: Limits):
    """Copy the load-th load of the stored state to `out`; InputError if there is no such load."""
    store = work / "state"
    if not (store / "state.json").exists():
        raise InputError(f"--bring: nothing was run in {work}; run cells first")
    parts = json.loads((store / "state.json").read_text())["parts"]
    loads = split_loads([p["bytes"] for p in parts], (store / "summaries.tar.gz").stat().st_size, limits.total)
    if not 1 <= load <= len(loads):
        raise InputError(f"--bring={load}: there are {len(loads)} loads")
    out.mkdir(parents=True, exist_ok=True)
    for old in [*out.glob("state.*"), *out.glob("summaries.tar.gz")]:
        old.unlink()
    names = [parts[i]["name"] for i in loads[load - 1]] + (["summaries.tar.gz", "state.json"] if load == 1 else [])
    for name in names:
        shutil.copyfile(store / name, out / name)
    size = sum((out / name).stat().st_size for name in names) / MB
    run.say(f"{out}: {', '.join(sorted(names))}; {size:.1f} MB")
    if load < len(loads):
        whole = sum(part["bytes"] for part in parts) / MB
        run.say(f"load {load} of {len(loads)} of {whole:.0f} MB of state; here, --bring={load + 1} brings the next")


def split_loads(sizes: Sequence[int], first: int, total: int) -> list[list[int]]:
    """Indices of parts in loads of at most `total` bytes, of which the first load has `first` already."""
    loads: list[list[int]] = [[]]
    used = first
    for i, size in enumerate(sizes):
        if used + size > total and (loads[-1] or used):
            loads, used = [*loads, []], 0
        loads[-1].append(i)
        used += size
    return loads


def restore(folders: Sequence[pathlib.Path], work: pathlib.Path):
    """Unpack what earlier calls brought back, unless `work` has runs of its own already.

    Without any part of the state only the summaries are unpacked. Raises InputError for a missing or damaged file.
    """
    if not folders:
        return
    if (work / "results").exists() or (work / "runs").exists():
        run.say(f"{work} has runs already: --resume is not used")
        return
    found = {}
    for name in ("summaries.tar.gz", "state.json"):
        places = [folder / name for folder in folders if (folder / name).exists()]
        if not places:
            raise InputError(f"--resume: no {name} in {', '.join(map(str, folders))}; copy what came back there")
        found[name] = places[0]
    partial = work / "resume.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    unpack_summaries(found["summaries.tar.gz"], partial)
    try:
        state = json.loads(found["state.json"].read_text())
        parts, hashes = state["parts"], state["files"]
        names = [part["name"] for part in parts]
    except (ValueError, TypeError, KeyError) as e:
        raise InputError(f"--resume: {found['state.json']} is damaged ({type(e).__name__}: {e}); copy it again") from e
    if any((folder / name).exists() for folder in folders for name in names):
        run.extract(run.find_parts(parts, folders), hashes, partial)
    elif names:
        run.say(f"--resume: none of {len(names)} parts of the state: unfinished stages start anew")
    for summary in list(still_read(partial)):
        if not (summary.parent / "best").exists():
            summary.unlink()
            stage = summary.parent.relative_to(partial / "runs")
            run.say(f"{stage}: its network was not brought back; trained again if it is needed")
    for name in ("results", "runs"):
        if (partial / name).exists():
            os.replace(partial / name, work / name)
    shutil.rmtree(partial)


def unpack_summaries(path: pathlib.Path, folder: pathlib.Path):
    """Unpack summaries.tar.gz; InputError if it is damaged, or holds what is no plain file below the folder."""
    try:
        content = gzip.decompress(path.read_bytes())  # all of it first: that compares its checksum
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for entry in tar:  # no extractall: its `filter` is missing in Python 3.11.0 to 3.11.3
                if not entry.isreg() or entry.name.startswith("/") or ".." in entry.name.split("/"):
                    raise InputError(f"--resume: {path}: {entry.name!r} is no plain file of ours; copy it again")
                target = folder / entry.name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(tar.extractfile(entry).read())  # type: ignore[union-attr]
    except (OSError, EOFError, zlib.error, tarfile.TarError) as e:
        raise InputError(f"--resume: {path} cannot be unpacked ({e}); copy it again") from e
