"""Which wheels the project needs that the target does not have, and their download; all by pip."""

import json
import pathlib
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence

from usss_jax.errors import InputError

# What the target has, unless a list says so (--target_has).
TARGET = ("jax", "flax", "optax", "orbax-checkpoint", "numpy")

_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}


def canonical(name: str) -> str:
    """Name of a package as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def name_of(requirement: str) -> str:
    """Canonical name of the package that a requirement like "jax>=0.10" asks for."""
    return canonical(re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0])


def platform_tags(platform: str) -> list[str]:
    """Tags of wheels that run on a platform: those of its own and of every older glibc; pip matches names exactly.

    Raises InputError unless it is a manylinux tag.
    """
    for minor, legacy in _LEGACY.items():
        platform = re.sub(rf"^{legacy}_", f"manylinux_2_{minor}_", platform)
    match = re.fullmatch(r"manylinux_2_(\d+)_(\w+)", platform)
    if not match:
        raise InputError(f"--platform={platform}: give a manylinux tag, for instance manylinux_2_28_x86_64")
    tags = []
    for minor in range(int(match[1]), 4, -1):
        tags.append(f"manylinux_2_{minor}_{match[2]}")
        tags += [f"{_LEGACY[minor]}_{match[2]}"] if minor in _LEGACY else []
    return tags


def project_requirements(pyproject: pathlib.Path, with_records: bool) -> list[str]:
    """Requirements of the project, and those of its extra `records` too if `with_records`."""
    project = tomllib.loads(pyproject.read_text())["project"]
    return [*project["dependencies"], *(project["optional-dependencies"]["records"] if with_records else ())]


def read_target(path: pathlib.Path) -> dict[str, str]:
    """Read what the target has, as `pip freeze` or `pip list --format=freeze` prints: version by canonical name.

    The version is "" for a line without one. InputError for a line that is neither, or a file that cannot be read.
    """
    try:
        content = path.read_text()
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"--target_has={path}: cannot be read ({e}); make it by pip list --format=freeze") from e
    found = {}
    for line in content.splitlines():
        text = line.split("#")[0].strip()
        match = re.fullmatch(r"([A-Za-z0-9._-]+)(?:==(\S+)| @ \S+)?", text)
        if text and not match:
            raise InputError(f"{path}: {text!r} is neither NAME==VERSION nor NAME; make it by pip list --format=freeze")
        if match:
            found[canonical(match[1])] = match[2] or ""
    return found


def missing(
    requirements: Sequence[str],
    options: Sequence[str],
    target: Mapping[str, str] | None,
    interpreter: str = sys.executable,
) -> dict[str, tuple[str, str]]:
    """Packages that the target lacks: (name, version) by canonical name.

    Args:
      requirements: of the project.
      options: of pip: platform, Python, where wheels are found.
      target: version by name of what the target has; None: TARGET and what these need.
      interpreter: Python whose pip is used.

    Raises:
      InputError: if pip finds no set of wheels.
    """
    if target is None:
        have: Iterable[str] = resolve(TARGET, options, {}, interpreter)
    else:
        have = target
        absent = [name for name in TARGET if name not in target]
        if absent:
            raise InputError(f"--target_has: lists no {absent[0]}, which the target must have")
    # A local version ("2.11.0+cu130") is on no index; nothing that is fetched from there can depend on it.
    pins = {name: version for name, version in (target or {}).items() if version and "+" not in version}
    found = resolve([*requirements, *TARGET], options, pins, interpreter)
    have = set(have)
    return {name: package for name, package in sorted(found.items()) if name not in have}


def resolve(
    requirements: Iterable[str], options: Sequence[str], pins: Mapping[str, str], interpreter: str = sys.executable
) -> dict[str, tuple[str, str]]:
    """Packages that requirements lead to: (name, version) by canonical name; pins hold for those that are among them.

    Raises InputError with pip's last line if there is no such set of wheels.
    """
    with tempfile.TemporaryDirectory() as folder:
        report, constraints = pathlib.Path(folder, "report.json"), pathlib.Path(folder, "constraints.txt")
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in pins.items()))
        words = ["install", "--dry-run", "--ignore-installed", f"--target={folder}/none", f"--report={report}"]
        pip([*words, f"--constraint={constraints}", *options, *requirements], interpreter)
        packages = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    return {canonical(p["name"]): (p["name"], p["version"]) for p in packages}


def download(
    packages: Iterable[tuple[str, str]],
    folder: pathlib.Path,
    options: Sequence[str],
    interpreter: str = sys.executable,
) -> list[pathlib.Path]:
    """Fetch one wheel for each (name, version); InputError if pip cannot."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [f"{name}=={version}" for name, version in packages]
    if wanted:
        pip(["download", "--no-deps", f"--dest={folder}", *options, *wanted], interpreter)
    return sorted(folder.glob("*.whl"))


def check_pip(interpreter: str, python: str):
    """Raise InputError unless pip of that interpreter looks for packages as the target's Python would.

    With --python-version pip still reads Requires-Python and markers for the Python that it runs in.
    """
    code = "import sys, pip; print(f'{sys.version_info[0]}.{sys.version_info[1]}')"
    try:
        done = subprocess.run([interpreter, "-c", code], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as e:
        raise InputError(f"--pip_python={interpreter}: no Python with pip ({e})") from e
    if (here := done.stdout.strip()) != python:
        raise InputError(
            f"{interpreter} is Python {here}, the target has {python}: give a Python {python} with pip as --pip_python"
        )


def pip_options(python: str, platform: str, wheels: pathlib.Path | None) -> list[str]:
    """Options by which pip looks for wheels of another machine; `wheels`: in that folder alone, without network."""
    tags = [f"--platform={tag}" for tag in platform_tags(platform)]
    where = [] if wheels is None else ["--isolated", "--no-index", f"--find-links={wheels}"]
    return ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp", *tags, *where]


def pip(words: Sequence[str], interpreter: str):
    """Run pip; InputError with its last line of error."""
    command = [interpreter, "-m", "pip", "--disable-pip-version-check", "--quiet", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()[-300:]]
        raise InputError(f"pip {words[0]}: {errors[-1].removeprefix('ERROR: ')}; see --platform, --target_has")
