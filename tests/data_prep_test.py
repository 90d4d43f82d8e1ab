"""Preparation of every data set, its resumption after a kill, its report, and its complaints."""

import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
import tiny_data
import yaml
from absl.testing import flagsaver
from PIL import Image

from data_prep import builder, camvid, cityscapes, gta5, idd, idd_lite, inputs, nyuv2, own, sun_rgbd, synthia
from data_prep import labeled_lists as lists_command
from data_prep import prepare as command
from data_prep.builder import RecordsConfig
from data_prep.shards import _in_order
from usss_jax.config import checked, default_config
from usss_jax.data.decode import resize_image, resize_label
from usss_jax.data.domain import IGNORE
from usss_jax.data.domains import get_domain
from usss_jax.data.pools import open_all
from usss_jax.data.sources import open_source
from usss_jax.errors import InputError

H, W = 12, 16
ROOT = pathlib.Path(__file__).parent.parent


def smooth(seed, size=(H, W)):
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (5, 5), 2)


def write_image(path, seed=0, size=(H, W)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(smooth(seed, size)).save(path)


def write_mask(path, seed, raw_ids, bits=8, size=(H, W)):
    path.parent.mkdir(parents=True, exist_ok=True)
    ids = np.random.default_rng(seed).choice(np.asarray(raw_ids), size)
    if bits == 16:  # the class is the first channel, which OpenCV writes last
        assert cv2.imwrite(str(path), np.dstack([ids * 0, ids * 0 + 7, ids]).astype(np.uint16))
    else:
        Image.fromarray(ids.astype(np.uint8)).save(path)


def write(root, images, masks, ids, raw_ids, bits=8, shift=0):
    """Write images and masks under templates with {id}; `masks` None writes none."""
    for seed, key in enumerate(ids):
        write_image(root / images.replace("{id}", key), seed)
        if masks:
            name = f"{int(key) + shift:06d}" if shift else key
            write_mask(root / masks.replace("{id}", name), seed, raw_ids, bits)


def write_splits(root, images, masks, ids, raw_ids, splits=("train", "val"), shifts=None):
    for split in splits:
        place = (text.replace("{split}", split) for text in (images, masks))
        write(root, *place, ids, raw_ids, shift=(shifts or {}).get(split, 0))


def builder_of(builder_class, source, data_dir, domain=None, **settings):
    domain = domain or get_domain(builder_class.domains[0])
    config = RecordsConfig(domain=domain, source=str(source), **settings)
    return builder_class(data_dir=str(data_dir), config=config, file_format="array_record")


def prepare(builder_class, source, data_dir, domain=None, **settings):
    """Prepare; returns the report and the folder of the version."""
    made = builder_of(builder_class, source, data_dir, domain, **settings)
    made.download_and_prepare()
    folder = pathlib.Path(made.data_dir)
    return json.loads((folder / "report.json").read_text()), folder


def contents(folder):
    """Bytes of all files but the report, which has the time in it."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "report.json"}


def same(one, other):
    assert list(one.ids) == list(other.ids)
    for i in range(len(one)):
        assert one[i].keys() == other[i].keys()
        assert all(np.array_equal(one[i][key], other[i][key]) for key in one[i])


def tiny_camvid(root, count=6):
    tiny_data.write_camvid(root, count=count)
    return root


# ---- every data set -------------------------------------------------------------------------------------

LIDS, FRAMES = [7, 33, 0, 29], "leftImg8bit/{split}/{id}_leftImg8bit.png"
NUMBERS = [f"{i:06d}" for i in range(1, 4)]


def _cityscapes(root, masks="labelIds", ids=LIDS):
    write_splits(root, FRAMES, f"gtFine/{{split}}/{{id}}_gtFine_{masks}.png", ["ulm/a", "bonn/b"], ids)


def _cityscapes_with_test(root):
    _cityscapes(root, "labelTrainIds", [0, 18, 255])
    write(root, "leftImg8bit/test/{id}_leftImg8bit.png", None, ["berlin/c"], [])


def _cityscapes_with_extra(root):
    _cityscapes(root)
    write(root, "leftImg8bit/train_extra/{id}_leftImg8bit.png", None, ["mainz/d", "augsburg/e"], [])


def _idd_lite(root):
    masks = "idd20k_lite/gtFine/{split}/{id}_label.png"
    write_splits(root, "idd20k_lite/leftImg8bit/{split}/{id}_image.jpg", masks, ["7/a", "9/b"], [0, 6, 255])
    write(root, "idd20k_lite/leftImg8bit/test/{id}_image.jpg", None, ["3/c"], [])


def _sun13(root):
    masks = "{split}13labels/img13labels-{id}.png"
    write_splits(root, "SUNRGBD-{split}_images/img-{id}.jpg", masks, NUMBERS, [0, 1, 13], ("train", "test"))


def _sun37(root):
    masks = "sunrgbd_train_test_labels/img-{id}.png"
    images = "SUNRGBD-{split}_images/img-{id}.jpg"
    write_splits(root, images, masks, NUMBERS, [0, 1, 37], ("train", "test"), shifts={"train": 5050})


def _nyu13(root):
    masks = "nyuv2_{split}_class13/new_nyu_class13_{id}.png"
    write_splits(root, "nyu_{split}_rgb/nyu_rgb_{id}.png", masks, ["0001", "0004"], [0, 1, 13], ("train", "test"))


def _nyu37(root):
    write_splits(root, "{split}/rgb/{id}.png", "{split}/labels_40/{id}.png", ["0001"], [0, 37, 40], ("train", "test"))


def _gta5(root):
    write(root, "images/{id}.png", "labels/{id}.png", [f"{i:05d}" for i in range(1, 22)], [7, 33, 34])


def _synthia(root):
    write(root, "RGB/{id}.png", "GT/LABELS/{id}.png", [f"{i:07d}" for i in range(12)], [0, 3, 22, 1, 12], bits=16)


def _idd(root):
    write_splits(root, FRAMES, "gtFine/{split}/{id}_gtFine_labellevel3Ids.png", ["0/x", "1/y"], [0, 25, 255])


ALL = [
    (camvid.Camvid, "camvid", tiny_camvid, {"train": 6, "val": 6, "test": 6}, []),
    (cityscapes.Cityscapes, "cityscapes", _cityscapes, {"train": 2, "val": 2}, ["test"]),
    (cityscapes.Cityscapes, "cityscapes", _cityscapes_with_extra, {"train": 2, "val": 2, "train_extra": 2}, ["test"]),
    (cityscapes.Cityscapes, "cityscapes16", _cityscapes, {"train": 2, "val": 2}, ["test"]),
    (cityscapes.Cityscapes, "cityscapes256", _cityscapes_with_test, {"train": 2, "val": 2, "test": 1}, []),
    (idd_lite.IddLite, "idd_lite", _idd_lite, {"train": 2, "val": 2, "test": 1}, []),
    (idd.Idd, "idd", _idd, {"train": 2, "val": 2}, ["test"]),
    (sun_rgbd.SunRgbd, "sun13", _sun13, {"train": 3, "val": 3}, []),
    (sun_rgbd.SunRgbd, "sun37", _sun37, {"train": 3, "val": 3}, []),
    (nyuv2.Nyuv2, "nyu13", _nyu13, {"train": 2, "val": 2}, []),
    (nyuv2.Nyuv2, "nyu37", _nyu37, {"train": 1, "val": 1}, []),
    (gta5.Gta5, "gta5", _gta5, {"train": 19, "val": 2}, []),
    (synthia.Synthia, "synthia", _synthia, {"train": 11, "val": 1}, []),
]


@pytest.mark.parametrize("builder_class,name,make,counts,absent", ALL, ids=[row[1] for row in ALL])
@pytest.mark.slow
def test_records_of_every_data_set_are_the_folder(tmp_path, builder_class, name, make, counts, absent):
    source, domain = tmp_path / "source", get_domain(name)
    make(source)
    for size, config in ((None, name), ((10, 14), f"{name}_10x14")):
        report, folder = prepare(builder_class, source, tmp_path / "out", domain, size=size)
        assert folder == tmp_path / "out" / builder_class.name / config / "1.0.0"
        assert {split: s["images"] for split, s in report["splits"].items()} == counts
        assert set(absent) <= set(report["absent_splits"]) <= {*absent, "train_extra"}
        for split in counts:
            labeled = report["splits"][split]["pairs"] > 0
            assert labeled or split in ("test", "train_extra")
            arguments = {"size": size or (H, W), "with_masks": labeled}
            records = open_source(domain, f"tfds:{folder}", split, **arguments)
            same(open_source(domain, source, split, **arguments), records)


@pytest.mark.parametrize("name", ["gta5", "synthia"])
def test_held_out_images_are_no_training_images(tmp_path, name):
    builder_class, _, make, *_ = next(row for row in ALL if row[1] == name)
    make(tmp_path / "source")
    _, folder = prepare(builder_class, tmp_path / "source", tmp_path / "out")
    read = tfds.builder_from_directory(folder)
    ids = {split: {e["id"].decode() for e in read.as_data_source(split)} for split in read.info.splits}
    assert ids.keys() == {"train", "val"} and not ids["train"] & ids["val"]


def test_tfds_reads_decoded_images_and_encoded_labels(tmp_path):
    source = tmp_path / "source"
    _idd_lite(source)
    _, folder = prepare(idd_lite.IddLite, source, tmp_path / "out")
    read = tfds.builder_from_directory(folder)
    assert read.info.splits["train"].num_examples == 2 and read.info.file_format.value == "array_record"
    example = read.as_data_source("train")[1]
    assert example["id"] == b"9/b" and example["image"].shape == (H, W, 3)
    label = Image.open(io.BytesIO(example["label"]))
    assert label.mode == "L" and set(np.unique(label)) <= {0, 6, 255}
    assert read.as_data_source("test")[0]["label"] is None
    assert len(read.as_data_source("train[1:]")) == 1


def raw(folder, split):
    skip = tfds.decode.SkipDecoding()
    return tfds.builder_from_directory(folder).as_data_source(split, decoders={"image": skip, "label": skip})


def test_original_files_are_kept_as_they_are(tmp_path):
    _idd_lite(tmp_path)
    path = tmp_path / "idd20k_lite/leftImg8bit/train/7/a_image.jpg"
    for size in (None, (H, W)):
        _, folder = prepare(idd_lite.IddLite, tmp_path, tmp_path / "out", size=size)
        assert raw(folder, "train")[0]["image"] == path.read_bytes()


@pytest.mark.parametrize("image_format", ["png", "jpeg"])
def test_resized_images_are_png_unless_jpeg_is_asked_for(tmp_path, image_format):
    source = tiny_camvid(tmp_path / "source")
    report, folder = prepare(camvid.Camvid, source, tmp_path / "out", size=(24, 32), image_format=image_format)
    metadata = json.loads((folder / "metadata.json").read_text())
    lossy = image_format == "jpeg"
    assert metadata["lossy"] == report["lossy"] == lossy and ("lossy" in report["images"]) == lossy
    assert metadata["size"] == [24, 32] and folder.parent.name == "camvid_24x32" + "_jpeg" * lossy
    example = raw(folder, "train")[0]
    whole = open_source(get_domain("camvid"), source, "train", size=(48, 64))[0]
    decoded = np.asarray(Image.open(io.BytesIO(example["image"])))
    difference = np.abs(decoded.astype(int) - resize_image(whole["image"], (24, 32)))
    assert (difference.mean() < 8) if lossy else (difference.max() == 0)
    assert example["image"].startswith(b"\xff\xd8" if lossy else b"\x89PNG")
    assert np.array_equal(Image.open(io.BytesIO(example["label"])), resize_label(whole["label"], (24, 32)))


def own_domain(root, **splits):
    """YAML domain with the given splits beside a labeled train."""
    spec = {
        "name": "mine",
        "root": "pictures",
        "size": [H, W],
        "classes": [{"name": "road", "color": [128, 64, 128], "ids": 5}, {"name": "sky", "color": [1, 2, 3], "ids": 9}],
        "splits": {"train": {"images": "i/{id}.png", "masks": "m/{id}.png"}} | splits,
        "val_split": "train",
    }
    write(root / "pictures", "i/{id}.png", "m/{id}.png", ["a", "b"], [5, 9])
    (root / "mine.yaml").write_text(yaml.safe_dump(spec))
    return get_domain(str(root / "mine.yaml"))


def test_domain_of_ones_own_with_a_split_without_labels(tmp_path):
    domain = own_domain(tmp_path, extra={"images": "extra/{id}.png"}, more={"images": "more/{id}.png"})
    write(tmp_path / "pictures", "extra/{id}.png", None, ["c"], [])
    report, folder = prepare(own.Own, tmp_path / "pictures", tmp_path / "out", domain)
    assert folder == tmp_path / "out/own/mine/1.0.0" and report["absent_splits"] == ["more"]
    assert report["splits"]["extra"] | {"without_label": 1, "pairs": 0} == report["splits"]["extra"]
    assert raw(folder, "extra")[0]["label"] is None


def test_splits_of_lists(tmp_path):
    domain, source = own_domain(tmp_path, train={"list": "t.txt"}, extra={"list": "e.txt"}), tmp_path / "pictures"
    (source / "t.txt").write_text("i/b.png m/b.png\ni/a.png m/a.png\n")
    (source / "e.txt").write_text("i/a.png\n")
    report, folder = prepare(own.Own, source, tmp_path / "out", domain)
    assert {name: s["pairs"] for name, s in report["splits"].items()} == {"train": 2, "extra": 0}
    same(open_source(domain, source, "train"), open_source(domain, f"tfds:{folder}", "train"))
    with pytest.raises(InputError, match="it has no labels"):
        open_source(domain, f"tfds:{folder}", "extra")
    (source / "t.txt").write_text("i/b.png m/b.png\ni/a.png\n")
    with pytest.raises(InputError, match=r"t\.txt:2: names no mask for .*--missing_mask=keep"):
        prepare(own.Own, source, tmp_path / "again", domain)


@pytest.mark.parametrize("name", ["all", "my split"])
def test_name_that_tfds_cannot_read_is_refused(tmp_path, name):
    domain = own_domain(tmp_path, **{name: {"images": "extra/{id}.png"}})
    with pytest.raises(InputError, match=f"split '{name}' of mine: records need a name"):
        prepare(own.Own, tmp_path / "pictures", tmp_path / "out", domain)


def test_paths_with_spaces_and_other_letters(tmp_path):
    source = tiny_camvid(tmp_path / "my daten ä 数据")
    (source / "train/0001TP_000000.png").rename(source / "train/é ü.png")
    (source / "trainannot/0001TP_000000.png").rename(source / "trainannot/é ü.png")
    _, folder = prepare(camvid.Camvid, source, tmp_path / "aus gabe ö")
    arguments = {"size": (48, 64)}
    same(
        open_source(get_domain("camvid"), source, "train", **arguments),
        open_source(get_domain("camvid"), f"tfds:{tmp_path / 'aus gabe ö'}", "train", **arguments),
    )
    assert raw(folder, "train")[5]["id"].decode() == "é ü"


# ---- IDD from polygons ----------------------------------------------------------------------------------


def polygons(*objects, size=(H, W)):
    return {"imgHeight": size[0], "imgWidth": size[1], "objects": [dict(o) for o in objects]}


def polygon(label, *points, **more):
    return {"label": label, "polygon": [list(p) for p in points], **more}


SQUARE = [(2, 3), (8, 3), (8, 9), (2, 9)]


def draw(*objects):
    return idd.rasterize_level3(json.dumps(polygons(*objects)).encode(), "f.json")


def test_polygons_are_drawn_in_order_with_their_edges():
    mask = draw(polygon("sky", (0, 0), (15, 0), (15, 11), (0, 11)), polygon("car", *SQUARE))
    expected = np.full((H, W), 25)
    expected[3:10, 2:9] = 9  # Pillow fills the edge too
    assert np.array_equal(mask, expected)


def test_deleted_polygons_are_left_out_and_the_rest_is_ignored():
    mask = draw(polygon("car", *SQUARE, deleted=1), polygon("truck", *SQUARE, deleted=0))
    assert mask[5, 5] == 10 and mask[0, 0] == IGNORE


@pytest.mark.parametrize(
    ("label", "level"),
    [
        *[("animal", 4), ("cargroup", 9), ("polegroup", 20), ("tunnel", 23), ("license plate", IGNORE), ("parking", 1)],
        *[("rail track", 3), ("caravan", 12), ("train", 12), ("fallback background", 25), ("vehicle fallback", 12)],
        *zip(get_domain("idd").class_names, range(26), strict=True),
    ],
)
def test_level_of_a_label(label, level):
    assert draw(polygon(label, *SQUARE))[5, 5] == level


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (polygons(polygon("zebra", *SQUARE)), "f.json: label 'zebra' is not one of IDD's"),
        (polygons(polygon("carsgroup", *SQUARE)), "label 'carsgroup' is not"),
        (polygons(polygon("car", (1, 2))), "f.json: polygon of 'car' is wrong"),
        (polygons(polygon("car", (1, "x"), (1, 2), (3, 3))), "polygon of 'car' is wrong"),
        ({"objects": []}, "f.json: is not a file of IDD polygons"),
        ([], "is not a file of IDD polygons"),
    ],
)
def test_wrong_polygons_name_the_file(data, message):
    with pytest.raises(InputError, match=message):
        idd.rasterize_level3(json.dumps(data).encode(), "f.json")


def test_masks_of_idd_are_drawn_where_there_is_no_png(tmp_path):
    source, domain = tmp_path / "source", get_domain("idd")
    _idd(source)
    by_png = prepare(idd.Idd, source, tmp_path / "png", domain)[1]
    for path in source.rglob("*labellevel3Ids.png"):  # one polygon a pixel draws the same masks
        mask = np.asarray(Image.open(path))
        names = list(domain.class_names)
        dots = [
            polygon(names[level] if level < 26 else "unlabeled", (x, y), (x, y))
            for (y, x), level in np.ndenumerate(mask)
        ]
        drawn = path.with_name(path.name.replace("_labellevel3Ids.png", "_polygons.json"))
        drawn.write_text(json.dumps(polygons(*dots)))
        if "/train/" in str(path) or "/1/" in str(path):  # val has a PNG left
            path.unlink()
    by_polygons = prepare(idd.Idd, source, tmp_path / "json", domain)[1]
    for split in ("train", "val"):
        assert [dict(e) for e in raw(by_png, split)] == [dict(e) for e in raw(by_polygons, split)]


def test_idd_without_masks_says_what_it_looked_for(tmp_path):
    write_splits(tmp_path, FRAMES, "unused/{split}/{id}.png", ["0/x"], [0])
    with pytest.raises(InputError, match=r"images but no masks; looked for gtFine/train/.*labellevel3Ids\.png"):
        prepare(idd.Idd, tmp_path, tmp_path / "out")


# ---- killed, resumed, done already ----------------------------------------------------------------------

SLOW = """
import sys, time
from data_prep import builder, camvid, inputs, prepare
inputs.SHARD_EXAMPLES = 2
encode = builder.encode_example
def slow(item, **settings):
    time.sleep(0.15)
    return encode(item, **settings)
builder.encode_example = slow
prepare.run(camvid.Camvid, ["x", *sys.argv[1:]])
"""


def start(source, data_dir, *more):
    words = [sys.executable, "-c", SLOW, f"--source={source}", f"--data_dir={data_dir}", "--workers=1", *more]
    return subprocess.Popen(
        words,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": "."},
    )


def wait_for(condition, process, seconds=60):
    for _ in range(seconds * 100):
        if condition():
            return
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    raise AssertionError("took too long")


@pytest.mark.slow
def test_killed_run_resumes_with_its_finished_shards(tmp_path):
    source = tiny_camvid(tmp_path / "source", count=7)
    unbroken = start(source, tmp_path / "unbroken")
    killed = start(source, tmp_path / "out")
    work = tmp_path / "out/camvid/camvid/.partial_1.0.0"
    wait_for(lambda: len(list(work.glob("*.json"))) >= 3 and list(work.glob("1.0.0/*.writing")), killed)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    final = tmp_path / "out/camvid/camvid/1.0.0"
    assert not final.exists()
    finished = {json.loads(p.read_text())["file"] for p in work.glob("*.json")}
    before = {name: (work / "1.0.0" / name).stat().st_mtime_ns for name in finished}

    again = start(source, tmp_path / "out")
    text = again.communicate()[0]
    assert again.returncode == 0, text
    assert "of 21 images were done before" in text
    assert {name: (final / name).stat().st_mtime_ns for name in finished} == before
    assert unbroken.communicate() and unbroken.returncode == 0
    assert contents(final) == contents(tmp_path / "unbroken/camvid/camvid/1.0.0")
    assert not work.exists() and len(contents(final)) == 12 + 3


def stamps(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*")}


def test_done_already_changes_nothing_and_reports_again(tmp_path, capsys):
    source = tiny_camvid(tmp_path / "source")
    config = {"domain": get_domain("camvid"), "source": str(source)}
    first = command.prepare(camvid.Camvid, RecordsConfig(**config), str(tmp_path / "out"))
    before, text = stamps(tmp_path / "out"), capsys.readouterr().out
    assert command.prepare(camvid.Camvid, RecordsConfig(**config), str(tmp_path / "out")) == first
    again = capsys.readouterr().out
    assert stamps(tmp_path / "out") == before and "is prepared already" in again
    assert again.splitlines()[1:] == text.splitlines()[1:]


def delete(path):
    path.unlink()


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(("spoil", "said"), [(delete, "is missing"), (cut, "is truncated")])
def test_spoilt_records_are_not_prepared_already(tmp_path, capfd, spoil, said):
    words = (f"--source={tiny_camvid(tmp_path / 'source')}", f"--data_dir={tmp_path}/out")
    assert run(camvid.Camvid, *words) == 0
    shard = next(tmp_path.glob("out/camvid/camvid/1.0.0/camvid-val*"))
    spoil(shard)
    capfd.readouterr()
    assert run(camvid.Camvid, *words) == 2
    out, err = capfd.readouterr()
    assert out == "" and len(err.splitlines()) == 1
    assert f"{shard}: {said}" in err and "delete its folder and prepare it again" in err


@pytest.mark.parametrize("name", ["metadata.json", "report.json", "dataset_info.json", "features.json"])
@pytest.mark.parametrize("spoil", [delete, lambda path: path.write_text("{")], ids=["deleted", "damaged"])
def test_folder_that_lacks_a_file_is_to_be_deleted(tmp_path, name, spoil):
    source = tiny_camvid(tmp_path / "source", count=1)
    made = builder_of(camvid.Camvid, source, tmp_path / "out")
    made.download_and_prepare()
    folder = pathlib.Path(made.data_dir)
    spoil(folder / name)
    with pytest.raises(InputError, match=f"^{folder}: is incomplete: {name} cannot be read .*; delete this folder"):
        made.download_and_prepare()


def test_records_that_lack_what_was_skipped_are_refused_without_skipping(tmp_path):
    source = tiny_camvid(tmp_path / "source")
    path, _ = truncate(source)
    report, folder = prepare(camvid.Camvid, source, tmp_path / "out", on_bad_example="skip")
    before = stamps(folder)
    with pytest.raises(InputError, match=r"on_bad_example=skip and lacks the 1 skipped .*delete this folder") as error:
        prepare(camvid.Camvid, source, tmp_path / "out")
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert prepare(camvid.Camvid, source, tmp_path / "out", on_bad_example="skip") == (report, folder)
    assert stamps(folder) == before


def test_source_that_changed_since_is_an_error(tmp_path):
    source = tiny_camvid(tmp_path / "source")
    _, folder = prepare(camvid.Camvid, source, tmp_path / "out")
    before = stamps(tmp_path / "out")
    os.utime(source / "val/0001TP_000001.png")
    with pytest.raises(InputError, match=f"{folder}: was prepared from other files.*delete this folder"):
        prepare(camvid.Camvid, source, tmp_path / "out")
    assert stamps(tmp_path / "out") == before


def test_table_that_changed_since_is_an_error(tmp_path):
    domain, source = own_domain(tmp_path), tmp_path / "pictures"
    prepare(own.Own, source, tmp_path / "out", domain)
    text = (tmp_path / "mine.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("name: sky", "name: sea"))
    with pytest.raises(InputError, match=r'has changed since it was prepared: classes was .*"sky".*, is now .*"sea"'):
        prepare(own.Own, source, tmp_path / "out", get_domain(str(tmp_path / "mine.yaml")))
    (tmp_path / "mine.yaml").write_text(text.replace("ids: 9", "ids: [9, 10]"))
    with pytest.raises(InputError, match=r"ids\.sky was \[9\], is now \[9, 10\]; delete this folder and prepare"):
        prepare(own.Own, source, tmp_path / "out", get_domain(str(tmp_path / "mine.yaml")))


def break_one(source, monkeypatch):
    """Prepare a data set whose last image is damaged, shards of 2; returns the work folder and the repair."""
    monkeypatch.setattr(inputs, "SHARD_EXAMPLES", 2)
    last = source / "test/0001TP_000005.png"
    data = last.read_bytes()
    last.write_bytes(data[:50])
    return source.parent / "out/camvid/camvid/.partial_1.0.0", lambda: last.write_bytes(data)


def test_only_shards_of_changed_files_are_done_again(tmp_path, monkeypatch):
    source = tiny_camvid(tmp_path / "source")
    work, repair = break_one(source, monkeypatch)
    with pytest.raises(InputError, match=r"0001TP_000005.png: is truncated.*--on_bad_example=skip"):
        prepare(camvid.Camvid, source, tmp_path / "out")
    assert not list(work.glob("1.0.0/*.writing"))
    before = {p.name: p.stat().st_mtime_ns for p in (work / "1.0.0").iterdir()}
    assert len(before) == 8
    repair()
    os.utime(source / "train/0001TP_000002.png")
    _, folder = prepare(camvid.Camvid, source, tmp_path / "out")
    redone = {name for name, stamp in before.items() if (folder / name).stat().st_mtime_ns != stamp}
    assert redone == {"camvid-train.array_record-00001-of-00003"}


def test_finished_shards_survive_another_number_of_shards(tmp_path, monkeypatch):
    source = tiny_camvid(tmp_path / "source")
    work, repair = break_one(source, monkeypatch)
    with pytest.raises(InputError):
        prepare(camvid.Camvid, source, tmp_path / "out")
    before = (work / "1.0.0/camvid-train.array_record-00000-of-00003").stat().st_mtime_ns
    repair()
    for folder in ("train", "trainannot"):  # sorts last
        shutil.copy(source / folder / "0001TP_000003.png", source / folder / "z.png")
    _, folder = prepare(camvid.Camvid, source, tmp_path / "out")
    assert (folder / "camvid-train.array_record-00000-of-00004").stat().st_mtime_ns == before
    _, fresh = prepare(camvid.Camvid, source, tmp_path / "fresh")
    assert contents(folder) == contents(fresh)


def test_order_and_bytes_do_not_depend_on_the_workers(tmp_path):
    source = tiny_camvid(tmp_path / "source", count=20)
    folders = [prepare(camvid.Camvid, source, tmp_path / str(n), size=(24, 32), workers=n)[1] for n in (1, 7)]
    assert contents(folders[0]) == contents(folders[1])


def test_few_examples_are_under_way_at_a_time():
    waiting, most = [0], [0]
    lock = threading.Lock()

    def encode(item):
        with lock:
            waiting[0] += 1
            most[0] = max(most[0], waiting[0])
        return item

    with ThreadPoolExecutor(8) as pool:
        for item, future in _in_order(pool, encode, range(200), window=5):
            assert future.result() == item
            with lock:
                waiting[0] -= 1
    assert most[0] <= 5


def test_second_run_at_the_same_time_is_refused(tmp_path):
    source = tiny_camvid(tmp_path / "source")
    final = tmp_path / "out/camvid/camvid/1.0.0"
    with builder._work_folder(final), pytest.raises(InputError, match="another run is preparing this"):
        prepare(camvid.Camvid, source, tmp_path / "out")
    prepare(camvid.Camvid, source, tmp_path / "out")


@pytest.mark.parametrize("changed", [False, True])
def test_what_another_run_published_meanwhile_is_looked_at(tmp_path, monkeypatch, changed):
    source, work_folder = tiny_camvid(tmp_path / "source"), builder._work_folder
    final = tmp_path / "out/camvid/camvid/1.0.0"

    def late(folder):
        monkeypatch.setattr(builder, "_work_folder", work_folder)
        prepare(camvid.Camvid, source, tmp_path / "out")
        if changed:
            (final / "camvid-val.array_record-00000-of-00001").write_bytes(b"")
        before.update(stamps(final))
        return work_folder(folder)

    before = {}
    monkeypatch.setattr(builder, "_work_folder", late)
    if changed:
        with pytest.raises(InputError, match=r"val.array_record-00000-of-00001: is truncated"):
            prepare(camvid.Camvid, source, tmp_path / "out")
    else:
        prepare(camvid.Camvid, source, tmp_path / "out")
        assert not final.with_name(".partial_1.0.0").exists()
    assert before and stamps(final) == before


def test_what_a_run_killed_at_the_very_end_left_is_removed(tmp_path, monkeypatch):
    source, work = tiny_camvid(tmp_path / "source"), tmp_path / "out/camvid/camvid/.partial_1.0.0"
    with monkeypatch.context() as patch:
        patch.setattr(builder.shutil, "rmtree", lambda *_, **__: None)
        prepare(camvid.Camvid, source, tmp_path / "out")
    assert (work / "train-00000.json").exists()
    with builder._work_folder(work.with_name("1.0.0")):  # a run that is still there, or has just come
        prepare(camvid.Camvid, source, tmp_path / "out")
        assert (work / "train-00000.json").exists()
    prepare(camvid.Camvid, source, tmp_path / "out")
    assert [p.name for p in work.parent.iterdir()] == ["1.0.0"]


def test_unknown_arguments_are_refused(tmp_path):
    made = builder_of(camvid.Camvid, tiny_camvid(tmp_path / "source", count=1), tmp_path / "out")
    for wrong in ("progres", "download_dir"):
        with pytest.raises(TypeError, match=wrong):
            made.download_and_prepare(**{wrong: None})
    assert not (tmp_path / "out").exists()
    with pytest.raises(TypeError, match="name"):
        RecordsConfig(name="x", domain=get_domain("camvid"), source="source")


# ---- report ---------------------------------------------------------------------------------------------


def test_report_counts_what_is_there(tmp_path):
    source = tiny_camvid(tmp_path / "source", count=3)
    write_image(source / "train/0001TP_000001.png", size=(20, 30))
    write_mask(source / "trainannot/0001TP_000001.png", 0, [3], size=(20, 30))
    report, folder = prepare(camvid.Camvid, source, tmp_path / "out")
    train = report["splits"]["train"]
    assert (train["images"], train["pairs"], train["without_label"], train["shards"]) == (3, 3, 0, 1)
    assert train["image_sizes"] == {"48x64": 2, "20x30": 1}
    assert train["classes"]["road"]["pixels"] >= 600 and len(train["classes"]) == 11
    counted = sum(c["pixels"] for c in train["classes"].values())
    pixels = 2 * 48 * 64 + 600
    assert train["ignore_share"] == pytest.approx((pixels - counted) / pixels, abs=1e-5) and train["ignore_share"] > 0
    assert sum(c["share"] for c in train["classes"].values()) == pytest.approx(1, abs=1e-5)
    assert len(train["ids_sha256"]) == 16 and train["ids_sha256"] == report["splits"]["val"]["ids_sha256"]
    assert report["size"] == "original" and report["seconds"] > 0
    size = sum(p.stat().st_size for p in folder.glob("*array_record*"))
    assert report["mb"] == pytest.approx(size / 1e6, abs=0.01)


def test_metadata_tells_the_bytes_of_every_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "SHARD_EXAMPLES", 4)
    _, folder = prepare(camvid.Camvid, tiny_camvid(tmp_path / "source"), tmp_path / "out")
    metadata = json.loads((folder / "metadata.json").read_text())
    shards = {name: size for split in metadata["splits"].values() for name, size in split["shards"].items()}
    assert shards == {p.name: p.stat().st_size for p in folder.glob("*array_record*")} and len(shards) == 6
    assert metadata["domain"] == "camvid" and metadata["classes"] == list(get_domain("camvid").class_names)


def test_large_files_make_small_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "SHARD_BYTES", 1)
    report, _ = prepare(camvid.Camvid, tiny_camvid(tmp_path / "source", count=2), tmp_path / "out")
    assert report["splits"]["train"]["shards"] == 2


# ---- bad input ------------------------------------------------------------------------------------------


def truncate(source):
    path = source / "train/0001TP_000001.png"
    path.write_bytes(path.read_bytes()[:-30])
    return path, "is truncated"


def empty(source):
    path = source / "trainannot/0001TP_000001.png"
    path.write_bytes(b"")
    return path, "is empty"


def unknown_id(source):
    write_mask(source / "trainannot/0001TP_000001.png", 0, [77], size=(48, 64))
    return source / "trainannot/0001TP_000001.png", "raw id 77 is not in the table"


def mismatch(source):
    write_mask(source / "trainannot/0001TP_000001.png", 0, [0], size=(48, 65))
    return source / "trainannot/0001TP_000001.png", "the mask is 48x65 but its image"


def broken_link(source):
    path = source / "train/0001TP_000001.png"
    path.unlink()
    path.symlink_to(source / "gone.png")
    return path, "cannot be read"


def no_mask(source):
    (source / "trainannot/0001TP_000001.png").unlink()
    return source / "train/0001TP_000001.png", "has no mask"


@pytest.mark.parametrize("damage", [truncate, empty, unknown_id, mismatch, broken_link, no_mask])
@pytest.mark.parametrize("shard", [1, 500])
def test_bad_example_is_an_error_or_is_skipped(tmp_path, monkeypatch, damage, shard):
    monkeypatch.setattr(inputs, "SHARD_EXAMPLES", shard)
    source = tiny_camvid(tmp_path / "source", count=3)
    path, message = damage(source)
    with pytest.raises(InputError) as error:
        prepare(camvid.Camvid, source, tmp_path / "out")
    assert str(error.value).startswith(str(path)) and message in str(error.value) and "\n" not in str(error.value)
    report, folder = prepare(camvid.Camvid, source, tmp_path / "out", on_bad_example="skip")
    assert len(report["skipped"]) == 1 and str(path) in report["skipped"][0]
    assert [s["images"] for s in report["splits"].values()] == [2, 3, 3]
    source = open_source(get_domain("camvid"), f"tfds:{folder}", "train")
    assert list(source.ids) == ["0001TP_000000", "0001TP_000002"] and source[1]["label"].shape == (360, 480)
    assert [e["id"] for e in raw(folder, "train")] == [b"0001TP_000000", b"0001TP_000002"]


def test_nothing_left_to_prepare(tmp_path):
    source = tiny_camvid(tmp_path / "source", count=1)
    (source / "val/0001TP_000000.png").write_bytes(b"")
    with pytest.raises(InputError, match="no example of split 'val' can be used"):
        prepare(camvid.Camvid, source, tmp_path / "out", on_bad_example="skip")


def test_shards_with_skipped_examples_are_done_again_when_skipping_ends(tmp_path):
    """Train is finished but for one image, and then the run ends, since no image of val can be used."""
    source = tiny_camvid(tmp_path / "source")
    bad = source / "train/0001TP_000001.png"
    data, stamp = bad.read_bytes(), bad.stat().st_mtime_ns

    def write_bad(content):
        bad.write_bytes(content)
        os.utime(bad, ns=(stamp, stamp))  # nothing but the flag may be a reason to do the shard again

    write_bad(bytes(len(data)))
    (source / "val").rename(source / "away")
    for path in (source / "away").iterdir():
        (source / "val").mkdir(exist_ok=True)
        (source / "val" / path.name).write_bytes(b"")
    with pytest.raises(InputError, match="no example of split 'val' can be used"):
        prepare(camvid.Camvid, source, tmp_path / "out", on_bad_example="skip")
    work = tmp_path / "out/camvid/camvid/.partial_1.0.0"
    shard = work / "1.0.0/camvid-train.array_record-00000-of-00001"
    finished = json.loads((work / "train-00000.json").read_text())
    assert shard.stat().st_size == finished["bytes"] and len(finished["ids"]) == 5 and len(finished["skipped"]) == 1

    shutil.rmtree(source / "val")
    (source / "away").rename(source / "val")
    with pytest.raises(InputError, match=f"^{bad}: "):
        prepare(camvid.Camvid, source, tmp_path / "out")
    assert json.loads((work / "train-00000.json").read_text()) == finished and shard.exists()
    write_bad(data)
    report, _ = prepare(camvid.Camvid, source, tmp_path / "out")
    assert report["splits"]["train"]["pairs"] == 6 and not report["skipped"]


def test_absent_needed_split_and_wrong_folder(tmp_path):
    source = tiny_camvid(tmp_path / "source")
    shutil.rmtree(source / "test")
    with pytest.raises(InputError, match="split 'test' of domain 'camvid': no images; looked for test/"):
        prepare(camvid.Camvid, source, tmp_path / "out")
    with pytest.raises(InputError, match="split 'train' of domain 'camvid': no images"):
        prepare(camvid.Camvid, tmp_path, tmp_path / "out")
    with pytest.raises(InputError, match=r"no folder .*nothing"):
        prepare(camvid.Camvid, tmp_path / "nothing", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_images_with_one_id(tmp_path):
    source = tiny_camvid(tmp_path / "source")
    write_image(source / "train/0001TP_000001.jpg")
    with pytest.raises(InputError, match="have the same id"):
        prepare(camvid.Camvid, source, tmp_path / "out")


FILL = """
describe = builder.DomainBuilder._describe
def fill(self, *arguments):
    with contextlib.suppress(OSError), open(sys.argv[2].partition("=")[2] + "/filler", "xb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    describe(self, *arguments)
builder.DomainBuilder._describe = fill
"""


@pytest.mark.parametrize("full", ["half way", "at the end"])
@pytest.mark.slow
def test_full_disk_is_one_line_and_keeps_finished_shards(tmp_path, full):
    """On a small file system of its own, which only a privileged user may make."""
    source, disk = tiny_camvid(tmp_path / "source", count=6), tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("may not mount a file system")
    code = "import contextlib" + SLOW.replace("time.sleep(0.15)", "pass")
    code = code.replace("prepare.run", (FILL if full == "at the end" else "") + "prepare.run")
    size = 600 if full == "half way" else 3000  # in KiB; 9 shards of 128
    again = f'{sys.executable} -c "$0" "$@"; echo rc=$?; find {disk}; '
    script = f"mount -t tmpfs -o size={size}k tmpfs {disk}; {again} mount -o remount,size=9000k {disk}; {again}"
    words = ["unshare", "-m", "sh", "-c", script, code, f"--source={source}", f"--data_dir={disk}", "--workers=2"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": "."})
    left, _, complete = done.stdout.partition("rc=2")[2].partition("rc=0")
    finished = left.count("/camvid-")
    assert 0 < finished < 9 if full == "half way" else finished == 9
    assert complete.count("/camvid-") == 9 and ".writing" not in complete and ".partial" not in complete
    line = next(line for line in done.stderr.splitlines() if "error: " in line)
    assert "cannot be written (" in line and "No space left on device" in line and str(disk) in line
    assert "finished shards are kept" in line and "Traceback" not in done.stderr
    assert f"camvid: {2 * finished} of 18 images were done before" in done.stderr


# ---- command line ---------------------------------------------------------------------------------------


def run(builder_class, *words):
    """Run the command line in this process; returns the exit code."""
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as end:
        command.run(builder_class, ["data_prep", *map(str, words)])
    return end.value.code or 0


def test_command_line(tmp_path, capfd):
    source = tiny_camvid(tmp_path / "source")
    words = (f"--source={source}", f"--data_dir={tmp_path}/out", "--size=24x32", "--workers=2")
    assert run(camvid.Camvid, *words) == 0
    out = capfd.readouterr().out
    assert "camvid_24x32" in out and "bicyclist" in out and "\ntrain with --config.data.root=" in out
    fields = dict(word.removeprefix("--config.").split("=", 1) for word in out.rpartition("train with ")[2].split())
    assert fields == {"data.root": f"tfds:{tmp_path}/out", "data.image_size": "camvid=24x32"}
    config = default_config()
    config.update_from_flattened_dict({"data.domains": ["camvid"], "data.labeled_per_domain": "all", **fields})
    assert len(open_all(checked(config))["camvid"].labeled) > 0
    assert run(camvid.Camvid, *words) == 0
    assert "is prepared already" in capfd.readouterr().out


def test_command_line_of_ones_own_domain_finds_its_folder(tmp_path):
    own_domain(tmp_path)
    assert run(own.Own, f"--domain={tmp_path}/mine.yaml", f"--data_dir={tmp_path}/out") == 0
    assert (tmp_path / "out/own/mine/1.0.0/report.json").exists()


GOOD = ("--source=source", "--data_dir=out")


@pytest.mark.parametrize(
    ("builder_class", "words", "message"),
    [
        (camvid.Camvid, (), "--source is missing"),
        (camvid.Camvid, ("--source=x",), "--data_dir is missing"),
        (camvid.Camvid, ("--sourc=x",), "Did you mean: source"),
        (camvid.Camvid, ("x", *GOOD), "'x' is not a flag"),
        (camvid.Camvid, ("--workers=0", *GOOD), "--workers=0"),
        (camvid.Camvid, ("--workers=x", *GOOD), "--workers=x"),
        (camvid.Camvid, ("--image_format=gif", *GOOD), "--image_format=gif"),
        (camvid.Camvid, ("--image_format=jpeg", *GOOD), "give --size"),
        (camvid.Camvid, ("--on_bad_example=x", *GOOD), "--on_bad_example=x"),
        (camvid.Camvid, ("--size=32", *GOOD), "--size=32: must be HEIGHTxWIDTH"),
        (camvid.Camvid, ("--size=0x5", *GOOD), "--size=0x5: must be HEIGHTxWIDTH"),
        (camvid.Camvid, ("--size=32x24", *GOOD), "did you mean 24x32?"),
        (camvid.Camvid, ("--domain=idd", *GOOD), "--domain=idd: this data set has camvid"),
        (cityscapes.Cityscapes, ("--domain=camvid", *GOOD), "has cityscapes, cityscapes16, cityscapes256"),
        (own.Own, GOOD, "give the .yaml file of your domain"),
        (own.Own, ("--domain=camvid", *GOOD), "give the .yaml file of your domain"),
        (own.Own, ("--domain=nothing.yaml", *GOOD), "nothing.yaml: cannot read this file"),
        (camvid.Camvid, GOOD, "no folder 'source'"),
    ],
)
def test_wrong_command_line_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capfd, builder_class, words, message):
    monkeypatch.chdir(tmp_path)
    assert run(builder_class, *words) == 2
    err = capfd.readouterr().err.strip()
    assert message in err and len(err.splitlines()) == 1 and err.startswith("data_prep: error: ")


@pytest.mark.parametrize("size", ["20x20", "10x10"])
def test_squares_are_no_matter(tmp_path, size):
    tiny_camvid(tmp_path / "source", count=1)
    words = (f"--source={tmp_path}/source", f"--data_dir={tmp_path}/out", f"--size={size}")
    assert run(camvid.Camvid, *words) == 0


def test_data_dir_that_cannot_be_made(tmp_path, capfd):
    tiny_camvid(tmp_path / "source", count=1)
    (tmp_path / "file").write_text("")
    assert run(camvid.Camvid, f"--source={tmp_path}/source", f"--data_dir={tmp_path}/file") == 2
    assert "cannot be written (Not a directory); give another --data_dir" in capfd.readouterr().err


@pytest.mark.parametrize(
    "name", ["camvid", "cityscapes", "idd", "idd_lite", "sun_rgbd", "nyuv2", "gta5", "synthia", "own"]
)
def test_every_module_says_its_command(name):
    module = pathlib.Path(builder.__file__).with_name(f"{name}.py").read_text()
    assert f"python -m data_prep.{name} " in module and "prepare.run(" in module
    table = pathlib.Path(builder.__file__).with_name("README.md").read_text()
    assert f"python -m data_prep.{name} " in table


def test_labeled_lists_without_data_are_one_line_and_exit_code_2(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["labeled_lists", f"--data_root={tmp_path}/nope", f"--out={tmp_path}/lists"])
    with pytest.raises(SystemExit) as end:
        lists_command.main()
    err = capfd.readouterr().err
    assert end.value.code == 2 and len(err.splitlines()) == 1
    assert err.startswith(f"data_prep: error: no folder '{tmp_path}/nope/camvid'")
