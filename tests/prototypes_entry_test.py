"""The command that makes label embeddings of finished single-domain networks, as a user runs it."""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tiny_data
import toy

from usss_jax import prototypes
from usss_jax.data.domains import get_domain
from usss_jax.errors import InputError
from usss_jax.methods.train import train
from usss_jax.runs.workdir import alone_in

pytestmark = pytest.mark.slow  # every test starts a process
REPO = pathlib.Path(__file__).parent.parent


def run(module, *words):
    command = [sys.executable, REPO / "tests" / "tiny_command.py", module, *words]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True)


def error_of(*words):
    result = run("prototypes", *words)
    assert result.returncode == 2 and "Traceback" not in result.stderr, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("usss_jax: error: ")]
    return line


def test_embeddings_of_finished_networks_are_made_and_used(toy_run, tmp_path):
    """Three per class from finished networks, elsewhere; another run reads and trains with them."""
    out = tmp_path / "three"
    before = {str(p): p.stat().st_mtime_ns for p in toy_run.rglob("*")}
    result = run("prototypes", f"--workdir={toy_run}", "--embeddings_per_class=3", f"--out={out}")
    assert result.returncode == 0, result.stderr
    assert {str(p): p.stat().st_mtime_ns for p in toy_run.rglob("*")} == before
    made = out / "prototypes"
    report = json.loads((made / "cosines.json").read_text())
    assert (made / "cosines.png").stat().st_size > 1000
    assert "K = 3" in report["method"] and report["rows"][0].endswith(":0")
    assert list(report["domains"]) == ["city_street", "town_street"]
    assert "has label embeddings already" in error_of(f"--workdir={toy_run}", f"--out={out}")

    train(
        toy.config(variants=["full"], **{"usss.label_embeddings": str(made / "label_embeddings.npz")}), tmp_path / "w"
    )
    written = tmp_path / "w" / "prototypes"
    assert (written / "cosines.json").exists()
    with np.load(made / "label_embeddings.npz") as a, np.load(written / "label_embeddings.npz") as b:
        for domain in report["domains"]:
            np.testing.assert_array_equal(a[f"{domain}/embeddings"], b[f"{domain}/embeddings"])
            np.testing.assert_array_equal(a[f"{domain}/class_ids"], b[f"{domain}/class_ids"])


def test_embeddings_that_are_missing_are_made_in_the_workdir(toy_run, tmp_path):
    """As the run itself makes them."""
    again = tmp_path / "run"
    shutil.copytree(toy_run, again, ignore=shutil.ignore_patterns("prototypes", "full", "checkpoints"))
    prototypes.make(prototypes.config_of(again), again, None)
    assert "K = 1" in json.loads((again / "prototypes/cosines.json").read_text())["method"]
    path = "prototypes/label_embeddings.npz"
    with np.load(again / path) as a, np.load(toy_run / path) as b:
        np.testing.assert_array_equal(a["city_street/embeddings"], b["city_street/embeddings"])


def test_wrong_flags_and_folders_are_told(tmp_path):
    assert "--workdir is missing" in error_of()
    assert "--embeddings_per_class needs --out" in error_of(f"--workdir={tmp_path}", "--embeddings_per_class=3")
    for content, told in (
        (None, "not a workdir of a run"),
        ('{"colour": 1}', "config.colour: the config has no such field; docs/config.md"),
        ("[]", r"not a workdir of a run \(it holds no JSON object\)"),
    ):
        if content:
            (tmp_path / "config.json").write_text(content)
        with pytest.raises(InputError, match=told):
            prototypes.config_of(tmp_path)


def fake_singles(folder, **fields):
    """A workdir whose single-domain networks are said to be finished; `fields` are of the summaries."""
    config = toy.config()
    for domain in config.data.domains:
        scores = {domain: {"iou": dict.fromkeys(get_domain(domain).class_names, 0.5)}}
        (folder / f"single_{domain}" / "best" / "1" / "variables").mkdir(parents=True)
        summary = {"job": f"single_{domain}", "domains": scores, "best_step": 1, **fields}
        (folder / f"single_{domain}" / "summary.json").write_text(json.dumps(summary))
    (folder / "config.json").write_text(config.to_json())
    return folder


def test_networks_of_other_images_are_refused(tmp_path):
    singles = fake_singles(tmp_path / "run", split_hash="of other images")
    told = r"single_city_street: its checkpoints were made with other split_hash \(of other images\)"
    with pytest.raises(InputError, match=told):
        prototypes.make(prototypes.config_of(singles), singles, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_workdir_that_a_process_trains_is_left_alone(tmp_path):
    singles = fake_singles(tmp_path / "run")
    with alone_in(singles), pytest.raises(InputError, match="another process trains it now"):
        prototypes.make(prototypes.config_of(singles), singles, None)
    assert not (singles / "prototypes").exists()


def test_data_that_was_moved_is_given_by_a_flag(tmp_path):
    tiny_data.write_camvid(tmp_path / "data" / "camvid")
    (tmp_path / "config.json").write_text(json.dumps({"data": {"domains": ["camvid"], "labeled_per_domain": 4}}))
    config = prototypes.config_of(tmp_path)
    with pytest.raises(InputError, match="as --data_root=PATH, or its own as camvid=PATH"):
        prototypes.make(config, tmp_path, None)
    for root in (tmp_path / "data", f"camvid={tmp_path / 'data' / 'camvid'}"):
        told = error_of(f"--workdir={tmp_path}", f"--data_root={root}")
        assert "single_camvid is not finished there" in told  # so its images were found
