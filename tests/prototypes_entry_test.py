"""The command that makes label embeddings of finished single-domain networks, as a user runs it."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tiny_data

from configs import demo
from usss_jax.data.domains import get_domain
from usss_jax.runs.workdir import alone_in

REPO = pathlib.Path(__file__).parent.parent
QUICK = [
    *(
        "--config.model.width=0.0625",
        "--config.usss.embed_dim=8",
        "--config.train.batch_size=2",
        "--config.train.unlabeled_batch_size=2",
    ),
    *("--config.train.unlabeled_batches=1", "--config.train.eval_batch_size=4", "--config.data.labeled_per_domain=4"),
    *(
        "--config.usss.single_steps=2",
        "--config.train.steps=2",
        "--config.train.eval_every=2",
        "--config.data.image_size=32x48",
    ),
]
SINGLES = [f"--config={REPO}/configs/demo.py", *QUICK, "--config.data.crop_size=32x48"]


def run(module, *words):
    return subprocess.run(
        [sys.executable, "-m", f"usss_jax.{module}", *words], cwd=REPO, capture_output=True, text=True
    )


def error_of(*words):
    result = run("prototypes", *words)
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("usss_jax: error: ")]
    return line


@pytest.mark.slow
def test_embeddings_of_finished_networks_are_made_and_used(tmp_path):
    """Three per class from finished networks, elsewhere; training with K = 3 makes the same; another run reads them."""
    singles, out = tmp_path / "run", tmp_path / "three"
    result = run("main", *SINGLES, f"--workdir={singles}", "--config.variants=single")
    assert result.returncode == 0, result.stderr
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

    trained, given = tmp_path / "trained", tmp_path / "given"
    full = [*SINGLES, "--config.variants=full", "--config.usss.embedding_supervision=1"]
    options = [f"--config.usss.single_from={singles}", "--config.usss.embeddings_per_class=3"]
    result = run("main", *full, *options, f"--workdir={trained}")
    assert result.returncode == 0, result.stderr
    file = f"--config.usss.label_embeddings={made}/label_embeddings.npz"
    result = run("main", *full, file, f"--workdir={given}")
    assert result.returncode == 0, result.stderr
    with np.load(made / "label_embeddings.npz") as a:
        for folder in (trained, given):
            assert (folder / "prototypes/report.json").exists()
            with np.load(folder / "prototypes/label_embeddings.npz") as b:
                for domain in report["domains"]:
                    np.testing.assert_array_equal(a[f"{domain}/embeddings"], b[f"{domain}/embeddings"])
                    np.testing.assert_array_equal(a[f"{domain}/class_ids"], b[f"{domain}/class_ids"])
    losses = [json.loads((w / "full/metrics.jsonl").read_text().splitlines()[0])["loss"] for w in (trained, given)]
    assert losses[0] == losses[1]  # the same embeddings train the same

    result = run("prototypes", f"--workdir={singles}")
    assert result.returncode == 0, result.stderr
    assert "K = 1" in json.loads((singles / "prototypes/report.json").read_text())["method"]


def test_wrong_flags_and_folders_are_told(tmp_path):
    assert "--workdir is missing" in error_of()
    assert "no workdir of a run" in error_of(f"--workdir={tmp_path}")
    assert "--embeddings_per_class needs --out" in error_of(f"--workdir={tmp_path}", "--embeddings_per_class=3")
    (tmp_path / "config.json").write_text('{"colour": 1}')
    assert "config.colour: the config has no such field; docs/config.md" in error_of(f"--workdir={tmp_path}")
    (tmp_path / "config.json").write_text("[]")
    assert "no workdir of a run (it holds no JSON object)" in error_of(f"--workdir={tmp_path}")


def fake_singles(folder, **fields):
    """A workdir whose single-domain networks are said to be finished; `fields` are of the summaries."""
    config = demo.get_config()
    config.update_from_flattened_dict({"model.width": 0.0625, "usss.embed_dim": 8, "data.labeled_per_domain": 4})
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
