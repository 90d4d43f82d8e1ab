"""Class maps: every complaint, the shipped files, and labels mapped by hand in every kind of mask."""

import dataclasses

import cv2
import numpy as np
import pytest
import tiny_data
import yaml
from png_files import PALETTE, RGB, png
from records_test import prepare
from small_files import CLASSES, H, W, complaint, real_data, write_image

from data_prep.cityscapes import Cityscapes
from usss_jax.data import class_map
from usss_jax.data.check.domain import check_domain, uses_of
from usss_jax.data.class_map import check_domains, find_class_map, map_source, read_class_map
from usss_jax.data.content import differences, label_space
from usss_jax.data.domain import IGNORE
from usss_jax.data.domains import get_domain
from usss_jax.data.options import Options
from usss_jax.data.pools import open_pools
from usss_jax.data.sources import open_source
from usss_jax.errors import InputError

SOURCE = {
    "name": "mine",
    "root": "data",
    "size": [H, W],
    "classes": CLASSES,  # road 1, sky 2, tree 3
    "ignore_ids": [0],
    "splits": {"train": {"images": "images", "masks": "masks"}},
    "val_split": "train",
}
# Its colours are those of other classes of the source, so that masks read with them are wrong.
TARGET = SOURCE | {
    "name": "goal",
    "classes": [
        {"name": "earth", "color": [70, 130, 180], "ids": [1]},
        {"name": "lamp", "color": [0, 99, 0], "ids": [2]},
        {"name": "road", "color": [9, 9, 9], "ids": [3]},
    ],
}
MAP = {
    "source": "domains/mine.yaml",
    "target": "domains/goal.yaml",
    "classes": {"tree": "earth", "road": "road", "sky": "ignore"},
}


def write_map(folder, mine=SOURCE, goal=TARGET, **changes):
    (folder / "domains").mkdir(exist_ok=True)
    for spec in (mine, goal):
        (folder / f"domains/{spec['name']}.yaml").write_text(yaml.safe_dump(spec))
    path = folder / "map.yaml"
    path.write_text(yaml.safe_dump(MAP | changes))
    return str(path)


def read(folder, **arguments):
    return read_class_map(write_map(folder, **arguments))


# ---- the file --------------------------------------------------------------------------------------------


def test_class_map_of_ones_own_domains(tmp_path):
    found = read(tmp_path)
    assert (found.source.name, found.target.name, found.classes) == ("mine", "goal", ("road", None, "earth"))
    assert found.unlearnable == ("lamp",)
    assert class_map.table(found).splitlines() == [
        "mine -> goal",
        "road -> road",
        "sky  -> ignore",
        "tree -> earth",
        "none -> lamp",
    ]
    assert find_class_map(str(tmp_path / "map.yaml")) == found


def test_domains_of_a_class_map_may_be_built_in_or_have_absolute_paths(tmp_path):
    path = str(tmp_path / "domains/mine.yaml")
    found = read(tmp_path, source=path, target="camvid", classes={"road": "road", "sky": "sky", "tree": "tree"})
    assert found.source == get_domain(path) and found.target == get_domain("camvid")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": MAP["classes"] | {"raod": "road"}}, "classes: 'raod' is not a class of mine; did you mean road?"),
        ({"classes": MAP["classes"] | {7: "road"}}, "classes: 7 is not a class of mine; there are road, sky, tree"),
        (
            {"classes": MAP["classes"] | {"sky": "lmap"}},
            "classes: sky: 'lmap' is not a class of goal; did you mean lamp?",
        ),
        (
            {"classes": MAP["classes"] | {"sky": None}},
            "classes: sky: None is not a class of goal; there are earth, lamp, road, ignore",
        ),
        ({"classes": MAP["classes"] | {"sky": ["lamp"]}}, "classes: sky: ['lamp'] is not a class of goal;"),
        (
            {"classes": {"road": "road", "sky": "ignore"}},
            "classes: tree of mine is missing; map each class to one of goal or to ignore",
        ),
        ({"classes": {"road": "road"}}, "classes: sky, tree of mine are missing; map"),
        ({"classes": ["road"]}, "classes: must be a mapping from the classes of mine to those of goal"),
        (
            {"classes": MAP["classes"] | {"road": "lamp"}},
            "classes: road: 'lamp', but goal has a class 'road'; map it to that, or add "
            "although_named_alike: [road] if this is intended",
        ),
        ({"classes": MAP["classes"] | {"road": "ignore"}}, "classes: road: 'ignore', but goal has a class 'road';"),
        ({"although_named_alike": ["road"]}, "although_named_alike: 'road' is not a class that becomes another than"),
        ({"although_named_alike": ["sky"]}, "although_named_alike: 'sky' is not a class that becomes another than"),
        ({"although_named_alike": "road"}, "although_named_alike: 'road' must be a list"),
        (
            {"classes": MAP["classes"] | {"road": "lamp"}, "although_named_alike": ["road", "road"]},
            "although_named_alike: class 'road' occurs twice; remove one",
        ),
        ({"clases": {}}, "unknown key 'clases'; did you mean classes?"),
        ({"source": "camvit"}, "source: unknown domain 'camvit', did you mean 'camvid'?"),
        ({"target": "domains/other.yaml"}, "domains/other.yaml: cannot read this file"),
        ({"target": 3}, "target: 3 must be the name of a domain or the path of its file"),
        ({"target": "domains/mine.yaml"}, "source and target are both 'mine'; give two domains"),
    ],
)
def test_every_mistake_is_named_in_one_line(tmp_path, changes, message):
    path = write_map(tmp_path, **changes)
    with pytest.raises(InputError) as error:
        read_class_map(path)
    assert complaint(error).startswith(f"{path}: ") and message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source: camvid\ntarget: idd\nclasses:\n  sky: sky\n  sky: road\n", "the key 'sky' occurs twice"),
        ("source: camvid\nsource: idd\n", "the key 'source' occurs twice"),
        ("source: camvid\ntarget: idd\n", "the key 'classes' is missing; add it"),
        ("- sky\n", "must be a mapping with the keys source, target, classes, although_named_alike"),
        ("", "must be a mapping"),
    ],
)
def test_what_is_no_class_map_is_refused(tmp_path, text, message):
    (tmp_path / "map.yaml").write_text(text)
    with pytest.raises(InputError) as error:
        read_class_map(str(tmp_path / "map.yaml"))
    assert complaint(error).startswith(str(tmp_path / "map.yaml")) and message in str(error.value)


def test_namesake_may_mean_something_else_if_the_file_says_so(tmp_path):
    classes = MAP["classes"] | {"road": "lamp"}
    found = read(tmp_path, classes=classes, although_named_alike=["road"])
    assert found.classes == ("lamp", None, "earth") and found.unlearnable == ("road",)


def test_target_cannot_have_a_class_named_ignore(tmp_path):
    target = TARGET | {"classes": [*TARGET["classes"], {"name": "ignore", "color": [1, 2, 3], "ids": 4}]}
    with pytest.raises(InputError, match="goal has a class 'ignore', which means no class here; rename it"):
        read(tmp_path, goal=target)


def test_class_map_is_found_by_name_or_path():
    with pytest.raises(InputError) as error:
        find_class_map("cityscapes_to_camvid")
    assert complaint(error).startswith(
        "unknown class map 'cityscapes_to_camvid', did you mean 'cityscapes256_to_camvid'?"
    )
    with pytest.raises(InputError, match=r"nowhere.yaml: cannot read this file"):
        find_class_map("nowhere.yaml")


def test_class_map_of_other_domains_is_refused(tmp_path, monkeypatch):
    found = read(tmp_path)
    source, target = found.source, found.target
    check_domains(found, source, target)
    monkeypatch.chdir(tmp_path)
    check_domains(found, get_domain("domains/mine.yaml"), get_domain("domains/goal.yaml"))
    for wrong, message in (
        ((target, target), "maps from mine, but the source is goal; choose another class map or other domains"),
        ((source, get_domain("camvid")), "maps to goal, but the target is camvid; choose"),
        ((dataclasses.replace(source, folder="x"), target), "source: mine differs from the source of that name;"),
    ):
        with pytest.raises(InputError) as error:
            check_domains(found, *wrong)
        assert complaint(error).startswith(f"{tmp_path / 'map.yaml'}: {message}")


# ---- the shipped files -----------------------------------------------------------------------------------

SHIPPED = sorted(path.stem for path in class_map.SHIPPED.iterdir())


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_class_maps_are_complete_and_named_by_their_domains(name):
    found = find_class_map(name)
    assert name == f"{found.source.name}_to_{found.target.name}"
    assert len(found.classes) == found.source.num_classes


def test_shipped_pairs_and_what_they_cannot_teach():
    assert {name: find_class_map(name).unlearnable for name in SHIPPED} == {
        "city_street_to_camvid": ("fence", "bicyclist"),
        "cityscapes256_to_camvid": (),
        "gta5_to_cityscapes": (),
        "synthia_to_cityscapes16": (),
    }


@pytest.mark.parametrize("name", ["gta5_to_cityscapes", "synthia_to_cityscapes16"])
def test_rendered_roads_have_the_classes_of_cityscapes(name):
    found = find_class_map(name)
    assert found.classes == found.source.class_names == found.target.class_names


# ---- labels ----------------------------------------------------------------------------------------------

RAW = np.arange(H * W).reshape(H, W) % 4  # 0 ignored, 1 road, 2 sky, 3 tree
WANTED = np.array([IGNORE, 2, IGNORE, 0], np.uint8)[RAW]  # ignored, road, ignored, earth
COLORS = np.array([(0, 0, 0), *(one["color"] for one in CLASSES)])
BY_COLOR = SOURCE | {"encoding": "color", "classes": [{k: c[k] for k in ("name", "color")} for c in CLASSES]}
del BY_COLOR["ignore_ids"]
KINDS = {
    "grey": (SOURCE, png(RAW)),
    "three equal channels": (SOURCE, png(np.repeat(RAW[..., None], 3, -1), RGB)),
    "palette in the order of the ids": (SOURCE, png(RAW, PALETTE, palette=COLORS)),
    "palette in another order": (SOURCE, png(3 - RAW, PALETTE, palette=COLORS[::-1])),
    "ids16": (SOURCE | {"encoding": "ids16"}, png(np.stack([RAW, RAW * 0, RAW * 0], -1), RGB, bits=16)),
    "colours": (BY_COLOR, png(COLORS[RAW], RGB)),
    "colours as a palette": (BY_COLOR, png(RAW, PALETTE, palette=COLORS)),
}


def write_data(folder, mask):
    write_image(folder / "domains/data/images/a.png")
    (folder / "domains/data/masks").mkdir()
    (folder / "domains/data/masks/a.png").write_bytes(mask)


def mapped(tmp_path, kind="grey"):
    """The source with the target's classes, and its data with a mask of that kind."""
    spec, mask = KINDS[kind]
    domain = map_source(read(tmp_path, mine=spec))
    write_data(tmp_path, mask)
    return domain


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_every_kind_of_mask_are_mapped(tmp_path, kind):
    domain = mapped(tmp_path, kind)
    assert domain.name == "mine" and domain.class_names == ("earth", "lamp", "road")
    source = open_source(domain, domain.folder, "train")
    for label in (source[0]["label"], source.label(0), source.select(["a"])[0]["label"]):
        assert label.dtype == np.uint8
        np.testing.assert_array_equal(label, WANTED)
    small = open_source(domain, domain.folder, "train", size=(3, 8)).label(0)
    np.testing.assert_array_equal(small, WANTED[2::4, 1::2])


@pytest.mark.parametrize(("kind", "raw"), [("grey", "raw id 9 is"), ("colours", r"colour \(9, 9, 9\) is")])
def test_value_outside_the_sources_table_is_still_refused(tmp_path, kind, raw):
    """The colour is one of the target."""
    domain = mapped(tmp_path, kind)
    mask = np.full((H, W), 9)
    (tmp_path / "domains/data/masks/a.png").write_bytes(
        png(np.repeat(mask[..., None], 3, -1), RGB) if kind == "colours" else png(mask)
    )
    with pytest.raises(InputError, match=f"a.png: {raw} not in the table of domain 'mine', which has") as error:
        open_source(domain, domain.folder, "train").label(0)
    if kind == "colours":
        assert "which has (128, 64, 128), (70, 130, 180), (0, 99, 0) and" in complaint(error)


def test_check_of_the_data_counts_the_targets_classes(tmp_path):
    """A quarter of the pixels each: ignored, road, sky (ignored), tree (earth)."""
    domain = mapped(tmp_path)
    report = check_domain(domain, domain.folder, uses_of(domain))
    quarter = H * W // 4
    assert report.splits["train"].pixels() == {IGNORE: 2 * quarter, 2: quarter, 0: quarter}
    assert not report.splits["train"].faults


# Train ids of CamVid by train id of Cityscapes, written from the class tables: road 3, sidewalk -> pavement 4,
# building and wall 1, fence 7, pole 2, light and sign -> sign 6, vegetation and terrain -> tree 5, sky 0,
# person -> pedestrian 9, rider -> bicyclist 10, car, truck, bus, train -> car 8, motorcycle, bicycle -> bicyclist 10.
TO_CAMVID = [3, 4, 1, 1, 7, 2, 6, 6, 5, 5, 0, 9, 10, 8, 8, 8, 8, 10, 10]


def test_folder_and_records_of_an_official_layout_are_mapped_alike(tmp_path):
    tiny_data.write_cityscapes(tmp_path / "folder", count=2)
    plain, size = get_domain("cityscapes"), (64, 128)
    domain = map_source(dataclasses.replace(find_class_map("cityscapes256_to_camvid"), source=plain))
    prepare(tmp_path / "folder", tmp_path / "out", Cityscapes, plain)
    table = np.full(256, IGNORE, np.uint8)
    table[:19] = TO_CAMVID
    before = open_source(plain, tmp_path / "folder", "train", size=size)
    for root in (tmp_path / "folder", f"tfds:{tmp_path / 'out'}"):
        after = open_source(domain, root, "train", size=size)
        assert after.ids == before.ids and len(after) == 2
        for i in range(2):
            np.testing.assert_array_equal(after[i]["image"], before[i]["image"])
            np.testing.assert_array_equal(after[i]["label"], table[before.label(i)])
            np.testing.assert_array_equal(after.label(i), table[before.label(i)])


def test_label_of_the_drawn_street_is_mapped():
    """road, sidewalk, building, wall, pole, sign, vegetation, sky, person, car are 3, 4, 1, 1, 2, 6, 5, 0, 9, 8."""
    plain, domain = get_domain("city_street"), map_source(find_class_map("city_street_to_camvid"))
    before, after = (open_source(one, None, "train", ids=["00000", "00007"]) for one in (plain, domain))
    table = np.full(256, IGNORE, np.uint8)
    table[:10] = [3, 4, 1, 1, 2, 6, 5, 0, 9, 8]
    for i in range(2):
        np.testing.assert_array_equal(after[i]["image"], before[i]["image"])
        np.testing.assert_array_equal(after[i]["label"], table[before[i]["label"]])
    assert domain.class_names == get_domain("camvid").class_names


def test_real_mask_of_cityscapes_is_mapped():
    root = real_data("cityscapes256")
    source = open_source(map_source(find_class_map("cityscapes256_to_camvid")), root, "val")
    for index in (0, 250):
        (path,) = (root / "gtFine/val").glob(f"{source.ids[index]}_gtFine_labelTrainIds.png")
        raw = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        label = source.label(index)
        for train_id in np.unique(raw):
            expected = IGNORE if train_id == IGNORE else TO_CAMVID[train_id]
            assert (label[raw == train_id] == expected).all()


# ---- the content of the data -----------------------------------------------------------------------------


def test_class_map_is_part_of_the_content_of_the_data(tmp_path):
    """Mapping a class that no mask shows changes no label, but the content."""
    source = SOURCE | {"classes": [*CLASSES, {"name": "snow", "color": [1, 1, 1], "ids": [4]}]}
    (tmp_path / "domains").mkdir()
    write_data(tmp_path, png(RAW))
    content = {}
    for to in ("earth", "ignore"):
        domain = map_source(read(tmp_path, mine=source, classes=MAP["classes"] | {"snow": to}))
        content[to] = open_pools(domain, domain.folder, Options(labeled="all")).content
    before, now = content["earth"], content["ignore"]
    assert before["class_map"] == {"road": "road", "sky": "ignore", "tree": "earth", "snow": "earth"}
    assert before["classes"] == ["earth", "lamp", "road"] and before["ids"]["snow"] == [4]
    assert before["labels"] == now["labels"]
    assert differences(before, now, "mine") == ['mine.class_map.snow was "earth", is now "ignore"']


def test_domain_without_a_class_map_has_none_in_its_content():
    assert all("class_map" not in label_space(get_domain(name)) for name in ("camvid", "city_street"))


def test_mapped_source_without_labels_needs_no_masks(tmp_path):
    domain = mapped(tmp_path)
    (tmp_path / "domains/data/masks/a.png").unlink()
    pools = open_pools(domain, domain.folder, Options(labeled=0))
    assert list(pools.unlabeled.ids) == ["a"] and not len(pools.labeled)
