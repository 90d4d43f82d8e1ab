"""The command that makes label embeddings of finished single-domain networks, as a user runs it."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tiny_data

from configs import demo
from usss_jax import prototypes
from usss_jax.data.domains import get_domain
from usss_jax.methods.train import train
from usss_jax.runs.workdir import alone_in

REPO = pathlib.Path(__file__).parent.parent
QUICK = {"model.width": 0.0625, "usss.embed_dim": 8, "data.labeled_per_domain": 4, "data.image_size": "32x48"}
QUICK |= {"train.batch_size": 2, "train.unlabeled_batch_size": 2, "train.unlabeled_batches": 1}
QUICK |= {"train.eval_batch_size": 20, "usss.single_steps": 2, "train.steps": 2, "train.eval_every": 2}
QUICK |= {"data.crop_size": "32x48", "train.log_every": 1}


def config_of(**fields):
    config = demo.get_config()
    config.update_from_flattened_dict({**QUICK, **fields})
    return config


def run(module, *words):
    command = [sys.executable, REPO / "tests" / "tiny_command.py", module, *words]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True)


def error_of(*words):
    result = run("prototypes", *words)
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("usss_jax: error: ")]
    return line


@pytest.mark.slow
def test_embeddings_of_finished_networks_are_made_and_used(shallow, tmp_path):
    """Three per class from finished networks, elsewhere; training with K = 3 makes the same; another run reads them."""
    singles, out = tmp_path / "run", tmp_path / "three"
    train(config_of(variants=["single"]), singles)
    before = sorted(str(p) for p in singles.rglob("*"))

    result = run("prototypes", f"--workdir={singles}", "--embeddings_per_class=3", f"--out={out}")
    assert result.returncode == 0, result.stderr
    assert sorted(str(p) for p in singles.rglob("*")) == before
    made = out / "prototypes"
    report = json.loads((made / "report.json").read_text())
    assert (made / "cosines.png").stat().st_size > 1000
    assert "K = 3" in report["method"] and report["rows"][0].endswith(":0")
    assert "camvid" not in report["domains"] and len(report["domains"]) == 2
    assert "has label embeddings already" in error_of(f"--workdir={singles}", f"--out={out}")

    given = {"usss.label_embeddings": str(made / "label_embeddings.npz")}
    in_training = {"usss.single_from": str(singles), "usss.embeddings_per_class": 3}
    losses = []
    for name, fields in (("given", given), ("trained", in_training)):
        train(config_of(variants=["full"], **{"usss.embedding_supervision": 1.0}, **fields), tmp_path / name)
        assert (tmp_path / name / "prototypes/report.json").exists()
        with (
            np.load(made / "label_embeddings.npz") as a,
            np.load(tmp_path / name / "prototypes/label_embeddings.npz") as b,
        ):
            for domain in report["domains"]:
                np.testing.assert_array_equal(a[f"{domain}/embeddings"], b[f"{domain}/embeddings"])
                np.testing.assert_array_equal(a[f"{domain}/class_ids"], b[f"{domain}/class_ids"])
        losses.append(json.loads((tmp_path / name / "full/metrics.jsonl").read_text().splitlines()[0])["loss"])
    assert losses[0] == losses[1]  # the same embeddings train the same

    prototypes.make(prototypes.config_of(singles), singles, None)
    assert "K = 1" in json.loads((singles / "prototypes/report.json").read_text())["method"]


def test_wrong_flags_and_folders_are_told(tmp_path):
    assert "--workdir is missing" in error_of()
    assert "no workdir of a run" in error_of(f"--workdir={tmp_path}")
    assert "--embeddings_per_class needs --out" in error_of(f"--workdir={tmp_path}", "--embeddings_per_class=3")
    (tmp_path / "config.json").write_text('{"colour": 1}')
    assert "config.colour: the config has no such field" in error_of(f"--workdir={tmp_path}")
    (tmp_path / "config.json").write_text("[]")
    assert "no workdir of a run (it holds no JSON object)" in error_of(f"--workdir={tmp_path}")


def fake_singles(folder, **fields):
    """A workdir whose single-domain networks are said to be finished; `fields` are of the summaries."""
    config = config_of()
    for domain in config.data.domains:
        scores = {domain: {"iou": dict.fromkeys(get_domain(domain).class_names, 0.5)}}
        (folder / f"single_{domain}" / "best" / "1").mkdir(parents=True)
        summary = {"domains": scores, "best_step": 1, **fields}
        (folder / f"single_{domain}" / "summary.json").write_text(json.dumps(summary))
    (folder / "config.json").write_text(config.to_json())
    return folder


def test_networks_of_other_images_are_refused(tmp_path):
    singles = fake_singles(tmp_path / "run", split_hash="of other images")
    told = error_of(f"--workdir={singles}", f"--out={tmp_path / 'out'}")
    assert "single_city_street: its checkpoints were made with other split_hash (of other images)" in told
    assert not (tmp_path / "out").exists()


def test_workdir_that_a_process_trains_is_left_alone(tmp_path):
    singles = fake_singles(tmp_path / "run")
    with alone_in(singles):
        assert "another process trains it now" in error_of(f"--workdir={singles}")
    assert not (singles / "prototypes").exists()


def test_data_that_was_moved_is_given_by_a_flag(tmp_path):
    tiny_data.write_camvid(tmp_path / "data" / "camvid")
    (tmp_path / "config.json").write_text(json.dumps({"data": {"domains": ["camvid"], "labeled_per_domain": 4}}))
    told = error_of(f"--workdir={tmp_path}")
    assert "as --data_root=PATH, or its own as camvid=PATH" in told and "--config.data.root" not in told
    for root in (tmp_path / "data", f"camvid={tmp_path / 'data' / 'camvid'}"):
        told = error_of(f"--workdir={tmp_path}", f"--data_root={root}")
        assert "single_camvid is not finished there" in told  # so its images were found
