"""The check of one's data: every fault is found and named, at once; nothing is found where nothing is wrong."""

import json
import pathlib
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
import tiny_data
from PIL import Image

from usss_jax.data.check.domain import check_domain, spread, uses_of
from usss_jax.data.check.files import count_values
from usss_jax.data.check.findings import FAULT, NOTE, WARNING, find_faults
from usss_jax.data.check.labeled import find_labeled
from usss_jax.data.check.report import domain_json, domain_text, findings_text
from usss_jax.data.check.sheet import draw_sheet
from usss_jax.data.domains import get_domain
from usss_jax.data.splits import split_hash

REPO = pathlib.Path(__file__).parent.parent
SIZE = (48, 64)
IDS = (1, 2, 3)  # raw ids; 0 is ignored
YAML = """
name: mine
root: data
size: [48, 64]
classes:
  - {name: road, color: [128, 64, 128], ids: [1]}
  - {name: rest, color: [70, 70, 70], ids: [2, 3]}
ignore_ids: [0]
splits:
  train: {images: "train/{id}.png", masks: "train_masks/{id}.png"}
  val: {images: "val/{id}.png", masks: "val_masks/{id}.png"}
"""


def write_example(data, split, name, seed, mask=None):
    image, made = tiny_data.scene(np.random.default_rng(seed), SIZE, IDS, void=0)
    tiny_data.write(data / split / f"{name}.png", image)
    tiny_data.write(data / f"{split}_masks/{name}.png", made if mask is None else mask)


def write_camvid(root):
    """CamVid of 4, 5 and 6 images; unlike those of tiny_data each is there once."""
    for number, split in enumerate(("train", "val", "test")):
        for i in range(4 + number):
            image, mask = tiny_data.scene(np.random.default_rng([number, i]), SIZE, range(11), void=11)
            tiny_data.write(root / f"{split}/{i}.png", image)
            tiny_data.write(root / f"{split}annot/{i}.png", mask)


@pytest.fixture
def mine(tmp_path):
    """A domain of six and three images without a fault: its YAML file and its folder."""
    (tmp_path / "mine.yaml").write_text(YAML)
    for split, count, seed in (("train", 6, 0), ("val", 3, 100)):
        for i in range(count):
            write_example(tmp_path / "data", split, f"{split[0]}{i}", seed + i)
    return tmp_path / "mine.yaml", tmp_path / "data"


def checked(yaml, **arguments):
    domain = get_domain(str(yaml))
    report = check_domain(domain, domain.folder, uses_of(domain), **arguments)
    return report, find_faults(report)


def of_level(findings, level):
    return [str(finding) for finding in findings if finding.level == level]


def run(tmp_path, *options):
    command = [sys.executable, "-m", "usss_jax.data.check", f"--out={tmp_path / 'out'}", *map(str, options)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True)


# ---- the command -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_clean_data_exit_with_0(mine, tmp_path):
    result = run(tmp_path, f"--domain={mine[0]}")
    assert result.returncode == 0 and result.stderr == ""
    assert "0 faults, 0 warnings" in result.stdout and "faults (" not in result.stdout
    assert json.loads((tmp_path / "out/check.json").read_text())["findings"] == []
    assert (tmp_path / "out/mine.png").stat().st_size > 1000


@pytest.mark.slow
def test_all_faults_are_told_at_once(mine, tmp_path):
    yaml, data = mine
    (data / "train_masks/t1.png").unlink()
    (data / "val/v2.png").unlink()
    (data / "train/t2.png").write_bytes((data / "train/t2.png").read_bytes()[:-20])
    (data / "train_masks/t3.png").write_bytes(b"")
    tiny_data.write(data / "train_masks/t4.png", np.full(SIZE, 77, np.uint8))
    tiny_data.write(data / "train_masks/t5.png", np.ones((24, 32), np.uint8))
    shutil.copy(data / "train/t0.png", data / "val/v1.png")
    result = run(tmp_path, f"--domain={yaml}")
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "faults (7), to be fixed" in result.stdout and "7 faults, 0 warnings" in result.stdout
    for told in (
        *("t1.png; of the first, looked for", "t2.png: is truncated", "t3.png: is empty", "raw id 77", "t4.png"),
        *("the mask is 24x32", "t5.png", "train/t0.png = val/v1.png", "1 mask without an image", "val_masks/v2.png"),
    ):
        assert told in result.stdout, told
    content = json.loads((tmp_path / "out/check.json").read_text())
    assert [f["id"] for f in content["domains"]["mine"]["splits"]["train"]["faulty_files"]] == ["t2", "t3", "t4", "t5"]
    assert sum(f["level"] == "fault" for f in content["findings"]) == 7


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"# nothing\n", "straße.png".encode("latin-1")])
def test_list_that_cannot_be_read_hides_nothing(mine, tmp_path, content):
    yaml, data = mine
    yaml.write_text(YAML.replace('{images: "val/{id}.png", masks: "val_masks/{id}.png"}', '{list: "val.txt"}'))
    (data / "val.txt").write_bytes(content)
    (data / "train_masks/t1.png").unlink()
    result = run(tmp_path, f"--domain={yaml}")
    assert result.returncode == 1 and result.stderr == ""
    assert "faults (2)" in result.stdout and "train: 1 of 6 images without a mask" in result.stdout
    assert f"mine, val: {data}/val.txt: this list " in result.stdout


@pytest.mark.slow
def test_warnings_leave_the_exit_code_0(mine, tmp_path):
    yaml, data = mine
    for path in (data / "val_masks").iterdir():
        tiny_data.write(path, np.ones(SIZE, np.uint8))
    options = [f"--config={REPO / 'configs/demo.py'}", f"--config.data.domains={yaml}", "--config.data.image_size="]
    options.append("--config.data.min_classes=1")
    tiny_data.write(data / "train_masks/t4.png", np.eye(*SIZE, dtype=np.uint8))  # the others are ignored
    (tmp_path / "one.txt").write_text("t4\n")
    result = run(tmp_path, *options, f"--config.data.labeled_list={tmp_path / 'one.txt'}")
    assert result.returncode == 0 and "0 faults, 2 warnings" in result.stdout, result.stdout + result.stderr
    assert "warnings (2), may be intended" in result.stdout
    assert "mine, val: no pixel in 3 masks of: rest" in result.stdout
    assert "mine, train: no pixel in the 1 labeled image of: rest" in result.stdout


@pytest.mark.slow
def test_help_says_what_is_a_fault():
    result = subprocess.run(
        [sys.executable, "-m", "usss_jax.data.check", "--help"], cwd=REPO, capture_output=True, text=True
    )
    text = " ".join(result.stdout.split())
    assert (
        "Exit code 1: there are faults, which must be fixed" in text
        and "Warnings alone leave the exit code at 0" in text
    )


@pytest.mark.slow
def test_config_tells_the_labeled_set_with_the_hash_of_the_run(mine, tmp_path):
    options = [f"--config={REPO / 'configs/demo.py'}", f"--config.data.domains={mine[0]}", "--config.data.image_size="]
    result = run(tmp_path, *options, "--config.data.labeled_per_domain=4")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "4 labeled and 6 unlabeled images, 4 are both" in result.stdout
    content = json.loads((tmp_path / "out/check.json").read_text())
    ids = content["domains"]["mine"]["labeled"]["ids"]
    assert len(ids) == 4 and content["split_hash"] == split_hash({"mine": ids})

    result = run(tmp_path, *options, "--config.data.labeled_per_domain=7", "--config.data.unlabeled_splits=trian")
    assert result.returncode == 1
    assert "training would stop at once: data.labeled_per_domain: mine asks for 7" in result.stdout
    assert "did you mean 'train'?" in result.stdout


@pytest.mark.slow
def test_labeled_list_needs_only_the_masks_of_its_images(mine, tmp_path):
    yaml, data = mine
    for name in ("t0", "t1", "t2"):
        (data / f"train_masks/{name}.png").unlink()
    (tmp_path / "few.txt").write_text("t3\nt4\n")
    options = [f"--config={REPO / 'configs/demo.py'}", f"--config.data.domains={yaml}", "--config.data.image_size="]
    result = run(tmp_path, *options, f"--config.data.labeled_list={tmp_path / 'few.txt'}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 labeled and 6 unlabeled" in result.stdout and "3 of 6 images without a mask" in result.stdout
    (tmp_path / "few.txt").write_text("t2\nt4\n")
    result = run(tmp_path, *options, f"--config.data.labeled_list={tmp_path / 'few.txt'}")
    assert result.returncode == 1 and "t2.png has no mask" in result.stdout


@pytest.mark.slow
def test_data_root_is_that_of_a_config_and_the_domains_own_folder_is_recognized(tmp_path):
    write_camvid(tmp_path / "camvid")
    for root in (tmp_path, f"camvid={tmp_path / 'camvid'}"):
        result = run(tmp_path, "--domain=camvid", f"--data_root={root}")
        assert result.returncode == 0 and result.stderr == "" and "loaded at 360x480 (height x width)" in result.stdout
        splits = json.loads((tmp_path / "out/check.json").read_text())["domains"]["camvid"]["splits"]
        assert {split: found["images"] for split, found in splits.items()} == {"train": 4, "val": 5, "test": 6}
    result = run(tmp_path, "--domain=camvid", f"--data_root={tmp_path / 'camvid'}")
    assert result.returncode == 1
    assert f"give --data_root={tmp_path} or --data_root=camvid={tmp_path / 'camvid'}" in result.stdout


@pytest.mark.slow
def test_one_missing_folder_does_not_hide_what_is_wrong_elsewhere(mine, tmp_path):
    (mine[1] / "train_masks/t1.png").unlink()
    result = run(tmp_path, f"--domain=camvid,{mine[0]}", f"--data_root={tmp_path / 'absent'}")
    assert result.returncode == 1
    assert "camvid: no folder" in result.stdout and "mine, train: 1 of 6 images without a mask" in result.stdout


@pytest.mark.slow
def test_drawn_domains_are_cheap_and_clean(tmp_path):
    result = run(tmp_path, f"--config={REPO / 'configs/demo.py'}")
    assert result.returncode == 0 and "0 faults, 0 warnings" in result.stdout
    assert "16 labeled and 300 unlabeled images, 16 are both" in result.stdout
    assert "synthetic, loaded at" in result.stdout and (tmp_path / "out/town_street.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "give either --config"),
        (["--domain=camvid", "--config=configs/demo.py"], "give either --config"),
        (["--domain=,"], "give either --config"),
        (["--domain=camvd"], "did you mean 'camvid'"),
        (["--domian=camvid"], "domian"),
        (["--domain=camvid"], "--data_root=PATH"),
        (["--domain=camvid", "extra"], "'extra' is not a flag"),
        (["--domain=city_street", "--limit=0"], "limit"),
        (["--domain=absent.yaml"], "absent.yaml"),
        (["--config=configs/demo.py", "--config.alhpa=2"], "did you mean config.usss.alpha?"),
        (["--config=configs/demo.py", "--config.data.image_size=9"], "image_size"),
        (["--config=configs/demo.py", "--config.data.image_size=96x64"], "did you mean 64x96?"),
        (["--config=configs/demo.py", "--data_root=x"], "--config.data.root"),
        (["--config=configs/absent.py"], "configs/absent.py"),
    ],
)
def test_wrong_flags_are_one_line_and_exit_code_2(tmp_path, options, told):
    result = run(tmp_path, *options)
    assert result.returncode == 2 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("usss_jax: error: ") and told in line
    assert "--config.data.root" not in line or "--config" in "".join(options)


@pytest.mark.slow
def test_folder_that_cannot_be_written_is_told_first(tmp_path):
    (tmp_path / "out").write_text("")
    result = run(tmp_path, "--domain=city_street")
    assert result.returncode == 2 and "give another folder" in result.stderr and result.stdout == ""


@pytest.mark.slow
def test_check_does_not_wait_for_jax():
    code = "import sys, usss_jax.data.check.__main__; sys.exit(bool({'jax', 'flax', 'tensorflow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO).returncode == 0


# ---- pairs and files -------------------------------------------------------------------------------------


def test_missing_halves_are_counted_and_the_first_five_named(mine):
    yaml, data = mine
    for i in range(10, 17):
        write_example(data, "train", f"x{i}", i)
        (data / f"train_masks/x{i}.png").unlink()
    shutil.copy(data / "val_masks/v0.png", data / "val_masks/stray.png")
    report, findings = checked(yaml)
    images, masks = of_level(findings, FAULT)
    assert images.startswith("mine, train: 7 of 13 images without a mask: ")
    assert "x14.png and 2 more; of the first, looked for" in images and "x15.png" not in images
    assert masks.startswith(f"mine, val: 1 mask without an image, never read: {data}/val_masks/stray")
    assert len(findings[0].items) == 7 and report.splits["val"].without_image == [f"{data}/val_masks/stray.png"]


def test_masks_shared_by_two_splits_are_no_strays(mine):
    yaml, _ = mine
    holdout = YAML.replace("size:", "holdout: 2\nsize:").replace("val/{id}", "train/{id}").replace("val_m", "train_m")
    yaml.write_text(holdout)
    report, findings = checked(yaml)
    assert findings == [] and [len(report.splits[s].ids) for s in ("train", "val")] == [3, 3]
    assert not (set(report.splits["train"].images.values()) & set(report.splits["val"].images.values()))


def test_empty_used_split_is_a_fault_and_an_unused_one_a_note(mine):
    yaml, data = mine
    yaml.write_text(YAML + '  test: {images: "test/{id}.png", masks: "test_masks/{id}.png"}\n')
    _, findings = checked(yaml)
    assert of_level(findings, FAULT) == [] and len(of_level(findings, NOTE)) == 1
    shutil.rmtree(data / "val")
    _, findings = checked(yaml)
    (fault,) = of_level(findings, FAULT)
    assert "split 'val' of domain 'mine': no images; looked for val/*.png" in fault


def test_all_missing_images_of_a_list_are_named(mine):
    yaml, data = mine
    yaml.write_text(YAML.replace('{images: "val/{id}.png", masks: "val_masks/{id}.png"}', '{list: "val.txt"}'))
    lines = [f"val/v{i}.png val_masks/v{i}.png" for i in range(5)]
    (data / "val.txt").write_text("\n".join(["# mine", *lines]))
    _, findings = checked(yaml)
    (fault,) = of_level(findings, FAULT)
    assert fault.startswith("mine, val: 2 images of the list missing: ") and f"{data}/val.txt:5: {data}/val/v3" in fault
    (data / "val.txt").write_text("\n".join([*lines[:2], "val/v2.png"]))
    assert "1 of 3 images without a mask" in of_level(checked(yaml)[1], FAULT)[0]


def test_missing_images_of_the_only_split_are_named_too(mine):
    yaml, data = mine
    start = YAML.partition("splits:")[0]
    yaml.write_text(start + 'val_split: train\nsplits:\n  train: {list: "train.txt"}\n')
    (data / "train.txt").write_text("train/x.png\ntrain/y.png\n")
    (fault,) = of_level(checked(yaml)[1], FAULT)
    assert fault.startswith("mine, train: 2 images of the list missing: ")


def test_split_without_any_mask_is_a_fault_where_masks_are_needed(mine):
    yaml, data = mine
    shutil.rmtree(data / "val_masks")
    report, findings = checked(yaml)
    (fault,) = of_level(findings, FAULT)
    assert "images but no masks" in fault and report.splits["val"].examined == 3


def test_unlabeled_split_without_masks_is_right(mine):
    yaml, data = mine
    yaml.write_text(YAML + '  unlabeled: {images: "more/{id}.png"}\nunlabeled_splits: [train, unlabeled]\n')
    for i in range(2):
        write_example(data, "more", f"u{i}", 50 + i)
    (data / "more/u1.png").write_bytes(b"no picture")
    report, findings = checked(yaml)
    (fault,) = of_level(findings, FAULT)
    assert "u1.png: is not a PNG or JPEG" in fault
    assert report.splits["unlabeled"].uses == ("unlabeled",) and list(report.splits)[:2] == ["train", "val"]


def test_ten_of_many_faulty_files_are_printed_and_all_kept(mine):
    yaml, data = mine
    for i in range(14):
        write_example(data, "train", f"x{i:02d}", 20 + i)
        (data / f"train_masks/x{i:02d}.png").write_bytes(b"")
    report, findings = checked(yaml)
    text = findings_text(findings)
    assert "faults (14)" in text and text.count("is empty") == 10 and "and 4 more like the last" in text
    assert len(domain_json(report, None)["splits"]["train"]["faulty_files"]) == 14


def test_sizes_are_counted_and_a_squeezed_shape_is_noted(mine):
    yaml, data = mine
    image = np.random.default_rng(0).integers(0, 256, (48, 128, 3), np.uint8)
    tiny_data.write(data / "train/wide.png", image)
    tiny_data.write(data / "train_masks/wide.png", np.ones((48, 128), np.uint8))
    report, findings = checked(yaml)
    assert report.splits["train"].sizes == {SIZE: 6, (48, 128): 1}
    assert of_level(findings, NOTE) == [
        "mine, train: 1 of 7 images are squeezed to 48x64 (height x width), from: 48x128; set data.image_size "
        "to another shape if this is not intended"
    ]
    assert "48x64 (6), 48x128 (1)" in domain_text(report, None)


@pytest.mark.slow
def test_records_are_checked_as_far_as_they_can(tmp_path):
    """The three splits of these tiny data have the same images, which records show by their pixels."""
    tiny_data.write_camvid(tmp_path / "camvid")
    folders = [f"--source={tmp_path / 'camvid'}", f"--data_dir={tmp_path / 'records'}"]
    made = subprocess.run(
        [sys.executable, "-m", "data_prep.camvid", *folders], cwd=REPO, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    root = f"--data_root=tfds:{tmp_path / 'records'}"
    result = run(tmp_path, "--domain=camvid", root)
    assert result.returncode == 1, result.stderr
    assert "6 images also in val, pixel for pixel the same: train/0001TP_000000 = val/0001TP_000000" in result.stdout
    assert "raw ids, file sizes and masks without an image are unknown" in result.stdout
    content = json.loads((tmp_path / "out/check.json").read_text())["domains"]["camvid"]["splits"]["train"]
    assert content["images"] == content["masks"] == content["opened"] == 6 and content["image_sizes"] == {}
    assert sum(entry["pixels"] for entry in content["raw"]) == 6 * 360 * 480


@pytest.mark.slow
def test_records_without_some_masks_keep_those_of_the_others(tmp_path):
    write_camvid(tmp_path / "camvid")
    for name in ("trainannot/1", "trainannot/3", "valannot/2", *(f"testannot/{i}" for i in range(6))):
        (tmp_path / f"camvid/{name}.png").unlink()
    folders = [f"--source={tmp_path / 'camvid'}", f"--data_dir={tmp_path / 'records'}"]
    command = [sys.executable, "-m", "data_prep.camvid", *folders, "--missing_mask=keep"]
    assert subprocess.run(command, cwd=REPO, capture_output=True).returncode == 0
    result = run(tmp_path, "--domain=camvid", f"--data_root=tfds:{tmp_path / 'records'}")
    assert result.returncode == 1 and "3 faults, 0 warnings" in result.stdout, result.stdout + result.stderr
    assert "none of its images has a mask" in result.stdout
    assert "camvid, train: 2 of 4 images without a mask: '1', '3'; add" in result.stdout
    assert "camvid, val: 1 of 5 images without a mask: '2'; add" in result.stdout
    splits = json.loads((tmp_path / "out/check.json").read_text())["domains"]["camvid"]["splits"]
    assert {split: (found["masks"], found["opened"]) for split, found in splits.items()} == {
        "train": (2, 4),
        "val": (4, 5),
        "test": (0, 6),
    }
    assert sum(entry["pixels"] for entry in splits["train"]["raw"]) == 2 * 360 * 480


# ---- unsupported formats ---------------------------------------------------------------------------


def write_other_formats(folder):
    """Two .tif and one .webp image; and what is no matter: a text, and a .tif of an image that is there as PNG."""
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    for name in ("x.tif", "y.TIF", "z.webp", "t0.tif"):
        Image.fromarray(pixels).save(folder / name)
    (folder / "notes.txt").write_text("x")


@pytest.mark.slow
def test_images_in_formats_that_are_not_read_are_a_fault_and_hide_nothing(mine, tmp_path):
    yaml, data = mine
    yaml.write_text(YAML.replace("train/{id}.png", "train/{id}"))
    write_other_formats(data / "train")
    (data / "train_masks/t1.png").unlink()
    options = [f"--config={REPO / 'configs/demo.py'}", f"--config.data.domains={yaml}", "--config.data.image_size="]
    result = run(tmp_path, *options)
    assert result.returncode == 1 and result.stderr == ""
    assert "faults (2)" in result.stdout and "1 of 6 images without a mask" in result.stdout
    assert (
        f"mine, train: 3 images in unsupported formats (.tif, .webp): {data}/train/x.tif, {data}/train/y.TIF, "
        f"{data}/train/z.webp; convert them to PNG or JPEG, or move them away\n"
    ) in result.stdout
    content = json.loads((tmp_path / "out/check.json").read_text())["domains"]["mine"]["splits"]
    assert content["train"]["opened"] == 6 and sum(entry["pixels"] for entry in content["train"]["raw"]) > 0


def test_split_whose_images_are_all_of_other_formats_is_a_fault(mine):
    yaml, data = mine
    yaml.write_text(YAML + "  unlabeled: {images: more}\n")
    write_other_formats(data / "more")
    (fault,) = of_level(checked(yaml)[1], FAULT)
    assert "4 files such as" in fault and "more/t0.tif have unsupported formats (.tif or .webp); convert" in fault


def test_files_that_an_explicit_ending_leaves_out_are_counted(mine):
    yaml, data = mine
    write_other_formats(data / "train")
    (note,) = map(str, checked(yaml)[1])
    assert note.startswith("mine, train: 5 other files among the images (.tif 3, ") and "they are ignored" in note


# ---- copies ----------------------------------------------------------------------------------------------


def test_copy_within_a_split_is_a_fault(mine):
    yaml, data = mine
    yaml.write_text(YAML + '  more: {list: "more.txt"}\n')
    (data / "more.txt").write_text("train/t0.png\ntrain/t5.png\n")  # not told again of these
    shutil.copy(data / "train/t0.png", data / "train/t5.png")
    _, findings = checked(yaml)
    assert of_level(findings, WARNING) == []
    (fault,) = of_level(findings, FAULT)
    assert fault == (
        "mine, train: 1 image twice, byte for byte the same: train/t0.png = train/t5.png; remove one of each"
    )


def test_unlabeled_copy_of_a_val_image_is_a_fault_but_the_same_file_a_choice(mine):
    yaml, data = mine
    own = YAML + '  unlabeled: {images: "more/{id}.png"}\nunlabeled_splits: [train, unlabeled]\n'
    yaml.write_text(own)
    (data / "more").mkdir()
    shutil.copy(data / "val/v0.png", data / "more/v0.png")
    assert "also in unlabeled" in of_level(checked(yaml)[1], FAULT)[0]

    (data / "list.txt").write_text("val/v0.png\n")
    yaml.write_text(own.replace('images: "more/{id}.png"', 'list: "list.txt"'))
    report, findings = checked(yaml)
    assert of_level(findings, FAULT) == [] and "use other images" in of_level(findings, WARNING)[0]
    assert report.splits["unlabeled"].same_as == ("val",) and report.splits["unlabeled"].examined == 0


@pytest.mark.slow
def test_labeled_image_in_val_is_told_once(mine, tmp_path):
    yaml, data = mine
    shutil.copy(data / "train/t2.png", data / "val/v1.png")
    options = [f"--config={REPO / 'configs/demo.py'}", f"--config.data.domains={yaml}", "--config.data.image_size="]
    result = run(tmp_path, *options, "--config.data.labeled_per_domain=all")
    assert result.returncode == 1 and "6 labeled and 6 unlabeled images, 6 are both" in result.stdout
    (finding,) = json.loads((tmp_path / "out/check.json").read_text())["findings"]
    assert finding["level"] == "fault" and finding["items"] == ["train/t2.png = val/v1.png"]


def test_overlap_of_labeled_and_unlabeled_is_counted_by_content(mine):
    yaml, data = mine
    shutil.copy(data / "train/t0.png", data / "train/t5.png")
    report, _ = checked(yaml)
    assert find_labeled(report, ["t0", "t1"], report.splits["train"].ids, includes_labeled=True)[0].both == 2
    labeled, findings = find_labeled(report, ["t0", "t1"], ["t2", "t3", "t4", "t5"], includes_labeled=False)
    assert labeled.both == 1
    (fault,) = of_level(findings, FAULT)
    assert "1 of 2 labeled images also among the unlabeled ones, by content: t0; remove the copies" in fault


# ---- classes ---------------------------------------------------------------------------------------------


def test_raw_ids_are_counted_before_they_are_mapped(tmp_path):
    (tmp_path / "mine.yaml").write_text(YAML)
    mask = np.ones(SIZE, np.uint8)
    mask[0, :10], mask[1, :5], mask[2, :3], mask[3, 0] = 0, 2, 3, 9
    write_example(tmp_path / "data", "train", "a", 0, mask)
    write_example(tmp_path / "data", "train", "b", 1, np.full(SIZE, 3, np.uint8))
    write_example(tmp_path / "data", "val", "c", 2, np.ones(SIZE, np.uint8))
    report, findings = checked(tmp_path / "mine.yaml")
    ones, area = 48 * 64 - 19, 48 * 64
    train = report.splits["train"]
    assert train.raw == {(0, 255): 10, (1, 0): ones, (2, 1): 5, (3, 1): 3 + area, (9, None): 1}
    assert train.pixels() == {255: 10, 0: ones, 1: 8 + area, None: 1}
    shares = domain_json(report, None)["splits"]["train"]
    assert shares["class_shares"]["rest"] == pytest.approx((8 + area) / (2 * area))
    assert shares["raw"][4] == {"value": "9", "class": "UNKNOWN", "pixels": 1}
    assert "raw id 9 is not in the table" in of_level(findings, FAULT)[0]
    assert of_level(findings, WARNING) == [
        "mine, val: no pixel in 1 mask of: rest; expected of few images; else compare the ids of the table with those "
        "of the masks"
    ]
    lines = [line.split() for line in domain_text(report, None).splitlines()]
    assert ["rest", "all", f"{8 + area:,}", "50.13", "-"] in lines and ["2", "5", "0.08", "-"] in lines
    assert ["UNKNOWN", "9", "1", "0.02", "-"] in lines


def test_colours_are_counted_too(tmp_path):
    spec = YAML.replace("size:", "encoding: color\nsize:").replace("ignore_ids: [0]\n", "")
    (tmp_path / "mine.yaml").write_text(spec.replace(", ids: [1]", "").replace(", ids: [2, 3]", ""))
    mask = np.full((*SIZE, 3), (128, 64, 128), np.uint8)
    mask[0, :7], mask[1, :2], mask[2, 0] = (70, 70, 70), (0, 0, 0), (1, 2, 3)
    for split in ("train", "val"):
        write_example(tmp_path / "data", split, split, 5 + len(split), mask[:, :, ::-1])
    report, findings = checked(tmp_path / "mine.yaml")
    raw = {r["value"]: (r["class"], r["pixels"]) for r in domain_json(report, None)["splits"]["train"]["raw"]}
    assert raw == {
        "(128, 64, 128)": ("road", 48 * 64 - 10),
        "(70, 70, 70)": ("rest", 7),
        "(0, 0, 0)": ("ignored", 2),
        "(1, 2, 3)": ("UNKNOWN", 1),
    }
    assert "colour (1, 2, 3) is not in the table" in of_level(findings, FAULT)[0]


def test_smoothed_colour_mask_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("usss_jax.data.check.contents._MAX_UNKNOWN", 50)
    spec = YAML.replace("size:", "encoding: color\nsize:").replace("ignore_ids: [0]\n", "")
    (tmp_path / "mine.yaml").write_text(spec.replace(", ids: [1]", "").replace(", ids: [2, 3]", ""))
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    for split in ("train", "val"):
        write_example(tmp_path / "data", split, split, 5 + len(split), noise)
    raw = checked(tmp_path / "mine.yaml")[0].splits["train"].raw
    assert len(raw) <= 52 and sum(raw.values()) == 48 * 64 and raw[-1, None] > 2900


def test_counting_by_runs_is_counting():
    values = np.random.default_rng(0).integers(0, 4, (50, 70)).astype(np.uint16) * 9000
    found, counts = np.unique(values, return_counts=True)
    assert count_values(values) == dict(zip(found.tolist(), counts.tolist(), strict=True))
    assert count_values(np.full((1, 1), 7)) == {7: 1}


def test_classes_that_no_labeled_image_has_are_a_warning(tmp_path):
    (tmp_path / "mine.yaml").write_text(YAML)
    for name, seed, value in (("a", 0, 1), ("b", 1, 1), ("c", 2, 2), ("void", 3, 0)):
        write_example(tmp_path / "data", "train", name, seed, np.full(SIZE, value, np.uint8))
        write_example(tmp_path / "data", "val", name, 9 + seed)
    report, findings = checked(tmp_path / "mine.yaml")
    assert of_level(findings, FAULT) == []
    assert "1 mask without any labeled pixel" in of_level(findings, WARNING)[0]
    labeled, findings = find_labeled(report, ["a", "b"], ["a", "b", "c"], includes_labeled=True)
    assert labeled.never_seen == ["rest"]
    assert of_level(findings, FAULT)[0].startswith(
        "mine, train: training would stop at once: the classes of the 2 labeled images are road; "
    )
    _, findings = find_labeled(report, ["a", "b"], ["a", "b", "c"], includes_labeled=True, least_classes=1)
    assert of_level(findings, WARNING)[0].startswith("mine, train: no pixel in the 2 labeled images of: rest; ")
    assert find_labeled(report, ["a", "c"], ["a"], includes_labeled=True)[1] == []
    assert "void" in of_level(find_labeled(report, ["a", "c", "void"], ["a"], includes_labeled=True)[1], WARNING)[0]


def test_class_that_no_mask_has_is_a_fault_and_one_that_a_split_lacks_a_warning(mine):
    yaml, data = mine
    more = "ids: [2]}\n  - {name: tree, color: [1, 9, 9], ids: [3]}\n  - {name: moon, color: [9, 9, 9], ids: [4]}"
    yaml.write_text(YAML.replace("ids: [2, 3]}", more))
    for path in (data / "val_masks").iterdir():
        tiny_data.write(path, 1 + 2 * np.eye(*SIZE, dtype=np.uint8))
    _, findings = checked(yaml)
    (fault,), (warning,) = of_level(findings, FAULT), of_level(findings, WARNING)
    assert fault.startswith(
        "mine: no pixel in any mask of: moon; the class table and the masks disagree: correct one of"
    )
    assert warning.startswith("mine, val: no pixel in 3 masks of: rest; ")
    _, findings = checked(yaml, limit=5)
    assert of_level(findings, FAULT) == [], "the sixth image may have it"
    assert of_level(findings, WARNING)[0].startswith("mine: no pixel in any opened mask of: moon; ")


# ---- limit, picture --------------------------------------------------------------------------------------


def test_limit_opens_few_images_spread_through_the_split(mine):
    yaml, data = mine
    (data / "train/t0.png").write_bytes(b"")
    report, findings = checked(yaml, limit=2)
    assert findings == [] and list(report.splits["train"].digests) == ["t1", "t4"]
    assert report.splits["train"].examined == report.splits["val"].examined == 2
    assert find_labeled(report, ["t0"], ["t0"], includes_labeled=True)[1] == [], (
        "what was not opened is no reason to warn"
    )


def test_spread_keeps_equal_distances_and_never_repeats():
    assert spread(range(10), None) == list(range(10)) and spread(range(3), 5) == [0, 1, 2]
    assert spread(range(12), 3) == [2, 6, 10] and spread(range(9), 1) == [4]
    assert all(len(set(spread(range(n), k))) == k for n in range(1, 20) for k in range(1, n + 1))


@pytest.mark.slow
def test_contact_sheet_has_a_row_per_split_and_the_colours_of_the_classes(mine):
    yaml, data = mine
    for path in (data / "train").iterdir():
        tiny_data.write(path, np.zeros((*SIZE, 3), np.uint8))
        mask = np.ones(SIZE, np.uint8)
        mask[:24] = 2
        mask[:, :32] = 0
        tiny_data.write(data / "train_masks" / path.name, mask)
    sheet = draw_sheet(checked(yaml)[0])
    # four cards of two pictures of 260x195 for each of two splits, and a caption of 22 pixels below each
    line, gap = 32, 10
    assert sheet.shape[1] == line + gap + 4 * (2 * 260 + 4) + 3 * gap + gap
    assert sheet.shape[0] > line + 2 * (195 + 22 + gap)
    colors = {tuple(color) for color in sheet.reshape(-1, 3).tolist()}
    for color in ((128, 64, 128), (70, 70, 70)):
        assert color in colors, "of the legend"
        assert tuple(round(0.65 * c) for c in color) in colors, "of the overlay on black"


def test_contact_sheet_leaves_out_what_cannot_be_shown(mine):
    yaml, data = mine
    yaml.write_text(YAML + '  more: {images: "more/{id}.png"}\n')
    tiny_data.write(data / "more/a.png", np.full((*SIZE, 3), (9, 200, 9), np.uint8))
    for path in (data / "val_masks").iterdir():
        path.write_bytes(b"")
    report, _ = checked(yaml)
    sheet = draw_sheet(report)
    assert (sheet == (9, 200, 9)).all(-1).sum() == 260 * 195
    for path in (*(data / "train").iterdir(), *(data / "more").iterdir()):
        path.write_bytes(b"")
    assert draw_sheet(checked(yaml)[0]) is None


def test_palette_masks_and_jpeg_images_are_looked_at_as_training_does(tmp_path):
    (tmp_path / "mine.yaml").write_text(YAML.replace("/{id}.png", "/{id}").replace("masks/{id}", "masks/{id}.png"))
    for split, seed in (("train", 0), ("val", 1)):
        image, mask = tiny_data.scene(np.random.default_rng(seed), SIZE, IDS, void=0)
        (tmp_path / f"data/{split}").mkdir(parents=True)
        (tmp_path / f"data/{split}_masks").mkdir()
        assert cv2.imwrite(str(tmp_path / f"data/{split}/a.jpg"), image)
        picture = Image.fromarray(mask, "P")
        picture.putpalette([255, 0, 0] * 256)
        picture.save(tmp_path / f"data/{split}_masks/a.png")
    report, findings = checked(tmp_path / "mine.yaml")
    assert findings == [] and {value for value, _ in report.splits["train"].raw} == {0, 1, 2, 3}
