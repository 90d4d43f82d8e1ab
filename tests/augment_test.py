"""Crop and flip of image and mask together. Test images carry the position of every pixel, masks its code."""

import numpy as np
import pytest

from usss_jax.data.augment import CropFlip

H, W = 12, 15


def example():
    """Pixel (y, x) has the colour (y, x, 77) and the label 16 y + x, which is never 255."""
    y, x = np.mgrid[:H, :W]
    image = np.stack([y, x, np.full_like(y, 77)], axis=-1).astype(np.uint8)
    return {"image": image, "label": (16 * y + x).astype(np.uint8)}


def transform(size, seed=0, element=None):
    return CropFlip(size).random_map(element or example(), np.random.default_rng(seed))


def placed(out):
    """(top, left, flipped) of a crop that lies inside the image."""
    y, x = out["image"][0, 0, :2].astype(int)
    flipped = bool(out["image"][0, 1, 1] < x)
    return y, x - (out["image"].shape[1] - 1) * flipped, flipped


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("size", [(5, 7), (12, 15), (12, 4), (1, 15)])
def test_image_and_mask_stay_paired_and_crops_are_contiguous(size, seed):
    out = transform(size, seed)
    assert out["image"].shape == (*size, 3) and out["label"].shape == size
    y, x = out["image"][..., 0].astype(int), out["image"][..., 1].astype(int)
    np.testing.assert_array_equal(out["label"], 16 * y + x)
    top, left, flipped = placed(out)
    columns = np.arange(left, left + size[1])[:: -1 if flipped else 1]
    np.testing.assert_array_equal(x, np.broadcast_to(columns, size))
    np.testing.assert_array_equal(y, np.broadcast_to(np.arange(top, top + size[0])[:, None], size))


def test_types_and_memory_are_ready_for_batching():
    before, element = example(), example()
    for seed in range(4):
        for size in ((5, 7), (20, 20)):
            out = transform(size, seed, element)
            assert all(a.dtype == np.uint8 and a.flags.c_contiguous for a in out.values())
            for array in out.values():
                array[:] = 0  # a source may keep its example for the next time
    for key, array in before.items():
        np.testing.assert_array_equal(element[key], array)


def test_about_half_of_the_examples_are_flipped():
    """1000 draws; four standard deviations are 63."""
    flips = sum(placed(transform((H, W), seed))[2] for seed in range(1000))
    assert 437 < flips < 563


def test_every_position_of_the_crop_comes_about_equally_often():
    """3 x 4 positions, 1200 draws: 100 each; four standard deviations are 38."""
    counts = {}
    for seed in range(1200):
        top, left, _ = placed(transform((H - 2, W - 3), seed))
        counts[top, left] = counts.get((top, left), 0) + 1
    assert set(counts) == {(top, left) for top in range(3) for left in range(4)}
    assert all(62 < n < 138 for n in counts.values())


def test_flipping_is_independent_of_the_position():
    by_top = {0: [], 1: []}
    for seed in range(800):
        top, _, flipped = placed(transform((H - 1, W), seed))
        by_top[top].append(flipped)
    assert all(0.37 < np.mean(flips) < 0.63 for flips in by_top.values())


@pytest.mark.parametrize("size", [(16, 20), (16, 15), (12, 20), (16, 6), (6, 20)])
def test_small_images_are_padded_at_bottom_and_right_with_the_mean_colour_and_ignore(size):
    seen = set()
    for seed in range(30):
        out = transform(size, seed)
        inside = out["label"] != 255
        rows, columns = min(size[0], H), min(size[1], W)
        flipped = bool(size[1] > W and not inside[0, 0])
        seen.add(flipped)
        want = np.zeros(size, bool)
        want[:rows, :columns] = True
        np.testing.assert_array_equal(inside[:, ::-1] if flipped else inside, want)
        assert (out["image"][~inside] == [124, 116, 104]).all()
        y, x = out["image"][inside][:, 0].astype(int), out["image"][inside][:, 1].astype(int)
        np.testing.assert_array_equal(out["label"][inside], 16 * y + x)
    assert seen == ({False, True} if size[1] > W else {False})


def test_an_unlabeled_example_stays_unlabeled_and_gets_the_same_crop():
    for size in ((5, 7), (20, 20)):
        with_label, without = transform(size, 3), transform(size, 3, {"image": example()["image"]})
        assert set(without) == {"image"}
        np.testing.assert_array_equal(without["image"], with_label["image"])


def test_the_generator_alone_decides():
    for size in ((5, 7), (20, 20)):
        first, second = transform(size, 11), transform(size, 11)
        for key in first:
            np.testing.assert_array_equal(first[key], second[key])
