"""A method in a file of its own is selected by its name, and runs through the engine as the others do."""

import json
import pathlib
import sys
import types

import numpy as np
import pytest
import third_method

import usss_jax
from usss_jax.config import FIELDS, METHODS, default_config, shrink_to_tiny


def test_a_method_takes_forty_lines():
    lines = pathlib.Path(third_method.__file__).read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= 40


@pytest.mark.slow
def test_fits_and_passes_run_once(monkeypatch, tmp_path, toy_encoder, capsys):
    """With the two places that the design page names: the declaration, and a module methods/NAME/plan.py."""
    monkeypatch.setitem(METHODS, "penalized", third_method.METHOD)
    for name, field in third_method.FIELDS.items():
        monkeypatch.setitem(FIELDS, name, field)
    package = types.ModuleType("usss_jax.methods.penalized")
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, f"{package.__name__}.plan", third_method)
    config = default_config("penalized")
    shrink_to_tiny(config)
    config.model.encoder, config.data.domains, config.data.normalize = "toy", "city_street,town_street", "none"

    (summary,) = usss_jax.train(config, tmp_path).values()
    assert set(summary["domains"]) == {"city_street", "town_street"}
    lines = [json.loads(line) for line in (tmp_path / "penalized" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert len(steps) == config.train.steps
    for line in steps:
        terms = [line[f"supervised/{d}"] - 0.1 * line[f"entropy/{d}"] for d in summary["domains"]]
        np.testing.assert_allclose(line["loss"], sum(terms), rtol=1e-5)
    made = tmp_path / "domains.txt"
    assert made.read_text() == "city_street town_street"
    made.write_text("kept")
    assert usss_jax.train(config, tmp_path)["penalized"]["best_step"] == summary["best_step"]
    assert made.read_text() == "kept" and "[penalized] finished earlier" in capsys.readouterr().out
