"""Which images a run uses, and how: labeled, unlabeled, for selection and report."""

import dataclasses
import json
import sys

import pytest
import tiny_data

from usss_jax.config import checked, default_config
from usss_jax.data import streams
from usss_jax.data.domains import get_domain
from usss_jax.data.options import Options, read_options
from usss_jax.data.pools import open_all, open_pools
from usss_jax.errors import InputError

SIZE = (48, 64)
TRAIN = [f"0001TP_{i:06d}" for i in range(6)]


@pytest.fixture
def camvid(tmp_path):
    tiny_data.write_camvid(tmp_path / "camvid", size=SIZE)
    return tmp_path / "camvid"


def open_camvid(root, **changes):
    return open_pools(get_domain("camvid"), str(root), Options(**({"labeled": 2, "size": SIZE} | changes)))


def text_file(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_labeled_images_are_among_the_unlabeled_ones_as_in_the_paper(camvid):
    pool = open_camvid(camvid)
    assert pool.unlabeled.ids == TRAIN and set(pool.labeled.ids) < set(TRAIN) and len(pool.labeled) == 2


def test_labeled_images_can_be_left_out_of_the_unlabeled_ones(camvid):
    pool = open_camvid(camvid, unlabeled_includes_labeled=False)
    assert sorted([*pool.unlabeled.ids, *pool.labeled.ids]) == TRAIN


def test_nothing_left_without_the_labeled_images_is_an_error(camvid):
    with pytest.raises(InputError, match="unlabeled_includes_labeled=False leaves no unlabeled image"):
        open_camvid(camvid, labeled="all", unlabeled_includes_labeled=False)


def test_lists_of_other_projects_name_the_images(camvid, tmp_path):
    labeled = text_file(tmp_path / "labeled.txt", f"train/{TRAIN[4]}.png trainannot/{TRAIN[4]}.png", TRAIN[1])
    unlabeled = text_file(tmp_path / "unlabeled.txt", *(f"train/{i}.png" for i in TRAIN[:3]))
    for path in camvid.glob("trainannot/*"):
        if path.stem not in (TRAIN[4], TRAIN[1]):
            path.unlink()  # only the labeled ones need masks
    lists = {"labeled": None, "labeled_list": labeled, "unlabeled_list": unlabeled}
    pool = open_camvid(camvid, **lists)
    assert pool.labeled.ids == [TRAIN[4], TRAIN[1]] and pool.unlabeled.ids == [*TRAIN[:3], TRAIN[4]]
    without = open_camvid(camvid, **lists, unlabeled_includes_labeled=False)
    assert without.unlabeled.ids == [TRAIN[0], TRAIN[2]]
    assert pool.labeled[0]["label"].shape == SIZE


def test_a_list_that_names_a_missing_image_is_an_error(camvid, tmp_path):
    labeled = text_file(tmp_path / "labeled.txt", TRAIN[0], "0001TP_999999")
    with pytest.raises(InputError, match=r"labeled.txt:2: '0001TP_999999' is not an image"):
        open_camvid(camvid, labeled=None, labeled_list=labeled)


def test_unlabeled_images_can_come_from_several_splits(camvid):
    pool = open_camvid(camvid, unlabeled_splits=("train", "test"))
    assert pool.unlabeled.ids == [f"{split}/{i}" for split in ("train", "test") for i in TRAIN]
    assert (pool.unlabeled[7]["image"] == pool.test[1]["image"]).all()
    assert set(pool.unlabeled[7]) == {"image"}
    without = open_camvid(camvid, unlabeled_splits=("train", "test"), unlabeled_includes_labeled=False)
    assert set(pool.unlabeled.ids) - set(without.unlabeled.ids) == {f"train/{i}" for i in without.labeled.ids}


def test_labeled_images_are_among_the_unlabeled_ones_of_another_split_too(camvid):
    pool = open_camvid(camvid, unlabeled_splits=("test",))
    labeled = [f"train/{i}" for i in pool.labeled.ids]
    assert pool.unlabeled.ids == [*(f"test/{i}" for i in TRAIN), *labeled]
    assert (pool.unlabeled[6]["image"] == pool.labeled[0]["image"]).all()


def test_another_split_keeps_images_that_share_an_id_with_a_labeled_one(camvid):
    pool = open_camvid(camvid, unlabeled_splits=("test",), unlabeled_includes_labeled=False)
    assert pool.unlabeled.ids == TRAIN


def test_distinct_ids_of_several_splits_stay_as_they_are(camvid):
    for path in [*camvid.glob("test/*"), *camvid.glob("testannot/*")]:
        path.rename(path.with_name(f"x{path.name}"))
    pool = open_camvid(camvid, unlabeled_splits=("train", "test"), unlabeled_includes_labeled=False)
    assert len(pool.unlabeled) == 10 and not set(pool.labeled.ids) & set(pool.unlabeled.ids)


def test_pixels_of_the_classes_are_counted_once(camvid):
    pool = open_camvid(camvid)
    labels = [pool.labeled[i]["label"] for i in range(2)]
    want = [[(label == c).sum() for c in range(11)] for label in labels]
    assert pool.label_counts.tolist() == want and pool.label_counts is pool.label_counts


def test_unknown_unlabeled_split_is_an_error(camvid):
    with pytest.raises(InputError, match="has no split 'tset'"):
        open_camvid(camvid, unlabeled_splits=("tset",))


OPENED: list[str] = []
sys.addaudithook(lambda event, arguments: OPENED.append(str(arguments[0])) if event == "open" else None)


def test_masks_of_unlabeled_images_are_never_opened(camvid):
    """Every file that the process opens while whole epochs of both streams run."""
    OPENED.clear()
    pool = open_camvid(camvid)
    batches = streams.step_batches(
        {"camvid": pool}, batch_size=2, unlabeled_batch_size=3, unlabeled_batches={"camvid": 2}
    )
    for s in range(4):
        batches[s]
    masks = {path.rpartition("/")[2] for path in OPENED if "trainannot/" in path and path.endswith(".png")}
    images = {path.rpartition("/")[2] for path in OPENED if "/train/" in path and path.endswith(".png")}
    assert masks == {f"{i}.png" for i in pool.labeled.ids}
    assert images == {f"{i}.png" for i in TRAIN}


# ---- bad examples ---------------------------------------------------------------------------------------


def damage(camvid, labeled):
    """A damaged unlabeled image, a damaged labeled mask, a damaged val mask."""
    unlabeled = next(i for i in TRAIN if i not in labeled)
    (camvid / "train" / f"{unlabeled}.png").write_bytes(b"")
    (camvid / "trainannot" / f"{labeled[0]}.png").write_text("text")
    (camvid / "valannot" / f"{TRAIN[5]}.png").write_text("text")
    return unlabeled


def test_a_bad_example_is_an_error_when_it_is_met(camvid):
    pool = open_camvid(camvid)
    damage(camvid, pool.labeled.ids)
    pool = open_camvid(camvid)  # nothing is read yet
    with pytest.raises(InputError, match=f"trainannot/{pool.labeled.ids[0]}.png: is not a PNG or JPEG file"):
        pool.labeled[0]


def test_bad_examples_can_be_skipped_and_each_is_reported(camvid, capsys):
    labeled = open_camvid(camvid).labeled.ids
    unlabeled = damage(camvid, labeled)
    pool = open_camvid(camvid, on_bad_example="skip")
    assert pool.labeled.ids == [labeled[1]]
    assert pool.unlabeled.ids == [i for i in TRAIN if i != unlabeled]
    assert pool.val.ids == TRAIN[:5] and pool.test.ids == TRAIN
    assert [(bad.use, bad.id) for bad in pool.skipped] == [
        ("camvid, labeled", labeled[0]),
        ("camvid, unlabeled", unlabeled),
        ("camvid, val", TRAIN[5]),
    ]
    assert all("restore this file" in bad.error for bad in pool.skipped)
    out = capsys.readouterr().out
    assert "[camvid, labeled] 1 of 2 examples can be used" in out and f"skipped {unlabeled}" in out


def test_images_without_a_mask_can_be_skipped(camvid, capsys):
    (camvid / "trainannot" / f"{TRAIN[2]}.png").unlink()
    (camvid / "testannot" / f"{TRAIN[0]}.png").unlink()
    with pytest.raises(InputError, match="has no mask"):
        open_camvid(camvid)
    pool = open_camvid(camvid, labeled=5, on_bad_example="skip")
    assert pool.labeled.ids == [i for i in TRAIN if i != TRAIN[2]] and pool.unlabeled.ids == TRAIN
    assert pool.test.ids == TRAIN[1:]
    assert [(bad.use, bad.id) for bad in pool.skipped] == [("camvid, labeled", TRAIN[2]), ("camvid, test", TRAIN[0])]
    assert capsys.readouterr().out.count("has no mask") == 2


def test_nothing_left_after_skipping_is_an_error(camvid):
    for path in camvid.glob("valannot/*"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match=r"camvid, val: none of the 6 examples can be used; the first: .*valannot"):
        open_camvid(camvid, on_bad_example="skip")


# ---- from a config --------------------------------------------------------------------------------------


def config(tmp_path, **changes):
    c = default_config()
    c.data.domains = "camvid,town_street"
    c.data.root = str(tmp_path)
    c.data.labeled_per_domain = 2
    c.data.image_size = "48x64"
    c.update_from_flattened_dict(changes)
    return checked(c)


def test_fields_reach_their_domain(camvid, tmp_path):
    pools = open_all(
        config(
            tmp_path,
            **{"data.scale": "camvid=0.5-2.0", "data.sampling": "town_street=rare"},
            **{"data.flip": False, "data.crop_size": "camvid=32x32"},
        )
    )
    assert pools["camvid"].scale == (0.5, 2.0) and pools["town_street"].scale == (1.0, 1.0)
    assert pools["camvid"].rare_temperature is None and pools["town_street"].rare_temperature == 0.01
    assert pools["camvid"].crop == (32, 32) and pools["town_street"].crop == (48, 64)
    assert not pools["camvid"].flip


def test_all_domains_share_the_memory_for_decoded_images(camvid, tmp_path):
    image = 48 * 64 * 3
    pools = open_all(config(tmp_path, **{"data.cache_gb": 2 * image / 1e9}))
    for pool in pools.values():
        for i in range(3):
            pool.unlabeled[i]
    budget = pools["camvid"].budget
    assert budget is pools["town_street"].budget and budget.used == 2 * image == budget.max_bytes


@pytest.mark.parametrize(
    "changes,told",
    [
        ({"data.scale": "2.0-0.5"}, "scale=2.0-0.5: cannot read '2.0-0.5' for camvid: give LOW-HIGH"),
        ({"data.sampling": "seldom"}, "give one of uniform, rare"),
        ({"data.labeled_list": "camvid=missing.txt"}, "missing.txt"),
        ({"data.labeled_per_domain": "camvid=2"}, "lacks town_street"),
        ({"data.unlabeled_splits": "camvid=train+extra"}, "has no split 'extra'"),
        ({"data.unlabeled_splits": "camvid=train+train"}, "give names of splits, each once"),
    ],
)
def test_a_wrong_field_is_told(camvid, tmp_path, changes, told):
    with pytest.raises(InputError) as error:
        open_all(config(tmp_path, **changes))
    assert told in str(error.value)


@pytest.mark.parametrize(
    "given,meant",
    [
        ({"data.image_size": "64x48"}, {"data.image_size": "camvid=48x64,tall=64x48"}),
        ({"data.image_size": "48x64"}, {"data.image_size": "camvid=48x64,tall=64x48"}),
        ({"data.image_size": "camvid=64x48,tall=48x64"}, {"data.image_size": "camvid=48x64,tall=64x48"}),
        ({"data.image_size": "tall=48x64"}, {"data.image_size": "tall=64x48"}),
        ({"data.image_size": "", "data.crop_size": "camvid=8x4,tall=8x8"}, {"data.crop_size": "camvid=4x8,tall=8x8"}),
    ],
)
def test_width_given_before_height_is_refused_and_what_is_proposed_is_taken(tmp_path, given, meant):
    camvid = get_domain("camvid")
    domains = {"camvid": camvid, "tall": dataclasses.replace(camvid, name="tall", size=(480, 360))}
    c = config(tmp_path, **given)
    with pytest.raises(InputError) as error:
        read_options(c, domains)
    ((field, size),) = meant.items()
    assert str(error.value).endswith(f"did you mean {size}?") and str(error.value).startswith(f"{field}=")
    c.update_from_flattened_dict({field: size})
    read_options(c, domains)


def test_size_of_turned_images_is_told_before_data_is_read(tmp_path):
    with pytest.raises(InputError) as error:
        open_all(config(tmp_path / "nowhere", **{"data.domains": ("camvid",), "data.image_size": "96x48"}))
    assert str(error.value) == (
        "data.image_size=96x48 is HEIGHTxWIDTH, 96 rows of 48 pixels, but images of camvid are 480 wide and 360 high; "
        "did you mean 48x96?"
    )


def test_a_wrong_choice_is_told(tmp_path):
    with pytest.raises(InputError, match=r"data\.on_bad_example=ignore must be one of error, skip"):
        config(tmp_path, **{"data.on_bad_example": "ignore"})


def test_endless_memory_is_no_number(tmp_path):
    with pytest.raises(InputError, match=r"data\.cache_gb=inf must be finite, at least 0"):
        config(tmp_path, **{"data.cache_gb": float("inf")})


def test_a_labeled_list_does_without_a_number(camvid, tmp_path):
    path = text_file(tmp_path / "l.txt", TRAIN[3])
    fields = {"data.labeled_list": f"camvid={path}", "data.labeled_per_domain": "town_street=3"}
    pools = open_all(config(tmp_path, **fields))
    assert pools["camvid"].labeled.ids == [TRAIN[3]] and len(pools["town_street"].labeled) == 3
    assert json.dumps(list(pools["camvid"].labeled_ids))
