"""Tables in README and docs are those of the committed results."""

import json
import pathlib
import statistics

import pytest

from benchmarks import data
from usss_jax.experiments import collect, render, render_mlsl, rows_mlsl, summaries
from usss_jax.experiments.found import Found
from usss_jax.experiments.layout import read_experiment
from usss_jax.methods.usss.results import results_table

REPO = pathlib.Path(__file__).parent.parent
RESULTS = REPO / "docs" / "results"
FOLDERS = sorted(path for path in RESULTS.iterdir() if path.is_dir())
RUNS = [RESULTS / "demo"]  # one command
PAIRS = ("cs256_cvd", "cvd_iddlite")
EXPERIMENTS = {path: found for path in FOLDERS if (found := read_experiment(path.name))}  # by usss_jax.sweep
SWEPT = [path for path, experiment in EXPERIMENTS.items() if experiment.method == "usss"]
SWEPT_MLSL = [path for path in EXPERIMENTS if path not in SWEPT]
TRIED = [path for path in sorted(RESULTS.glob("*/*")) if path.is_dir() and read_experiment(path.name)]


@pytest.mark.parametrize("run", RUNS, ids=lambda p: p.name)
def test_table_of_a_run_is_that_of_its_summaries(run):
    summaries = {p.parent.name: json.loads(p.read_text()) for p in sorted(run.glob("*/seed0.json"))}
    domains = list(summaries["basic"]["domains"])
    rows = [line for line in results_table(summaries, domains).splitlines() if line.startswith("|")]
    assert len(rows) == 5
    assert "\n".join(rows) in (REPO / "docs/results.md").read_text()


@pytest.mark.parametrize("run", RUNS, ids=lambda p: p.name)
def test_provenance_stands_beside_the_table(run):
    text = (REPO / "docs/results.md").read_text()
    for path in run.glob("*/seed0.json"):
        summary = json.loads(path.read_text())
        assert summary["config"]["train"]["seed"] == 0 and summary["commit"][:7] in text
    assert json.loads((run / "full" / "seed0.json").read_text())["split_hash"] in text


def average(folder, jobs):
    """Mean over jobs of the mean over seeds and domains."""
    files = {job: sorted((folder / job).glob("seed*.json")) for job in jobs}
    if not all(files.values()):
        return "n/a"
    scores = [
        statistics.fmean(
            statistics.fmean(d["miou_best"] for d in json.loads(p.read_text())["domains"].values()) for p in paths
        )
        for paths in files.values()
    ]
    return f"{100 * statistics.fmean(scores):.2f}"


@pytest.mark.parametrize(
    ("title", "job"),
    [
        ("one network per domain", "single_*"),
        ("Univ-basic", "basic"),
        ("Univ-cross", "cross"),
        ("Univ-full", "full"),
        ("Univ-full, anchored", "anchored"),
    ],
)
def test_averages_in_the_readme_are_those_of_the_results(title, job):
    folders = [RESULTS / f"{pair}_n100_{scale}" for pair in PAIRS for scale in ("light", "cpu")]
    cells = [average(f, [p.name for p in f.glob(job)] or [job]) for f in folders]
    assert f"| {title} | {' | '.join(cells)} |" in (REPO / "README.md").read_text()


def test_search_of_the_light_encoder_s_settings_is_quoted():
    text = (REPO / "docs/encoders.md").read_text()
    for run in json.loads((RESULTS / "light_search.json").read_text()):
        optimiser = {"sgd": "SGD", "adamw": "AdamW"}[run["optimiser"]]
        scores = (f"{100 * run['val'][key]:.2f}" for key in ("cityscapes256", "camvid", "average"))
        also = f"; `{run['also']}`" if "also" in run else ""
        settings = (
            f"{optimiser} {run['lr']:g}, {run['encoder_lr_scale']:g}{also}",
            f"{run['stride']}, {run['lateral']}",
        )
        cells = [*settings, f"`{run['batch_norm']}`", *scores, f"{run['images_per_second']:.1f}"]
        assert f"| {' | '.join(cells)} |" in text


@pytest.mark.parametrize("folder", SWEPT, ids=lambda p: p.name)
def test_tables_of_a_sweep_are_those_of_its_summaries(folder):
    (found,) = collect.read_folders([folder], "", "")
    text = "\n".join(render.markdown(table, found) for table in (3, 7))
    assert (folder / "tables.md").read_text() == text


@pytest.mark.parametrize("folder", SWEPT_MLSL, ids=lambda p: p.name)
def test_tables_of_a_sweep_of_mlsl_are_those_of_its_summaries(folder):
    """Tables 1 (or 2) and 3, and 4 if one of its rows was trained."""
    (found,) = collect.read_folders([folder], "", "")
    own = {*rows_mlsl.TABLE_ROWS[4].split()} - {"sisc_pwl"}
    tables = [rows_mlsl.MAIN.get(found.experiment.pair, 1), 3, *[4] * bool(own & set(found.summaries))]
    text = "\n".join(render_mlsl.markdown(table, found) for table in tables)
    assert (folder / "tables.md").read_text() == text


@pytest.mark.parametrize("folder", SWEPT_MLSL, ids=lambda p: p.name)
def test_scores_of_a_sweep_of_mlsl_are_quoted(folder):
    (found,) = collect.read_folders([folder], "", "")
    rows, page = render_mlsl.shown_rows(1, found, {}), (REPO / "docs/mlsl.md").read_text()
    assert render_mlsl.score_table(found, rows, {}) in page
    assert render_mlsl.round_table(found, rows) in page


@pytest.mark.parametrize("folder", SWEPT, ids=lambda p: p.name)
def test_scores_and_split_of_a_sweep_are_quoted(folder):
    """Table 3 in docs/results.md; in docs/claims.md Tables 7 and 4, where their rows were trained."""
    (found,) = collect.read_folders([folder], "", "")
    page = (REPO / "docs/results.md").read_text()
    assert scores(3, found) in page
    for table in [table for table, row in ((4, "hung_camvid"), (7, "k3")) if (folder / row).exists()]:
        assert scores(table, found) in (REPO / "docs/claims.md").read_text()
    (split,) = {s["split_hash"] for job, _, s in found.all() if summaries.kind(job) == "universal"}
    assert split in page


@pytest.mark.parametrize("folder", TRIED, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_scores_of_what_else_was_tried_are_quoted(folder):
    """Beside the paper's rows where these have as many steps."""
    beside = [folder] if folder.parent.name == "long" else [RESULTS / folder.name, folder]
    (found,) = collect.read_folders(beside, "", "")
    assert scores(3, found) in (REPO / "docs/claims.md").read_text()


def test_frozen_rows_need_no_single_domain_network_in_the_same_workdir():
    """It lies in that of `single_from`, and this command did not ask for it: its own column is empty."""

    def summary(domain, value):
        return {"domains": {domain: {"miou_best": value, "miou_last": value, "split": "val"}}}

    summaries = {"frozen_a_b": summary("b", 0.25), "frozen_b_a": summary("a", 0.5)}
    table = results_table(summaries, ["a", "b"])
    assert "| a's encoder, frozen | - / - | 25.00 / 25.00 | - / - |" in table
    assert "| b's encoder, frozen | 50.00 / 50.00 | - / - | - / - |" in table
    both = results_table(summaries | {"single_a": summary("a", 0.75)}, ["a", "b"])
    assert "| a's encoder, frozen | 75.00 / 75.00 | 25.00 / 25.00 | 50.00 / 50.00 |" in both


def scores(table: int, found: Found) -> str:
    return render.score_table(found, render.shown_rows(table, found, with_paper=False), None)


def test_cosines_of_figure_4_are_those_of_its_files():
    text = (REPO / "docs/claims.md").read_text()
    for path in sorted((REPO / "docs/figure4").glob("seed*/class_plot.json")):
        for job in json.loads(path.read_text())["jobs"]:
            numbers = " | ".join(f"{job['centred'][key]:.3f}" for key in ("matching", "other", "difference"))
            assert f"| {job['seed']} | {job['title']} | {numbers} |" in text
    assert "figure4/seed0/class_plot.png" in text


def test_speed_of_the_loader_is_that_of_the_benchmark():
    result = json.loads((REPO / "benchmarks/results/data.json").read_text())
    text = (REPO / "docs/data.md").read_text()
    assert data.markdown(result) in text and result["commit"][:7] in text
    preparation = result["preparation_of_cityscapes256"]
    assert f"{preparation['seconds']:.1f} s and {preparation['peak_memory_bytes'] / 1e6:.0f} MB" in text
    for job in ("single_cityscapes256", "single_camvid", "basic", "full"):
        summary = json.loads((RESULTS / "cs256_cvd_n100_cpu" / job / "seed0.json").read_text())
        assert f"{job} {100 * summary['data_wait_share']:.1f} %" in " ".join(text.split())
