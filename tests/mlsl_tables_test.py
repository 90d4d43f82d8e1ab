"""MLSL's tables: the paper's numbers, the commands of its rows, and tables from hand-made summaries."""

import json
import pathlib
import subprocess
import sys

import pytest

from usss_jax.config import checked, default_config, flat
from usss_jax.config.files import read_named
from usss_jax.data.domains import get_domain
from usss_jax.errors import InputError
from usss_jax.experiments import collect, commands, layout, paper_mlsl, render, render_mlsl, rows_mlsl

REPO = pathlib.Path(__file__).parent.parent
TINY = """
from configs.street_cvd_uda import get_config as street

def get_config(arg=None):
    config = street(f"drn_d_22,tiny,{(arg or 'source').rpartition(',')[2]}")
    config.data.domains = ["city_street", "town_street"]
    config.data.labeled_per_domain = "city_street=4,town_street=0"
    config.data.image_size = config.data.crop_size = "16x24"
    config.mlsl.target, config.mlsl.class_map = "town_street", __file__.replace(".py", ".yaml")
    config.rounds.patch_size, config.train.eval_batch_size = 16, 60
    return config
"""
CLASS_MAP = """
source: city_street
target: town_street
classes: {road: road, sidewalk: pavement, building: building, wall: building, pole: pole, traffic sign: sign,
  vegetation: tree, sky: sky, person: pedestrian, car: car}
"""


# ---- The paper's numbers ----

# Means of the rows that the paper prints as 48.7, 49.0 and 44.4.
OTHER_MEAN = {("gta_cs", "sisc"): 48.77, ("gta_cs", "sisc_pwl"): 48.88, ("synthia_cs", "sisc"): 44.59}


@pytest.mark.parametrize("pair", paper_mlsl.CLASSES)
def test_classes_of_the_paper_average_to_its_miou(pair):
    for row, classes in paper_mlsl.CLASSES[pair].items():
        assert len(classes) == get_domain(paper_mlsl.DOMAINS[pair][1]).num_classes
        mean, printed = sum(classes) / len(classes), paper_mlsl.MIOU[pair][row]
        if (pair, row) in OTHER_MEAN:
            assert mean == pytest.approx(OTHER_MEAN[pair, row], abs=0.005) and abs(mean - printed) > 0.05
        else:
            assert mean == pytest.approx(printed, abs=0.0501), row


def test_thirteen_classes_average_to_the_second_mean():
    """33.55, 48.48, 50.79 and 50.98, printed as 33.6, 48.4, 50.8 and 51.0."""
    names = get_domain("cityscapes16").class_names
    for row, classes in paper_mlsl.CLASSES["synthia_cs"].items():
        kept = [value for name, value in zip(names, classes, strict=True) if name not in ("wall", "fence", "pole")]
        assert len(kept) == 13
        assert sum(kept) / 13 == pytest.approx(paper_mlsl.WITHOUT["synthia_cs"][row], abs=0.081), row


def test_gains_are_differences_and_tables_agree():
    for pair in ("gta_cs", "synthia_cs"):
        table = paper_mlsl.table_scores(3, pair)
        assert len(table["from"]) == 3
        for row, before in table["from"].items():
            assert table["to"][row] - before == pytest.approx(table["gain"][row])
    assert paper_mlsl.TABLE_4["sisc_pwl"] == paper_mlsl.MIOU["gta_cs"]["sisc_pwl"]


def test_every_number_has_a_row():
    for table, pairs in rows_mlsl.PAPER_PAIRS.items():
        for pair in pairs:
            numbers = paper_mlsl.table_scores(table, pair)
            assert {row for column in numbers.values() for row in column} <= set(rows_mlsl.rows_of_table(table, pair))


def test_named_rows_are_valid_configs():
    for name, (config, row) in rows_mlsl.named_rows().items():
        if row.variants:
            loaded = read_named(config)
            loaded.variants = list(row.variants)
            given = {field: type(flat(loaded)[field])(value) for field, value in row.overrides.items()}
            loaded.update_from_flattened_dict(given)
            assert checked(loaded).model.encoder == rows_mlsl.ENCODER, name


# ---- Commands ----


def plan(pair, scale, chosen, **overrides):
    path, argument = REPO / "configs" / f"{pair}.py", rows_mlsl.config_argument("source", scale)
    experiment = layout.Experiment(pair, None, scale)
    folders = pathlib.Path("runs"), pathlib.Path("results")
    sweep = commands.Sweep(experiment, f"{path}:{argument}", ("a", "b"), *folders, overrides=overrides)
    rows = rows_mlsl.requested_rows(rows_mlsl.MAIN.get(pair, 1), pair, chosen)
    return {command.name: command for command in commands.commands_of_mlsl(sweep, rows, 1)}


def test_rows_start_from_the_source_network_of_their_seed():
    made = plan("cs256_cvd_uda", "light", ["sisc", "eta0", "minent", "oracle"])
    assert list(made) == ["source", "sisc", "eta0", "minent", "oracle"]
    folder = "runs/cs256_cvd_uda_nall_light/seed1"
    assert [str(command.workdir) for command in made.values()] == [f"{folder}/{name}" for name in made]
    start = f"--config.mlsl.source_from={folder}/source/source"
    assert [name for name, command in made.items() if start in command.words()] == ["sisc", "eta0"]
    assert [str(path) for path in made["sisc"].absent_networks()] == [f"{folder}/source/source/summary.json"]
    assert {"--config.mlsl.eta=0", "--config.variants=sisc_pwl", "--config.train.seed=1"} <= set(made["eta0"].words())
    assert made["sisc"].sweep.config.endswith("cs256_cvd_uda.py:efficientnet_lite0,cpu,sisc")


def test_joint_image_level_head_is_trained_once_with_sisc_pwl():
    made = plan("gta_cs", "full", ["lambda01", "sisc", "cbst_pwl"])
    assert list(made) == ["sisc_pwl", "source", "lambda01", "sisc", "cbst_pwl"]
    assert made["sisc_pwl"].jobs == {"sisc_pwl": "sisc_pwl", "source_pwl": "source_pwl"}
    assert made["sisc_pwl"].start is None
    folder = "runs/gta_cs_nall_full/seed1"
    for name in ("lambda01", "cbst_pwl"):
        assert f"--config.mlsl.source_from={folder}/sisc_pwl/source_pwl" in made[name].words()
    assert made["lambda01"].sweep.config.endswith("gta_cs.py:sisc_pwl")
    random = plan("gta_cs", "full", ["sisc_pwl"], **{"mlsl.image_head_start": "random"})
    assert list(random) == ["source", "sisc_pwl"]


def test_default_rows_are_the_paper_s():
    assert list(plan("gta_cs", "full", [])) == ["source", "cbst_sp", "sisc", "sisc_pwl"]
    assert list(plan("synthia_cs", "full", [])) == ["source", "cbst", "sisc", "sisc_pwl"]
    assert list(plan("street_cvd_uda", "light", [])) == ["source", "cbst_sp", "sisc", "sisc_pwl"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pair=gta_cs", "--n=50"], "--n: is of USSS"),
        (["--pair=gta_cs", "--scale=cpu"], "--scale=cpu: MLSL's rows start from ImageNet weights"),
        (["--rows=mlsl/table7/sisc"], "table=7: is not of MLSL"),
        (["--pair=gta_cs", "--rows=clan"], "clan is another work"),
        (["--pair=gta_cs", "--config.mlsl.source_from=x"], "mlsl.source_from is set by the sweep"),
    ],
)
def test_wrong_flag_is_one_line(arguments, message):
    words = [sys.executable, "-m", "usss_jax.sweep", "--dry_run", *arguments]
    result = subprocess.run(words, cwd=REPO, capture_output=True, text=True)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert message in result.stderr.splitlines()[-1]


# ---- Tables of hand-made summaries ----


def domain(miou, **changes):
    scores = {"miou_best": miou, "miou_last": miou, "val_miou_best": miou, "split": "test", "image_size": [48, 64]}
    iou = {"road": miou + 0.1, "wall": miou - 0.1, "gone": None}
    return {**scores, "iou": iou, "iou_last": iou, "images": {"labeled": 4, "unlabeled": 9, "test": 2}, **changes}


def job(name, miou, seed=0, fields=(), **changes):
    """A job's summary, with 50 % on the source's val split."""
    made = default_config("mlsl")
    made.train.seed, made.mlsl.target, made.rounds.count = seed, "b", 3
    made.update_from_flattened_dict(dict(fields))
    return {
        **{"job": name, "steps": 20, "split_hash": "s", "device": "1 x cpu", "commit": "0123456789"},
        **{"convention": "mIoU = mean of classes", "config": made.to_dict()},
        **{"domains": {"a": domain(0.5)}, "without_labels": {"b": domain(miou, images={"labeled": 0})}},
        **changes,
    }


def keep(workdir, name, miou, information=None, **arguments):
    layout.write_whole(workdir / name / "summary.json", json.dumps(job(name, miou, **arguments)))
    if information is not None:
        text = json.dumps({"mutual_information": information})
        layout.write_whole(workdir / name / "target_statistics.json", text)


def keep_rounds(workdir, variant, mious, informations, **arguments):
    for number, (miou, information) in enumerate(zip(mious, informations, strict=True)):
        keep(workdir, f"{variant}_round{number}", miou, information, **arguments)


def collected(tmp_path, row, seed=0, variant="", pair="mine", scale="light"):
    """Copy a row from the workdir, as the sweep does."""
    experiment = layout.Experiment(pair, None, scale)
    path = layout.result_file(tmp_path / "results", experiment, row, seed)
    overrides = dict(rows_mlsl.ROWS[row].overrides)
    layout.keep_result(tmp_path / f"seed{seed}", variant or row, path, {"config": "c", "overrides": overrides})
    return path


def read(folder, pair="", scale=""):
    (found,) = collect.read_folders([folder], pair, scale)
    return found


def cells(text, title):
    """Cells of the row of that title in the first table of a Markdown text."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {title} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_result_of_a_row_has_the_scores_of_every_round(tmp_path):
    keep_rounds(tmp_path / "seed0", "sisc", (0.3, 0.4, 0.2), (1.0, 1.5, 1.25))
    keep_rounds(tmp_path / "seed0", "sisc_pwl", (0.9,), (9.0,))
    result = json.loads(collected(tmp_path, "sisc").read_text())
    assert result["job"] == "sisc_round2" and result["row"]["config"] == "c"
    assert [part["job"] for part in result["rounds"]] == ["sisc_round0", "sisc_round1", "sisc_round2"]
    assert [part["without_labels"]["b"]["miou_best"] for part in result["rounds"]] == [0.3, 0.4, 0.2]
    assert [part["target_statistics"]["mutual_information"] for part in result["rounds"]] == [1.0, 1.5, 1.25]
    assert result["rounds"][1]["without_labels"]["b"]["iou"]["road"] == 0.5


def test_ten_rounds_are_in_the_order_of_their_numbers(tmp_path):
    keep_rounds(tmp_path, "st", [0.01 * number for number in range(11)], range(11))
    assert [part["job"] for part in layout.read_result(tmp_path, "st")["rounds"]][-2:] == ["st_round9", "st_round10"]


def test_last_best_and_chosen_round_over_two_seeds(tmp_path):
    """Last 20 and 40: 30, spread sqrt(2 * 10^2); best 40 and 40; chosen 30 and 20: 25, spread sqrt(2 * 5^2)."""
    keep_rounds(tmp_path / "seed0", "sisc", (0.3, 0.4, 0.2), (1.5, 1.0, 1.25))
    keep_rounds(tmp_path / "seed1", "sisc", (0.1, 0.2, 0.4), (1.0, 1.5, 1.25), seed=1)
    for seed in (0, 1):
        keep(tmp_path / f"seed{seed}", "source", 0.15, 1.0, seed=seed)
        collected(tmp_path, "sisc", seed)
        collected(tmp_path, "source", seed)
    found = read(tmp_path / "results")
    text = render_mlsl.markdown(1, found)
    assert "| b (test) | best round | chosen round | a (val) | seeds |" in text and "paper |" not in text
    assert cells(text, "SISC") == ["30.00 ± 14.14", "40.00 ± 0.00", "25.00 ± 7.07", "50.00 ± 0.00", "2"]
    assert cells(text, "Source only") == ["15.00 ± 0.00", "-", "-", "50.00 ± 0.00", "2"]
    assert cells(text, "CBST-SP") == ["not run", "not run", "not run", "not run", "0"]
    rounds, _, classes = text.partition("after every round")[2].partition("IoU in % per class")
    assert cells(rounds, "SISC") == ["20.00 ± 14.14", "30.00 ± 14.14", "30.00 ± 14.14", "0, 1"]
    assert cells(classes, "SISC") == ["40.00 ± 14.14", "20.00 ± 14.14", "absent", "30.00 ± 14.14"]
    gains = render_mlsl.markdown(3, found)
    assert cells(gains, "SISC") == ["15.00 ± 0.00", "30.00 ± 14.14", "15.00 ± 14.14"]
    assert cells(gains, "SISC + PWL") == ["15.00 ± 0.00", "not run", "not run"]


def test_unfinished_rounds_have_no_last_best_or_chosen_score(tmp_path):
    keep_rounds(tmp_path / "run", "sisc", (0.3, 0.4), (1.5, 1.0))
    text = render_mlsl.markdown(1, read(tmp_path / "run"))
    assert cells(text, "SISC") == ["not run", "not run", "not run", "not run", "0"]
    assert cells(text.partition("after every round")[2], "SISC") == ["30.00", "40.00", "not run", "not run"]
    assert "per class" not in text


def test_round_is_not_chosen_without_all_mutual_informations(tmp_path):
    keep_rounds(tmp_path / "run", "sisc", (0.3, 0.4, 0.2), (1.5, None, 1.0))
    assert cells(render_mlsl.markdown(1, read(tmp_path / "run")), "SISC")[:3] == ["20.00", "40.00", "not run"]


def test_second_mean_leaves_classes_out(tmp_path):
    """Without wall only road is left: 0.2 + 0.1; the gain of Table 3 is of this mean, 0.3 - 0.25."""
    fields = {"mlsl.without": "wall"}
    keep_rounds(tmp_path / "run", "sisc", (0.3, 0.4, 0.2), (1.5, 1.0, 1.0), fields=fields)
    keep(tmp_path / "run", "source", 0.15, fields=fields)
    found = read(tmp_path / "run")
    text = render_mlsl.markdown(2, found)
    assert "| chosen round | without wall | a (val) |" in text
    assert cells(text, "SISC") == ["20.00", "40.00", "30.00", "30.00", "50.00", "1"]
    assert cells(render_mlsl.markdown(3, found), "SISC") == ["25.00", "30.00", "5.00"]


def test_table_4_tells_lambda_and_eta(tmp_path):
    keep_rounds(tmp_path / "seed0", "sisc_pwl", (0.1, 0.2, 0.3), (1, 2, 3), fields={"mlsl.image_weight": 0.1})
    collected(tmp_path, "lambda01", variant="sisc_pwl")
    text = render_mlsl.markdown(4, read(tmp_path / "results"))
    assert cells(text, "SISC + PWL, lambda = 0.1") == ["0.1", "0.05", "30.00", "30.00", "30.00", "1"]
    assert cells(text, "SISC + PWL, eta = 0")[:3] == ["0.025", "0", "not run"]
    assert "- lambda01: mlsl.image_weight=0.1." in text


def test_a_workdir_s_row_is_found_by_its_fields(tmp_path):
    for name, fields in (("one", {"mlsl.eta": 0.0}), ("two", {"mlsl.eta": 0.3}), ("three", {})):
        keep_rounds(tmp_path / name, "sisc_pwl", (0.1, 0.2, 0.3), (1, 2, 3), fields=fields)
    (found,) = collect.read_folders([tmp_path / name for name in ("one", "two", "three")], "mine", "light")
    assert list(found.summaries) == ["eta0", "sisc_pwl:mlsl.eta=0.3", "sisc_pwl"]
    assert cells(render_mlsl.markdown(1, found), "sisc_pwl:mlsl.eta=0.3")[0] == "30.00"
    keep_rounds(tmp_path / "seed0", "sisc_pwl", (0.1, 0.2, 0.3), (1, 2, 3), fields={"mlsl.eta": 0.1})
    collected(tmp_path, "sisc_pwl")
    with pytest.raises(InputError, match=r"is not 'sisc_pwl' but sisc_pwl_round2 with mlsl\.eta=0\.1"):
        read(tmp_path / "results")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"fields": {"rounds.patches": 8}}, "rounds.patches"),
        ({"fields": {"model.encoder": "drn_d_54"}}, "model.encoder"),
        ({"fields": {"mlsl.image_weight": 0.1}, "seed": 1}, "is not 'sisc_pwl'"),
    ],
)
def test_summaries_that_are_not_comparable_are_not_mixed(tmp_path, change, what):
    fields = {"rounds.batch_size": 1}  # as the config sets it for sisc_pwl alone
    keep_rounds(tmp_path / "seed0", "sisc", (0.3, 0.4, 0.2), (1, 2, 3), split_hash="other")
    keep_rounds(tmp_path / "seed0", "sisc_pwl", (0.3, 0.4, 0.2), (1, 2, 3), fields=fields, steps=40)
    collected(tmp_path, "sisc")
    path = collected(tmp_path, "sisc_pwl")
    read(tmp_path / "results")
    path.unlink()
    change = {"seed": 0, **change, "fields": {**fields, **change["fields"]}}
    keep_rounds(tmp_path / f"seed{change['seed']}", "sisc_pwl", (0.3, 0.4, 0.2), (1, 2, 3), **change)
    collected(tmp_path, "sisc_pwl", change["seed"])
    with pytest.raises(InputError, match=what):
        read(tmp_path / "results")


def test_results_of_another_method_are_refused(tmp_path):
    keep(tmp_path / "seed0", "source", 0.15)
    path = layout.result_file(tmp_path / "results", layout.Experiment("mine", 50, "light"), "source", 0)
    layout.keep_result(tmp_path / "seed0", "source", path, {})
    with pytest.raises(InputError, match="is of method=mlsl, unlike its folder"):
        read(tmp_path / "results")


def paper_run(tmp_path, **fields):
    classes = {"iou": dict.fromkeys(get_domain("cityscapes").class_names, 0.5)}
    of_paper = {"model.encoder": "rna_a1", "mlsl.target": "cityscapes", **fields}
    labeled, target = {"gta5": domain(0.5)}, {"cityscapes": domain(0.5, **classes)}
    keep_rounds(
        tmp_path / "seed0", "sisc", (0.3, 0.4, 0.5), (1, 2, 3), fields=of_paper, domains=labeled, without_labels=target
    )
    collected(tmp_path, "sisc", pair="gta_cs", scale="full")
    return read(tmp_path / "results")


def test_paper_stands_beside_ours(tmp_path):
    found = paper_run(tmp_path)
    text = render_mlsl.markdown(1, found)
    assert cells(text, "SISC") == ["48.70", "50.00", "50.00", "50.00", "50.00", "1"]
    assert cells(text, "CLAN") == ["43.20", "-", "-", "-", "-", "-"]
    classes = text.partition("per class")[2]
    assert cells(classes, "SISC (paper)")[:2] == ["91.00", "49.30"] and cells(classes, "SISC")[0] == "50.00"
    assert cells(render_mlsl.markdown(3, found), "SISC") == ["35.40", "48.70", "13.30", "not run", "50.00", "not run"]
    csv = render.csv_text(render_mlsl.csv_lines(1, found))
    assert "mlsl 1,gta_cs,all,full,sisc,paper,cityscapes,,,48.7,," in csv
    assert "mlsl 1,gta_cs,all,full,sisc,paper,cityscapes,road,,91.0,," in csv
    assert "mlsl 1,gta_cs,all,full,sisc,ours,cityscapes,,chosen,50.0000,,1" in csv
    assert "mlsl 1,gta_cs,all,full,sisc,ours,cityscapes,bicycle,last,50.0000,,1" in csv


def test_paper_is_left_out_for_another_network(tmp_path):
    text = render_mlsl.markdown(1, paper_run(tmp_path, **{"model.width": 0.5}))
    assert "The paper's columns are left out: seed0.json of sisc, rna_a1 of width 0.5," in text
    assert cells(text, "SISC")[0] == "50.00" and "48.70" not in text


def report(*arguments):
    words = [sys.executable, "-m", "usss_jax.tables", *map(str, arguments)]
    return subprocess.run(words, cwd=REPO, capture_output=True, text=True)


def test_command_shows_each_experiment_in_the_tables_of_its_paper(tmp_path):
    keep(tmp_path / "seed0", "source", 0.15)
    collected(tmp_path, "source")
    result = report(tmp_path / "results", "--table=1,3,7", f"--out={tmp_path / 't'}")
    assert result.returncode == 0, result.stderr
    assert "## MLSL, Table 1: mine (light)" in result.stdout and "## MLSL, Table 3" in result.stdout
    assert "Table 7" not in result.stdout
    assert "mlsl 1,mine,all,light,source,ours,b,,last,15.0000,,1" in (tmp_path / "t.csv").read_text()
    wrong = report(tmp_path / "results", "--table=7")
    assert wrong.returncode == 2 and "--table=7: is not of the paper of mine" in wrong.stderr


def test_command_without_results_shows_the_paper_alone():
    result = report("--table=2", "--pair=synthia_cs")
    assert cells(result.stdout, "SISC") == ["44.40", "50.80", *["not run"] * 5, "0"]
    assert "paper, without wall, fence, pole" in result.stdout


@pytest.mark.nightly
def test_sweep_trains_rows_from_the_source_and_collects_every_round(tmp_path):
    (tmp_path / "tiny.py").write_text(TINY)
    (tmp_path / "tiny.yaml").write_text(CLASS_MAP)
    folders = [f"--runs={tmp_path / 'runs'}", f"--results={tmp_path / 'results'}"]
    given = [f"--pair={tmp_path / 'tiny.py'}", "--rows=sisc,eta0", *folders]
    words = [sys.executable, "-m", "usss_jax.sweep", *given]
    first = subprocess.run(words, cwd=REPO, capture_output=True, text=True)
    assert first.returncode == 0, first.stdout + first.stderr
    results = tmp_path / "results" / "tiny_nall_full"
    assert {path.parent.name for path in results.glob("*/seed0.json")} == {"source", "sisc", "eta0"}
    sisc = json.loads((results / "sisc/seed0.json").read_text())
    assert [part["job"] for part in sisc["rounds"]] == ["sisc_round0", "sisc_round1"]
    assert all(part["target_statistics"]["mutual_information"] >= 0 for part in sisc["rounds"])
    assert not (tmp_path / "runs/tiny_nall_full/seed0/sisc/source").exists()
    text = render_mlsl.markdown(4, read(tmp_path / "results"))
    assert cells(text, "SISC + PWL, eta = 0")[-1] == "1"
    again = subprocess.run(words, cwd=REPO, capture_output=True, text=True)
    assert again.returncode == 0 and "3 commands, 3 of them finished" in again.stdout
