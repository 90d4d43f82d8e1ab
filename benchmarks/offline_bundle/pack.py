"""Pack the project, the wheels that the target lacks and the data at training size for a machine without network.

    python -m benchmarks.offline_bundle.pack --out=BUNDLE --domains=cityscapes256,camvid --data_root=DATA

See the README in this folder. --out gets `bundle.part01`, ..., `manifest.json` and `run.py`, which runs it there.
"""

import argparse
import json
import math
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from benchmarks.offline_bundle import wheels
from benchmarks.offline_bundle.data import pack_domain
from benchmarks.offline_bundle.parts import MB, write_parts
from usss_jax.config import names, per_domain, read_size
from usss_jax.data.domain import Domain
from usss_jax.data.domains import get_domain
from usss_jax.data.pools import domain_root
from usss_jax.data.sizes import check_orientation, height_width
from usss_jax.errors import InputError

HERE = pathlib.Path(__file__).parent
PROJECT = HERE.parent.parent


def main(argv: Sequence[str] | None = None) -> int:
    """Pack; one line and exit code 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="new or empty folder for the parts")
    parser.add_argument("--max_mb", type=float, default=60, help="largest part, in MB of 10^6 bytes")
    parser.add_argument("--domains", default="", help="built-in domains, such as camvid,cityscapes256; empty: no data")
    parser.add_argument("--data_root", default="", help="as the config's")
    parser.add_argument("--size", default="", help="as the config's image_size; empty: the domains' own")
    parser.add_argument("--python", default="3.12", help="version on the target")
    parser.add_argument("--platform", default="manylinux_2_28_x86_64", help="newest that the target takes")
    parser.add_argument("--pip_python", default=sys.executable, help="Python of that version with pip")
    parser.add_argument("--target_has", type=pathlib.Path, help="pip list --format=freeze of the target")
    parser.add_argument("--wheels", type=pathlib.Path, help="take wheels from this folder; no network")
    parser.add_argument("--records", action="store_true", help="add what reading prepared records needs (large)")
    flags = parser.parse_args(argv)
    try:
        pack(flags)
    except InputError as e:
        print(f"offline_bundle: error: {e}", file=sys.stderr, flush=True)
        return 2
    return 0


def pack(flags: argparse.Namespace):
    """Write parts, manifest.json and run.py; InputError for whatever is wrong, before anything is written to --out."""
    began = time.monotonic()
    if not 1 <= flags.max_mb < math.inf:  # NaN is refused too
        raise InputError(f"--max_mb={flags.max_mb:g}: give a finite number of at least 1")
    if flags.out.exists() and (not flags.out.is_dir() or any(flags.out.iterdir())):
        raise InputError(f"--out={flags.out} is not an empty folder; give a new one")
    domains = [get_domain(name) for name in dict.fromkeys(names(flags.domains))]
    check_folders(domains)
    known = [domain.name for domain in domains]
    sizes = per_domain(flags.size, known, "--size", read_size)
    check_orientation(dict(zip(known, domains, strict=True)), sizes, "--size")
    tracked = tracked_files(PROJECT)
    wheels.check_pip(flags.pip_python, flags.python)
    options = wheels.pip_options(flags.python, flags.platform, flags.wheels)
    target = wheels.read_target(flags.target_has) if flags.target_has else None
    with tempfile.TemporaryDirectory() as scratch_:
        scratch = pathlib.Path(scratch_)
        packages = wheels.missing(
            wheels.project_requirements(PROJECT / "pyproject.toml", flags.records), options, target, flags.pip_python
        )
        fetched = wheels.download(packages.values(), scratch / "wheels", options, flags.pip_python)
        say(f"{len(fetched)} wheels, {sum(w.stat().st_size for w in fetched) / MB:.1f} MB: {', '.join(packages)}")
        data = {}
        for domain in domains:
            folder = scratch / "data" / domain.folder
            root = domain_root(flags.data_root, domain, known) or ""
            data[domain.name] = pack_domain(domain, root, folder, sizes[domain.name])
            stored = data[domain.name]["size"]
            how = f"PNG at {height_width(stored)}" if stored else "original files"
            say(f"{domain.name}: {data[domain.name]['images']} images, {how}")
        files = [(f"project/{name}", PROJECT / name) for name in tracked]
        files += [(str(p.relative_to(scratch)), p) for p in sorted(scratch.rglob("*")) if p.is_file()]
        parts, hashes = write_parts(files, flags.out, "bundle", int(flags.max_mb * MB))
    manifest = {
        "format": 1,
        "commit": commit(PROJECT),
        "python": flags.python,
        "platform": flags.platform,
        "parts": parts,
        "wheels": {name: {"version": v, "file": wheel_of(name, fetched)} for name, (_, v) in packages.items()},
        "data": data,
        "files": hashes,
    }
    (flags.out / "manifest.json").write_text(json.dumps(manifest, separators=(",", ":")) + "\n")
    shutil.copyfile(HERE / "run.py", flags.out / "run.py")
    for part in parts:
        say(f"{flags.out / part['name']}  {part['bytes'] / MB:.1f} MB")
    by_kind = {k: sum(h[0] for n, h in hashes.items() if n.startswith(k)) / MB for k in ("project", "wheels", "data")}
    shares = ", ".join(f"{kind} {size:.1f} MB" for kind, size in by_kind.items())
    say(f"commit {manifest['commit']}: {len(hashes)} files, {shares}; {time.monotonic() - began:.0f} s")


def check_folders(domains: Sequence[Domain]):
    """Raise InputError for two domains in one folder: one may be packed resized and the other as it is."""
    owners: dict[str, str] = {}
    for domain in domains:
        other = owners.setdefault(domain.folder, domain.name)
        if other != domain.name:
            raise InputError(
                f"--domains: {other} and {domain.name} share the folder {domain.folder!r}; pack a bundle for each"
            )


def wheel_of(name: str, fetched: Sequence[pathlib.Path]) -> str:
    """File name of a package's wheel."""
    return next(path.name for path in fetched if wheels.canonical(path.name.split("-")[0]) == name)


def tracked_files(project: pathlib.Path) -> list[str]:
    """Files that git tracks in a checkout and that are there; InputError for a checkout without git, or a link."""
    found = git(project, "ls-files", "-z").split("\0")
    files = [name for name in found if name and (project / name).exists()]
    if links := [name for name in files if (project / name).is_symlink()]:
        raise InputError(f"{project / links[0]} is a link, which is not packed; replace it by a file")
    return files


def commit(project: pathlib.Path) -> str:
    """Commit of the checkout, with "+changes" if tracked files differ from it."""
    changed = git(project, "--no-optional-locks", "status", "--porcelain", "--untracked-files=no").strip()
    return git(project, "rev-parse", "HEAD").strip() + ("+changes" if changed else "")


def git(project: pathlib.Path, *words: str) -> str:
    """Output of a git command; InputError if it fails."""
    try:
        return subprocess.run(["git", *words], cwd=project, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as e:
        raise InputError(f"{project} is no git checkout ({e}); a bundle is made of the files that git tracks") from e


def say(text: str):
    """Print a line."""
    print(f"[pack] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
