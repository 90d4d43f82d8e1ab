"""Tables in README and docs are made from the committed results, not typed."""

import json
import pathlib

import pytest

from benchmarks import collapse, data
from usss_jax.tables import collect, render
from usss_jax.tables.layout import read_setting
from usss_jax.training.results import results_table

REPO = pathlib.Path(__file__).parent.parent
RESULTS = REPO / "docs" / "results"
FOLDERS = sorted(path for path in RESULTS.iterdir() if path.is_dir())
RUNS = [path for path in FOLDERS if not read_setting(path.name)]  # one command each
SWEPT = [path for path in FOLDERS if read_setting(path.name)]  # by usss_jax.sweep


@pytest.mark.parametrize("run", RUNS, ids=lambda p: p.name)
def test_readme_table_is_that_of_the_committed_summaries(run):
    summaries = {p.parent.name: json.loads(p.read_text()) for p in sorted(run.glob("*/seed0.json"))}
    domains = list(summaries["basic"]["domains"])
    rows = [line for line in results_table(summaries, domains).splitlines() if line.startswith("|")]
    assert len(rows) == 5
    assert "\n".join(rows) in (REPO / "README.md").read_text()


@pytest.mark.parametrize("run", RUNS, ids=lambda p: p.name)
def test_provenance_is_in_the_readme(run):
    text = (REPO / "README.md").read_text()
    for path in run.glob("*/seed0.json"):
        summary = json.loads(path.read_text())
        assert summary["seed"] == 0 and summary["commit"][:7] in text
    assert json.loads((run / "full" / "seed0.json").read_text())["split_hash"] in text


@pytest.mark.parametrize("folder", SWEPT, ids=lambda p: p.name)
def test_tables_of_a_sweep_are_those_of_its_summaries(folder):
    (found,) = collect.read_folders([folder], "", "")
    text = "\n".join(render.markdown(table, found) for table in (3, 7))
    assert (folder / "tables.md").read_text() == text


@pytest.mark.parametrize("folder", SWEPT, ids=lambda p: p.name)
def test_readme_quotes_the_scores_and_the_split_of_a_sweep(folder):
    (found,) = collect.read_folders([folder], "", "")
    text = (REPO / "README.md").read_text()
    for table in (3, 7):
        rows = render.shown_rows(table, found, with_paper=False)
        assert render.score_table(found, rows, None) in text
    for _, _, summary in found.all():
        if len(summary["domains"]) == len(found.domains) and "frozen" not in summary["stage"]:
            assert summary["split_hash"] in text
            break


def test_collapse_table_is_that_of_the_benchmark():
    result = json.loads((REPO / "benchmarks/results/collapse_cvd_iddlite_cpu.json").read_text())
    assert collapse.markdown(result) in (REPO / "docs/collapse.md").read_text()


def test_memory_of_the_two_orders_is_that_of_the_benchmark():
    result = json.loads((REPO / "benchmarks/results/score_first.json").read_text())
    text = (REPO / "docs/design.md").read_text()
    for part in ("entropy_terms", "step"):
        sizes = [result[part][order]["temporary_bytes"] / 1e6 for order in ("upsample_first", "score_first")]
        assert f"{sizes[0]:.0f} -> {sizes[1]:.0f} MB" in text


def test_speed_of_the_loader_is_that_of_the_benchmark():
    result = json.loads((REPO / "benchmarks/results/data.json").read_text())
    text = (REPO / "README.md").read_text()
    assert data.markdown(result) in text and result["commit"][:7] in text
    preparation = result["preparation_of_cityscapes256"]
    assert f"{preparation['seconds']:.1f} s and {preparation['peak_memory_bytes'] / 1e6:.0f} MB" in text
    for stage in (REPO / "docs/results/cs256_cvd_cpu").iterdir():
        share = json.loads((stage / "seed0.json").read_text())["data_wait_share"]
        assert f"{stage.name} {100 * share:.1f} %" in text
