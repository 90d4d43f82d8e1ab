"""Crops around rare classes. Test images carry the position of every pixel in their colour."""

import numpy as np
import pytest

from usss_jax.data.augment import CropFlip
from usss_jax.data.mining import MiningCropFlip, rare_corner

H, W = 40, 60


def example(label):
    y, x = np.mgrid[:H, :W]
    return {"image": np.stack([y, x, np.full_like(y, 77)], -1).astype(np.uint8), "label": label}


def label_with(places):
    """Label of class 0 with single pixels {(y, x): class}."""
    label = np.zeros((H, W), np.uint8)
    for place, c in places.items():
        label[place] = c
    return label


def crops(label, size=(11, 9), count=60, **arguments):
    transform = MiningCropFlip(size, **{"share": 1.0, "flip": False, **arguments})
    for seed in range(count):
        yield transform.random_map(example(label), np.random.default_rng(seed))


def centre(out):
    h, w = out["label"].shape
    return tuple(out["image"][h // 2, w // 2, :2].tolist())


@pytest.mark.parametrize("size", [(11, 9), (10, 8), (1, 1)])
def test_a_mined_crop_has_a_pixel_of_the_class_at_its_centre(size):
    label = label_with({(20, 30): 5, (12, 41): 5})
    seen = {centre(out) for out in crops(label, size, priority=[5])}
    assert seen == {(20, 30), (12, 41)}
    for out in crops(label, size, 5, priority=[5]):
        assert out["label"].shape == size and out["label"][size[0] // 2, size[1] // 2] == 5


def test_classes_with_priority_come_first_then_rare_ones():
    label = label_with({(20, 30): 5, (12, 41): 6, (25, 25): 7})
    assert {centre(out) for out in crops(label, rare=[7], priority=[5, 6])} == {(20, 30), (12, 41)}
    assert {centre(out) for out in crops(label, rare=[7], priority=[9])} == {(25, 25)}


def test_a_class_is_chosen_before_its_pixels():
    """One pixel of class 5, 200 of class 6: each class has half of the crops; four deviations are 100 of 600."""
    label = label_with({(20, 30): 5})
    label[20:30, 31:51] = 6
    fives = sum(centre(out) == (20, 30) for out in crops(label, count=600, priority=[5, 6]))
    assert abs(fives - 300) < 50


@pytest.mark.parametrize("place", [(4, 30), (35, 30), (20, 3), (20, 56)])
def test_pixels_too_near_to_the_border_are_no_centres(place):
    """Of 40 x 60 pixels, a crop of 11 x 9 may be centred on the rows 5 to 34 and the columns 4 to 55."""
    label = label_with({place: 5})
    assert rare_corner(label, (11, 9), [5], np.random.default_rng(0)) is None
    assert len({centre(out) for out in crops(label, priority=[5])}) > 30  # random


@pytest.mark.parametrize("place", [(5, 4), (34, 55), (5, 55), (34, 4)])
def test_the_outermost_centres_are_used(place):
    assert {centre(out) for out in crops(label_with({place: 5}), count=5, priority=[5])} == {place}


@pytest.mark.parametrize("arguments", [{"priority": [9], "rare": [8]}, {}, {"priority": [5], "share": 0.0}])
def test_it_falls_back_to_random_crops(arguments):
    tops = [out["image"][0, 0, :2] for out in crops(label_with({(20, 30): 5}), count=500, **arguments)]
    np.testing.assert_allclose(np.mean(tops, 0), [14.5, 25.5], atol=3)
    assert np.min(tops, 0).max() <= 1 and np.max(tops, 0).tolist() == [29, 51]


def test_about_the_share_of_the_crops_is_mined():
    """80 % of 500; four deviations are 36, and a random crop seldom has this centre."""
    found = sum(centre(out) == (20, 30) for out in crops(label_with({(20, 30): 5}), count=500, priority=[5], share=0.8))
    assert 364 < found < 440


def test_an_example_without_label_gets_a_random_crop():
    transform = MiningCropFlip((11, 9), priority=(5,), share=1.0)
    out = transform.random_map({"image": example(None)["image"]}, np.random.default_rng(0))
    assert set(out) == {"image"} and out["image"].shape == (11, 9, 3)


@pytest.mark.parametrize("scale", [(0.5, 0.5), (2.0, 2.0), (0.7, 1.3)])
def test_image_and_label_stay_paired_when_scaled_and_flipped(scale):
    label = np.where(np.mgrid[:H, :W][1] % 9 < 3, 5, np.mgrid[:H, :W][0] + 100).astype(np.uint8)
    for seed in range(20):
        transform = MiningCropFlip((16, 16), scale, priority=(5,), share=1.0)
        out = transform.random_map(example(label), np.random.default_rng(seed))
        rows = out["label"] != 5
        assert np.abs(out["image"][..., 0].astype(int) + 100 - out["label"])[rows].max() <= 1
        assert (out["label"][7:10, 7:10] == 5).any()


def test_along_an_axis_that_the_crop_covers_any_pixel_is_a_centre():
    label = label_with({(2, 30): 5})
    assert rare_corner(label, (H, 9), [5], np.random.default_rng(0)) == (0, 26)
    for out in crops(label, (H, 9), 5, priority=[5]):
        assert out["label"][2, 4] == 5
    for out in crops(label, (50, 70), 2, priority=[5]):  # larger than the image: padded
        np.testing.assert_array_equal(out["label"][:H, :W], label)


def test_without_mining_it_is_the_plain_crop_after_one_more_number():
    label = label_with({(20, 30): 5})
    for seed in range(5):
        one, other = np.random.default_rng(seed), np.random.default_rng(seed)
        got = MiningCropFlip((11, 9), share=0.0).random_map(example(label), one)
        other.random()
        want = CropFlip((11, 9)).random_map(example(label), other)
        for key, array in want.items():
            np.testing.assert_array_equal(got[key], array)
