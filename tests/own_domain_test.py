"""A domain of one's own in YAML: every form of a split and every encoding of masks."""

import os

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image
from small_files import H, W, complaint, smooth, write_ids, write_image

from usss_jax.data.domain import IGNORE
from usss_jax.data.domains import get_domain
from usss_jax.data.sources import open_source
from usss_jax.errors import InputError

# The example of the README (tests/main_test.py trains from the README's own text), for smaller images.
EXAMPLE = """\
name: mine
root: mine_data            # relative to this file
size: [12, 16]             # height, width at which images are loaded
classes:
  - {name: road, color: [128, 64, 128], ids: [1]}
  - {name: rest, color: [70, 70, 70], ids: [2, 3]}
ignore_ids: [0]
splits:
  train: {images: train/images, masks: train/masks}
  val: {images: val/images, masks: val/masks}
  unlabeled: {images: unlabeled}
"""


def test_example_of_the_readme(tmp_path):
    assert len(EXAMPLE.splitlines()) <= 15
    (tmp_path / "mine.yaml").write_text(EXAMPLE)
    for number, split in enumerate(("train", "val")):
        for name in ("a", "b"):
            pixels = write_image(tmp_path / "mine_data" / split / f"images/{name}.png", number)
            raw = write_ids(tmp_path / "mine_data" / split / f"masks/{name}.png", range(4))
    write_image(tmp_path / "mine_data/unlabeled/2024/c.jpg")
    domain = get_domain(str(tmp_path / "mine.yaml"))
    assert domain.unlabeled_splits == ("train", "unlabeled") and domain.class_names == ("road", "rest")
    assert open_source(domain, domain.folder, "train").ids == ["a", "b"]
    example = open_source(domain, domain.folder, "val")[1]
    assert np.array_equal(example["image"], pixels)
    assert np.array_equal(example["label"], np.array([IGNORE, 0, 1, 1])[raw])
    unlabeled = open_source(domain, domain.folder, "unlabeled", with_masks=False)
    assert unlabeled.ids == ["2024/c"] and set(unlabeled[0]) == {"image"}


def own_domain(tmp_path, train, encoding="ids", **changes):
    """Domain with root pictures/, the raw ids 5 and 900 (or their colours), and `train` as that split."""
    classes = [
        {"name": "road", "color": [128, 64, 128], "ids": 5},
        {"name": "sky", "color": [70, 130, 180], "ids": [6, 900]},
    ]
    if encoding == "color":
        for entry in classes:
            del entry["ids"]
    spec = {"name": "own", "root": "pictures", "encoding": encoding, "size": [H, W], "classes": classes}
    spec |= {"splits": {"train": train}, "val_split": "train"} | changes
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(spec))
    return get_domain(str(tmp_path / "own.yaml"))


def open_train(domain, **arguments):
    return open_source(domain, domain.folder, "train", **arguments)


# ---- where the files are --------------------------------------------------------------------------------

# Every form of a split whose images are in img/ and masks in gt/, CITY/NAME_rgb.jpg (or .png) and CITY/NAME_ids.png;
# in the folders both are CITY/NAME.
FORMS = {
    "folders": {"images": "img", "masks": "gt"},
    "id": {"images": "img/{id}_rgb", "masks": "gt/{id}_ids.png"},
    "stars": {"images": "img/*/*_rgb", "masks": "gt/*/*_ids.png"},
    "any folders": {"images": "img/**/*_rgb", "masks": "gt/**/*_ids.png"},
    "stars and id": {"images": "img/*/*_rgb", "masks": "gt/{id}_ids.png"},
    "list": {"list": "lists/train.txt"},
}
every_form = pytest.mark.parametrize("form", FORMS)
NAMES = ["ulm/a", "ulm/b", "köln am rhein/straße 1", "東京/ñ [2]"]


def write_form(root, form, names, masks=True, ending=".png"):
    """Write images and masks as that form has them; return the id of each name."""
    middle = ("", "") if form == "folders" else ("_rgb", "_ids")
    lines = []
    for number, name in enumerate(names):
        image, mask = f"img/{name}{middle[0]}{ending}", f"gt/{name}{middle[1]}.png"
        write_image(root / image, number)
        if masks:
            write_ids(root / mask, [5, 6, 0])
        lines.append(image + (f"\t{mask}" if masks else ""))
    (root / "lists").mkdir(parents=True, exist_ok=True)
    (root / "lists/train.txt").write_text("# image, mask\n\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return {name: f"img/{name}_rgb" if form == "list" else name for name in names}


@every_form
def test_every_form_finds_images_and_their_masks(tmp_path, form):
    """Names with blanks, brackets and letters beyond ASCII among them."""
    root = tmp_path / "pictures"
    ids = write_form(root, form, NAMES)
    source = open_train(own_domain(tmp_path, FORMS[form], ignore_ids=[0]))
    assert source.ids == sorted(ids.values())
    for number, name in enumerate(NAMES):
        example = source[source.ids.index(ids[name])]
        assert np.array_equal(example["image"], smooth(number))
        assert example["label"][0, :3].tolist() == [0, 1, IGNORE]


@every_form
def test_every_form_may_have_no_masks(tmp_path, form):
    ids = write_form(tmp_path / "pictures", form, NAMES, masks=False)
    files = {key: value for key, value in FORMS[form].items() if key != "masks"}
    domain = own_domain(tmp_path, files)
    assert open_train(domain, with_masks=False).ids == sorted(ids.values())
    with pytest.raises(InputError, match="'train' of domain 'own': it has no labels; give it masks in the"):
        open_train(domain)


@every_form
def test_a_few_masks_suffice_if_their_ids_are_given(tmp_path, form):
    root = tmp_path / "pictures"
    ids = write_form(root, form, ["ulm/a", "ulm/b", "ulm/c"])
    missing = next((root / "gt/ulm").glob("b*"))
    missing.unlink()
    domain = own_domain(tmp_path, FORMS[form], ignore_ids=[0])
    with pytest.raises(InputError) as error:
        open_train(domain)
    text = complaint(error)
    assert "img/ulm/b" in text and str(missing) in text and "set data.on_bad_example=skip" in text
    assert ("train.txt:4: " in text) == (form == "list")
    chosen = [ids["ulm/c"], ids["ulm/a"]]
    assert open_train(domain, ids=chosen).ids == chosen
    assert len(open_train(domain, with_masks=False)) == 3


@every_form
def test_two_images_with_one_id_are_an_error(tmp_path, form):
    root = tmp_path / "pictures"
    write_form(root, form, ["ulm/a"], ending=".jpg")
    lines = (root / "lists/train.txt").read_text()
    write_form(root, form, ["ulm/a"])
    (root / "lists/train.txt").write_text(lines + "img/ulm/a_rgb.png\n")
    with pytest.raises(InputError) as error:
        open_train(own_domain(tmp_path, FORMS[form]))
    text = complaint(error)
    assert ".jpg" in text and ".png" in text and "same id" in text and "remove one" in text


@every_form
def test_folder_linked_into_itself_is_read_once(tmp_path, form):
    root = tmp_path / "pictures"
    ids = write_form(root, form, ["ulm/a", "köln/b"])
    for folder in ("img", "img/ulm", "gt/ulm"):
        (root / folder / "again").symlink_to(root / folder.partition("/")[0])
    assert open_train(own_domain(tmp_path, FORMS[form])).ids == sorted(ids.values())


@every_form
def test_folder_without_images_says_what_was_looked_for(tmp_path, form):
    root = tmp_path / "pictures"
    write_form(root, form, [])
    (root / "img/ulm").mkdir(parents=True)
    (root / "img/ulm/notes_rgb.txt").write_text("x")
    with pytest.raises(InputError) as error:
        open_train(own_domain(tmp_path, FORMS[form]))
    text = complaint(error)
    if form == "list":
        assert text.startswith(f"{root}/lists/train.txt: this list has no image")
    else:
        assert text.startswith(f"{root}: split 'train' of domain 'own': no images; looked for img/")
        assert "*" in text and ".{png,jpg,jpeg}; " in text and "to get them: correct root or splits in" in text


def test_folders_may_be_the_root_and_written_with_a_slash(tmp_path):
    write_image(tmp_path / "pictures/ulm/a.jpg")
    domain = own_domain(tmp_path, {"images": "."})
    assert open_train(domain, with_masks=False).ids == ["ulm/a"]
    write_ids(tmp_path / "pictures/gt/a.png", [5])
    domain = own_domain(tmp_path, {"images": "./ulm/", "masks": "gt//"})
    assert open_train(domain)[0]["label"].max() == 0


def test_stars_stay_within_one_name_and_two_stars_do_not(tmp_path):
    for name in ("a.png", "x/b.png", "x/y/c.png"):
        write_image(tmp_path / "pictures/img" / name)
    for pattern, ids in {"img/*.png": ["a"], "img/*/*.png": ["x/b"], "img/**/*.png": ["a", "x/b", "x/y/c"]}.items():
        assert open_train(own_domain(tmp_path, {"images": pattern}), with_masks=False).ids == ids
    write_image(tmp_path / "pictures/img/x/left/b.png")
    pattern = own_domain(tmp_path, {"images": "img/*/left/*"})
    assert open_train(pattern, with_masks=False).ids == ["x/b"]


def test_texts_of_the_stars_go_to_the_masks_in_order(tmp_path):
    write_image(tmp_path / "pictures/day1/cam_front/0001.jpg")
    write_ids(tmp_path / "pictures/labels/day1-front/seg_0001.png", [5])
    write_ids(tmp_path / "pictures/labels/front-day1/seg_0001.png", [6])
    domain = own_domain(tmp_path, {"images": "*/cam_*/*.jpg", "masks": "labels/*-*/seg_*.png"})
    source = open_train(domain)
    assert source.ids == ["day1/front/0001"] and source[0]["label"].max() == 0


@pytest.mark.parametrize("form", ["folders", "id", "stars", "any folders"])
def test_images_of_formats_that_are_not_read_are_an_error(tmp_path, form):
    """Not those of which a PNG is there too, nor files that do not fit the pattern or are no images."""
    root = tmp_path / "pictures"
    ids = write_form(root, form, ["ulm/a"])
    ending = "" if form == "folders" else "_rgb"
    for name in (f"img/ulm/a{ending}.npy", f"img/ulm/b{ending}.json", "gt/ulm/b.tif", "b.tif"):
        (root / name).write_bytes(b"")
    domain = own_domain(tmp_path, FORMS[form], ignore_ids=[0])
    assert open_train(domain).ids == list(ids.values())
    for name in ("x.tif", "y.TIF", "z.webp"):
        (root / "img/ulm" / name.replace(".", f"{ending}.")).write_bytes(b"")
        with pytest.raises(InputError) as error:
            open_train(domain)
        first = f"{root}: split 'train' of domain 'own': "
        if name == "x.tif":
            assert complaint(error) == (
                f"{first}{root}/img/ulm/x{ending}.tif has an unsupported format (.tif); convert it to PNG or "
                "JPEG (files that end with .png or .jpg), or move it away"
            )
    text = complaint(error)
    assert text.startswith(f"{first}3 files such as {root}/img/ulm/x{ending}.tif have unsupported formats (.tif or .w")
    assert text.endswith("convert them to PNG or JPEG (files that end with .png or .jpg), or move them away")
    explicit = {key: text if text.endswith(".png") else f"{text}.png" for key, text in FORMS[form].items()}
    if form != "folders":
        assert open_train(own_domain(tmp_path, explicit, ignore_ids=[0])).ids == list(ids.values())


def test_folder_with_other_formats_only_says_so(tmp_path):
    (tmp_path / "pictures/img").mkdir(parents=True)
    (tmp_path / "pictures/img/a.bmp").write_bytes(b"")
    with pytest.raises(InputError, match=r"img/a\.bmp has an unsupported format \(\.bmp\); convert it"):
        open_train(own_domain(tmp_path, {"images": "img"}), with_masks=False)


# ---- lists of a split -----------------------------------------------------------------------------------


def open_list(tmp_path, text, encoding="utf-8", **arguments):
    (tmp_path / "pictures").mkdir(exist_ok=True)
    (tmp_path / "pictures/train.txt").write_bytes(text.encode(encoding))
    return open_train(own_domain(tmp_path, {"list": "train.txt"}), **arguments)


@pytest.mark.parametrize(
    "line",
    [
        "i/a b.png\tm/c d.png",
        "i/a b.png m/c d.png",
        "i/a b.png  \t  m/c d.png  ",
        "  ./i//a b.png m/./c d.png",
        "\ufeffi/a b.png m/c d.png\r\n\r\n# end\r",
    ],
)
def test_line_of_a_list_is_read(tmp_path, line):
    pixels = write_image(tmp_path / "pictures/i/a b.png")
    write_ids(tmp_path / "pictures/m/c d.png", [6])
    source = open_list(tmp_path, line)
    assert source.ids == ["i/a b"] and np.array_equal(source[0]["image"], pixels)
    assert source[0]["label"].min() == 1


def test_tab_at_the_end_makes_a_line_one_path(tmp_path):
    write_image(tmp_path / "pictures/a.png b.png")
    assert open_list(tmp_path, "a.png b.png\t\n", with_masks=False).ids == ["a.png b"]


def test_order_of_the_lines_has_no_say(tmp_path):
    for name in "abc":
        write_image(tmp_path / f"pictures/{name}.png")
    assert open_list(tmp_path, "c.png\na.png\nb.png", with_masks=False).ids == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# x\nb.png", "train.txt:2: no image {root}/b.png; similar names: "),
        ("a.png\na.png", "train.txt:2: {root}/a.png has the same id 'a' as {root}/a.png of {root}/train.txt:1; remove"),
        ("./a.png\na.png gt.png", "train.txt:2: {root}/a.png has the same id 'a'"),
        ("../a.png", "train.txt:1: '../a.png' must be a path below the domain's root"),
        ("a.png\tx/../../gt.png", "train.txt:1: 'x/../../gt.png' must be a path below the domain's root"),
        ("/etc/a.png", "train.txt:1: no image {root}/etc/a.png"),
        ("a.tif", "train.txt:1: 'a.tif' does not end with .png or .jpg"),
        ("2007_000032", "train.txt:1: '2007_000032' does not end with .png or .jpg"),
        ("a.png gt.jpg", "train.txt:1: 'gt.jpg' does not end with .png"),
        ("a.png\tgt.png\tmore", "train.txt:1: 'gt.png\\tmore' does not end with .png"),
        ("a.png gone.png", "train.txt:1: {root}/a.png has no mask: looked for {root}/gone.png"),
        ("a.png gt.png\nc.png", "train.txt:2: names no mask for {root}/c.png; add its path to the line"),
        ("# nothing\n\n", "train.txt: this list has no image; write one per line"),
    ],
)
def test_wrong_line_of_a_list_is_named(tmp_path, text, message):
    root = tmp_path / "pictures"
    for name in "ac":
        write_image(root / f"{name}.png")
    write_ids(root / "gt.png", [5])
    with pytest.raises(InputError) as error:
        open_list(tmp_path, text)
    assert f"{root}/{message.format(root=root)}" in complaint(error)


def test_list_that_cannot_be_read_is_named(tmp_path):
    domain = own_domain(tmp_path, {"list": "gone.txt"})
    (tmp_path / "pictures").mkdir()
    with pytest.raises(InputError, match=r"gone\.txt: this list cannot be read \(No such file"):
        open_train(domain)
    with pytest.raises(InputError, match=r"train\.txt: this list is not UTF-8 text; save it as UTF-8"):
        open_list(tmp_path, "straße.png", encoding="latin-1")


# ---- complaints about the YAML file ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"images": "img/*/{id}.png"}, "train: images: 'img/*/{id}.png' must have {id} once, or stars, or neither"),
        ({"images": "{id}/{id}.png"}, "must have {id} once"),
        ({"images": "{name}.png"}, "must have {id} once"),
        ({"images": "img/**.png"}, "use ** only for folders, as in a/**/*.png"),
        ({"images": "img/**"}, "use ** only for folders"),
        ({"images": "img/*.*"}, "no star in the extension"),
        ({"images": "img/a.png"}, "train: images: 'img/a.png' is one file; give its folder, or {id} or stars"),
        ({"images": "img/{id}.tif"}, "this image format is not supported; convert to PNG or JPEG"),
        ({"images": ""}, "train: images: '' must be a path"),
        ({"images": ["a.png"]}, "train: images: ['a.png'] must be a path"),
        ({"images": "img\\{id}.png"}, "must be a path, with / between folders"),
        ({"images": "/img"}, "must stay below root"),
        ({"images": "img", "masks": "../gt"}, "train: masks: '../gt' must stay below root"),
        ({"images": "img/*/*.jpg", "masks": "gt/*.png"}, "train: masks: 'gt/*.png' has 1 stars but 'img/*/*.jpg' of"),
        ({"images": "img", "masks": "gt/*.png"}, "train: masks: 'gt/*.png' has 1 stars but 'img' of images has 0"),
        ({"images": "img", "masks": "gt/{id}.jpg"}, "must end with .png"),
        ({"images": "img", "masks": "img"}, "train: images: also matches the masks"),
        ({"images": "img/**/*", "masks": "img/**/gt/*.png"}, "train: images: also matches the masks"),
        ({"list": "a.txt", "masks": "img"}, "train: masks with list also needs images"),
        ({"list": "/a.txt"}, "train: list: '/a.txt' must stay below root"),
        ({"masks": "gt"}, "train: the key 'images' is missing"),
        ("img", "train: must be a mapping with images"),
    ],
)
def test_wrong_split_names_the_key(tmp_path, train, message):
    with pytest.raises(InputError) as error:
        own_domain(tmp_path, train)
    text = complaint(error)
    assert text.startswith(f"{tmp_path}/own.yaml: splits: ") and message in text


SPLITS = {name: {"images": f"{name}/{{id}}"} for name in ("train", "extra", "val")}


def test_unlabeled_splits_are_those_named(tmp_path):
    def read(splits, **changes):
        return own_domain(tmp_path, None, splits=splits, **changes).unlabeled_splits

    assert read(SPLITS) == ("train",)
    assert read(SPLITS | {"unlabeled": {"images": "u"}}) == ("train", "unlabeled")
    assert read(SPLITS, unlabeled_splits=["extra", "train"]) == ("extra", "train")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["exta"], "'exta' is not one of the splits extra, train, val"),
        (["train", "train"], "split 'train' occurs twice"),
        ("train", "'train' must be a list"),
        ([], "names no split"),
        ([["train"]], "['train'] is not one of the splits"),
    ],
)
def test_wrong_unlabeled_splits_are_named(tmp_path, value, message):
    with pytest.raises(InputError) as error:
        own_domain(tmp_path, None, splits=SPLITS, unlabeled_splits=value)
    assert complaint(error).startswith(f"{tmp_path}/own.yaml: unlabeled_splits: ") and message in complaint(error)


def test_two_splits_with_the_same_list_are_refused_without_holdout(tmp_path):
    splits = {"train": {"list": "all.txt"}, "val": {"list": "./all.txt"}}
    with pytest.raises(InputError, match=r"train and val have the same images; .* or set holdout: 10"):
        own_domain(tmp_path, None, splits=splits)
    domain = own_domain(tmp_path, None, splits=splits, holdout=2)
    for name in "abcd":
        write_image(tmp_path / f"pictures/{name}.png")
    (tmp_path / "pictures/all.txt").write_text("a.png\nb.png\nc.png\nd.png\n")
    assert open_source(domain, domain.folder, "val", with_masks=False).ids == ["b", "d"]


# ---- encodings of masks ---------------------------------------------------------------------------------

PAIR = {"images": "i", "masks": "m"}


def read_mask(tmp_path, encoding, write, **changes):
    """Label of an image whose mask is written by `write(path)`."""
    domain = own_domain(tmp_path, PAIR, encoding, **changes)
    write_image(tmp_path / "pictures/i/a.png")
    os.makedirs(tmp_path / "pictures/m")
    write(tmp_path / "pictures/m/a.png")
    return open_train(domain)[0]["label"]


@pytest.mark.parametrize("kind", ["grey", "16-bit grey", "palette", "ids16, grey", "ids16, colour"])
def test_masks_of_ids_in_every_encoding(tmp_path, kind):
    high = 900 if "16" in kind else 6
    ids = np.resize(np.array([5, high, 0], np.uint16), H * W).reshape(H, W)

    def write(path):
        if kind == "grey":
            Image.fromarray(ids.astype(np.uint8)).save(path)
        elif kind == "palette":
            mask = Image.fromarray(ids.astype(np.uint8))
            mask.putpalette([value for i in range(256) for value in (i, 255 - i, 7)])
            mask.save(path)
        else:
            # OpenCV writes blue, green, red: the file's first channel comes last.
            mask = np.dstack([ids * 0, ids * 0 + 777, ids]) if kind == "ids16, colour" else ids
            assert cv2.imwrite(str(path), mask)

    encoding = "ids16" if kind.startswith("ids16") else "ids"
    label = read_mask(tmp_path, encoding, write, ignore_ids=[0])
    assert np.array_equal(label, np.select([ids == 5, ids == high], [0, 1], IGNORE))


def test_unknown_16_bit_id_is_named(tmp_path):
    with pytest.raises(InputError) as error:
        read_mask(tmp_path, "ids", lambda path: cv2.imwrite(str(path), np.full((H, W), 901, np.uint16)))
    text = complaint(error)
    assert "m/a.png: raw id 901 is not" in text and "5-6, 900" in text and "to classes or ignore_ids" in text


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colour_masks_are_mapped_by_the_class_table(tmp_path, mode):
    colors = np.array([[128, 64, 128], [70, 130, 180], [0, 0, 0]], np.uint8)
    classes = np.resize([0, 1, 2], H * W).reshape(H, W)
    if mode == "P":
        mask = Image.fromarray(classes.astype(np.uint8))
        mask.putpalette(colors.tobytes())
    else:
        mask = Image.fromarray(colors[classes]).convert(mode)
    label = read_mask(tmp_path, "color", mask.save)
    assert label.dtype == np.uint8 and np.array_equal(label, np.array([0, 1, IGNORE])[classes])


def test_unknown_colour_names_the_file_and_the_colours(tmp_path):
    with pytest.raises(InputError) as error:
        read_mask(tmp_path, "color", Image.new("RGB", (W, H), (128, 64, 127)).save, ignore_colors=[[1, 1, 1]])
    text = complaint(error)
    assert "m/a.png" in text and "(128, 64, 127) is not" in text and "(1, 1, 1)" in text


# ---- the file itself ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change,told",
    [
        ("ignore_ids: [7]\n", "the key 'ignore_ids' occurs twice"),
        ("title: 2024-13-45\n", "not valid YAML: month must be in 1..12"),
    ],
)
def test_wrong_yaml_is_told_in_one_line(tmp_path, change, told):
    (tmp_path / "mine.yaml").write_text(EXAMPLE + change)
    with pytest.raises(InputError, match=f"mine.yaml.*{told}"):
        get_domain(str(tmp_path / "mine.yaml"))


def test_name_of_a_built_in_domain_is_refused(tmp_path):
    (tmp_path / "mine.yaml").write_text(EXAMPLE.replace("name: mine", "name: camvid"))
    with pytest.raises(InputError, match="'camvid' is that of a built-in domain; choose another"):
        get_domain(str(tmp_path / "mine.yaml"))


def test_home_folder_may_be_written_as_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text(EXAMPLE.replace("root: mine_data", "root: ~/mine_data"))
    assert get_domain("~/mine.yaml").folder == str(tmp_path / "mine_data")
