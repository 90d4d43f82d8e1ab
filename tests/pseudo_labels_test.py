"""Pseudo-labels in files: written, resumed after an interruption, and read by the streams like any other source."""

import dataclasses
import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from small_files import complaint
from tiny_data import write_cityscapes

from usss_jax.data import pseudo_label_files
from usss_jax.data.cache import Budget, CachedSource
from usss_jax.data.check.findings import FAULT, NOTE, WARNING
from usss_jax.data.check.pseudo_labels import check_pseudo_labels
from usss_jax.data.check.sheet import draw_sheet
from usss_jax.data.check.truth import compare_with_masks, shares
from usss_jax.data.domain import IGNORE
from usss_jax.data.domains import get_domain
from usss_jax.data.labels import read_labels
from usss_jax.data.options import Options
from usss_jax.data.pools import Pools
from usss_jax.data.pseudo_label_files import check_ids, create_folder, read_manifest
from usss_jax.data.pseudo_labels import PseudoLabeled, open_pseudo_labels
from usss_jax.data.sources import open_source
from usss_jax.data.streams import rare_stream, step_batches, stream
from usss_jax.errors import InputError

SIZE = (32, 64)
DOMAIN = dataclasses.replace(get_domain("cityscapes"), size=SIZE, crop=(16, 24))
SETTINGS = {"round": 1, "method": "mlsl", "thresholds": [0.5, 0.25]}


@pytest.fixture
def images(tmp_path):
    """Four images, whose ids have a slash."""
    write_cityscapes(tmp_path / "data", count=4)
    return open_source(DOMAIN, tmp_path / "data", "train", with_masks=False)


def pair(seed):
    """Label and confidence."""
    label = np.random.default_rng(seed).integers(0, 20, SIZE, dtype=np.uint8)
    label[label == 19] = IGNORE
    return label, np.where(label == IGNORE, 0, 10 * label + 5).astype(np.uint8)


def write_all(folder, images, settings=SETTINGS):
    files = create_folder(folder, DOMAIN, images.ids, settings)
    for seed, key in enumerate(images.ids):
        files.write(key, *pair(seed))
    return files


@pytest.fixture
def files(tmp_path, images):
    return write_all(tmp_path / "round1", images)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-20])


# ---- files ----------------------------------------------------------------------------------------------


def test_files_are_grey_png_below_the_id(files, images):
    assert images.ids[1] == "ulm/ulm_000001_000019"
    for kind, array in zip(("labels", "confidences"), pair(1), strict=True):
        with Image.open(files.folder / kind / "ulm/ulm_000001_000019.png") as image:
            assert (image.mode, image.format) == ("L", "PNG")
            np.testing.assert_array_equal(image, array)
    assert not list(files.folder.rglob("*.partial"))


def test_manifest_describes_the_pass(files):
    found = read_manifest(files.folder)
    assert found["domain"] == "cityscapes" and found["classes"][0] == "road" and len(found["classes"]) == 19
    assert found["size"] == [32, 64] and found["images"].startswith("4, hash ") and found["settings"] == SETTINGS


def test_interrupted_pass_continues_with_the_missing_pairs(tmp_path, images):
    files = create_folder(tmp_path / "new", DOMAIN, images.ids, SETTINGS)
    assert files.missing(images.ids) == images.ids
    write_all(tmp_path / "new", images)
    cut_short(files.path("labels", images.ids[0]))
    cut_short(files.path("confidences", images.ids[1]))
    files.path("confidences", images.ids[3]).unlink()
    resumed = create_folder(tmp_path / "new", DOMAIN, images.ids, SETTINGS)
    kept = resumed.path("labels", images.ids[2]).stat().st_mtime_ns
    assert resumed.missing(images.ids) == [images.ids[0], images.ids[1], images.ids[3]]
    for seed in (0, 1, 3):
        resumed.write(images.ids[seed], *pair(seed))
    assert resumed.missing(images.ids) == []
    assert resumed.path("labels", images.ids[2]).stat().st_mtime_ns == kept


def test_every_cut_of_a_file_is_noticed(files, images):
    path = files.path("labels", images.ids[0])
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert files.missing(images.ids) == images.ids[:1]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"settings": SETTINGS | {"round": 2}}, "settings.round was 1, is now 2"),
        ({"settings": {"method": "mlsl", "thresholds": [0.5, 0.25]}}, "settings.round was 1, is now absent"),
        ({"settings": SETTINGS | {"labels": "soft"}}, 'settings.labels was absent, is now "soft"'),
        ({"settings": SETTINGS | {"thresholds": [0.5, 0.3]}}, r"settings.thresholds was \[0.5, 0.25\], is now \["),
        ({"ids": ["a", "b", "c"]}, 'images was "4, hash .*", is now "3, hash '),
        ({"domain": dataclasses.replace(DOMAIN, size=(16, 32))}, r"size was \[32, 64\], is now \[16, 32\]"),
        ({"domain": dataclasses.replace(DOMAIN, classes=DOMAIN.classes[:2])}, 'classes was .*, is now .*"sidewalk"'),
        ({"domain": dataclasses.replace(get_domain("camvid"), size=SIZE)}, 'domain was "cityscapes", is now "camvid"'),
    ],
)
def test_folder_of_another_pass_is_refused_with_the_difference(files, images, change, told):
    with pytest.raises(InputError, match=told) as error:
        create_folder(files.folder, **({"domain": DOMAIN, "ids": images.ids, "settings": SETTINGS} | change))
    assert complaint(error).startswith(f"{files.folder} has other pseudo-labels: ")


def test_order_of_the_images_and_tuples_in_settings_are_no_difference(files, images):
    create_folder(files.folder, DOMAIN, images.ids[::-1], SETTINGS | {"thresholds": (0.5, 0.25)})


def test_labels_of_unknown_origin_are_refused(files, images):
    (files.folder / "pseudo_labels.json").unlink()
    with pytest.raises(InputError, match=r"round1 has pseudo-labels but no pseudo_labels.json"):
        create_folder(files.folder, DOMAIN, images.ids, SETTINGS)


@pytest.mark.parametrize("content", ["", "{", "[1]", "{}", None])
def test_manifest_that_cannot_be_read_is_named(files, images, content):
    path = files.folder / "pseudo_labels.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(InputError, match=r"round1.pseudo_labels.json: cannot be read \(.+\); ") as error:
        open_pseudo_labels(files.folder, DOMAIN, images)
    complaint(error)


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/x", "..", "", "a//b", "./a", "a/", "a\0"])
def test_no_id_leaves_the_folder(tmp_path, key):
    with pytest.raises(InputError, match="names no file below the folder") as error:
        create_folder(tmp_path / "new", DOMAIN, ["good", key], {})
    complaint(error)
    assert not (tmp_path / "new").exists()
    with pytest.raises(InputError, match="names no file below the folder"):
        create_folder(tmp_path / "new", DOMAIN, ["good"], {}).write(key, *pair(0))
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "pseudo_labels.json"]


def test_usual_ids_are_allowed():
    check_ids(["0001TP_006690", "ulm/ulm_000001_000019", "train/a b.c", "...x", "über"])


@pytest.mark.parametrize("wrong", [np.zeros((8, 8), np.uint8), np.zeros(SIZE, int), np.full(SIZE, 19, np.uint8)])
def test_wrong_arrays_are_not_written(files, images, wrong):
    before = {path: path.read_bytes() for path in files.folder.rglob("*.png")}
    with pytest.raises(ValueError, match=images.ids[0]):
        files.write(images.ids[0], wrong, pair(0)[1])
    assert {path: path.read_bytes() for path in files.folder.rglob("*.png")} == before


def test_full_disk_leaves_the_old_file(files, images):
    path = files.path("labels", images.ids[0])
    path.with_name(path.name + ".partial").symlink_to("/dev/full")
    with pytest.raises(InputError, match=f"cannot write {path}: {os.strerror(errno.ENOSPC)}"):
        files.write(images.ids[0], *pair(7))
    np.testing.assert_array_equal(files.label(images.ids[0]), pair(0)[0])


# ---- the source -----------------------------------------------------------------------------------------


def test_examples_are_the_images_with_their_pseudo_labels(files, images):
    source = open_pseudo_labels(files.folder, DOMAIN, images)
    assert list(source.ids) == list(images.ids) and len(source) == 4 and source.file_size(0) == SIZE
    for index in range(4):
        label, example = pair(index)[0], source[index]
        assert set(example) == {"image", "label"}
        np.testing.assert_array_equal(example["image"], images[index]["image"])
        np.testing.assert_array_equal(example["label"], label)
        np.testing.assert_array_equal(source.label(index), label)


def test_selection_keeps_images_and_labels_together(files, images):
    source = open_pseudo_labels(files.folder, DOMAIN, images).select([images.ids[2], images.ids[0]])
    assert source.ids == [images.ids[2], images.ids[0]]
    np.testing.assert_array_equal(source[0]["image"], images[2]["image"])
    np.testing.assert_array_equal(source[0]["label"], pair(2)[0])
    with pytest.raises(InputError, match="'ulm/nothing' is not in"):
        source.select(["ulm/nothing"])


def test_other_images_are_refused(files, images):
    with pytest.raises(InputError, match=r'images was "4, hash .*", is now "3, hash '):
        open_pseudo_labels(files.folder, DOMAIN, images.select(images.ids[1:]))
    with pytest.raises(InputError, match="domain was"):
        open_pseudo_labels(files.folder, get_domain("camvid"), images)


def test_images_of_another_size_are_refused(files, images, tmp_path):
    larger = open_source(DOMAIN, tmp_path / "data", "train", size=(64, 128), with_masks=False)
    with pytest.raises(
        InputError, match=r"labels/ulm/ulm_000000_000019.png: the mask is 32x64 but its image .* is 64x128"
    ):
        open_pseudo_labels(files.folder, DOMAIN, larger)[0]


def as_rgb(path):
    Image.open(path).convert("RGB").save(path)


def as_palette(path):
    Image.open(path).convert("P").save(path)


def smaller(path):
    Image.fromarray(np.zeros((16, 32), np.uint8)).save(path)


def confidences(files, images):
    return lambda index: files.confidence(images.ids[index])


@pytest.mark.parametrize("kind", ["labels", "confidences"])
@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (os.remove, "cannot be read"),
        (cut_short, "is truncated"),
        (as_rgb, "is not an 8-bit grey PNG file"),
        (as_palette, "is not an 8-bit grey PNG file"),
        (smaller, "is 16x32, not 32x64"),
    ],
)
def test_damaged_file_is_named_with_the_remedy(files, images, kind, harm, told):
    path = files.path(kind, images.ids[2])
    harm(path)
    read = {"labels": open_pseudo_labels(files.folder, DOMAIN, images).label, "confidences": confidences(files, images)}
    read[kind](1)
    with pytest.raises(InputError, match=f"^{path}: {told}.*remove {files.folder}, and run the command") as error:
        read[kind](2)
    complaint(error)
    assert files.missing(images.ids) == [images.ids[2]]


def test_class_that_the_domain_lacks_is_named(files, images):
    path = files.path("labels", images.ids[1])
    Image.fromarray(np.full(SIZE, 19, np.uint8)).save(path)
    source = open_pseudo_labels(files.folder, DOMAIN, images)
    with pytest.raises(InputError, match=rf"^{path}: has the train ids \[19\], but cityscapes has 19 classes") as error:
        source.label(1)
    complaint(error)


# ---- training -------------------------------------------------------------------------------------------


def test_labels_are_read_once_and_confidences_never(files, images, monkeypatch):
    read = []
    decode = pseudo_label_files.read_file
    monkeypatch.setattr(pseudo_label_files, "read_file", lambda path: read.append(path) or decode(path))
    budget = Budget(3 * SIZE[0] * SIZE[1])  # of four labels
    source = PseudoLabeled(images, files, budget)
    want = [dict(example) for example in (PseudoLabeled(images, files)[i] for i in range(4))]
    read.clear()
    assert read_labels(source, DOMAIN.num_classes, threads=1).counts.shape == (4, 19)
    for index in [0, 1, 2, 3, 0, 1, 2, 3]:
        example = source[index]
        for key in ("image", "label"):
            np.testing.assert_array_equal(example[key], want[index][key])
    paths = [files.path("labels", key) for key in images.ids]
    assert read == [*paths, paths[3], paths[3]] and budget.used == budget.max_bytes


def test_streams_take_pseudo_labels_as_labels(files, images):
    source = CachedSource(open_pseudo_labels(files.folder, DOMAIN, images), Budget(10**8))
    pool = Pools(DOMAIN, DOMAIN.crop, source, images, source, source, scale=(0.5, 1.0))
    batch = step_batches({"target": pool}, batch_size=3, seed=1)[2]["labeled"]["target"]
    assert {key: (array.shape, array.dtype) for key, array in batch.items()} == {
        "image": ((3, 16, 24, 3), np.uint8),
        "label": ((3, 16, 24), np.uint8),
    }
    assert rare_stream(pool, 0, 0.1)[0]["label"].shape == (16, 24)
    assert read_labels(source, DOMAIN.num_classes).counts.sum() == sum((pair(i)[0] != IGNORE).sum() for i in range(4))


def test_augmented_images_are_those_of_the_images_alone(files, images):
    """The stream of the same seed crops an image alike, with or without its pseudo-label."""
    source = open_pseudo_labels(files.folder, DOMAIN, images)
    pool = Pools(DOMAIN, DOMAIN.crop, source, images, source, source)
    for step in range(5):
        with_labels, alone = stream(source, pool, 3)[step], stream(images, pool, 3)[step]
        np.testing.assert_array_equal(with_labels["image"], alone["image"])


# ---- the check ------------------------------------------------------------------------------------------


def check(files, options=None, **arguments):
    """Report, and the findings of each level as text."""
    root = files.folder.parent / "data"
    report, findings = check_pseudo_labels(DOMAIN, str(root), files.folder, options or Options(), **arguments)
    return report, {level: [str(f) for f in findings if f.level == level] for level in (FAULT, WARNING, NOTE)}


def test_check_counts_classes_and_labeled_pixels(files):
    report, found = check(files)
    split = report.splits["pseudo-labels"]
    labels = np.stack([pair(i)[0] for i in range(4)])
    assert dict(split.pixels()) == {i: (labels == i).sum() for i in (*range(19), IGNORE)}
    assert found[FAULT] == found[WARNING] == []
    assert found[NOTE] == [f"cityscapes, pseudo-labels: {(labels != IGNORE).mean():.1%} of the pixels are labeled"]


def test_check_tells_every_unusable_file(files, images):
    cut_short(files.path("labels", images.ids[0]))
    files.path("confidences", images.ids[1]).unlink()
    Image.fromarray(np.full(SIZE, 77, np.uint8)).save(files.path("labels", images.ids[2]))
    _, found = check(files)
    assert len(found[FAULT]) == 3
    for key, told in zip(images.ids, ("is truncated", "No such file", r"has the train ids [77]"), strict=False):
        assert any(key in line and told in line for line in found[FAULT])


def test_check_tells_an_incomplete_folder(files, images):
    for kind in ("labels", "confidences"):
        files.path(kind, images.ids[3]).unlink()
    _, found = check(files)
    assert len(found[FAULT]) == 1 and "files of 3 images, but the manifest is of 4, hash " in found[FAULT][0]


def test_check_tells_pseudo_labels_without_an_image(files, images, tmp_path):
    next((tmp_path / "data/leftImg8bit/train").rglob("*_000002_*")).unlink()
    report, found = check(files)
    path = files.path("labels", images.ids[2])
    assert len(found[FAULT]) == 1 and f"{path}: is of none of the unlabeled images" in found[FAULT][0]
    assert draw_sheet(report) is not None


def test_check_warns_of_absent_classes_and_unlabeled_images(files, images):
    for seed, key in enumerate(images.ids):
        label, confidence = pair(seed)
        files.write(key, np.where(label < 17, label, IGNORE).astype(np.uint8), confidence)
    files.write(images.ids[0], np.full(SIZE, IGNORE, np.uint8), np.zeros(SIZE, np.uint8))
    _, found = check(files)
    assert found[FAULT] == [] and len(found[WARNING]) == 2
    assert "no pixel in any opened pseudo-label of: motorcycle, bicycle" in found[WARNING][0]
    assert f"1 image without any labeled pixel: {images.ids[0]}" in found[WARNING][1]


def test_check_compares_the_size_of_a_config_with_the_manifest(files):
    report, found = check(files, Options(size=(16, 32)))
    assert "size was [32, 64], is now [16, 32]" in found[FAULT][0] and report.error
    assert check(files, Options(size=SIZE))[1][FAULT] == []


def test_contact_sheet_lays_pseudo_labels_over_the_images(files, images, tmp_path):
    for path in (tmp_path / "data/leftImg8bit/train").rglob("*.png"):
        Image.fromarray(np.zeros((64, 128, 3), np.uint8)).save(path)
    for key in images.ids:
        files.write(key, np.full(SIZE, 13, np.uint8), np.full(SIZE, 255, np.uint8))
    sheet = draw_sheet(check(files, limit=2)[0])
    color = np.rint(0.65 * np.array(DOMAIN.classes[13].color)).astype(np.uint8)
    panel = (sheet == color).all(-1).sum()
    assert panel == 2 * 159 * 318  # the area of 260x195, in the shape of the images


@pytest.mark.slow
def test_check_command_understands_the_folder(files, tmp_path):
    def run(domain):
        root = f"--data_root={domain}={tmp_path / 'data'}"
        flags = [f"--domain={domain}", root, f"--pseudo_labels={files.folder}"]
        command = [sys.executable, "-m", "usss_jax.data.check", *flags, f"--out={tmp_path / 'out'}"]
        return subprocess.run(command, capture_output=True, text=True)

    result = run("cityscapes")
    assert result.returncode == 0 and result.stderr == ""
    assert "0 faults, 0 warnings" in result.stdout and "of the pixels are labeled" in result.stdout
    assert (tmp_path / "out/cityscapes.png").stat().st_size > 1000
    splits = json.loads((tmp_path / "out/check.json").read_text())["domains"]["cityscapes"]["splits"]
    assert splits["pseudo-labels"]["images"] == 4 and splits["pseudo-labels"]["class_shares"]["road"] > 0
    wrong = run("camvid")
    assert wrong.returncode == 2 and "belongs to the domain 'cityscapes', not to camvid" in wrong.stderr


def test_the_check_compares_pseudo_labels_with_masks(tmp_path, images):
    """Half of the pixels get the right label, a quarter the wrong one, the others none."""
    root = tmp_path / "data"
    masks = open_source(DOMAIN, root, "train").select(images.ids)
    folder = tmp_path / "round"
    files = create_folder(folder, DOMAIN, images.ids, {})
    counts = dict.fromkeys(("class", "labeled", "right"), 0)
    for i, key in enumerate(images.ids):
        mask = masks.label(i)
        label = mask.copy()
        label[::4] = 255
        label[1::4] = (mask[1::4] + 1) % 3
        inside = mask != 255
        counts["class"] += inside.sum()
        counts["labeled"] += (inside & (label != 255)).sum()
        counts["right"] += (inside & (label == mask)).sum()
        files.write(key, label, np.zeros_like(label))
    found = compare_with_masks(DOMAIN, root, folder, "train")
    assert found["covered"] == pytest.approx(counts["labeled"] / counts["class"])
    assert found["right"] == pytest.approx(counts["right"] / counts["labeled"])
    with pytest.raises(InputError, match=f"--truth=val: {images.ids[0]} is no image of that split"):
        compare_with_masks(DOMAIN, root, folder, "val")


def test_shares_of_right_pseudo_labels_by_class():
    confusion = np.array([[6, 2, 2], [0, 0, 4], [0, 0, 0]][:2])
    domain = dataclasses.replace(DOMAIN, classes=DOMAIN.classes[:2])
    found = shares(confusion, domain)
    one, two = found["classes"].values()
    assert one == {"covered": 0.8, "found": 0.6, "right": 1.0} and two == {"covered": 0.0, "found": 0.0, "right": 0.0}
    assert found["covered"] == pytest.approx(8 / 14) and found["right"] == pytest.approx(6 / 8)
