"""Two processes with two devices each train as one process with one: the same numbers, the same files, no hangs."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny_data
from png_files import chunk
from pretrain_test import write_folders
from tiny_runs import (
    REPO,
    SCRIPT,
    TINY,
    assert_same_training,
    environment,
    error_of,
    files,
    finish,
    free_port,
    run,
    scalars,
    start_two,
)

SOON = 60.0  # seconds, within which the other process must have ended after one failed


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    tiny_data.write_cityscapes(root / "cityscapes", count=5)
    tiny_data.write_camvid(root / "camvid", count=5)
    return root


@pytest.fixture(scope="module")
def words(data):
    batches = ("--config.train.batch_size=4", "--config.train.unlabeled_batch_size=4")
    return ("main", *TINY, *batches, "--config.variants=single,full", f"--config.data.root={data}")


# In two processes: one domain, without networks before it. Several domains and label embeddings from networks are
# nightly; several domains on several devices are in sharding_test.py.
SMALL = (
    "--config.data.domains=camvid",
    "--config.variants=full",
    "--config.usss.label_embeddings=random",
)


@pytest.fixture(scope="module")
def one(words, tmp_path_factory):
    """Workdir of a run of one process."""
    workdir = tmp_path_factory.mktemp("one")
    code, _, err = run([*words, *SMALL, f"--workdir={workdir}"])
    assert code == 0, err
    return workdir


@pytest.fixture(scope="module")
def two(words, tmp_path_factory):
    """Workdir of a run of two processes, started by docs/launch/two_hosts.sh itself."""
    workdir, python = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("bin") / "python"
    python.write_text(f'#!/bin/sh\nshift 2 # -m usss_jax.main\nexec "{sys.executable}" "{SCRIPT}" main "$@"\n')
    python.chmod(0o755)
    result = subprocess.run(
        [REPO / "docs/launch/two_hosts.sh", *words[1:], *SMALL, f"--workdir={workdir}"],
        env={**environment(devices=2), "PYTHON": str(python), "COORDINATOR": f"localhost:{free_port()}"},
        capture_output=True,
        text=True,
        cwd=REPO,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("2 processes with 4 devices train together") == 1
    assert result.stdout.count("[full] step 8/8") == 1, "only process 0 prints"
    return workdir


@pytest.mark.slow
def test_two_processes_train_and_evaluate_as_one_does(one, two):
    """Every scalar of every step to 1e-10 in float64, all scores exactly."""
    assert_same_training(one / "full", two / "full")
    assert len({step for step, _ in scalars(two / "full")}) == 8


@pytest.mark.slow
def test_two_processes_leave_the_files_of_one(one, two):
    assert files(one) == files(two)
    assert {"table.md", "predictions.png", "full/summary.json", "prototypes/cosines.png"} <= files(two)
    assert (one / "table.md").read_text() == (two / "table.md").read_text()


@pytest.mark.nightly
def test_k_means_of_two_processes_is_that_of_one(words, tmp_path):
    one = tmp_path / "run"
    code, _, err = run([*words, "--config.variants=single", f"--workdir={one}"])
    assert code == 0, err
    given = ["prototypes", f"--workdir={one}", "--embeddings_per_class=3"]
    code, _, err = run([*given, f"--out={tmp_path}/one"])
    assert code == 0, err
    for code, _, err in finish(start_two([*given, f"--out={tmp_path}/two"])):
        assert code == 0, err
    path = "prototypes/label_embeddings.npz"
    with np.load(tmp_path / "one" / path) as a, np.load(tmp_path / "two" / path) as b:
        np.testing.assert_allclose(b["camvid/embeddings"], a["camvid/embeddings"], atol=1e-6)
        np.testing.assert_array_equal(b["camvid/row_counts"], a["camvid/row_counts"])
    assert files(tmp_path / "one") == files(tmp_path / "two")


@pytest.mark.nightly
def test_baselines_and_split_parameters_of_two_processes_are_those_of_one(words, tmp_path):
    """Transfer and adversarial training, on the single-domain networks of one process."""
    extra = ["--config.variants=frozen,hung"]
    code, _, err = run([*words, *extra, f"--workdir={tmp_path}/one"])
    assert code == 0, err
    both = finish(start_two([*words, *extra, f"--workdir={tmp_path}/two", "--config.train.shard_parameters=True"]))
    for code, _, err in both:
        assert code == 0, err
    for job in ("frozen_camvid_cityscapes", "frozen_cityscapes_camvid", "hung_camvid", "hung_cityscapes"):
        assert_same_training(tmp_path / "one" / job, tmp_path / "two" / job)


@pytest.mark.nightly
def test_fine_tuning_moving_embeddings_and_rare_sampling_of_two_processes_are_those_of_one(words, tmp_path):
    """The images that rare-class sampling draws, transfer that trains the encoder too, and Eq. 7."""
    extra = ["--config.variants=single,finetune,full", "--config.data.sampling=rare", "--config.usss.theta=0.5"]
    extra += ["--config.train.steps=6", "--config.train.eval_every=6"]
    code, _, err = run([*words, *extra, f"--workdir={tmp_path}/one"])
    assert code == 0, err
    for code, _, err in finish(start_two([*words, *extra, f"--workdir={tmp_path}/two"])):
        assert code == 0, err
    jobs = {path.parent.name for path in (tmp_path / "one").glob("*/summary.json")}
    transfers = {"finetune_camvid_cityscapes", "finetune_cityscapes_camvid"}
    assert jobs == {"single_camvid", "single_cityscapes", "full", *transfers}
    for job in jobs:
        assert_same_training(tmp_path / "one" / job, tmp_path / "two" / job)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    path = "prototypes/label_embeddings.npz"
    with np.load(tmp_path / "one" / path) as a, np.load(tmp_path / "two" / path) as b:
        assert a.files == b.files and any("embeddings" in name for name in a.files)
        for name in set(a.files) - {"meta"}:
            np.testing.assert_allclose(b[name], a[name], rtol=1e-6, atol=1e-7, err_msg=name)
            if a[name].dtype.kind in "iu":
                np.testing.assert_array_equal(b[name], a[name])


@pytest.mark.nightly
def test_pretraining_in_two_processes_is_that_in_one_and_leaves_the_same_files(tmp_path):
    images = write_folders(tmp_path / "images")
    fields = {"model.width": 0.25, "imagenet.crop": 32, "imagenet.eval_resize": 36, "imagenet.epochs": 1}
    fields |= {"train.batch_size": 8, "train.eval_batch_size": 4}
    given = [
        "main",
        f"--config={REPO}/configs/imagenet.py",
        f"--config.data.root={images}",
        "--config.train.log_every=1",
    ]
    given += [f"--config.{field}={value}" for field, value in {**fields, "model.precision": "float32"}.items()]
    code, _, err = run([*given, f"--workdir={tmp_path}/one"])
    assert code == 0, err
    for code, _, err in finish(start_two([*given, f"--workdir={tmp_path}/two"])):
        assert code == 0, err
    one, two = (scalars(tmp_path / which / "classifier") for which in ("one", "two"))
    assert one.keys() == two.keys() and any(name == "val_top1" for _, name in one)
    for key, value in one.items():
        np.testing.assert_allclose(two[key], value, rtol=1e-10, err_msg=str(key))
    assert files(tmp_path / "one") == files(tmp_path / "two")


# ---- Ends ----


@pytest.mark.nightly
def test_sigterm_to_one_process_saves_and_stops_both_and_they_go_on(words, one, tmp_path):
    """The run that is continued with one process ends with the very numbers of an unbroken one."""
    given = [*words, *SMALL, f"--workdir={tmp_path}", "--config.train.checkpoint_every=1000"]
    processes = start_two(given)
    metrics, deadline = tmp_path / "full" / "metrics.jsonl", time.monotonic() + 600
    while not (metrics.exists() and metrics.read_text().count("\n") >= 3) and time.monotonic() < deadline:
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    for code, _, err in finish(processes):
        assert code == 75, err
        (line,) = [line for line in err.splitlines() if line.startswith("usss_jax: ")]
        assert "[full]" not in line and "interrupted; the same command resumes from step" in line
    assert not (tmp_path / "full" / "summary.json").exists(), "the run ended before it could be told to"
    code, out, err = run(given)
    assert code == 0, err
    assert "[full] resumes from step" in out
    assert_same_training(one / "full", tmp_path / "full")


def errors_of_two(words, **options):
    """The one line of each process, which must both end, and soon."""
    began = time.monotonic()
    lines = [error_of(result) for result in finish(start_two(words, devices=1, **options))]
    assert time.monotonic() - began < SOON
    return lines


@pytest.mark.nightly
def test_damaged_file_on_one_host_ends_both_processes(words, data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    for path in (tmp_path / "data/camvid/train").iterdir():  # whole by its checksums: only who decodes it sees
        path.write_bytes(path.read_bytes()[:33] + chunk(b"IDAT", b"junk") + chunk(b"IEND", b""))
    mine = ["--config.data.domains=camvid", "--config.variants=basic", f"--workdir={tmp_path}/run"]
    first, second = errors_of_two([*words, *mine], of_each=((), (f"--config.data.root={tmp_path}/data",)))
    assert "0001TP_" in second and "camvid/train/" in second
    assert "process 1 failed: " in first and first.endswith(second.removeprefix("usss_jax: error: "))


@pytest.mark.slow
def test_killed_process_ends_the_other(words, tmp_path):
    processes = start_two([*words, *SMALL, f"--workdir={tmp_path}"], devices=1)
    while not (tmp_path / "full" / "metrics.jsonl").exists() and processes[1].poll() is None:
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    (code, _, _), _ = finish(processes)
    assert code in (1, -6) and time.monotonic() - killed < SOON


@pytest.mark.nightly
def test_hosts_with_other_images_or_flags_are_told(words, data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data/camvid/val/0001TP_000004.png").unlink()
    (tmp_path / "data/camvid/valannot/0001TP_000004.png").unlink()
    mine = [*words, "--config.data.domains=camvid", f"--workdir={tmp_path}/run"]
    for line in errors_of_two(mine, of_each=((), (f"--config.data.root={tmp_path}/data",))):
        assert "process 1 has another list of val images of camvid than process 0" in line
    for line in errors_of_two(mine, of_each=((), ("--config.train.seed=5",))):
        assert "process 1 has another train.seed than process 0" in line


@pytest.mark.nightly
def test_workdir_that_is_not_shared_is_told(words, tmp_path):
    workdirs = [(f"--workdir={tmp_path}/{name}",) for name in ("mine", "yours")]
    for line in errors_of_two(words, of_each=workdirs):
        assert "process 1 does not see the files that process 0 writes" in line


@pytest.mark.nightly
def test_batch_that_the_devices_do_not_divide_is_told(words, tmp_path):
    for line in errors_of_two([*words, f"--workdir={tmp_path}/w", "--config.train.unlabeled_batch_size=7"]):
        assert "unlabeled_batch_size=7" in line and "give a multiple of 2" in line
    assert not os.path.exists(tmp_path / "w")


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_processes_that_do_not_come_are_told(number, tmp_path):
    words = ["--multihost", f"--coordinator=localhost:{free_port()}", "--num_processes=2", f"--process_id={number}"]
    config = [f"--config={REPO}/configs/demo.py", f"--workdir={tmp_path}/w"]
    line = error_of(run(["main", *config, *words, "--multihost_timeout=3"]))
    assert "not all of 2 processes connected to coordinator localhost" in line and "within 3 s" in line
