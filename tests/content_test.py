"""What a run says of its data before it starts, and how it knows the data again: by value, not by path."""

import dataclasses
import shutil

import numpy as np
import pytest
import yaml
from png_files import png
from small_files import CLASSES, H, W, complaint, write_image

from usss_jax.config import checked, default_config, per_domain_paths, with_absolute_paths
from usss_jax.data.content import differences, label_space
from usss_jax.data.domains import get_domain
from usss_jax.data.notices import about_data
from usss_jax.data.pools import open_all
from usss_jax.errors import InputError
from usss_jax.runs.workdir import claim_workdir

SPEC = {
    "name": "mine",
    "root": "data",
    "size": [H, W],
    "classes": CLASSES,
    "ignore_ids": [0],
    "splits": {"train": {"images": "train", "masks": "train_masks"}, "val": {"images": "val", "masks": "val_masks"}},
}
ALL = (1, 2, 3)


@pytest.fixture
def project(tmp_path):
    """Folder with mine.yaml and its data."""
    folder = tmp_path / "project"
    for split in ("train", "val"):
        for seed, name in enumerate("abc"):
            write_image(folder / f"data/{split}/{name}.png", seed)
            write_mask(folder, split, name, ALL)
    write_spec(folder)
    return folder


def write_mask(folder, split, name, ids):
    path = folder / f"data/{split}_masks/{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(np.resize(ids, H * W).reshape(H, W)))


def write_spec(folder, **changes):
    (folder / "mine.yaml").write_text(yaml.safe_dump(SPEC | changes))


def config_of(folder, **fields):
    config = default_config()
    given = {"data.domains": [str(folder / "mine.yaml")], "data.labeled_per_domain": "all", **fields}
    config.update_from_flattened_dict(given)
    return checked(config)


def lines_of(folder, **fields):
    config = config_of(folder, **fields)
    return list(about_data(open_all(config), config.data.min_classes))


def claim(folder, workdir, **fields):
    config = config_of(folder, **fields)
    pools = open_all(config)
    data = {name: pool.content for name, pool in pools.items()}
    claim_workdir(with_absolute_paths(config, list(pools)), workdir, data)


# ---- classes that no mask has ----------------------------------------------------------------------------


def test_run_says_which_classes_no_label_shows(project):
    assert lines_of(project) == []
    for name in "abc":
        write_mask(project, "val", name, (1, 2))
    write_mask(project, "train", "b", (0,))
    assert lines_of(project) == [
        "[mine] labeled images: 1 of 3 without any labeled pixel: b",
        "[mine] val: no labeled pixel of tree",
    ]


@pytest.mark.parametrize("split", ["train", "val"])
def test_lone_class_is_refused_unless_it_is_meant(project, split):
    for name in "abc":
        write_mask(project, split, name, (0, 2))
    what = {"train": "labeled images", "val": "val"}[split]
    with pytest.raises(InputError) as error:
        lines_of(project)
    text = complaint(error)
    assert text.startswith(f"mine: its {what} show sky and no labeled pixel of road, tree; compare the ids")
    assert text.endswith("or set data.min_classes=1 if this is intended")
    assert lines_of(project, **{"data.min_classes": 1}) == [
        f"[mine] {what}: 'sky' is the only class, so that a mean over classes is its score alone"
    ]


def test_labels_that_are_all_ignored_are_refused_whatever_is_meant(project):
    for name in "abc":
        write_mask(project, "train", name, (0,))
    with pytest.raises(InputError, match="mine: its labeled images have no labeled pixel; compare the ids"):
        lines_of(project, **{"data.min_classes": 1})


# ---- sizes -----------------------------------------------------------------------------------------------


def test_size_in_the_order_width_height_is_refused(project):
    write_spec(project, size=[W, H])
    with pytest.raises(InputError) as error:
        lines_of(project)
    assert complaint(error) == (
        f"mine: the size is {W}x{H}, {W} high and {H} wide, but the images are landscape, such as 'a': {H} high and "
        f"{W} wide; did you mean {H}x{W}? Correct size in the domain's file, and data.image_size if set: both are "
        "height, width"
    )
    write_spec(project, crop=[8, 4])
    with pytest.raises(
        InputError, match=r"crop: \[8, 4\] is portrait, but size \[12, 16\] is not.*did you mean \[4, 8\]"
    ):
        lines_of(project)
    write_spec(project, size=[W, H])
    write_image(project / "data/train/b.png", size=(W, H))  # pictures in both orientations
    write_mask_of_size = png(np.resize(ALL, H * W).reshape(W, H))
    (project / "data/train_masks/b.png").write_bytes(write_mask_of_size)
    assert lines_of(project) == []


# ---- a workdir belongs to its data -----------------------------------------------------------------------


CHANGES = {
    "names": (
        {"classes": [SPEC["classes"][0] | {"name": "way"}, *SPEC["classes"][1:]]},
        'mine.classes was ["road", "sky", "tree"], is now ["way", "sky", "tree"]',
    ),
    "ids": (
        {"classes": [SPEC["classes"][0] | {"ids": [2]}, SPEC["classes"][1] | {"ids": [1]}, SPEC["classes"][2]]},
        "mine.ids.road was [1], is now [2]",
    ),
    "size": ({"size": [H, W + 2]}, "mine.size was [12, 16], is now [12, 18]"),
    "crop": ({"crop": [8, 8]}, "mine.crop was [12, 16], is now [8, 8]"),
    "ignore": ({"ignore_ids": [0, 9]}, "mine.ignore_ids was [0], is now [0, 9]"),
    "folder": (
        {"splits": SPEC["splits"] | {"train": {"images": "train", "masks": "val_masks"}}},
        'mine.splits.train.masks was "train_masks/{id}.png", is now "val_masks/{id}.png"',
    ),
    "test": ({"test_split": "train"}, 'mine.test_split was "val", is now "train"'),
}


@pytest.mark.parametrize("change", CHANGES)
def test_workdir_refuses_a_domain_that_has_changed(project, tmp_path, change):
    claim(project, tmp_path / "run")
    changes, message = CHANGES[change]
    write_spec(project, **changes)
    with pytest.raises(InputError) as error:
        claim(project, tmp_path / "run")
    text = complaint(error)
    assert text.startswith(f"workdir {tmp_path}/run was trained on other data: ") and message in text
    write_spec(project, title="Another title", how_to_get="ask")
    claim(project, tmp_path / "run")


def test_workdir_refuses_other_labels_and_other_images(project, tmp_path):
    claim(project, tmp_path / "run")
    write_mask(project, "val", "b", (3, 1, 2))
    with pytest.raises(InputError, match="trained on other data: the labels of mine, val, have changed; give"):
        claim(project, tmp_path / "run")
    write_mask(project, "val", "b", ALL)
    (project / "list.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match=r"mine\.labeled images was"):
        claim(project, tmp_path / "run", **{"data.labeled_list": str(project / "list.txt")})


def test_workdir_knows_its_data_again_wherever_it_lies(project, tmp_path, monkeypatch):
    (project / "list.txt").write_text("a\nb\n")
    claim(project, tmp_path / "run", **{"data.labeled_list": str(project / "list.txt")})
    shutil.move(project, tmp_path / "moved")
    claim(tmp_path / "moved", tmp_path / "run", **{"data.labeled_list": str(tmp_path / "moved/list.txt")})
    monkeypatch.chdir(tmp_path / "moved")
    claim(tmp_path / "moved", tmp_path / "run", **{"data.domains": ["mine.yaml"], "data.labeled_list": "mine=list.txt"})
    claim(
        tmp_path / "moved",
        tmp_path / "run",
        **{"data.domains": ["mine.yaml"], "data.labeled_per_domain": 2, "data.labeled_list": "list.txt"},
    )


def test_files_of_weights_are_known_by_their_content(project, tmp_path):
    for name, content in (("a.npz", b"1"), ("b.npz", b"1"), ("c.npz", b"2")):
        (tmp_path / name).write_bytes(content)
    claim(project, tmp_path / "run", **{"usss.label_embeddings": str(tmp_path / "a.npz")})
    claim(project, tmp_path / "run", **{"usss.label_embeddings": str(tmp_path / "b.npz")})
    with pytest.raises(InputError, match=r"label_embeddings was .*b.npz', is now .*c.npz', with other content"):
        claim(project, tmp_path / "run", **{"usss.label_embeddings": str(tmp_path / "c.npz")})
    (tmp_path / "b.npz").unlink()  # what was made of it is in the workdir
    claim(project, tmp_path / "run", **{"usss.label_embeddings": str(tmp_path / "b.npz")})


def test_labels_are_named_only_where_nothing_else_explains_them():
    camvid = get_domain("camvid")
    layout = dataclasses.replace(camvid.layouts[0], ignore_ids=(11, 12))
    now = label_space(dataclasses.replace(camvid, layouts=(layout,)))
    assert differences(label_space(camvid), now, "camvid") == ["camvid.ignore_ids was [11], is now [11, 12]"]
    assert differences(now, now) == []


# ---- paths of several domains ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "paths"),
    [
        ("", {"a": "", "b": ""}),
        ("/x/split=1_8/seed=0/l.txt", {"a": "/x/split=1_8/seed=0/l.txt", "b": "/x/split=1_8/seed=0/l.txt"}),
        ("a=/x/n=5,k/l.txt,b=/y", {"a": "/x/n=5,k/l.txt", "b": "/y"}),
        ("b = y/a=1/l.txt", {"a": "", "b": "y/a=1/l.txt"}),
        ("tfds:/x=1", {"a": "tfds:/x=1", "b": "tfds:/x=1"}),
    ],
)
def test_paths_may_hold_equals_signs_and_commas(value, paths):
    assert per_domain_paths(value, ["a", "b"], "data.labeled_list") == paths


def test_relative_path_with_an_equals_sign_is_one_if_it_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError, match=r"'split' is not a domain of this run .a, b., and split=1/l.txt does not exist"
    ):
        per_domain_paths("split=1/l.txt", ["a", "b"], "data.labeled_list")
    (tmp_path / "split=1").mkdir()
    (tmp_path / "split=1/l.txt").write_text("x")
    assert per_domain_paths("split=1/l.txt", ["a"], "data.labeled_list") == {"a": "split=1/l.txt"}


def test_unknown_domain_in_a_list_of_paths_is_named():
    with pytest.raises(InputError, match=r"data\.root=a=/x,c=/y: 'c' is not a domain of this run"):
        per_domain_paths("a=/x,c=/y", ["a", "b"], "data.root")
