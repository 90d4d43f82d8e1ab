"""The images of a round, from two small domains on disk whose images have the same names."""

import numpy as np
import pytest
import tiny_uda

from usss_jax.data.augment import CropFlip
from usss_jax.data.domains import get_domain
from usss_jax.data.mining import MiningCropFlip
from usss_jax.data.options import Options
from usss_jax.data.pools import open_pools
from usss_jax.methods.self_training.round_images import ImageClasses, Labeled, RoundCrop, Together

H, W = tiny_uda.SIZE
PRESENCE = ImageClasses(5)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Labeled images of city and town, both with the ids 0 to 3."""
    folder = tmp_path_factory.mktemp("data")
    tiny_uda.write_domains(folder)
    domains = [get_domain(str(folder / f"{name}.yaml")) for name in ("city", "town")]
    return {d.name: open_pools(d, d.folder, Options(labeled="all")).labeled for d in domains}


@pytest.fixture(scope="module")
def together(parts):
    return Together(parts)


def assert_same(found, want):
    assert found.keys() == want.keys()
    for key, array in want.items():
        np.testing.assert_array_equal(found[key], array)


# ---- Together ----


def test_it_has_the_images_of_all_origins_under_their_names(parts, together):
    assert together.ids == [f"{name}/{i}" for name in ("city", "town") for i in parts[name].ids] and len(together) == 8
    for index, key in enumerate(together.ids):
        name, _, i = key.partition("/")
        found, want = together[index], parts[name][parts[name].ids.index(i)]
        assert found.pop("origin") == name
        assert_same(found, want)
        np.testing.assert_array_equal(together.label(index), want["label"])
        assert tuple(together.file_size(index)) == (H, W)
    assert not np.array_equal(together[0]["image"], together[4]["image"])


def test_a_selection_keeps_order_and_origins(parts, together):
    chosen = together.select(["town/2", "city/2", "city/0"])
    assert chosen.ids == ["town/2", "city/2", "city/0"] and len(chosen) == 3
    assert [chosen[i]["origin"] for i in range(3)] == ["town", "city", "city"]
    np.testing.assert_array_equal(chosen[0]["image"], parts["town"][2]["image"])
    np.testing.assert_array_equal(chosen.label(1), parts["city"].label(2))
    assert chosen.select(["city/0"])[0]["origin"] == "city" and len(together) == 8


# ---- RoundCrop ----


def example(label, **more):
    """Colours tell the position of a pixel."""
    y, x = np.mgrid[:H, :W]
    return {"image": np.stack([y, x, x], -1).astype(np.uint8), "label": label, **more}


def corner_label():
    """Class 0, with class 3 in the upper left corner alone."""
    label = np.zeros((H, W), np.uint8)
    label[:4, :4] = 3
    return label


def crop_of(origins, element, seed=0):
    return RoundCrop(origins).random_map(element, np.random.default_rng(seed))


@pytest.mark.parametrize("of_image", [False, True])
def test_image_level_labels_are_of_the_crop_or_of_the_whole_image(of_image):
    origin = Labeled([], CropFlip((8, 8), flip=False), PRESENCE, of_image)
    seen = set()
    for seed in range(40):
        found = crop_of({"town": origin}, example(corner_label(), origin="town"), seed)
        assert set(found) == {"image", "label", "classes"} and found["label"].shape == (8, 8)
        assert found["classes"].dtype == np.float32 and found["classes"].tolist()[0] == 1
        assert found["classes"][3] == (of_image or (found["label"] == 3).any())
        seen.add(float(found["classes"][3]))
    assert seen == ({1.0} if of_image else {0.0, 1.0})


def test_each_origin_has_its_own_crop_and_rule():
    """Crops around the only pixel of class 2 for one, around that of class 4 for the other."""
    label = np.zeros((H, W), np.uint8)
    label[10, 20], label[20, 30] = 2, 4
    origins = {
        "city": Labeled([], MiningCropFlip((9, 9), flip=False, rare=[2], share=1.0), PRESENCE),
        "town": Labeled([], MiningCropFlip((9, 9), flip=False, rare=[4], share=1.0), ImageClasses(5, np.full(5, 2.0))),
    }
    for name, place, classes in (("city", (10, 20), [1, 0, 1, 0, 0]), ("town", (20, 30), [1, 0, 0, 0, 1])):
        found = crop_of(origins, example(label, origin=name))
        assert found["image"][4, 4, :2].tolist() == list(place)
        assert found["classes"].tolist() == classes


def test_without_image_level_labels_there_are_none_and_confidences_are_left_out():
    origin = Labeled([], CropFlip((8, 8)))
    element = example(corner_label(), confidence=np.zeros((H, W), np.uint8))
    assert set(crop_of({"town": origin}, element)) == {"image", "label"}


def test_an_example_without_an_origin_is_of_the_only_one():
    origin = Labeled([], CropFlip((8, 8)), PRESENCE)
    one, other = (crop_of({"town": origin}, example(corner_label(), **o)) for o in ({}, {"origin": "town"}))
    assert_same(one, other)


def test_crops_are_those_of_the_transformation_alone():
    crop = MiningCropFlip((8, 8), scale=(0.7, 1.3), rare=[3])
    for seed in range(5):
        want = crop.random_map(example(corner_label()), np.random.default_rng(seed))
        assert_same(crop_of({"town": Labeled([], crop)}, example(corner_label()), seed), want)


# ---- ImageClasses ----


def test_a_class_is_there_if_its_share_reaches_eta_times_its_mean_size():
    """Of 100 pixels, with sizes 0.4, 0.2 and 0.1 and eta = 0.05: at least 2, 1 and 0.5 of them."""
    rule = ImageClasses(3, np.array([0.4, 0.2, 0.1]), eta=0.05)

    def found(*counts):
        label = np.full(100, 255, np.uint8)  # ignored pixels count in the area
        label[: sum(counts)] = np.repeat(np.arange(3), counts)
        return rule(label.reshape(10, 10)).tolist()

    assert found(2, 1, 1) == [1, 1, 1]
    assert found(1, 1, 0) == [0, 1, 0]
    assert found(0, 0, 0) == [0, 0, 0]


def test_a_class_that_the_source_never_shows_is_never_there():
    rule = ImageClasses(2, np.array([0.1, np.inf]), eta=0.05)
    assert rule(np.ones((4, 4), np.uint8)).tolist() == [0, 0]


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_without_sizes_any_pixel_suffices(eta):
    label = np.full((4, 4), 255, np.uint8)
    label[2, 2] = 1
    assert ImageClasses(3, eta=eta)(label).tolist() == [0, 1, 0]
