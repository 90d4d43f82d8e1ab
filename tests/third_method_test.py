"""A method in a file of its own runs through the engine as the others do."""

import json
import pathlib

import numpy as np
import pytest
import third_method

from usss_jax.config import checked
from usss_jax.config.files import read_named
from usss_jax.data.pools import open_all
from usss_jax.methods.run import run_plan
from usss_jax.methods.segmentation import Run
from usss_jax.parallel.sharding import create_mesh


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = read_named("configs/demo.py:tiny")
    config.train.log_every = 1
    config = checked(config)
    return Run(config, tmp_path_factory.mktemp("third"), create_mesh(), open_all(config))


def test_a_method_takes_forty_lines():
    lines = pathlib.Path(third_method.__file__).read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= 40


def test_fits_and_passes_run_once(run, capsys):
    (summary,) = run_plan(third_method.plan(run, 0.1)).values()
    assert set(summary["domains"]) == {"city_street", "town_street"}
    lines = [json.loads(line) for line in (run.workdir / "penalized" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert len(steps) == run.config.train.steps
    for line in steps:
        terms = [line[f"supervised/{d}"] - 0.1 * line[f"entropy/{d}"] for d in run.pools]
        np.testing.assert_allclose(line["loss"], sum(terms), rtol=1e-5)
    made = run.workdir / "domains.txt"
    assert made.read_text() == "city_street town_street"
    made.write_text("kept")
    assert run_plan(third_method.plan(run, 0.1))["penalized"]["best_step"] == summary["best_step"]
    assert made.read_text() == "kept" and "[penalized] finished earlier" in capsys.readouterr().out
