"""Class tables of the built-in domains, lookup tables, and domains in YAML."""

import numpy as np
import pytest
import yaml

from usss_jax.data.domain import IGNORE, UNKNOWN, lookup_table, palette
from usss_jax.data.domains import BUILTIN, get_domain
from usss_jax.data.patterns import match_id
from usss_jax.errors import InputError


def good_spec():
    return {
        "name": "my_street",
        "classes": [
            {"name": "road", "color": [128, 64, 128], "ids": [1, 2]},
            {"name": "sky", "color": [70, 130, 180], "ids": 7},
        ],
        "ignore_ids": [0, 255],
        "size": [48, 64],
        "crop": [32, 32],
        "splits": {
            "train": {"images": "train/{id}.png", "masks": "trainannot/{id}.png"},
            "val": {"images": "val/{id}.png", "masks": "valannot/{id}.png"},
        },
    }


def write(tmp_path, spec):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(spec))
    return str(path)


@pytest.mark.parametrize("domain", BUILTIN.values(), ids=BUILTIN)
def test_every_built_in_domain_is_consistent(domain):
    assert domain.val_split in domain.splits and domain.test_split in domain.splits
    assert "train" in domain.splits and domain.how_to_get
    assert len(set(domain.class_names)) == domain.num_classes <= IGNORE
    assert len({c.color for c in domain.classes}) == domain.num_classes, "two classes look the same"
    assert (domain.synthetic is None) == bool(domain.layouts)
    for layout in domain.layouts:
        raw = [i for ids in layout.raw_ids for i in ids] + list(layout.ignore_ids)
        assert len(raw) == len(set(raw)) and len(layout.raw_ids) == domain.num_classes


def test_numbers_of_classes():
    counts = {name: domain.num_classes for name, domain in BUILTIN.items()}
    assert counts == {
        **{"camvid": 11, "cityscapes": 19, "cityscapes16": 16, "cityscapes256": 19, "idd_lite": 7, "idd": 26},
        **{"sun13": 13, "sun37": 37, "nyu13": 13, "nyu37": 37, "gta5": 19, "synthia": 16},
        **{"city_street": 10, "town_street": 10, "indoor_room": 8},
    }


def test_cityscapes_label_ids_become_train_ids():
    domain = get_domain("cityscapes")
    table = lookup_table(domain, domain.layouts[1])
    assert table.dtype == np.uint8 and table.shape == (65536,)
    by_name = {"road": 7, "sidewalk": 8, "pole": 17, "vegetation": 21, "sky": 23, "car": 26, "bicycle": 33}
    for name, raw in by_name.items():
        assert domain.class_names[table[raw]] == name
    assert {int(table[raw]) for raw in (0, 3, 9, 10, 18, 29, 30)} == {IGNORE}
    assert (table[34:] == UNKNOWN).all()
    assert (table[:34] != UNKNOWN).all()


def test_cityscapes16_ignores_the_three_classes_that_synthia_lacks():
    """Names by train id of cityscapes: terrain 9, truck 14, train 16; by label id: 22, 27, 31."""
    domain, whole = get_domain("cityscapes16"), get_domain("cityscapes")
    assert domain.class_names == get_domain("synthia").class_names
    for layout, of_whole, ignored in zip(domain.layouts, whole.layouts, ([9, 14, 16], [22, 27, 31]), strict=True):
        assert layout.splits == of_whole.splits
        table, known = lookup_table(domain, layout), lookup_table(whole, of_whole)
        for raw in range(256):
            if raw in ignored or known[raw] >= UNKNOWN:
                assert table[raw] == (IGNORE if raw in ignored else known[raw])
            else:
                assert domain.class_names[table[raw]] == whole.class_names[known[raw]]


def test_gta5_ignores_the_licence_plate():
    domain = get_domain("gta5")
    assert lookup_table(domain, domain.layouts[0])[34] == IGNORE


def test_synthia_ids_become_cityscapes_names():
    domain = get_domain("synthia")
    table = lookup_table(domain, domain.layouts[0])
    names = {
        1: "sky",
        2: "building",
        3: "road",
        5: "fence",
        10: "person",
        12: "motorcycle",
        17: "rider",
        21: "wall",
    }
    for raw, name in names.items():
        assert domain.class_names[table[raw]] == name
    assert {int(table[raw]) for raw in (0, 13, 14, 16, 18, 20, 22)} == {IGNORE}
    assert table[23] == UNKNOWN


def test_nyu37_ignores_the_three_other_classes_of_the_40():
    domain = get_domain("nyu37")
    table = lookup_table(domain, domain.layouts[0])
    assert table[1] == 0 and table[37] == 36 and set(table[38:41]) == {IGNORE}
    assert domain.class_names[21] == "ceiling"


def test_indoor37_has_the_colours_of_the_voc_map():
    assert [c.color for c in BUILTIN["sun37"].classes[:4]] == [
        (128, 0, 0),
        (0, 128, 0),
        (128, 128, 0),
        (0, 0, 128),
    ]
    assert BUILTIN["sun37"].classes[7].color == (64, 0, 0)


def test_embedded_domains_list_their_classes_in_the_documented_order():
    assert BUILTIN["city_street"].class_names[:4] == ("road", "sidewalk", "building", "wall")
    assert BUILTIN["town_street"].class_names[:4] == ("sky", "building", "road", "pavement")
    assert BUILTIN["indoor_room"].class_names[-1] == "lamp"
    assert BUILTIN["city_street"].synthetic == {"train": 300, "val": 48}


def test_palette_is_black_outside_of_the_classes():
    colors = palette(BUILTIN["camvid"])
    assert colors.shape == (256, 3) and colors.dtype == np.uint8
    assert tuple(colors[3]) == (128, 64, 128)
    assert not colors[11:].any()


def test_lookup_table_cannot_be_changed_by_a_caller():
    domain = get_domain("camvid")
    with pytest.raises(ValueError):
        lookup_table(domain, domain.layouts[0])[0] = 3


def test_unknown_domain_names_the_closest_one_and_all():
    with pytest.raises(InputError, match="did you mean 'cityscapes'") as error:
        get_domain("cityscape")
    assert all(name in str(error.value) for name in BUILTIN) and "\n" not in str(error.value)
    with pytest.raises(InputError, match="unknown domain 'voc'; built in are"):
        get_domain("voc")


def test_missing_yaml_file_is_named():
    with pytest.raises(InputError, match=r"nowhere\.yaml"):
        get_domain("nowhere.yaml")


def test_yaml_becomes_a_domain(tmp_path):
    domain = get_domain(write(tmp_path, good_spec()))
    assert domain.class_names == ("road", "sky") and domain.title == "my_street"
    assert (domain.size, domain.crop) == ((48, 64), (32, 32))
    assert domain.splits == ("train", "val") and domain.test_split == "val"
    table = lookup_table(domain, domain.layouts[0])
    assert table[[0, 1, 2, 7, 255, 3]].tolist() == [255, 0, 0, 1, 255, UNKNOWN]


def test_yaml_root_is_relative_to_the_file(tmp_path):
    assert get_domain(write(tmp_path, good_spec() | {"root": "pictures"})).folder == str(tmp_path / "pictures")
    assert get_domain(write(tmp_path, good_spec() | {"root": "/data/x"})).folder == "/data/x"
    assert get_domain(write(tmp_path, good_spec())).folder == ""


def change(**changes):
    def apply(spec):
        spec.update(changes)

    return apply


def change_class(**changes):
    return lambda spec: spec["classes"][1].update(changes)


def change_train(**changes):
    return lambda spec: spec["splits"]["train"].update(changes)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change(sise=[1, 2]), "unknown key 'sise'; did you mean size"),
        (change_class(id=3), "classes: sky: unknown key 'id'"),
        (change_train(mask="x/{id}.png"), "splits: train: unknown key 'mask'"),
        (change_class(name="road"), "class name 'road' occurs twice"),
        (change_class(ids=[2]), "raw id 2 occurs twice"),
        (change(ignore_ids=[7]), "raw id 7 occurs twice"),
        (change(name="My Street"), "name: 'My Street'"),
        (change(name=3), "name: 3"),
        (change(encoding="rgb"), "encoding: 'rgb' must be one of ids, color, ids16"),
        (change(size=[48]), "size: [48] must be a list of 2"),
        (change(size=[48, True]), "size: "),
        (change(crop="all"), "crop: 'all'"),
        (change_class(color=[0, 0, 256]), "sky: color: [0, 0, 256]"),
        (change_class(ids=[70000]), "sky: ids: [70000]"),
        (change(classes=[]), "classes: 0 classes"),
        (change(classes="road"), "classes: 'road' must be a list"),
        (change(splits=[]), "splits: must be a mapping"),
        (change(val_split="dev"), "val_split: 'dev' is not one of the splits train, val"),
        (change(test_split=["val"]), "test_split: "),
        (change_train(images="../{id}.png"), "must stay below root"),
        (change_train(masks="/etc/{id}.png"), "must stay below root"),
        (change_train(masks="trainannot/{id}.jpg"), "must end with .png"),
        (change_train(masks="train/{id}_mask.png"), "train: images: also matches the masks"),
        (
            change_train(images="val/{id}.png", masks="trainannot/{id}.png"),
            "have the same images",
        ),
        (change(holdout=1), "holdout: 1 must be a whole number from 2"),
        (change(holdout=5), "with holdout, train and val must"),
        (change(ignore_colors=[[0, 0, 0]]), "ignore_colors: has no meaning with encoding ids"),
        (lambda spec: spec.pop("size"), "the key 'size' is missing"),
        (lambda spec: spec["classes"][0].pop("ids"), "classes: road: the key 'ids' is missing"),
    ],
)
def test_yaml_error_names_the_file_and_the_key(tmp_path, edit, message):
    spec = good_spec()
    edit(spec)
    with pytest.raises(InputError) as error:
        get_domain(write(tmp_path, spec))
    text = str(error.value)
    assert text.startswith(str(tmp_path / "mine.yaml")) and "\n" not in text
    assert message in text


@pytest.mark.parametrize("text", ["a: [1", "- road", "", "!!python/object/apply:os.getcwd []"])
def test_what_is_not_a_plain_yaml_mapping_is_refused(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(InputError, match=r"mine\.yaml") as error:
        get_domain(str(tmp_path / "mine.yaml"))
    assert "\n" not in str(error.value)


def test_two_classes_of_one_colour_are_refused_in_colour_masks_only(tmp_path):
    spec = good_spec()
    spec["classes"][1]["color"] = [128, 64, 128]
    assert get_domain(write(tmp_path, spec)).num_classes == 2
    del spec["ignore_ids"]
    for entry in spec["classes"]:
        del entry["ids"]
    with pytest.raises(InputError, match="colour"):
        get_domain(write(tmp_path, spec | {"encoding": "color"}))


@pytest.mark.parametrize(
    ("template", "path", "expected"),
    [
        ("leftImg8bit/val/{id}_leftImg8bit", "leftImg8bit/val/ulm/a_leftImg8bit.JPG", "ulm/a"),
        ("leftImg8bit/val/{id}_leftImg8bit", "leftImg8bit/val/ulm/a_other.png", None),
        ("leftImg8bit/val/{id}_leftImg8bit", "leftImg8bit/train/ulm/a_leftImg8bit.png", None),
        ("images/{id}.png", "images/1.jpg", None),
        ("train/img-{id}", "train/img-.png", None),
        ("{id}/photo", "a/photo.jpg", "a"),
    ],
)
def test_match_id(template, path, expected):
    assert match_id(template, path) == expected
