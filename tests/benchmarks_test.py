"""The committed results are what the docs quote, and the compiled step can be counted."""

import json
import pathlib
import re

import jax
import pytest

from benchmarks import memory_table, step_cpu
from benchmarks.compiled_step import StepConfig, lower_step
from usss_jax.parallel.sharding import create_mesh

REPO = pathlib.Path(__file__).parent.parent
SPEED = (REPO / "docs" / "speed.md").read_text()


def read(name: str) -> dict:
    return json.loads((REPO / "benchmarks" / "results" / f"{name}.json").read_text())


@pytest.mark.slow
def test_flops_of_a_step_are_those_of_its_convolutions():
    """By which a GPU's share of its rate is told; counted from the shapes of all convolutions, padding included."""
    lowered = lower_step(StepConfig(width=1 / 16, size=(256, 256), batch=2, passes=0), create_mesh(jax.devices()[:1]))
    assert lowered.cost_analysis()["flops"] == pytest.approx(1.86e9, rel=0.05)


def test_memory_in_the_docs_is_the_result():
    result = read("memory_table")
    for topology in result["peaks"]:
        assert memory_table.markdown(result, topology) in SPEED
        assert memory_table.fits_markdown(result, topology) in SPEED


def test_step_in_the_docs_is_the_result():
    for name in ("step_cpu", "step_cpu_lite0"):
        result = read(name)
        assert step_cpu.markdown(result) in SPEED and result["commit"][:7] in SPEED
    result = read("step_cpu")
    values = [f"{value:.2f}" for cases in result["whole_memory_ratio"].values() for value in cases.values()]
    assert f"the ratio is {', '.join(values[:-1])} and {values[-1]}" in " ".join(SPEED.split())


def test_evaluation_is_quoted_as_measured():
    result = read("evaluation_cpu")
    text = " ".join(SPEED.split())
    assert f"{result['seconds']:.1f} s, {result['images_per_second']:.2f} images/s" in text
    assert result["commit"][:7] in re.findall(r"commit (\w{7})", text)


def test_ratios_of_the_step_are_quoted_as_measured():
    result = read("step_cpu")
    ratios = [value for cases in result["ratio"].values() for value in cases.values()]
    text = " ".join((REPO / "docs" / "running.md").read_text().split())
    assert f"is {min(ratios):.2f} to {max(ratios):.2f} times as fast" in text
    assert f"benchmarks.step_cpu`, commit {result['commit'][:7]}" in text


def test_time_of_a_checkpoint_is_quoted_as_measured():
    result = read("checkpoint_lite0")
    text = " ".join((REPO / "docs" / "reliability.md").read_text().split())
    assert f"has {result['megabytes']:.1f} MB" in text and f"commit {result['commit'][:7]})" in text
    for what, digits in (("save", 2), ("checksums", 3), ("restore", 2), ("verify", 3)):
        assert f"{result[f'{what}_seconds']:.{digits}f} s" in text
