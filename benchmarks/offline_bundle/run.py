"""Check and unpack a bundle, and run cells of tables with it: one Linux machine, no network.

    python3 run.py --parts=BUNDLE --work=WORK --cells="cs256_cvd:n=100 basic,full 0" --minutes=9 --out=OUT

Python must be the one that has jax, flax, optax, orbax-checkpoint and NumPy. Everything is written below --work and
--out; nothing is installed elsewhere. Exit code 0: all cells are finished; 3: the time is over, call again; 1: a cell
failed; 2: bad input. The README in benchmarks/offline_bundle says more. Standard library only.
"""

import argparse
import gzip
import hashlib
import importlib.metadata
import io
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile


class BundleError(Exception):
    """Bad input, in one line."""


def main(argv=None) -> int:
    """Unpack, install, run; return the exit code."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = str(pathlib.Path(__file__).parent)
    parser.add_argument("--parts", default=here, help="folders with manifest.json and the parts: A,B,...")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder on a local disk; kept between calls")
    parser.add_argument("--cells", default="", help="CONFIG:ARGUMENT ROWS SEEDS [flags of usss_jax.sweep]; ...")
    parser.add_argument("--minutes", type=float, default=9, help="from the start until cells are stopped")
    parser.add_argument("--out", type=pathlib.Path, help="folder for what is to be brought back; emptied first")
    parser.add_argument("--resume", default="", help="folders with what earlier calls brought back: A,B,...")
    parser.add_argument("--keep", choices=("summaries", "stages", "checkpoints"), default="stages")
    parser.add_argument("--part_mb", type=float, default=16, help="largest file in --out, in MB of 10^6 bytes")
    parser.add_argument("--out_mb", type=float, default=66, help="all files in --out together")
    parser.add_argument("--bring", type=int, default=0, help="run nothing; bring this load of the last call's state")
    flags = parser.parse_args(argv)
    try:
        check_limits(flags)
        manifest = read_manifest(folders(flags.parts))
        unpack(manifest, folders(flags.parts), flags.work / "bundle")
        install(manifest, flags.work / "bundle", flags.work / "site")
        say(f"ready after {time.monotonic() - began:.0f} s: commit {manifest['commit']}")
        resume = folders(flags.resume)
    except BundleError as e:
        print(f"offline_bundle: error: {e}", file=sys.stderr, flush=True)
        return 2
    sys.path.insert(0, str(flags.work / "bundle" / "project"))
    from benchmarks.offline_bundle import cells  # of the bundle; standard library only, like this script

    return cells.main(flags, manifest, resume, began + 60 * flags.minutes)


def check_limits(flags):
    """BundleError for sizes that no part can have, or a time that never comes."""
    for name, least in (("part_mb", 1), ("out_mb", 1), ("minutes", 0)):
        value = getattr(flags, name)
        if not least <= value < math.inf:  # NaN is refused too
            raise BundleError(f"--{name}={value:g}: give a finite number of at least {least}")


def folders(text):
    """Folders of a flag "A,B"; BundleError for one that is not there."""
    found = [pathlib.Path(part).expanduser() for part in text.split(",") if part]
    for folder in found:
        if not folder.is_dir():
            raise BundleError(f"{folder} is no folder")
    return found


def read_manifest(places):
    """Read manifest.json from the first folder that has one."""
    for place in places:
        path = place / "manifest.json"
        if path.exists():
            try:
                manifest = json.loads(path.read_text())
            except ValueError as e:
                raise BundleError(f"{path} is damaged ({e}); copy it again") from e
            if manifest.get("format") != 1:
                raise BundleError(f"{path} is of another format; use the run.py that came with it")
            return manifest
    raise BundleError(f"no manifest.json in {', '.join(map(str, places))}; it is with the parts that were packed")


def find_parts(parts, places):
    """Paths of all parts in order, each checked; BundleError names what is missing or damaged."""
    found = []
    for part in parts:
        paths = [place / part["name"] for place in places if (place / part["name"]).exists()]
        if not paths:
            raise BundleError(f"{part['name']} of {len(parts)} parts is not in {', '.join(map(str, places))}; copy it")
        if paths[0].stat().st_size != part["bytes"] or digest(paths[0]) != part["sha256"]:
            raise BundleError(f"{paths[0]} is damaged (size or SHA-256 differ from the manifest); copy it again")
        found.append(paths[0])
    return found


def digest(path):
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Joined(io.RawIOBase):
    """Several files as one to read from."""

    def __init__(self, paths):
        self._paths, self._file = list(paths), None

    def readable(self):
        """Whether it can be read."""
        return True

    def readinto(self, buffer):
        """Read on, over the end of a file into the next one."""
        while True:
            if self._file is None:
                if not self._paths:
                    return 0
                self._file = self._paths.pop(0).open("rb")
            if count := self._file.readinto(buffer):
                return count
            self._file.close()
            self._file = None


def extract(paths, hashes, folder):
    """Write the files of a tar.gz in parts below a folder, each checked; BundleError for one that is not known."""
    left = dict(hashes)
    with (
        gzip.GzipFile(fileobj=io.BufferedReader(Joined(paths), 1 << 20)) as zipped,
        tarfile.open(fileobj=zipped, mode="r|") as tar,
    ):
        for entry in tar:
            name = entry.name
            if not entry.isreg() or name not in left or name.startswith("/") or ".." in name.split("/"):
                raise BundleError(f"{name!r} is not in the manifest or no plain file below the folder; pack again")
            data = tar.extractfile(entry).read()
            if left.pop(name) != [len(data), hashlib.sha256(data).hexdigest()]:
                raise BundleError(f"{name} differs from the manifest; pack again")
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    if left:
        raise BundleError(f"{len(left)} files such as {min(left)} are in no part; pack again")


def unpack(manifest, places, folder):
    """Check the parts and unpack them, once; BundleError if the folder holds another bundle."""
    done = folder / "manifest.json"
    if done.exists():
        theirs = json.loads(done.read_text())
        if theirs != manifest:
            raise BundleError(f"{folder} holds another bundle (commit {theirs['commit']}); give another --work")
        return
    paths = find_parts(manifest["parts"], places)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    extract(paths, manifest["files"], partial)
    (partial / "manifest.json").write_text(json.dumps(manifest))
    os.replace(partial, folder)


def install(manifest, bundle, site):
    """Unzip the wheels that this Python lacks into a folder of their own; BundleError if it cannot be used."""
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if here != manifest["python"]:
        raise BundleError(f"the wheels are for Python {manifest['python']}, this is {here}; pack with --python={here}")
    for name in ("jax", "flax", "optax", "orbax-checkpoint", "numpy"):
        if version(name) is None:
            raise BundleError(f"{sys.executable} has no {name}; run this script with the Python that has it")
    if site.exists():
        return
    partial = site.with_name(site.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, wheel in manifest["wheels"].items():
        if (have := version(name)) is not None:
            say(f"{name} {have} is here already: {wheel['version']} of the bundle is not used")
            continue
        unzip_wheel(bundle / "wheels" / wheel["file"], partial)
    check_imports(bundle / "project", partial)
    os.replace(partial, site)


def unzip_wheel(path, site):
    """Unpack a wheel as pip would, less its scripts."""
    with zipfile.ZipFile(path) as archive:
        for item in archive.infolist():
            words = item.filename.split("/")
            if item.filename.startswith("/") or ".." in words:
                raise BundleError(f"{path}: {item.filename!r} would lie outside the folder")
            if words[0].endswith(".data"):
                if words[1] not in ("purelib", "platlib"):
                    continue
                words = words[2:]
            if words[-1]:
                target = site.joinpath(*words)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(item))


def environment(project, site, **more):
    """Environment of the training's processes: the project and the wheels before what the target has."""
    given = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([str(project.absolute()), str(site.absolute()), *([given] if given else [])])
    return {**os.environ, "PYTHONPATH": path, **more}


def check_imports(project, site):
    """Import the training once and print versions and devices; BundleError with the last line of what is wrong."""
    code = "import jax, usss_jax.training.stages; print(f'jax {jax.__version__}, {jax.devices()}')"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env=environment(project, site), cwd=project, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BundleError(f"the project cannot be imported: {reason}; pack with --target_has (pip list of this Python)")
    say(done.stdout.strip().splitlines()[-1])


def version(name):
    """Version of an installed package, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def say(text):
    """Print a line."""
    print(f"[bundle] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
