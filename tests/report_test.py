"""Tables from summaries: hand-computed means and spreads, what is missing, what must not be mixed."""

import csv
import io
import json
import pathlib
import subprocess
import sys

import pytest

from usss_jax.config import default_config
from usss_jax.errors import InputError
from usss_jax.experiments import collect, gains, layout, render, rows

REPO = pathlib.Path(__file__).parent.parent
CS_CVD = ("cityscapes", "camvid")


def summary(name, scores, seed=0, fields=(), **changes):
    """A job's summary; `scores` per domain: mIoU of best and last, as fractions; `fields` of the config."""
    domains = {
        domain: {
            "miou_best": best,
            "miou_last": last,
            "iou": {"road": best + 0.1, "sky": best - 0.1, "gone": None},
            "iou_last": {"road": last + 0.1, "sky": last - 0.1, "gone": None},
            "split": "val",
            "image_size": [48, 64],
            "images": {"labeled": 100, "unlabeled": 300, "test": 20},
        }
        for domain, (best, last) in scores.items()
    }
    made = {
        **{"job": name, "domains": domains, "steps": 600, "split_hash": "+".join(sorted(scores))},
        **{"device": "1 x cpu", "commit": "0123456789+changes", "versions": {"jax": "0.10.2"}},
        **{"convention": "mIoU = mean of classes", "config": config(seed, dict(fields))},
    }
    return made | changes


def config(seed, fields):
    made = default_config()
    made.train.seed = seed
    made.update_from_flattened_dict(fields)
    return made.to_dict()


def keep(results, folder, name, scores, seed=0, fields=(), **changes):
    path = results / folder / name / f"seed{seed}.json"
    made = summary(name, scores, seed, fields, **changes)
    if experiment := layout.read_experiment(folder):
        for about in made["domains"].values():
            about["images"]["labeled"] = experiment.n
    layout.write_whole(path, json.dumps(made))
    return path


def read(results, pair="", scale=""):
    (found,) = collect.read_folders([results], pair, scale)
    return found


def commands(text, title):
    """Commands of the row of that title in the first table of a Markdown text."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {title} |"))
    return [command.strip() for command in line.strip("|").split("|")][1:]


def test_mean_and_sample_standard_deviation_over_seeds(tmp_path):
    """Best of cityscapes 30, 32, 37: mean 33, deviations -3, -1, 4, spread sqrt(26 / 2) = 3.61.

    Averages over the domains per seed 40, 43, 44: mean 42.33, deviations -2.33, 0.67, 1.67, spread
    sqrt((5.444 + 0.444 + 2.778) / 2) = 2.08: not the mean of the domains' spreads.
    """
    for seed, (cs, cvd) in enumerate(((0.30, 0.50), (0.32, 0.54), (0.37, 0.51))):
        scores = {"cityscapes": (cs, cs - 0.01), "camvid": (cvd, 0.5)}
        keep(tmp_path, "cs_cvd_n100_full", "basic", scores, seed)
    found = read(tmp_path)
    paper_cs, _, paper_average, cs, cvd, average, seeds = commands(render.markdown(3, found), "Univ-basic")
    assert (paper_cs, paper_average) == ("36.04", "43.97")
    assert cs == "33.00 ± 3.61 / 32.00 ± 3.61"
    assert cvd.endswith("/ 50.00 ± 0.00")
    assert average.startswith("42.33 ± 2.08 / ") and seeds == "3"


def test_one_seed_has_no_spread_and_missing_rows_are_not_run(tmp_path):
    keep(tmp_path, "cs_cvd_n100_full", "full", {"cityscapes": (0.4, 0.3), "camvid": (0.5, 0.6)})
    text = render.markdown(3, read(tmp_path))
    assert commands(text, "Univ-full")[3:] == ["40.00 / 30.00", "50.00 / 60.00", "45.00 / 45.00", "1"]
    assert commands(text, "Univ-cross") == ["37.82", "49.31", "43.57", "not run", "not run", "not run", "0"]
    assert "fine-tune" not in text, "a row of ours that the paper does not have is shown only if it was run"


def test_train_on_joins_single_and_frozen_and_averages_the_seeds_that_have_both(tmp_path):
    folder = "cs_cvd_n100_full"
    for seed, value in ((0, 0.4), (1, 0.5)):
        keep(tmp_path, folder, "single_camvid", {"camvid": (value, value)}, seed)
    keep(tmp_path, folder, "frozen_camvid_cityscapes", {"cityscapes": (0.2, 0.2)}, 1)
    cs, cvd, average, seeds = commands(render.markdown(3, read(tmp_path)), "Train on camvid")[3:]
    assert cs == "20.00 / 20.00"
    assert cvd == "45.00 ± 7.07 / 45.00 ± 7.07"  # sqrt(2 * 5^2 / 1)
    assert average == "35.00 / 35.00"  # of seed 1 alone: (20 + 50) / 2
    assert seeds == "1 to 2"


def test_scores_on_val_have_a_column_where_the_summaries_tell_them(tmp_path):
    """Fields are chosen by it: (30 + 50) / 2 and (34 + 50) / 2 are 40 and 42, so 41 with a spread of sqrt(2)."""
    for seed, value in ((0, 0.30), (1, 0.34)):
        path = keep(tmp_path, "mine_n50_cpu", "basic", {"a": (0.4, 0.3), "b": (0.5, 0.6)}, seed)
        made = json.loads(path.read_text())
        made["domains"]["a"]["val_miou_best"], made["domains"]["b"]["val_miou_best"] = value, 0.5
        layout.write_whole(path, json.dumps(made))
    text = render.markdown(3, read(tmp_path))
    assert commands(text, "Univ-basic")[-2:] == ["2", "41.00 ± 1.41"]
    assert commands(text, "Univ-full")[-1] == "-" and "average on val" in text


def test_cited_rows_and_rows_of_one_domain_have_dashes(tmp_path):
    keep(tmp_path, "cs_cvd_n375_full", "hung_camvid", {"camvid": (0.4, 0.3)}, fields={"model.encoder": "drn_d_105"})
    fields = {"model.encoder": "resnet101"}
    keep(tmp_path, "cs_cvd_n375_full", "single_cityscapes", {"cityscapes": (0.4, 0.3)}, fields=fields)
    text = render.markdown(4, read(tmp_path))
    assert commands(text, "Souly et al.") == ["-", "58.20", "-", "-", "-", "-", "-"]
    assert commands(text, "Hung et al. on camvid") == ["-", "-", "-", "-", "40.00 / 30.00", "-", "1"]
    assert commands(text, "Hung et al. on cityscapes")[:4] == ["58.80", "-", "-", "not run"]


@pytest.mark.parametrize("folder", ["cs256_cvd_n100_full", "cs_cvd_n100_cpu", "cs_cvd_n200_full"])
def test_numbers_of_the_paper_are_left_out_for_other_experiments(tmp_path, folder):
    keep(tmp_path, folder, "basic", {"cityscapes": (0.4, 0.3), "camvid": (0.5, 0.6)})
    text = render.markdown(3, read(tmp_path))
    assert "must not be compared with its numbers" in text
    assert "36.04" not in text and "paper:" not in text
    assert len(commands(text, "Univ-basic")) == 4


def test_per_class_tables_have_the_paper_beside_ours_and_say_absent(tmp_path):
    for seed, best in ((0, 0.3), (1, 0.5)):
        keep(tmp_path, "cs_cvd_n100_full", "full", {"cityscapes": (0.4, 0.4), "camvid": (best, 0.1)}, seed)
    text = render.markdown(2, read(tmp_path)).partition("per class of camvid")[2]
    assert commands(text, "Univ-full") == ["50.00 ± 14.14", "30.00 ± 14.14", "absent", "40.00 ± 14.14"]
    assert commands(text, "Univ-full (paper)")[:3] == ["86.30", "77.23", "17.13"]
    assert "Univ-basic (paper)" in text


def test_rows_of_ones_own_follow_with_their_fields(tmp_path):
    scores = {"a": (0.4, 0.3), "b": (0.5, 0.6)}
    keep(tmp_path, "mine_n50_cpu", "alive", scores, row={"overrides": {"usss.embedding_supervision": "1"}})
    keep(tmp_path, "mine_n50_cpu", "k3", scores, fields={"usss.embeddings_per_class": 3}, job="full")
    text = render.markdown(3, read(tmp_path))
    assert commands(text, "alive (usss.embedding_supervision=1)")[2] == "45.00 / 45.00"
    assert "K = 3" not in text, "a row of Table 7"
    assert "- alive: usss.embedding_supervision=1." in text


def test_notes_tell_split_device_precision_and_commit(tmp_path):
    keep(tmp_path, "mine_n50_cpu", "basic", {"a": (0.4, 0.3), "b": (0.5, 0.6)}, 3)
    text = render.markdown(3, read(tmp_path))
    for part in ("Split a+b", "split_seed 0", "1 x cpu", "float32", "0123456+changes", "random weights", "a 48x64"):
        assert part in text
    assert "600 (universal)" in text


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"split_hash": "other"}, "split_hash of a and b"),
        ({"fields": {"model.encoder": "drn_d_54"}}, "model.encoder"),
        ({"fields": {"model.width": 0.25}}, "model.width"),
        ({"steps": 7}, "steps of universal"),
        ({"fields": {"model.pretrained": "weights/drn.npz"}}, "model.pretrained"),
        ({"fields": {"data.normalize": "none"}}, "data.normalize"),
        ({"fields": {"optim.lr": 0.5}}, "optim.lr"),
        ({"fields": {"train.batch_size": 3}}, "train.batch_size"),
    ],
)
def test_summaries_that_are_not_comparable_are_not_mixed(tmp_path, change, what):
    scores = {"a": (0.4, 0.3), "b": (0.5, 0.6)}
    first = keep(tmp_path, "mine_n50_cpu", "basic", scores, 0)
    second = keep(tmp_path, "mine_n50_cpu", "full", scores, 1, **change)
    with pytest.raises(InputError) as error:
        read(tmp_path)
    message = str(error.value)
    assert what in message and str(first) in message and str(second) in message and "\n" not in message


def test_weights_of_one_name_from_two_runs_are_not_mixed(tmp_path):
    scores = {"a": (0.4, 0.3), "b": (0.5, 0.6)}
    for seed, run in enumerate(("first", "second")):
        fields = {"model.pretrained": f"runs/{run}/encoder.safetensors"}
        keep(tmp_path, "mine_n100_cpu", "basic", scores, seed, fields)
    with pytest.raises(InputError, match=r"pretrained is first/encoder.safetensors and second/encoder.safetensors"):
        read(tmp_path)


def test_other_image_size_is_not_mixed(tmp_path):
    scores = {"a": (0.4, 0.3), "b": (0.5, 0.6)}
    keep(tmp_path, "mine_n100_cpu", "basic", scores, 0)
    other = summary("single_b", {"b": (0.5, 0.6)})
    other["domains"]["b"]["image_size"] = [96, 128]
    layout.write_whole(tmp_path / "mine_n100_cpu/single_b/seed0.json", json.dumps(other))
    with pytest.raises(InputError, match=r"image size of b is \[48, 64\] and \[96, 128\]"):
        read(tmp_path)


def test_jobs_of_one_domain_have_steps_and_splits_of_their_own(tmp_path):
    """finetune_a_b scores both domains, but its split is that of b alone."""
    folder = "mine_n50_cpu"
    keep(tmp_path, folder, "basic", {"a": (0.4, 0.3), "b": (0.5, 0.6)})
    keep(tmp_path, folder, "single_b", {"b": (0.5, 0.6)}, steps=300)
    keep(tmp_path, folder, "finetune_a_b", {"a": (0.1, 0.1), "b": (0.5, 0.6)}, split_hash="b", steps=200)
    text = render.markdown(3, read(tmp_path))
    assert commands(text, "Train on a, then fine-tune on b")[:3] == ["10.00 / 10.00", "50.00 / 60.00", "30.00 / 35.00"]
    keep(tmp_path, folder, "finetune_a_b", {"a": (0.1, 0.1), "b": (0.5, 0.6)}, split_hash="c", steps=200)
    with pytest.raises(InputError, match="split_hash of b"):
        read(tmp_path)


def test_workdir_is_read_and_its_pair_is_told(tmp_path):
    made = summary("basic", {"cityscapes": (0.4, 0.3), "camvid": (0.5, 0.6)}, 2)
    layout.write_whole(tmp_path / "mine" / "basic" / "summary.json", json.dumps(made))
    found = read(tmp_path / "mine")
    assert found.experiment == layout.Experiment("mine", 100, "")
    assert "36.04" not in render.markdown(3, found)
    assert commands(render.markdown(3, read(tmp_path / "mine", "cs_cvd", "full")), "Univ-basic")[0] == "36.04"


def test_a_workdir_s_row_is_found_by_its_fields_not_by_its_folder(tmp_path):
    scores = {"cityscapes": (0.4, 0.3), "camvid": (0.5, 0.6)}
    for folder, fields in (
        ("papers", {"usss.embed_dim": 64}),
        ("moving", {"usss.theta": 0.5}),
        ("words", {"usss.label_embeddings": "words:/data/glove.txt"}),
        ("own", {"usss.alpha": 0.5, "usss.entropy_warmup": 20}),
    ):
        made = summary("full", scores, fields={**fields, "optim.lr": 0.02})
        layout.write_whole(tmp_path / folder / "full" / "summary.json", json.dumps(made))
    (found,) = collect.read_folders(sorted(tmp_path.iterdir()), "cs_cvd", "full")
    assert sorted(found.summaries) == ["full", "full:usss.alpha=0.5,usss.entropy_warmup=20", "theta05", "words"]
    assert commands(render.markdown(3, found), "full (usss.alpha=0.5, usss.entropy_warmup=20)")[:2] == ["-", "-"]
    assert commands(render.markdown(7, found), "Univ-full, theta = 0.5")[3] == "40.00 / 30.00"


def test_a_result_that_is_not_what_its_folder_says_is_refused(tmp_path):
    scores = {"a": (0.4, 0.3), "b": (0.5, 0.6)}
    path = keep(tmp_path, "mine_n50_cpu", "full", scores, fields={"usss.theta": 0.5})
    with pytest.raises(InputError, match=r"is not 'full' but full with usss\.theta=0\.5"):
        read(tmp_path)
    path.unlink()
    keep(tmp_path, "mine_n50_cpu", "basic", scores).rename(tmp_path / "seed0.json")
    layout.write_whole(tmp_path / "mine_n375_cpu/basic/seed0.json", (tmp_path / "seed0.json").read_text())
    with pytest.raises(InputError, match="has 50 labeled images per domain, but its folder says 375"):
        read(tmp_path)


@pytest.mark.parametrize("change", [{"model.width": 0.25}, {"model.encoder": "drn_d_54"}, {"a": (0.4, 0.3)}])
def test_numbers_of_the_paper_are_left_out_for_other_networks_and_domains_under_its_name(tmp_path, change):
    scores = change if "a" in change else {"cityscapes": (0.4, 0.3), "camvid": (0.5, 0.6)}
    keep(tmp_path, "cs_cvd_n100_full", "basic", scores, fields={} if "a" in change else change)
    found = read(tmp_path)
    text = render.markdown(3, found)
    assert "The paper's columns are left out: seed0.json of basic, " in text and "36.04" not in text
    assert ",paper," not in render.csv_text(render.csv_lines(3, found))


def test_wrong_files_and_folders_are_named(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no \*/seed0.json"):
        read(tmp_path)
    path = keep(tmp_path, "mine_n50_cpu", "basic", {"a": (0.4, 0.3)}, 1)
    path.rename(path.with_name("seed2.json"))
    with pytest.raises(InputError, match="has seed 1, unlike its name"):
        read(tmp_path)
    path.with_name("seed2.json").write_text("{}")
    with pytest.raises(InputError, match="'job' is missing"):
        read(tmp_path)
    path.with_name("seed2.json").write_text("{")
    with pytest.raises(InputError, match=r"seed2.json cannot be read"):
        read(tmp_path)


def test_same_row_and_seed_twice_is_refused(tmp_path):
    for folder in ("one", "two"):
        keep(tmp_path / folder, "mine_n50_cpu", "basic", {"a": (0.4, 0.3)})
    with pytest.raises(InputError, match="same row and seed"):
        collect.read_folders([tmp_path / "one", tmp_path / "two"], "", "")


def test_csv_has_a_line_per_number_of_both(tmp_path):
    for seed, best in ((0, 0.3), (1, 0.5)):
        keep(tmp_path, "cs_cvd_n100_full", "full", {"cityscapes": (0.4, 0.4), "camvid": (best, 0.1)}, seed)
    lines = list(csv.DictReader(io.StringIO(render.csv_text(render.csv_lines(3, read(tmp_path))))))
    chosen = {
        (line["source"], line["domain"], line["class"], line["which"]): line for line in lines if line["row"] == "full"
    }
    ours = chosen["ours", "camvid", "", "best"]
    assert (ours["mean"], ours["sd"], ours["seeds"]) == ("40.0000", "14.1421", "2")
    assert chosen["paper", "average", "", ""]["mean"] == "47.83"
    assert chosen["paper", "camvid", "pedestrian", ""]["mean"] == "36.61"
    assert chosen["ours", "camvid", "sky", "last"]["mean"] == "0.0000"
    assert ("ours", "camvid", "gone", "best") not in chosen


def report(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "usss_jax.tables", *map(str, arguments)], cwd=REPO, capture_output=True, text=True
    )


def test_command_prints_and_writes_both_files(tmp_path):
    keep(tmp_path / "results", "cs_cvd_n50_full", "basic", {"cityscapes": (0.4, 0.3), "camvid": (0.5, 0.6)})
    keep(tmp_path / "results", "other_n50_full", "basic", {"a": (0.4, 0.3)})
    result = report(tmp_path / "results", "--pair=cs_cvd", "--table=3,7", f"--out={tmp_path / 'made' / 't'}")
    assert result.returncode == 0, result.stderr
    text = (tmp_path / "made" / "t.md").read_text()
    assert text in result.stdout and "other" not in text
    assert "## Table 3: cs_cvd, N = 50" in text and "## Table 7: cs_cvd, N = 50" in text
    assert (tmp_path / "made" / "t.csv").read_text().startswith("table,pair,n,")


def test_command_without_results_shows_the_paper_alone():
    result = report("--table=6")
    assert result.returncode == 0
    assert commands(result.stdout, "SceneNet") == ["-", "49.80", "-", "-", "-", "-", "-"]
    assert commands(result.stdout, "Train on sun13")[:4] == ["15.61", "42.52", "29.07", "not run"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no such folder"),
        (["--table=9"], "table=9"),
        (["--table=x"], "not a whole number"),
    ],
)
def test_wrong_argument_is_one_line(arguments, message):
    result = report(*arguments)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert message in result.stderr.splitlines()[-1]


def test_gains_over_basic_are_paired_by_seed_and_shares_of_its_gap(tmp_path):
    """Basic 40 and 42, rounds 43 and 47, their control 42 (one seed), oracle 50: a gap of 9."""
    folder = "cs_cvd_n20_lite0"
    shared = {"train.steps": 1200, "usss.single_steps": 1200}

    def row(name, job, values, fields=(), **changes):
        for seed, value in enumerate(values):
            about = {"seconds": 100.0 + seed, "split_hash": str(seed), "views": {"a": 10, "cityscapes pseudo": 20}}
            scores = dict.fromkeys(CS_CVD, (value / 100, value / 100))
            given = {**shared, "data.split_seed": seed, **dict(fields)}
            keep(tmp_path, folder, name, scores, seed, given, **{**about, "job": job, **changes})

    texts = rows.universal_rows(CS_CVD)["rounds"].overrides
    rounds = {f: type(default_config().to_dict()["rounds"][f.partition(".")[2]])(v) for f, v in texts.items()}
    row("basic", "basic", [40, 42])
    row("rounds", "self_round0", [43, 47], rounds)
    row("rounds_own", "self_own_round0", [42], rounds)
    override = {"row": {"overrides": {"data.labeled_per_domain": "all"}}}
    row("oracle", "basic", [50], {"data.labeled_per_domain": "all"}, **override)
    lines = gains.gain_lines(read(tmp_path), rows.rows_of_table(3, CS_CVD))
    assert lines[0] == ["", "gain", "95 % interval", "share of the gap", "over rounds_own", *lines[0][5:]]
    of_rounds = next(line for line in lines if line[0] == "Self-training")
    # Gains 3 and 5: 4 +- 12.706 * sqrt(2) / sqrt(2), 4 / 9 of the gap; over the control 43 - 42.
    assert of_rounds == ["Self-training", "+4.00", "-8.71 to +16.71", "44 %", "+1.00", "2", "100", "20"]
    assert "+4.00" in render.markdown(3, read(tmp_path))
