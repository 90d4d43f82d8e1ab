"""Folders as people have them: names that differ in form, endings, thumbnails, notes, companions, mixed layouts."""

import os
import shutil
import unicodedata

import cv2
import numpy as np
import pytest
import tiny_data
import yaml
from small_files import CLASSES, H, W, camvid, complaint, open_camvid, write_ids, write_image

from usss_jax.data.check.domain import check_domain, uses_of
from usss_jax.data.check.findings import FAULT, NOTE, find_faults
from usss_jax.data.domains import get_domain
from usss_jax.data.options import Options
from usss_jax.data.pools import open_pools
from usss_jax.data.sources import open_source
from usss_jax.errors import InputError


def mine(tmp_path, **splits):
    """Domain of the ids 1 and 2 in the folder data/; train is in images/ and masks/, or as `splits` say."""
    spec = {
        "name": "mine",
        "root": "data",
        "size": [H, W],
        "classes": CLASSES[:2],
        "splits": {"train": {"images": "images", "masks": "masks"}} | splits,
        "val_split": "train",
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(spec))
    return get_domain(str(tmp_path / "mine.yaml"))


def write_pair(root, image, mask, seed=0):
    write_image(root / "images" / image, seed)
    write_ids(root / "masks/any.png", [1, 2])
    (root / "masks" / mask).parent.mkdir(parents=True, exist_ok=True)
    os.replace(root / "masks/any.png", root / "masks" / mask)


def opened(domain, split="train", **arguments):
    return open_source(domain, domain.folder, split, **arguments)


def findings_of(domain, level):
    report = check_domain(domain, domain.folder, uses_of(domain))
    return [str(finding) for finding in find_faults(report) if finding.level == level]


# ---- masks whose names are not quite the expected ones ---------------------------------------------------


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("a.png", "a.PNG"),
        ("a.JPG", "a.Png"),
        ("Img_1.jpg", "IMG_1.png"),
        ("a.jpg", "a.jpg.png"),
        ("a.jpeg", "a.jpeg.PNG"),
        ("ulm/a.b.jpg", "ulm/a.b.png"),
        (unicodedata.normalize("NFD", "M\u00fcnchen.png"), unicodedata.normalize("NFC", "M\u00fcnchen.png")),
        (unicodedata.normalize("NFC", "M\u00fcnchen.png"), unicodedata.normalize("NFD", "M\u00fcnchen.PNG")),
    ],
)
def test_mask_that_differs_in_form_alone_is_found(tmp_path, image, mask):
    write_pair(tmp_path / "data", image, mask)
    source = opened(mine(tmp_path))
    assert set(source[0]["label"].ravel().tolist()) == {0, 1}
    assert findings_of(mine(tmp_path), FAULT) == []


def test_id_has_composed_letters_whoever_wrote_the_file(tmp_path):
    """So that the same images are labeled on every system."""
    for form in ("NFC", "NFD"):
        write_pair(tmp_path / form / "data", unicodedata.normalize(form, "\u00e9t\u00e9.png"), "\u00e9t\u00e9.png")
        assert opened(mine(tmp_path / form)).ids == ["\u00e9t\u00e9"]


def test_folder_of_a_pattern_may_be_decomposed(tmp_path):
    folder = unicodedata.normalize("NFD", "Stra\u00dfe-\u00fc")
    write_pair(tmp_path / "data" / folder, "a.png", "a.png")
    where = {"images": "Stra\u00dfe-\u00fc/images", "masks": "Stra\u00dfe-\u00fc/masks"}
    assert opened(mine(tmp_path, train=where))[0]["label"].max() == 1


def test_mask_of_another_image_is_not_taken(tmp_path):
    """Where case matters A.png and a.png are two images; only A.png has a mask."""
    write_pair(tmp_path / "data", "A.png", "A.png")
    write_image(tmp_path / "data/images/a.png", 1)
    if len(os.listdir(tmp_path / "data/images")) < 2:
        pytest.skip("this file system does not tell them apart")
    with pytest.raises(InputError, match=r"images/a\.png has no mask"):
        opened(mine(tmp_path))


def test_two_masks_that_may_be_meant_are_named(tmp_path):
    write_pair(tmp_path / "data", "b.jpg", "b.png")
    for name in ("A.png", "a.jpg.png"):
        write_pair(tmp_path / "data", "a.jpg", name)
    with pytest.raises(InputError) as error:
        opened(mine(tmp_path))
    text = complaint(error)
    assert "A.png and " in text and "a.jpg.png may be its mask, rename one" in text


def test_missing_mask_names_the_nearest_that_are_there(tmp_path):
    write_pair(tmp_path / "data", "frame_0001.png", "frame_0001.png")
    write_pair(tmp_path / "data", "frame_0002.png", "frame_0002_labelIds.png")
    with pytest.raises(InputError) as error:
        opened(mine(tmp_path))
    text = complaint(error)
    assert "frame_0002.png has no mask: looked for" in text
    assert "; similar names: masks/frame_0001.png, masks/frame_0002_labelIds.png; add it" in text
    (fault,) = [fault for fault in findings_of(mine(tmp_path), FAULT) if "without a mask" in fault]
    assert "; similar names: masks/frame_0001.png, masks/frame_0002_labelIds.png; add the masks" in fault


def test_folder_that_is_not_there_names_the_nearest(tmp_path):
    write_pair(tmp_path / "data", "a.png", "a.png")
    with pytest.raises(InputError, match=r"looked for image/\*.*; similar names: images"):
        opened(mine(tmp_path, train={"images": "image", "masks": "masks"}))
    with pytest.raises(InputError, match=r"images but no masks; looked for mask/\*\.png; similar names: masks"):
        opened(mine(tmp_path, train={"images": "images", "masks": "mask"}))


@pytest.mark.parametrize("train_ids", [1, 5, 6])
def test_masks_are_those_of_the_most_complete_layout(tmp_path, train_ids):
    """createTrainIdLabelImgs.py was interrupted after some images."""
    tiny_data.write_cityscapes(tmp_path, 6)
    masks = sorted((tmp_path / "gtFine/train").rglob("*_labelIds.png"))
    for mask in masks[:train_ids]:
        label = np.full((64, 128), 255, np.uint8)
        assert cv2.imwrite(str(mask).replace("labelIds", "labelTrainIds"), label)
    domain = get_domain("cityscapes")
    source = open_source(domain, tmp_path, "train", size=(64, 128))
    assert len(source) == 6 and (source.label(0).min() < 255) == (train_ids < 6)
    report = check_domain(domain, str(tmp_path), uses_of(domain), size=(64, 128))
    assert not [f for f in find_faults(report) if f.level == FAULT and "mask" in f.kind]


# ---- files that are images, and files that are none ------------------------------------------------------


@pytest.mark.parametrize("ending", [".jfif", ".JPE", ".jif"])
def test_other_names_of_jpeg_files_are_read(tmp_path, ending):
    write_pair(tmp_path / "data", "a.jpg", "a.png")
    os.replace(tmp_path / "data/images/a.jpg", tmp_path / f"data/images/a{ending}")
    assert opened(mine(tmp_path))[0]["image"].shape == (H, W, 3)


@pytest.mark.parametrize("name", ["b.webp", "b.tga", "b.PNM", "b.avif", "b.heic", "b.jxl", "b.tif", "b.dng"])
def test_image_of_another_format_is_never_left_out_in_silence(tmp_path, name):
    write_pair(tmp_path / "data", "a.png", "a.png")
    (tmp_path / "data/images" / name).write_bytes(b"anything")
    with pytest.raises(InputError, match=rf"images/{name} has an unsupported format.*convert it to PNG or JPEG"):
        opened(mine(tmp_path), with_masks=False)


@pytest.mark.parametrize("name", ["b", "b.bak", "b.001"])
def test_image_with_an_unusual_ending_is_told_by_its_content(tmp_path, name):
    write_pair(tmp_path / "data", "a.png", "a.png")
    shutil.copy(tmp_path / "data/images/a.png", tmp_path / "data/images" / name)
    with pytest.raises(InputError, match=f"images/{name} has an unsupported format"):
        opened(mine(tmp_path), with_masks=False)


def test_other_files_among_the_images_are_counted(tmp_path):
    write_pair(tmp_path / "data", "a.png", "a.png")
    for name in ("notes.txt", "a.json", "b.json"):
        (tmp_path / "data/images" / name).write_text("x")
    domain = mine(tmp_path)
    pool = open_pools(domain, domain.folder, Options(labeled="all"))
    (line,) = pool.left_out
    assert line == f"3 other files among the images (.json 2, .txt 1), such as {tmp_path}/data/images/a.json"
    assert [line for line in findings_of(domain, NOTE) if "3 other files among the images (.json 2, .txt 1)" in line]


@pytest.mark.parametrize(
    "name",
    [
        *("@eaDir/a.jpg/SYNOFILE_THUMB_M.jpg", ".thumbnails/a.png", "Thumbs.db", "._a.png", "@__thumb/default0001.jpg"),
        *("#recycle/old.png", "$RECYCLE.BIN/x.png", "lost+found/1.png", "__MACOSX/._a.png", "SYNOPHOTO_THUMB_S.jpg"),
    ],
)
def test_what_desktops_and_nas_systems_leave_is_never_data(tmp_path, name):
    write_pair(tmp_path / "data", "a.png", "a.png")
    for folder in ("images", "masks"):
        write_image(tmp_path / f"other/{folder}.png")
        target = tmp_path / "data" / folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(tmp_path / f"other/{folder}.png", target)
    assert opened(mine(tmp_path)).ids == ["a"]
    assert findings_of(mine(tmp_path), FAULT) == findings_of(mine(tmp_path), NOTE) == []


@pytest.mark.parametrize("name", ["a_inst.png", "a-color.png", "a_labelTrainIds.png"])
def test_companion_of_a_mask_is_no_fault(tmp_path, name):
    for seed, stem in enumerate("ab"):
        write_pair(tmp_path / "data", f"{stem}.png", f"{stem}.png", seed)
    write_ids(tmp_path / "data/masks" / name, [1, 2])
    (note,) = findings_of(mine(tmp_path), NOTE)
    assert f"1 file next to the masks, never read: {tmp_path}/data/masks/{name}" in note
    assert findings_of(mine(tmp_path), FAULT) == []


def test_mask_whose_image_is_missing_is_no_companion(tmp_path):
    write_pair(tmp_path / "data", "img_1.png", "img_1.png")
    for name in ("img_1_2.png", "img_2.png"):
        write_ids(tmp_path / "data/masks" / name, [1, 2])
    (fault,) = findings_of(mine(tmp_path), FAULT)
    assert "2 masks without an image" in fault


# ---- lists -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        *("images/a.png masks/a.png", "/images/a.png /masks/a.png", "images\\a.png\tmasks\\a.png"),
        *("images/a.png,masks/a.png", '"images/a.png", "masks/a.png"', "images/a.png ; masks/a.png"),
        "\ufeffimages/a.png masks/a.png\r\n",
    ],
)
def test_list_of_paths_in_the_forms_that_people_have(tmp_path, line):
    write_pair(tmp_path / "data", "a.png", "a.png")
    (tmp_path / "data/train.txt").write_bytes(line.encode())
    source = opened(mine(tmp_path, train={"list": "train.txt"}))
    assert source.ids == ["images/a"] and source[0]["label"].max() == 1


def test_list_saved_as_utf_16_and_one_with_the_root_before_its_paths(tmp_path):
    write_pair(tmp_path / "data", "a.png", "a.png")
    for data in ("images/a.png masks/a.png".encode("utf-16"), f"{tmp_path}/data/images/a.png\tmasks/a.png".encode()):
        (tmp_path / "data/train.txt").write_bytes(data)
        assert opened(mine(tmp_path, train={"list": "train.txt"})).ids == ["images/a"]


@pytest.mark.parametrize(
    "text", ["b\n", "b.png", "/images/b.png /masks/b.png", "images\\b.png", "b\r\n", "\ufeffb", "b,1", "b 1", "b\t1"]
)
def test_list_beside_patterns_chooses_among_their_images(tmp_path, text):
    """As of VOC: ImageSets/Segmentation/train.txt has bare ids."""
    for seed, name in enumerate("abc"):
        write_pair(tmp_path / "data", f"{name}.png", f"{name}.png", seed)
    (tmp_path / "data/train.txt").write_bytes(text.encode())
    domain = mine(tmp_path, train={"list": "train.txt", "images": "images", "masks": "masks"})
    assert opened(domain).ids == ["b"] and findings_of(domain, FAULT) == []


def test_mask_that_a_list_names_and_the_patterns_do_not_mean_is_refused(tmp_path):
    for seed, name in enumerate("ab"):
        write_pair(tmp_path / "data", f"{name}.png", f"{name}.png", seed)
    domain = mine(tmp_path, train={"list": "train.txt", "images": "images", "masks": "masks"})
    (tmp_path / "data/train.txt").write_text("images/a.png masks/a.png\nimages/b.png\n")
    assert opened(domain).ids == ["a", "b"]
    for mask in ("other/a.png", "masks/b.png"):
        (tmp_path / "data/train.txt").write_text(f"images/a.png {mask}\nimages/b.png\n")
        with pytest.raises(
            InputError, match=rf"train\.txt:1: names the mask '{mask}', but by .* it is masks/a\.png; corr"
        ):
            opened(domain)


def test_list_may_have_the_root_s_own_name_before_its_paths_and_no_utf_16_without_a_mark(tmp_path):
    write_pair(tmp_path / "data", "a.png", "a.png")
    (tmp_path / "data/train.txt").write_text("data/images/a.png data/masks/a.png\n")
    assert opened(mine(tmp_path, train={"list": "train.txt"})).ids == ["images/a"]
    (tmp_path / "data/train.txt").write_bytes("images/a.png".encode("utf-16-le"))
    with pytest.raises(InputError, match="is not UTF-8 text, perhaps UTF-16; save it as UTF-8"):
        opened(mine(tmp_path, train={"list": "train.txt"}))


def test_list_of_bare_ids_alone_says_how_to_write_it(tmp_path):
    write_pair(tmp_path / "data", "a.png", "a.png")
    (tmp_path / "data/train.txt").write_text("a\n")
    with pytest.raises(InputError) as error:
        opened(mine(tmp_path, train={"list": "train.txt"}))
    assert "{list: FILE, images: FOLDER, masks: FOLDER}" in complaint(error)
    (fault,) = findings_of(mine(tmp_path, train={"list": "train.txt"}), FAULT)
    assert "{list: FILE, images: FOLDER, masks: FOLDER}" in fault


def test_list_with_a_decomposed_name_finds_its_image(tmp_path):
    camvid(tmp_path, ["M\u00fcnchen", "b"])
    (tmp_path / "list.txt").write_text(unicodedata.normalize("NFD", "M\u00fcnchen.png"))
    domain = get_domain("camvid")
    for split in ("val", "test"):
        camvid(tmp_path, ["x"], split)
    pool = open_pools(domain, str(tmp_path), Options(labeled_list=str(tmp_path / "list.txt"), size=(H, W)))
    assert list(pool.labeled.ids) == ["M\u00fcnchen"] and open_camvid(tmp_path).ids[0] == "M\u00fcnchen"
