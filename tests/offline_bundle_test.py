"""A bundle for a machine without network: what is packed, what a damaged one says, what is run and brought back."""

import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile

import cv2
import numpy as np
import pytest

from benchmarks.offline_bundle import cells, data, keep, pack, parts, run, wheels
from tests.tiny_data import write_camvid, write_cityscapes
from usss_jax.config import checked, default_config
from usss_jax.data.domains import get_domain
from usss_jax.data.pools import open_all
from usss_jax.data.streams import step_batches
from usss_jax.errors import InputError
from usss_jax.training.results import TITLES

REPO = pathlib.Path(__file__).parent.parent
HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"


def wheel(folder, name, version, requires=(), files=None):
    """Write a pure wheel."""
    stem = f"{name.replace('-', '_')}-{version}"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {r}\n" for r in requires)
    content = {
        **(files or {f"{name.replace('-', '_')}.py": ""}),
        f"{stem}.dist-info/METADATA": metadata,
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{stem}.dist-info/RECORD": "",
    }
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as archive:
        for path, text in content.items():
            archive.writestr(path, text)


@pytest.fixture(scope="module")
def fake_index(tmp_path_factory):
    """Wheels of the target, and of a project that needs two more, one of them through another."""
    folder = tmp_path_factory.mktemp("wheels")
    for name in wheels.TARGET:
        wheel(folder, name, "1.0", ["shared-thing"] if name == "jax" else [])
    wheel(folder, "shared-thing", "1.0")
    wheel(folder, "shared-thing", "2.0")
    wheel(folder, "offline-a", "3.1", ["offline-b>=2", "shared-thing"])
    wheel(folder, "offline-b", "1.0")
    wheel(folder, "offline-b", "2.5")
    wheel(folder, "tensorflow-datasets", "4.0")
    return folder


def options_of(folder):
    return wheels.pip_options(HERE, "manylinux_2_28_x86_64", folder)


# ---- wheels --------------------------------------------------------------------------------------------


def test_packages_that_the_target_lacks_are_found_through_others_and_downloaded(fake_index, tmp_path):
    lacking = wheels.missing(["offline_a>=3", "jax", "numpy"], options_of(fake_index), None)
    assert lacking == {"offline-a": ("offline-a", "3.1"), "offline-b": ("offline-b", "2.5")}
    fetched = wheels.download(lacking.values(), tmp_path, options_of(fake_index))
    assert [p.name for p in fetched] == ["offline_a-3.1-py3-none-any.whl", "offline_b-2.5-py3-none-any.whl"]


def test_list_of_the_target_says_what_it_has_and_pins_versions(fake_index, tmp_path):
    (tmp_path / "has.txt").write_text("".join(f"{n}==1.0\n" for n in wheels.TARGET) + "offline_b==2.5\ntorch==2+cu1\n")
    target = wheels.read_target(tmp_path / "has.txt")
    lacking = wheels.missing(["offline-a"], options_of(fake_index), target)
    assert lacking == {"offline-a": ("offline-a", "3.1"), "shared-thing": ("shared-thing", "2.0")}
    pinned = wheels.missing(["offline-a"], options_of(fake_index), target | {"shared-thing": "1.0"})
    assert list(pinned) == ["offline-a"]
    with pytest.raises(InputError, match="pip install"):  # offline-a needs 2 or newer
        wheels.missing(["offline-a"], options_of(fake_index), target | {"offline-b": "1.0"})


def test_pip_of_another_python_is_refused():
    with pytest.raises(InputError, match=r"the target has 3\.1: give a Python 3\.1 with pip"):
        wheels.check_pip(sys.executable, "3.1")
    with pytest.raises(InputError, match="no Python with pip"):
        wheels.check_pip("/nonexistent/python", HERE)
    wheels.check_pip(sys.executable, HERE)


def test_list_without_jax_is_refused(fake_index, tmp_path):
    (tmp_path / "has.txt").write_text("numpy==1.0\n")
    with pytest.raises(InputError, match="lists no jax"):
        wheels.missing([], options_of(fake_index), wheels.read_target(tmp_path / "has.txt"))


def test_list_of_the_target_that_cannot_be_read_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"^--target_has=.*nofile: cannot be read .*; make it by pip list"):
        wheels.read_target(tmp_path / "nofile")
    (tmp_path / "has.txt").write_bytes("jax==1.0\n".encode("utf-16"))
    with pytest.raises(InputError, match=r"has\.txt: cannot be read"):
        wheels.read_target(tmp_path / "has.txt")


def test_platform_takes_wheels_of_every_older_glibc():
    tags = wheels.platform_tags("manylinux_2_18_x86_64")
    assert tags[:4] == [
        "manylinux_2_18_x86_64",
        "manylinux_2_17_x86_64",
        "manylinux2014_x86_64",
        "manylinux_2_16_x86_64",
    ]
    assert tags[-1] == "manylinux1_x86_64"
    assert wheels.platform_tags("manylinux2014_aarch64")[0] == "manylinux_2_17_aarch64"
    with pytest.raises(InputError, match="win_amd64"):
        wheels.platform_tags("win_amd64")


def test_what_only_records_need_is_left_out_unless_asked_for():
    def asked(with_records):
        return {wheels.name_of(r) for r in wheels.project_requirements(REPO / "pyproject.toml", with_records)}

    assert asked(True) - asked(False) == {"tensorflow-datasets", "importlib-resources", "array-record"}
    assert {"grain", "opencv-python-headless", "ml-collections"} <= asked(False)


def test_training_on_folders_imports_nothing_that_is_left_out():
    code = "import sys, usss_jax.training.stages, usss_jax.sweep; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert not set(loaded.stdout.split()) & {"tensorflow_datasets", "importlib_resources", "tensorflow", "pyarrow"}


# ---- data ----------------------------------------------------------------------------------------------


def batches(data_root, size):
    config = default_config()
    config.update({"domains": ["camvid", "cityscapes"], "data_root": str(data_root), "labeled_per_domain": 4})
    config.update({"image_size": size, "crop_size": "24x24", "loader_threads": 1})
    pools = open_all(checked(config))
    stream = step_batches(
        pools, batch_size=2, unlabeled_batch_size=2, unlabeled_batches=dict.fromkeys(pools, 2), seed=3
    )
    reports = {name: [pool.report[i] for i in range(len(pool.report))] for name, pool in pools.items()}
    return [stream[i] for i in range(4)], reports


@pytest.mark.parametrize("size", [(32, 40), (48, 64)])
def test_training_on_packed_data_has_the_same_batches_bit_for_bit(tmp_path, size):
    """Camvid is 48x64, Cityscapes 64x128 here: both are resized, or Cityscapes alone."""
    write_camvid(tmp_path / "given" / "camvid")
    write_cityscapes(tmp_path / "given" / "cityscapes")
    stored = {}
    for name in ("camvid", "cityscapes"):
        root, copy = tmp_path / "given" / name, tmp_path / "packed" / name
        stored[name] = data.pack_domain(get_domain(name), str(root), copy, size)["size"]
    assert stored["cityscapes"] == list(size)
    assert stored["camvid"] == (None if size == (48, 64) else list(size))
    text = f"{size[0]}x{size[1]}"
    (ours, our_reports), (theirs, their_reports) = (batches(tmp_path / d, text) for d in ("packed", "given"))
    for a, b in zip(ours, theirs, strict=True):
        assert {k: sorted(v) for k, v in a.items()} == {k: sorted(v) for k, v in b.items()}
        for kind in a:
            for domain in a[kind]:
                for key in a[kind][domain]:
                    np.testing.assert_array_equal(a[kind][domain][key], b[kind][domain][key])
    for domain, examples in our_reports.items():
        for a, b in zip(examples, their_reports[domain], strict=True):
            np.testing.assert_array_equal(a["image"], b["image"])
            np.testing.assert_array_equal(a["label"], b["label"])


def test_files_that_are_smaller_than_resized_ones_are_taken_as_they_are(tmp_path):
    """JPEG files of noise at low quality are far smaller than the PNG of what they show."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for kind, ending in (("", ".jpg"), ("annot", ".png")):
            path = tmp_path / "camvid" / f"{split}{kind}" / f"a{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 255, (96, 96, 3), np.uint8) if not kind else np.zeros((96, 96), np.uint8)
            cv2.imwrite(str(path), pixels, [cv2.IMWRITE_JPEG_QUALITY, 5])
    packed = data.pack_domain(get_domain("camvid"), str(tmp_path / "camvid"), tmp_path / "out", (90, 90))
    assert packed["size"] is None and packed["images"] == 3
    assert (tmp_path / "out/train/a.jpg").read_bytes() == (tmp_path / "camvid/train/a.jpg").read_bytes()


def test_damaged_image_is_named_when_packing(tmp_path):
    write_camvid(tmp_path / "camvid")
    bad = tmp_path / "camvid/val/0001TP_000001.png"
    bad.write_bytes(bad.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"val/0001TP_000001\.png"):
        data.pack_domain(get_domain("camvid"), str(tmp_path / "camvid"), tmp_path / "out", None)


def test_drawn_domain_cannot_be_packed(tmp_path):
    with pytest.raises(InputError, match="city_street cannot be packed"):
        data.pack_domain(get_domain("city_street"), "", tmp_path / "out", None)


def test_domains_that_share_a_folder_are_refused_before_anything_is_done(tmp_path, capsys):
    words = [f"--out={tmp_path / 'out'}", "--pip_python=/nonexistent/python"]
    assert pack.main([*words, "--domains=camvid,sun13,sun37"]) == 2
    assert "sun13 and sun37 share the folder 'sunrgbd'; pack a bundle for each" in capsys.readouterr().err
    assert pack.main([*words, "--domains=camvid,sun13,camvid"]) == 2  # given twice: packed once
    assert "no Python with pip" in capsys.readouterr().err


# ---- parts ---------------------------------------------------------------------------------------------


@pytest.fixture
def three_parts(tmp_path):
    """Files whose parts are in two folders, and their manifest."""
    rng = np.random.default_rng(0)
    files = []
    for name in ("a/one.bin", "b/two.bin"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(rng.bytes(6000))
        files.append((name, path))
    made, hashes = parts.write_parts(files, tmp_path / "p", "bundle", 5000)
    (tmp_path / "q").mkdir()
    shutil.move(tmp_path / "p/bundle.part02", tmp_path / "q/bundle.part02")
    return files, made, hashes, [tmp_path / "p", tmp_path / "q"]


def test_parts_in_several_folders_give_the_files_again(three_parts, tmp_path):
    files, made, hashes, places = three_parts
    assert [part["bytes"] for part in made[:2]] == [5000, 5000] and len(made) == 3  # 12000 random bytes, two headers
    run.extract(run.find_parts(made, places), hashes, tmp_path / "out")
    for name, path in files:
        assert (tmp_path / "out" / name).read_bytes() == path.read_bytes()


def test_missing_and_damaged_parts_are_one_line_each(three_parts):
    _, made, _, places = three_parts
    with pytest.raises(run.BundleError, match=r"^bundle.part02 of 3 parts is not in .*p; copy it$"):
        run.find_parts(made, places[:1])
    path = places[1] / "bundle.part02"
    path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
    with pytest.raises(run.BundleError, match=r"q/bundle.part02 is damaged"):
        run.find_parts(made, places)


def test_file_that_the_manifest_does_not_know_is_refused(three_parts, tmp_path):
    _, made, hashes, places = three_parts
    with pytest.raises(run.BundleError, match=r"two\.bin"):
        run.extract(run.find_parts(made, places), {"a/one.bin": hashes["a/one.bin"]}, tmp_path / "out")
    with pytest.raises(run.BundleError, match="1 files such as c are in no part"):
        run.extract(run.find_parts(made, places), hashes | {"c": [0, ""]}, tmp_path / "out2")


@pytest.mark.parametrize("given", ["nan", "inf", "0.5", "-1"])
def test_size_or_time_that_cannot_be_is_refused_before_anything_is_done(tmp_path, capsys, given):
    assert pack.main([f"--out={tmp_path / 'out'}", f"--max_mb={given}", "--pip_python=/nonexistent/python"]) == 2
    assert capsys.readouterr().err.startswith(f"offline_bundle: error: --max_mb={given}: give a finite number")
    for flag in ("part_mb", "out_mb", "minutes"):
        value = "-0.5" if (flag, given) == ("minutes", "0.5") else given  # half a minute is a time
        assert run.main([f"--parts={tmp_path}", f"--work={tmp_path / 'work'}", f"--{flag}={value}"]) == 2
        assert capsys.readouterr().err.startswith(f"offline_bundle: error: --{flag}={value}: give a finite number")


def test_path_outside_the_folder_is_refused(tmp_path):
    (tmp_path / "x").write_text("x")
    made, hashes = parts.write_parts([("../evil", tmp_path / "x")], tmp_path / "p", "bundle", 1000)
    with pytest.raises(run.BundleError, match="evil"):
        run.extract(run.find_parts(made, [tmp_path / "p"]), hashes, tmp_path / "out")
    assert not (tmp_path / "evil").exists()


# ---- cells ---------------------------------------------------------------------------------------------


def test_cells_become_arguments_of_the_sweep():
    first, second = cells.read_cells(
        "cs256_cvd:n=100 basic,full 0,1; cs256_cvd:cpu,n=50 k3 2 --table=7 --config.lr=0.1"
    )
    assert first.arguments == ("--pair=cs256_cvd", "--n=100", "--scale=full", "--rows=basic,full", "--seeds=0,1")
    assert second.arguments[2:] == ("--scale=cpu", "--rows=k3", "--seeds=2", "--table=7", "--config.lr=0.1")


@pytest.mark.parametrize("text", ["c:n=100 basic", "c basic 0", "c:n=1,resnet50 basic 0", "c:n=1 basic 0 '"])
def test_cell_of_another_form_is_refused(text):
    with pytest.raises(InputError, match="--cells"):
        cells.read_cells(text)


def test_config_that_wants_another_size_than_was_packed_stops_the_cell(tmp_path):
    path = tmp_path / "c_n1_full/seed0/full/config.json"
    path.parent.mkdir(parents=True)
    packed = {"camvid": {"size": [176, 240], "own_size": [360, 480]}, "idd_lite": {"size": None, "own_size": [1, 1]}}

    def check(image_size):
        path.write_text(json.dumps({"domains": ["camvid", "idd_lite"], "image_size": image_size}))
        cells.check_sizes(tmp_path, packed, set())

    check("camvid=176x240,idd_lite=9x9")
    check("176x240")
    for wrong in ("", "idd_lite=176x240", "camvid=176x241"):
        with pytest.raises(InputError, match="camvid was packed at 176x240"):
            check(wrong)


# ---- what is brought back ------------------------------------------------------------------------------


@pytest.fixture
def work(tmp_path):
    """A work folder with a finished single-domain network, one under way, and a row under way."""
    seed = tmp_path / "work/runs/c_n1_full/seed0"
    content = {
        "single/single_a/summary.json": b'{"best_step": 4}',
        "single/single_a/best/4/w": os.urandom(3000),
        "single/single_a/best/2/w": b"older",
        "single/single_a/checkpoints/6/w": b"not needed",
        "single/single_b/checkpoints/2/w": b"older",
        "single/single_b/checkpoints/4/w": os.urandom(3000),
        "single/single_b/best/2/w": os.urandom(3000),
        "single/single_b/best/6/w": b"newer than the checkpoint",
        "single/single_b/metrics.jsonl": b"{}",
        "full/prototypes/label_embeddings.npz": b"e",
        "full/full/checkpoints/tmp.orbax/w": b"half written",
        "single.log": b"text",
    }
    for name, data_ in content.items():
        (seed / name).parent.mkdir(parents=True, exist_ok=True)
        (seed / name).write_bytes(data_)
    result = tmp_path / "work/results/c_n1_full/single_a/seed0.json"
    result.parent.mkdir(parents=True)
    result.write_text('{"commit": null}')
    return tmp_path / "work"


def names_below(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


BY_LEVEL = {
    "summaries": set(),
    "stages": {"single/single_a/best/4/w", "single/single_a/summary.json"},
    "checkpoints": {
        "single/single_a/best/4/w",
        "single/single_a/summary.json",
        "single/single_b/checkpoints/4/w",
        "single/single_b/best/2/w",
    },
}


@pytest.mark.parametrize("level", list(BY_LEVEL))
def test_what_is_brought_back_goes_on_elsewhere(work, tmp_path, level):
    """A finished network without its weights counts as not trained; results are always kept."""
    keep.fill(work, tmp_path / "out", level, keep.Limits(10**6, 10**7))
    keep.restore([tmp_path / "out"], tmp_path / "new")
    seed = "runs/c_n1_full/seed0/"
    small = {"single/single_b/metrics.jsonl", "full/prototypes/label_embeddings.npz", "single.log"}
    got = names_below(tmp_path / "new")
    assert got == {"results/c_n1_full/single_a/seed0.json"} | {seed + name for name in small | BY_LEVEL[level]}
    for name in BY_LEVEL[level]:
        assert (tmp_path / "new" / seed / name).read_bytes() == (work / seed / name).read_bytes()


def test_state_that_is_too_large_comes_in_several_loads(work, tmp_path):
    out = tmp_path / "out"
    everything = tmp_path / "all"
    everything.mkdir()
    keep.fill(work, out, "checkpoints", keep.Limits(2000, 6000))
    count = len(json.loads((work / "state/state.json").read_text())["parts"])
    loads = 1
    while True:
        for path in out.iterdir():
            assert path.stat().st_size <= 2000
            shutil.copy(path, everything)
        assert sum(p.stat().st_size for p in out.iterdir() if p.name != "state.json") <= 6000
        try:
            loads += 1
            keep.bring(work, out, loads, keep.Limits(2000, 6000))
        except InputError as e:
            assert f"there are {loads - 1} loads" in str(e)
            break
    assert loads > 2
    assert len(list(everything.glob("state.part*"))) == count
    keep.restore([everything], tmp_path / "new")
    assert (tmp_path / "new/runs/c_n1_full/seed0/single/single_b/checkpoints/4/w").exists()


def test_resuming_with_a_part_of_the_state_missing_is_an_error(work, tmp_path):
    keep.fill(work, tmp_path / "out", "checkpoints", keep.Limits(2000, 10**6))
    (tmp_path / "out/state.part02").unlink()
    with pytest.raises(run.BundleError, match=r"state.part02 of \d+ parts is not in"):
        keep.restore([tmp_path / "out"], tmp_path / "new")
    assert not (tmp_path / "new/runs").exists()


@pytest.mark.parametrize("level", list(BY_LEVEL))
def test_row_that_left_no_result_is_finished_elsewhere_only_with_its_network(work, tmp_path, capsys, level):
    """Its command has predictions to draw; nothing reads the networks of the others any more."""
    runs = work / "runs/c_n1_full/seed0"
    for name in ("basic/basic", "k3/full", "hung/hung_a", "single/frozen_a_b"):
        (runs / name / "best/7").mkdir(parents=True)
        (runs / name / "best/7/w").write_bytes(b"best")
        (runs / name / "summary.json").write_text('{"best_step": 7}')
    (work / "results/c_n1_full/k3").mkdir()
    (work / "results/c_n1_full/k3/seed0.json").write_text("{}")
    keep.fill(work, tmp_path / "out", level, keep.Limits(10**6, 10**7))
    capsys.readouterr()
    keep.restore([tmp_path / "out"], tmp_path / "new")
    got = tmp_path / "new/runs/c_n1_full/seed0"
    brought = level != "summaries"
    assert (got / "basic/basic/summary.json").exists() == (got / "basic/basic/best/7/w").exists() == brought
    assert ("c_n1_full/seed0/basic/basic: its network was not brought" in capsys.readouterr().out) == (not brought)
    for name in ("k3/full", "hung/hung_a", "single/frozen_a_b"):
        assert (got / name / "summary.json").exists() and not (got / name / "best").exists()


def test_stages_whose_predictions_are_drawn_are_those_of_the_training():
    assert set(keep.UNIVERSAL) == set(TITLES)


def flip_a_bit(content):
    return content[:-6] + bytes([content[-6] ^ 1]) + content[-5:]  # of the checksum


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("summaries.tar.gz", lambda content: content[:-20]),
        ("summaries.tar.gz", flip_a_bit),
        ("summaries.tar.gz", lambda content: b"no archive"),
        ("summaries.tar.gz", lambda content: b""),
        ("state.json", lambda content: content[:-20]),
        ("state.json", lambda content: b"[]"),
        ("state.json", lambda content: b'{"parts": []}'),
    ],
)
def test_resuming_with_a_damaged_file_is_one_line(work, tmp_path, name, damage):
    keep.fill(work, tmp_path / "out", "stages", keep.Limits(10**6, 10**7))
    path = tmp_path / "out" / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=rf"^--resume: .*{name} .*; copy it again$"):
        keep.restore([tmp_path / "out"], tmp_path / "new")
    assert not (tmp_path / "new/runs").exists()


def test_resuming_writes_nothing_outside_the_work_folder(work, tmp_path):
    keep.fill(work, tmp_path / "out", "summaries", keep.Limits(10**6, 10**7))
    (tmp_path / "evil").write_text("evil")
    with tarfile.open(tmp_path / "out/summaries.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "evil", "../../escaped")
    with pytest.raises(InputError, match=r"'../../escaped' is no plain file of ours"):
        keep.restore([tmp_path / "out"], tmp_path / "new")
    assert not (tmp_path / "escaped").exists()


def test_resume_does_not_touch_a_work_folder_that_has_runs(work, tmp_path, capsys):
    keep.fill(work, tmp_path / "out", "stages", keep.Limits(10**6, 10**7))
    before = names_below(work)
    keep.restore([tmp_path / "out"], work)
    assert names_below(work) == before
    assert "--resume is not used" in capsys.readouterr().out


def test_commit_of_the_bundle_is_written_where_there_is_none(work):
    other = work / "results/c_n1_full/full/seed1.json"
    other.parent.mkdir()
    other.write_text('{"commit": "earlier"}')
    cells.record_commit(work / "results", "abc")
    assert json.loads((work / "results/c_n1_full/single_a/seed0.json").read_text()) == {"commit": "abc"}
    assert json.loads(other.read_text()) == {"commit": "earlier"}


# ---- the whole way -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A git checkout of the project's code as it is now."""
    folder = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns("__pycache__", "results")
    for name in ("usss_jax", "configs", "benchmarks"):
        shutil.copytree(REPO / name, folder / name, ignore=ignore)
    names = "jax", "flax", "optax", "orbax-checkpoint", "numpy", "offline-a"
    (folder / "pyproject.toml").write_text(f"[project]\ndependencies = {list(names)}\n")
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for words in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    (folder / "untracked.txt").write_text("is not packed")
    return folder


@pytest.fixture(scope="module")
def bundle(checkout, fake_index, tmp_path_factory):
    """A bundle of that checkout and tiny CamVid and Cityscapes data in two parts or more."""
    folder = tmp_path_factory.mktemp("bundle")
    write_camvid(folder / "data/camvid", count=4)
    write_cityscapes(folder / "data/cityscapes", count=4)
    words = [f"--out={folder / 'out'}", "--max_mb=1", "--domains=camvid,cityscapes", f"--data_root={folder / 'data'}"]
    words += ["--size=32x48", f"--python={HERE}", f"--wheels={fake_index}"]
    before, pack.PROJECT = pack.PROJECT, checkout
    try:
        assert pack.main(words) == 0
    finally:
        pack.PROJECT = before
    return folder / "out"


def start(bundle, work, *words):
    command = [sys.executable, str(bundle / "run.py"), f"--parts={bundle}", f"--work={work}", *words]
    environment = {**os.environ, "PIP_NO_INDEX": "1", "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        command, cwd="/", env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_manifest_says_commit_files_and_parts(bundle, checkout):
    manifest = json.loads((bundle / "manifest.json").read_text())
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True)
    assert manifest["commit"] == head.stdout.strip()
    assert "project/usss_jax/main.py" in manifest["files"] and "project/untracked.txt" not in manifest["files"]
    assert "data/camvid/train/0001TP_000000.png" in manifest["files"]
    assert list(manifest["wheels"]) == ["offline-a", "offline-b"]
    assert all((bundle / part["name"]).stat().st_size == part["bytes"] <= 10**6 for part in manifest["parts"])


def test_changed_checkout_is_marked_in_the_commit(checkout):
    path = checkout / "configs/demo.py"
    text = path.read_text()
    path.write_text(text + "\n")
    assert pack.commit(checkout).endswith("+changes")
    path.write_text(text)
    assert not pack.commit(checkout).endswith("+changes")


def test_full_folder_is_not_written_to(bundle, capsys):
    assert pack.main([f"--out={bundle}"]) == 2
    assert "is not an empty folder" in capsys.readouterr().err


@pytest.mark.slow
def test_cell_runs_from_the_bundle_stops_in_time_and_goes_on_elsewhere(bundle, tmp_path):
    """A first call is ended while the row is trained; what it brings back finishes on a bare machine."""
    fields = "steps=8,single_steps=1,batch_size=2,unlabeled_batch_size=2,eval_batch_size=4,checkpoint_every=1"
    fields += ",eval_every=8,image_size=32x48,width=0.0625,embed_dim=8,log_every=1"
    config = " ".join(f"--config.{field}" for field in fields.split(","))
    cell = f"--cells=cs_cvd:n=2,cpu basic 0 {config}"
    first = start(bundle, tmp_path / "a", cell, f"--out={tmp_path / 'out'}", "--keep=checkpoints")
    checkpoints = tmp_path / "a/runs/cs_cvd_n2_cpu/seed0/basic/basic/checkpoints"
    while first.poll() is None and not any(p.name.isdigit() for p in checkpoints.glob("*")):
        time.sleep(0.1)
    first.send_signal(signal.SIGTERM)
    text = first.communicate(timeout=300)[0]
    assert first.returncode == 128 + signal.SIGTERM, text
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["state.json", "state.part01", "summaries.tar.gz"]
    again = ("--minutes=5", f"--out={tmp_path / 'out2'}", f"--resume={tmp_path / 'out'}")
    second = start(bundle, tmp_path / "b", cell, *again)
    text = second.communicate(timeout=300)[0]
    assert second.returncode == 0, text
    log = (tmp_path / "b/runs/cs_cvd_n2_cpu/seed0/basic.log").read_text()
    assert "resumes from step" in log
    summary = json.loads((tmp_path / "b/results/cs_cvd_n2_cpu/basic/seed0.json").read_text())
    assert summary["commit"] == json.loads((bundle / "manifest.json").read_text())["commit"]
    assert (tmp_path / "b/site/offline_a.py").exists() and not (tmp_path / "b/site/jax.py").exists()
    third = start(bundle, tmp_path / "b", cell, "--minutes=0", f"--out={tmp_path / 'out3'}")
    assert "call again" in third.communicate(timeout=300)[0] and third.returncode == 3


def test_wheels_of_another_python_are_refused(bundle, tmp_path):
    manifest = json.loads((bundle / "manifest.json").read_text())
    with pytest.raises(run.BundleError, match=r"for Python 2\.7"):
        run.install(manifest | {"python": "2.7"}, bundle, tmp_path / "site")


def test_bring_without_a_run_is_one_line(tmp_path, capsys):
    flags = argparse.Namespace(work=tmp_path, out=tmp_path / "o", part_mb=1, out_mb=1, bring=2)
    assert cells.main(flags, {}, [], 0.0) == 2
    assert "nothing was run" in capsys.readouterr().err
