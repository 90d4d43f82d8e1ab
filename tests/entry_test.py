"""What entry points make of errors of the system: one line, exit code 2, on any console."""

import os
import pathlib
import subprocess
import sys

import pytest

REPO = pathlib.Path(__file__).parent.parent


def run(module, *words, **environment):
    return subprocess.run(
        [sys.executable, "-m", f"usss_jax.{module}", *words],
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO), **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_console_of_another_encoding_and_a_place_that_cannot_be_written(tmp_path):
    """The table is shown with escapes; the file's name has them too."""
    (tmp_path / "é").write_text("")
    result = run("tables", "--table=3", f"--out={tmp_path}/é/x", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert result.returncode == 2, result.stderr
    assert "\\u03b1" in result.stdout or "Univ-full" in result.stdout
    assert result.stderr == f"usss_jax: error: {tmp_path}/\\xe9: File exists\n"


@pytest.mark.slow
def test_output_that_nobody_reads_is_told():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "usss_jax.tables", "--table=3"]
    result = subprocess.run(command, cwd=REPO, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert result.stderr == "usss_jax: error: Broken pipe\n" and result.returncode == 2


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_a_platform_that_is_not_there_is_told_with_what_there_is(tmp_path, platform):
    words = ["--config=configs/demo.py", f"--workdir={tmp_path}/w"]
    result = run("main", *words, JAX_PLATFORMS=platform)
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if "error" in line]
    assert line.startswith(f"usss_jax: error: JAX_PLATFORMS={platform}: ") and "; set it to cpu, or unset it" in line
    assert "Traceback" not in result.stderr and not (tmp_path / "w").exists()


DIVERGES = """from usss_jax import cli
from usss_jax.errors import Diverged

def main(argv):
    raise Diverged("full diverged")

cli.run(main)
"""


def test_a_training_that_diverged_has_an_exit_code_of_its_own():
    result = subprocess.run([sys.executable, "-c", DIVERGES], cwd=REPO, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (3, "usss_jax: error: full diverged\n")
