"""Lists of labeled images as other projects write them."""

import time

import pytest
import yaml

from usss_jax.data.domains import get_domain
from usss_jax.data.lists import read_ids
from usss_jax.errors import InputError

CITYSCAPES_IDS = ["aachen/aachen_000000_000019", "ulm/ulm_000000_000019", "ulm/ulm_000001_000019"]
CAMVID_IDS = ["0001TP_006690", "0001TP_006720", "my drive/0002 a"]


def write(tmp_path, text):
    path = tmp_path / "labeled.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def own(tmp_path, **train):
    spec = {"name": "own", "size": [8, 8], "classes": [{"name": "x", "color": [1, 1, 1], "ids": 1}]}
    spec |= {"splits": {"train": train}, "val_split": "train"}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(spec))
    return get_domain(str(tmp_path / "own.yaml"))


@pytest.mark.parametrize(
    "line",
    [
        "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png gtFine/train/ulm/ulm_000000_000019_labelIds.png",
        "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png\tgtFine/train/ulm/any.png",
        "/leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png",
        "./data//cityscapes/leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png",
        "train/ulm/ulm_000000_000019_leftImg8bit.jpg",
        "ulm/ulm_000000_000019_leftImg8bit.png",
        "ulm_000000_000019_leftImg8bit.png",
        "ulm_000000_000019_leftImg8bit",
        "ulm/ulm_000000_000019",
        "ulm_000000_000019",
        "ulm_000000_000019.png",
    ],
)
def test_line_of_a_cityscapes_list_names_its_image(tmp_path, line):
    assert read_ids(write(tmp_path, line), get_domain("cityscapes"), CITYSCAPES_IDS) == ["ulm/ulm_000000_000019"]


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("0001TP_006690", "0001TP_006690"),
        ("0001TP_006690.png", "0001TP_006690"),
        ("/SegNet/CamVid/train/0001TP_006690.png /SegNet/CamVid/trainannot/0001TP_006690.png", "0001TP_006690"),
        ("my drive/0002 a", "my drive/0002 a"),
        ("train/my drive/0002 a.png trainannot/my drive/0002 a.png", "my drive/0002 a"),
        ("0002 a.png\t0002 a.png", "my drive/0002 a"),
    ],
)
def test_line_of_a_camvid_list_names_its_image(tmp_path, line, key):
    assert read_ids(write(tmp_path, line), get_domain("camvid"), CAMVID_IDS) == [key]


@pytest.mark.parametrize(
    ("train", "key", "lines"),
    [
        (
            {"images": "JPEGImages/{id}.jpg", "masks": "SegmentationClass/{id}.png"},
            "2007_000032",
            ["JPEGImages/2007_000032.jpg SegmentationClass/2007_000032.png", "VOC2012/JPEGImages/2007_000032.jpg"],
        ),
        (
            {"images": "img/*/*_rgb.jpg"},
            "ulm/a",
            ["img/ulm/a_rgb.jpg", "ulm/a_rgb.jpg", "x/img/ulm/a_rgb", "a_rgb.jpg"],
        ),
        ({"images": "img/**/*_rgb"}, "ulm/old/a", ["img/ulm/old/a_rgb.jpg", "old/a_rgb.jpg", "ulm/old/a", "a"]),
        ({"images": "img/**/*_rgb"}, "a", ["img/a_rgb.jpg", "a_rgb.png", "a"]),
        ({"list": "train.txt"}, "img/ulm/a_rgb", ["img/ulm/a_rgb.jpg", "x/img/ulm/a_rgb.jpg", "ulm/a_rgb.jpg m.png"]),
    ],
)
def test_line_is_understood_by_the_domains_own_pattern(tmp_path, train, key, lines):
    domain = own(tmp_path, **train)
    for line in lines:
        assert read_ids(write(tmp_path, line), domain, [key, "other/b"]) == [key], line


def test_drawn_domain_has_lists_of_ids(tmp_path):
    ids = [f"{i:05d}" for i in range(300)]
    assert read_ids(write(tmp_path, "00007\n00003\n"), get_domain("city_street"), ids) == ["00007", "00003"]


def test_order_of_the_file_is_kept_and_comments_are_not_read(tmp_path):
    text = b"\xef\xbb\xbf# made by hand\r\nulm_000001_000019\r\n\r\n   # more\r\n  aachen_000000_000019  \r\n"
    ids = read_ids(write(tmp_path, text), get_domain("cityscapes"), iter(CITYSCAPES_IDS))
    assert ids == ["ulm/ulm_000001_000019", "aachen/aachen_000000_000019"]


def test_image_of_another_split_is_not_taken_for_one_of_the_same_number(tmp_path):
    """Both splits of NYUv2 count from 1."""
    domain, ids = get_domain("nyu13"), ["0001", "0002"]
    path = write(tmp_path, "nyu_test_rgb/nyu_rgb_0001.png")
    with pytest.raises(InputError, match=r"labeled\.txt:1: .* is not an image of nyu13 \(train\)"):
        read_ids(path, domain, ids)
    assert read_ids(path, domain, ids, splits=("val",)) == ["0001"]


def test_images_of_several_splits_are_found(tmp_path):
    ids = [*CITYSCAPES_IDS, "erlangen/erlangen_1"]
    path = write(tmp_path, "leftImg8bit/train_extra/erlangen/erlangen_1_leftImg8bit.png\nulm_000000_000019")
    want = ["erlangen/erlangen_1", "ulm/ulm_000000_000019"]
    assert read_ids(path, get_domain("cityscapes"), ids, splits=("train", "train_extra")) == want


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "# a\nulm_000000_000018\n",
            "txt:2: 'ulm_000000_000018' is not an image of cityscapes (train); closest is 'ulm/u",
        ),
        ("zebra", "txt:1: 'zebra' is not an image of cityscapes (train); correct or remove this line"),
        ("leftImg8bit/val/ulm/ulm_000000_000019_leftImg8bit.png", "txt:1: 'leftImg8bit/val/ulm/ulm_000000_000019_left"),
        (
            "ulm_000000_000019\naachen_000000_000019\nulm_000000_000019.png",
            "txt:3: repeats the image 'ulm/ulm_000000_0000",
        ),
        ("", "txt: this list has no image; write one per line"),
        ("# a\n\n", "txt: this list has no image"),
        (b"\xe4", "txt: this list is not UTF-8 text; save it as UTF-8"),
    ],
)
def test_wrong_list_is_named_with_its_line(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(InputError) as error:
        read_ids(path, get_domain("cityscapes"), CITYSCAPES_IDS)
    assert str(error.value).startswith(str(path)) and message in str(error.value)
    assert "\n" not in str(error.value)


def test_image_named_twice_names_both_lines(tmp_path):
    with pytest.raises(InputError, match=r"txt:3: repeats the image .* of line 1; remove one"):
        read_ids(
            write(tmp_path, "ulm_000000_000019\n\nulm/ulm_000000_000019"), get_domain("cityscapes"), CITYSCAPES_IDS
        )


def test_name_of_two_images_is_refused(tmp_path):
    ids = ["day/0001", "night/0001", "night/0002"]
    with pytest.raises(InputError, match=r"'0001' may be 'day/0001' or 'night/0001' of camvid; write the whole id"):
        read_ids(write(tmp_path, "0002\n0001"), get_domain("camvid"), ids)


def test_whole_id_is_never_ambiguous(tmp_path):
    assert read_ids(write(tmp_path, "0001"), get_domain("camvid"), ["0001", "night/0001"]) == ["0001"]


def test_list_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.txt: this list cannot be read \(No such file.*correct its path"):
        read_ids(tmp_path / "gone.txt", get_domain("camvid"), CAMVID_IDS)


@pytest.mark.parametrize("name", ["city{i}/frame", "city{i}/frame{i}"])
def test_long_list_is_read_quickly(tmp_path, name):
    """About 0.5 s; comparing every line with every image takes minutes. Names that all folders share are the worst."""
    ids = [name.format(i=i) for i in range(20000)]
    path = write(tmp_path, "\n".join(f"leftImg8bit/train/{i}_leftImg8bit.png gtFine/{i}.png" for i in ids))
    start = time.monotonic()
    assert read_ids(path, get_domain("cityscapes"), ids) == ids
    assert time.monotonic() - start < 10
