"""The command as a user runs it: in a process of its own, with real files."""

import json
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tiny_data
import toy

from usss_jax.config.files import read_named
from usss_jax.errors import InputError
from usss_jax.methods.train import train

REPO = pathlib.Path(__file__).parent.parent
# The smallest run of the whole method: narrow, small images, few steps.
QUICK = [
    "--config.model.width=0.0625",
    "--config.usss.embed_dim=8",
    "--config.train.batch_size=2",
    "--config.train.unlabeled_batch_size=2",
    "--config.train.unlabeled_batches=1",
    "--config.train.eval_batch_size=6",
    "--config.data.labeled_per_domain=4",
]


def command(config, workdir, *overrides):
    return [sys.executable, "-m", "usss_jax.main", f"--config={REPO / config}", f"--workdir={workdir}", *overrides]


def run_toy(config, workdir, *overrides):
    """A run with the encoder of toy.py."""
    return subprocess.run(toy_command(config, workdir, *overrides), cwd=REPO, capture_output=True, text=True)


def toy_command(config, workdir, *overrides):
    python, _, _, *flags = command(config, workdir, *overrides)
    return [python, REPO / "tests" / "tiny_command.py", "main", *flags, "--config.model.encoder=toy"]


def run(config, workdir, *overrides):
    return subprocess.run(command(config, workdir, *overrides), cwd=REPO, capture_output=True, text=True)


def error_of(result):
    """The one line of bad input: exit code 2, no traceback."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    lines = [line for line in result.stderr.splitlines() if line.startswith("usss_jax: error: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


def refusal(config, workdir, **fields):
    """What is wrong with the input of a training, without a process of its own."""
    config = read_named(config)
    config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    with pytest.raises(InputError) as caught:
        train(config, workdir)
    return str(caught.value)


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    tiny_data.write_cityscapes(root / "cityscapes")
    tiny_data.write_camvid(root / "camvid", count=10)
    return root


@pytest.mark.nightly
def test_paper_config_trains_on_the_official_layouts(data_root, tmp_path):
    """configs/cs_cvd.py itself, two steps a job, from Cityscapes labelIds files and CamVid.

    By the paper's rule for micro-batches: 2 steps an epoch, 3 unlabeled batches of Cityscapes and 5 of CamVid, so that
    U is 1 and 2.
    """
    sizes = ["--config.data.image_size=cityscapes=64x128,camvid=45x60", "--config.data.crop_size=cityscapes=64x64"]
    steps = ["--config.train.steps=2", "--config.usss.single_steps=2", "--config.variants=basic,cross,full"]
    steps += ["--config.train.unlabeled_batches=pool"]
    result = run("configs/cs_cvd.py", tmp_path, f"--config.data.root={data_root}", *QUICK, *sizes, *steps)
    assert result.returncode == 0, result.stderr
    assert "the paper's starts from ImageNet's" in result.stdout

    for job in ("single_cityscapes", "single_camvid", "basic", "cross", "full"):
        summary = json.loads((tmp_path / job / "summary.json").read_text())
        domains = [job.removeprefix("single_")] if job.startswith("single_") else ["cityscapes", "camvid"]
        assert list(summary["domains"]) == domains
        for key in ("average_last", "average_best", "best_step", "split_hash", "seconds", "device", "commit"):
            assert key in summary
        assert summary["images_per_second"] and summary["versions"]
        assert 0 <= summary["data_wait_share"] < 1  # 0: every batch came while a step ran
        for domain in domains:
            score = summary["domains"][domain]
            present = [v for v in score["iou"].values() if v is not None]
            assert score["miou_best"] == pytest.approx(sum(present) / len(present))
            assert 0 <= score["miou_last"] <= 1
        lines = [json.loads(line) for line in (tmp_path / job / "metrics.jsonl").read_text().splitlines()]
        assert {line["step"] for line in lines} == {1, 2}
        assert json.loads((tmp_path / job / "config.json").read_text())["train"]["batch_size"] == 2
    camvid = json.loads((tmp_path / "full" / "summary.json").read_text())["domains"]["camvid"]
    assert camvid["split"] == "test" and camvid["val_split"] == "val"
    assert "NaN" not in (tmp_path / "full" / "summary.json").read_text()
    assert (tmp_path / "predictions.png").stat().st_size > 1000
    assert (tmp_path / "prototypes" / "label_embeddings.npz").exists()
    for title in ("single", "Univ-basic", "Univ-cross", "Univ-full"):
        assert title in result.stdout


@pytest.mark.nightly
def test_killed_run_resumes_from_its_last_checkpoint_and_ends_alike(data_root, tmp_path):
    """Kill Univ-full after step 20 of 200: the second run ends with the very losses of an unbroken one.

    With every augmentation and rare-class sampling on.
    """
    options = [
        *("--config.data.domains=camvid", f"--config.data.root={data_root}", "--config.variants=full", *QUICK),
        *(
            "--config.usss.single_steps=2",
            "--config.train.steps=200",
            "--config.train.checkpoint_every=20",
            "--config.train.eval_every=100",
            "--config.train.log_every=1",
        ),
        *("--config.data.image_size=48x64", "--config.data.crop_size=40x48", "--config.optim.lr=0.01"),
        *("--config.data.sampling=rare", "--config.data.scale=0.7-1.5", "--config.data.mix=classmix"),
        *("--config.data.color_jitter=0.5", "--config.data.grey=0.2", "--config.data.blur=0.5"),
    ]
    unbroken = run_toy("configs/cs_cvd.py", tmp_path / "unbroken", *options)
    assert unbroken.returncode == 0, unbroken.stderr

    broken = tmp_path / "broken"
    process = subprocess.Popen(toy_command("configs/cs_cvd.py", broken, *options), cwd=REPO, stdout=subprocess.DEVNULL)
    checkpoints, deadline = broken / "full" / "checkpoints", time.monotonic() + 300
    while not (checkpoints / "20").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (broken / "full" / "summary.json").exists(), "the run ended before it could be killed"

    again = run_toy("configs/cs_cvd.py", broken, *options)
    assert again.returncode == 0, again.stderr
    assert re.search(r"\[full\] resumes from step [1-9][02468]?0", again.stdout)

    def losses(workdir):
        lines = [json.loads(line) for line in (workdir / "full" / "metrics.jsonl").read_text().splitlines()]
        return {line["step"]: line["loss"] for line in lines if "loss" in line}

    assert losses(broken) == losses(tmp_path / "unbroken")
    third = run_toy("configs/cs_cvd.py", broken, *options)
    assert third.returncode == 0 and "finished earlier" in third.stdout


def readme_yaml():
    """The example of the README, a domain of one's own."""
    return re.search(r"```yaml\n(.*?)```", (REPO / "README.md").read_text(), re.S).group(1)


@pytest.mark.slow
def test_domain_of_ones_own_trains_from_the_yaml_file_of_the_readme(tmp_path, monkeypatch):
    """Folders of images and masks, more images without, a damaged file to skip; one domain alone.

    Says that `remat` is useless on a CPU, and keeps compiled programs for the next start.
    """
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # the toy step may compile quicker than 0.3 s
    assert len(readme_yaml().splitlines()) <= 15
    (tmp_path / "mine.yaml").write_text(readme_yaml())
    for i in range(6):
        image, mask = tiny_data.scene(np.random.default_rng(i), (48, 64), (1, 2, 3), void=0)
        for split in ("train", "val"):
            tiny_data.write(tmp_path / f"mine_data/{split}/images/a{i % 2}/{i}.png", image)
            tiny_data.write(tmp_path / f"mine_data/{split}/masks/a{i % 2}/{i}.png", mask)
        tiny_data.write(tmp_path / f"mine_data/more_images/{i}.jpg", image)
    (tmp_path / "mine_data/more_images/5.jpg").write_bytes(b"")

    options = [
        f"--config.data.domains={tmp_path / 'mine.yaml'}",
        "--config.variants=full",
        "--config.data.image_size=40x56",
    ]
    options += ["--config.train.steps=2", "--config.usss.single_steps=1", *QUICK]
    told = error_of(
        run_toy("configs/demo.py:drn_d_22", tmp_path / "strict", *options, "--config.train.unlabeled_batches=12")
    )
    assert "more_images/5.jpg: is empty; restore this file" in told
    options += ["--config.data.on_bad_example=skip", "--config.model.remat=0-2"]
    compiled = tmp_path / "compiled"
    result = run_toy("configs/demo.py:drn_d_22", tmp_path / "w", *options, f"--compilation_cache={compiled}")
    assert result.returncode == 0, result.stderr
    assert [path for path in compiled.iterdir() if "train_step" in path.name]
    assert "step compiled in" in result.stdout
    assert "model.remat=0-2 saves no memory on CPU" in result.stdout
    assert "skipped" in result.stdout and "more_images/5.jpg: is empty" in result.stdout
    score = json.loads((tmp_path / "w/full/summary.json").read_text())["domains"]["mine"]
    assert list(score["iou"]) == ["road", "rest"]
    assert score["images"] == {"labeled": 4, "unlabeled": 11, "test": 6}
    assert [bad["use"] for bad in score["skipped"]] == ["mine, unlabeled"]


@pytest.mark.nightly
def test_options_against_collapse_and_the_direct_entropy_train(data_root, tmp_path):
    """All of them at once; resuming is that of any other run."""
    options = [
        "--config.data.domains=camvid",
        f"--config.data.root={data_root}",
        "--config.data.image_size=48x64",
        *QUICK,
    ]
    options += [
        "--config.variants=full,direct",
        "--config.train.steps=2",
        "--config.usss.single_steps=1",
        "--config.train.log_every=1",
    ]
    options += [
        "--config.usss.embedding_supervision=1.0",
        "--config.usss.diversity=0.5",
        "--config.usss.normalize_embedding=True",
    ]
    options += ["--config.usss.embedding_lr_scale=0.1", "--config.usss.embedding_bias=False", "--config.usss.theta=0.5"]
    result = run_toy("configs/cs_cvd.py", tmp_path, *options)
    assert result.returncode == 0, result.stderr
    full, direct = (json.loads((tmp_path / v / "summary.json").read_text()) for v in ("full", "direct"))
    for summary in (full, direct):
        usss = summary["config"]["usss"]
        assert usss["theta"] == 0.5 and usss["embedding_supervision"] == 1.0 and not usss["embedding_bias"]
    logged = [json.loads(line) for line in (tmp_path / "full/metrics.jsonl").read_text().splitlines()]
    assert any("embedding_supervision/camvid" in line for line in logged)
    assert "Direct entropy" in (tmp_path / "table.md").read_text()


@pytest.mark.nightly
def test_records_train_like_the_folder_they_were_made_from(data_root, tmp_path):
    """The same losses to the last bit, and the same hash of the labeled images."""
    prepared = [f"--source={data_root / 'camvid'}", f"--data_dir={tmp_path / 'records'}", "--size=48x64"]
    done = subprocess.run(
        [sys.executable, "-m", "data_prep.camvid", *prepared], cwd=REPO, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines, hashes = [], []
    for root in (data_root, f"tfds:{tmp_path / 'records'}"):
        workdir = tmp_path / f"w{len(lines)}"
        options = ["--config.data.domains=camvid", f"--config.data.root={root}", "--config.data.image_size=48x64"]
        options += ["--config.variants=basic", "--config.train.steps=3", "--config.train.log_every=1", *QUICK]
        result = run_toy("configs/cs_cvd.py", workdir, *options)
        assert result.returncode == 0, result.stderr
        logged = map(json.loads, (workdir / "basic/metrics.jsonl").read_text().splitlines())
        lines.append([(line["step"], line["loss"]) for line in logged if "loss" in line])
        hashes.append(json.loads((workdir / "basic/summary.json").read_text())["split_hash"])
    assert lines[0] == lines[1] and len(lines[0]) == 3 and hashes[0] == hashes[1]


@pytest.mark.slow
def test_label_embeddings_of_words_need_no_single_domain_network(toy_encoder, tmp_path, capsys):
    """Two steps of Univ-full on the synthetic streets; a missing word is reported first."""
    words = ["road", "sidewalk", "building", "wall", "pole", "traffic", "sign", "vegetation", "sky", "person", "car"]
    words += ["pavement", "fence", "tree"]
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("".join(f"{word} {' '.join(map(str, np.eye(14)[i]))}\n" for i, word in enumerate(words)))
    fields = {"usss.embed_dim": 12, "usss.label_embeddings": f"words:{vectors}"}
    config, workdir = toy.config(variants=["full"], **fields), tmp_path / "w"
    with pytest.raises(InputError, match="town_street: class 'pedestrian': no vector for the word 'pedestrian'"):
        train(config, workdir)
    vectors.write_text(vectors.read_text() + f"pedestrian {' '.join('1' * 14)}\n")
    assert list(train(config, workdir)) == ["full"]
    assert json.loads((workdir / "prototypes/label_embeddings.json").read_text())["method"].startswith("words")
    with np.load(workdir / "prototypes/label_embeddings.npz") as file:
        assert [file[f"{d}/embeddings"].shape for d in ("city_street", "town_street")] == [(10, 12), (10, 12)]
    train(config, workdir)
    assert "[full] finished earlier" in capsys.readouterr().out


def test_label_embeddings_are_checked_before_data_is_read(tmp_path):
    message = refusal("configs/cs_cvd.py", tmp_path / "w", usss__label_embeddings="words:absent.txt")
    assert "there is no file 'absent.txt'" in message and not (tmp_path / "w").exists()


def test_missing_config_file(tmp_path):
    assert "configs/absent.py" in error_of(run("configs/absent.py", tmp_path))


def test_missing_config_file_with_an_override(tmp_path):
    assert "configs/absent.py" in error_of(run("configs/absent.py", tmp_path, "--config.train.steps=5"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\n", "get_config"),
        ("def get_config():\n    return {}['absent']\n", "absent"),
        ("def get_config(:\n", "invalid syntax"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
    ],
)
def test_broken_config_file_is_told_in_one_line(tmp_path, text, told):
    (tmp_path / "broken.py").write_text(text)
    assert told in error_of(run(tmp_path / "broken.py", tmp_path / "w"))


def test_unlabeled_batches_are_checked_before_anything_is_trained(tmp_path):
    message = refusal("configs/demo.py:tiny", tmp_path / "w", train__unlabeled_batches=0)
    assert "unlabeled_batches=0" in message and not (tmp_path / "w").exists()


def test_workdir_that_is_a_file_is_told(tmp_path):
    (tmp_path / "w").write_text("")
    assert "give another --workdir" in refusal("configs/demo.py:tiny", tmp_path / "w")


def test_misspelt_config_field_gets_a_suggestion(tmp_path):
    assert "did you mean config.usss.alpha?" in error_of(run("configs/demo.py", tmp_path, "--config.alhpa=2"))


def test_value_of_the_wrong_type_names_the_field(tmp_path):
    assert "config.train.steps" in error_of(run("configs/demo.py", tmp_path, "--config.train.steps=many"))


def test_unknown_argument_of_a_config_lists_the_known_ones(tmp_path):
    assert "'gpu' is unknown; give some of cpu, tiny, anchored, n=100, encoder=drn_d_22" in error_of(
        run("configs/cs_cvd.py:gpu", tmp_path)
    )


def test_unknown_domain_gets_a_suggestion(tmp_path):
    assert "'camvid'" in refusal("configs/demo.py:tiny", tmp_path, data__domains="camvd")


def test_missing_data_folder_says_where_it_looked_and_how_to_get_it(tmp_path):
    message = refusal("configs/cs_cvd.py", tmp_path / "w", data__root=str(tmp_path))
    assert str(tmp_path / "cityscapes") in message and "cityscapes-dataset.com" in message


def test_more_labels_than_the_pool_has(tmp_path):
    message = refusal("configs/demo.py:tiny", tmp_path, data__labeled_per_domain=301)
    assert "301" in message and "300" in message


def test_image_without_its_mask_is_named(tmp_path):
    tiny_data.write_camvid(tmp_path / "camvid")
    (tmp_path / "camvid/trainannot/0001TP_000003.png").unlink()
    data = {"data__domains": "camvid", "data__root": str(tmp_path), "data__labeled_per_domain": 4}
    assert "0001TP_000003.png" in refusal("configs/cs_cvd.py", tmp_path / "w", **data)


def test_mask_with_an_id_outside_the_table_is_named(tmp_path):
    tiny_data.write_camvid(tmp_path / "camvid")
    mask = tiny_data.cv2.imread(str(tmp_path / "camvid/trainannot/0001TP_000002.png"), tiny_data.cv2.IMREAD_UNCHANGED)
    mask[20, 30] = 77
    tiny_data.write(tmp_path / "camvid/trainannot/0001TP_000002.png", mask)
    data = {"data__domains": "camvid", "data__root": str(tmp_path), "data__labeled_per_domain": "all"}
    message = refusal("configs/cs_cvd.py", tmp_path / "w", variants="basic", **data)
    assert "0001TP_000002.png" in message and "77" in message


def test_workdir_of_another_config_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"usss": {"alpha": 0.25}}))
    message = refusal("configs/demo.py:tiny", tmp_path)
    assert "usss.alpha was 0.25, is now 1.0" in message


def test_folder_of_compiled_programs_that_cannot_be_one_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    flag = f"--compilation_cache={tmp_path / 'file'}"
    assert "--compilation_cache" in error_of(run("configs/demo.py", tmp_path / "w", flag))
