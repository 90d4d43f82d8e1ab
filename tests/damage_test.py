"""Real damage to real files of a finished run: what the next start of the same command makes of it."""

import json
import shutil

import numpy as np
import pytest
import toy

from usss_jax.errors import InputError
from usss_jax.local_files import read_object
from usss_jax.methods.train import train
from usss_jax.runs.verifying import verify_workdir

EMBEDDINGS = "prototypes/label_embeddings.npz"

pytestmark = pytest.mark.slow


@pytest.fixture
def workdir(toy_run, tmp_path):
    """Copy of a finished run."""
    return shutil.copytree(toy_run, tmp_path / "w")


def again(workdir):
    return train(toy.config(variants=["full"], **{"hung.semi_start": 0.5}), workdir)


def refusal(workdir):
    with pytest.raises(InputError) as told:
        again(workdir)
    return str(told.value)


def flip(path):
    """One bit, in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def largest(folder):
    return max(folder.rglob("*"), key=lambda path: path.is_file() * path.stat().st_size)


def edit(path, change):
    """Write an .npz file again with a changed array, as a program would: its own checksums agree."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    arrays["city_street/embeddings"] = change(arrays["city_street/embeddings"])
    np.savez(path, **arrays)


def with_nan(rows):
    return np.where(np.arange(len(rows))[:, None] == 1, np.nan, rows)


CHANGES = {
    "NaN row": (with_nan, "embeddings are not of unit length"),
    "permuted rows": (lambda rows: rows[::-1], ""),
    "other dimension": (lambda rows: rows[:, :-1], "embeddings are .*, not "),
    "too few rows": (lambda rows: rows[:-1], "embeddings are .*, not "),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_label_embeddings_are_refused_before_training(workdir, change):
    """Also without a checksum, as older versions wrote them, unless only the order of the rows has changed."""
    shutil.rmtree(workdir / "full")
    edit(workdir / EMBEDDINGS, CHANGES[change][0])
    assert f"{EMBEDDINGS} is damaged (the checksum of label_embeddings.npz differs); " in (told := refusal(workdir))
    assert f"remove {workdir / 'prototypes'} to make it again" in told
    if CHANGES[change][1]:
        (workdir / EMBEDDINGS).with_suffix(".json").unlink()
        with pytest.raises(InputError, match=CHANGES[change][1]):
            again(workdir)
    assert not (workdir / "full").exists()


def test_label_embeddings_that_were_removed_are_made_again(workdir):
    before = (workdir / EMBEDDINGS).read_bytes()
    shutil.rmtree(workdir / "prototypes")
    again(workdir)
    with np.load(workdir / EMBEDDINGS) as file:
        made = file["city_street/embeddings"]
    edit(workdir / EMBEDDINGS, lambda rows: rows)
    (workdir / "before.npz").write_bytes(before)
    with np.load(workdir / "before.npz") as file:
        np.testing.assert_array_equal(file["city_street/embeddings"], made)


def test_damaged_best_checkpoint_of_a_finished_job_stops_the_run_at_its_start(workdir):
    """Not after the jobs that do not need it."""
    flip(largest(workdir / "single_town_street" / "best"))
    shutil.rmtree(workdir / "full")
    told = refusal(workdir)
    assert "single_town_street/best/2 is unusable: the checksum of " in told
    assert f"move {workdir / 'single_town_street'} away to train it again" in told


@pytest.mark.parametrize("name", ["config.json", "data.json"])
def test_a_changed_number_in_what_a_workdir_belongs_to_is_refused(workdir, name):
    path = workdir / name
    path.write_text(path.read_text().replace("1", "2", 1))
    told = refusal(workdir)
    assert name in told and "its checksum differs: it was damaged or edited" in told and "or delete it if " in told


def test_a_changed_score_in_a_summary_is_made_again_from_the_checkpoints(workdir, capsys):
    path = workdir / "full/summary.json"
    whole = read_object(path)
    path.write_text(path.read_text().replace('"miou_best": 0.', '"miou_best": 0.9', 1))
    summary = again(workdir)["full"]
    assert "full/summary.json is damaged (its checksum differs: it was damaged or edited)" in capsys.readouterr().out
    assert [summary[k] for k in ("domains", "best_step")] == [whole[k] for k in ("domains", "best_step")]


def test_a_summary_in_an_unrelated_folder_is_left_out_of_the_table_and_said(workdir, capsys):
    shutil.copytree(workdir / "full", workdir / "backup")
    (workdir / "notes").mkdir()
    (workdir / "notes/summary.json").write_text(json.dumps({"best_step": 1, "domains": {"x": {"iou": {}}}}))
    table = (workdir / "table.md").read_text()
    again(workdir)
    out = capsys.readouterr().out
    assert "backup/summary.json is not a summary of a job (it is of job full): left out of the table" in out
    assert "notes/summary.json is not a summary of a job" in out and (workdir / "table.md").read_text() == table


def test_strict_refuses_what_a_run_would_go_on_without(workdir):
    verify_workdir(workdir)
    for name, damage in (
        ("full/metrics.jsonl", lambda path: path.write_text(path.read_text().replace("1", "2", 1))),
        ("full/summary.json", flip),
        ("full/test.npz", flip),
        (EMBEDDINGS, flip),
        ("full/checkpoints/2", lambda path: flip(largest(path))),
        ("full/checkpoints/9999", lambda path: path.mkdir()),
    ):
        whole = (workdir / name).read_bytes() if (workdir / name).is_file() else None
        damage(workdir / name)
        with pytest.raises(InputError, match=f"{workdir / 'full' if 'full' in name else workdir}.*without --strict"):
            verify_workdir(workdir)
        if whole is not None:
            (workdir / name).write_bytes(whole)
        elif "9999" not in name:
            flip(largest(workdir / name))
    (workdir / "full/checkpoints/9999").rmdir()
    verify_workdir(workdir)
