"""Curves of the scalars that a trained run has logged."""

import subprocess
import sys

import pytest
from PIL import Image
from tiny_runs import environment

from usss_jax.analysis.curves import panels, read_curves
from usss_jax.errors import InputError

pytestmark = pytest.mark.usefixtures("toy_encoder")


def test_curves_are_the_logged_scalars_by_panel(toy_run):
    curves = read_curves(toy_run / "basic")
    steps, values = curves["loss"]
    assert steps == sorted(set(steps)) and len(values) == len(steps) > 1
    ((title, found),) = panels({"basic": curves, "again": curves}, ["supervised"])
    assert title == "supervised" and set(found) == {
        f"{job}: {domain}" for job in ("basic", "again") for domain in ("city_street", "town_street")
    }
    with pytest.raises(InputError, match=r"--scalars=kept: no job has it; there are .*loss"):
        panels({"basic": curves}, ["kept"])


def test_a_folder_without_metrics_is_told(tmp_path):
    with pytest.raises(InputError, match=r"metrics.jsonl cannot be read"):
        read_curves(tmp_path)


@pytest.mark.slow
def test_command_draws_a_panel_per_name(toy_run, tmp_path):
    out = tmp_path / "curves.png"
    command = [sys.executable, "-m", "usss_jax.curves", f"--jobs={toy_run / 'basic'}", f"--out={out}"]
    subprocess.run([*command, "--scalars=loss,supervised"], check=True, env=environment())
    with Image.open(out) as picture:
        assert picture.height > 700
