"""What the wheel holds, and that the commands run where it alone is installed, away from the checkout."""

import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

REPO = pathlib.Path(__file__).parent.parent
TREES = {"usss_jax": "usss_jax", "usss_jax/configs": "configs", "data_prep": "data_prep"}  # in the wheel: here


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder of packages with the wheel's; built of a copy, since a build leaves files in its source."""
    folder = tmp_path_factory.mktemp("wheel")
    for tree in TREES.values():
        shutil.copytree(REPO / tree, folder / "source" / tree, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPO / name, folder / "source")
    has_setuptools = int(importlib.metadata.version("setuptools").split(".")[0]) >= 77  # else pip fetches one
    words = ["wheel", "-q", "--no-deps", f"--wheel-dir={folder}", *["--no-build-isolation"] * has_setuptools]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    built = subprocess.run([*pip, *words, str(folder / "source")], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(folder / "site")
    return folder / "site"


def test_wheel_holds_package_configs_and_data_prep_and_nothing_else(site):
    expected = set()
    for there, here in TREES.items():
        files = [path for path in (REPO / here).rglob("*") if path.suffix in (".py", ".txt", ".typed", ".yaml")]
        expected |= {f"{there}/{path.relative_to(REPO / here)}" for path in files}
    found = {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file() and ".pyc" not in path.name}
    assert {name for name in found if ".dist-info/" not in name} == expected


@pytest.mark.nightly
def test_commands_run_from_any_folder(site, tmp_path):
    """Up to where a training would begin to compile: what takes seconds is tested in the checkout."""
    demo, imagenet = "--config=configs/demo.py", "--config=configs/imagenet.py"
    commands = {
        ("usss_jax.main", demo, "--config.data.labeled_per_domain=301", "--workdir=w"): (2, "training pool has 300"),
        ("usss_jax.main", imagenet, "--config.data.root=absent", "--workdir=w"): (2, "absent/train"),
        ("usss_jax.data.check", demo, "--limit=1"): (0, "0 faults"),
        ("usss_jax.sweep", "--list"): (0, "--config=configs/cs_sun.py:resnet50,n=1500"),
        ("usss_jax.sweep", "--pair=cs256_cvd", "--dry_run"): (
            0,
            f"={site}/usss_jax/configs/cs256_cvd.py:drn_d_22,n=100",
        ),
        ("usss_jax.tables", "--table=6"): (0, "58.01"),
        ("data_prep.own", "--help"): (1, "--size: HEIGHTxWIDTH"),  # absl's exit code for help
    }
    environment = {**os.environ, "PYTHONPATH": str(site)}
    started = {
        words: subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for words in commands
    }
    for words, (code, told) in commands.items():
        text = started[words].communicate(timeout=300)[0]
        assert started[words].returncode == code and told in text, f"{words}: {text}"
