"""Scale, crop and flip of image and mask together. Test images carry the position of every pixel, masks its code."""

import numpy as np
import pytest

from usss_jax.data.augment import CropFlip, stack
from usss_jax.errors import InputError

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
def test_image_and_mask_stay_paired(size, seed):
    out = transform(size, seed)
    assert out["image"].shape == (*size, 3) and out["label"].shape == size
    y, x = out["image"][..., 0].astype(int), out["image"][..., 1].astype(int)
    np.testing.assert_array_equal(out["label"], 16 * y + x)
    top, left, flipped = placed(out)
    columns = np.arange(left, left + size[1])[:: -1 if flipped else 1]
    np.testing.assert_array_equal(x, np.broadcast_to(columns, size))
    np.testing.assert_array_equal(y, np.broadcast_to(np.arange(top, top + size[0])[:, None], size))


@pytest.mark.parametrize("size,scale", [((5, 7), (1, 1)), ((20, 20), (1, 1)), ((5, 7), (0.5, 2)), ((20, 20), (0.5, 2))])
def test_a_batch_holds_what_the_examples_show_in_memory_of_its_own(size, scale):
    """Crops and flips of a source's example are views; NumPy's own stack says what they show."""
    before, element = example(), example()
    parts = [CropFlip(size, scale).random_map(element, np.random.default_rng(seed)) for seed in range(8)]
    assert len({part["image"].strides[1] < 0 for part in parts}) == 2  # flipped ones and others
    batch = stack(parts)
    for key, array in batch.items():
        np.testing.assert_array_equal(array, np.stack([part[key] for part in parts]))
        assert array.dtype == np.uint8 and array.flags.c_contiguous
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


def with_other_maps(element, classes=19):
    """The example with maps that tell its label: a confidence, and a soft target in a dict of its own."""
    label = element["label"]
    soft = np.stack([label / np.float32(255)] * classes, -1).astype(np.float32)
    return {**element, "confidence": label // 2, "teacher": {"soft_target": soft}}


@pytest.mark.parametrize("scale", [(1, 1), (0.5, 2)])
@pytest.mark.parametrize("size", [(5, 7), (20, 20)])
def test_all_maps_of_an_example_move_alike(size, scale):
    """A confidence takes the pixel that its label takes, 0 where that is padded; image and label stay as alone."""
    for seed in range(12):
        transform = CropFlip(size, scale)
        alone, other = np.random.default_rng(seed), np.random.default_rng(seed)
        want = stack([transform.random_map(example(), alone)])
        got = stack([transform.random_map(with_other_maps(example()), other)])
        for key, array in want.items():
            np.testing.assert_array_equal(got[key], array)
        assert alone.random() == other.random()
        label, inside = got["label"], got["label"] != 255
        assert got["confidence"].dtype == np.uint8
        np.testing.assert_array_equal(got["confidence"], np.where(inside, label // 2, 0))
        soft = got["teacher"]["soft_target"]
        assert soft.shape == (1, *size, 19) and soft.dtype == np.float32
        assert (soft[~inside] == 0).all() and (soft == soft[..., :1]).all()
        if scale == (1, 1):
            np.testing.assert_allclose(soft[inside][:, 0], label[inside] / 255, rtol=1e-6)


@pytest.mark.parametrize("classes", [1, 3, 7])
def test_a_soft_target_is_interpolated_and_stays_with_the_image(classes):
    for seed in range(6):
        element = wide(1)
        soft = np.repeat(element["image"][..., 1:2], classes, axis=2).astype(np.float32)
        out = CropFlip((50, 70), (0.5, 2.0)).random_map(element | {"soft_target": soft}, np.random.default_rng(seed))
        padded = CropFlip((250, 250)).random_map(element | {"soft_target": soft}, np.random.default_rng(seed))
        assert padded["soft_target"].shape == (250, 250, classes)
        got, place = out["soft_target"], out["image"][..., 1:2].astype(int)
        assert got.shape == (50, 70, classes) and np.abs(got - place).max() <= 1
        assert (got % 1 > 0.05).any()  # values in between


def test_a_map_of_another_kind_is_refused_by_name():
    with pytest.raises(ValueError, match="'depth' is not a kind of map; give one of image, label"):
        transform((5, 7), element={**example(), "depth": np.zeros((H, W), np.float32)})


def test_the_generator_alone_decides():
    for size in ((5, 7), (20, 20)):
        first, second = transform(size, 11), transform(size, 11)
        for key in first:
            np.testing.assert_array_equal(first[key], second[key])


def plainly(element, size, rng):
    """Crop and flip written out pixel by pixel: two integers for the corner, then one number for the flip."""
    h, w = element["label"].shape
    top, left = rng.integers(0, max(h - size[0], 0) + 1), rng.integers(0, max(w - size[1], 0) + 1)
    flip = rng.random() < 0.5
    image, label = np.zeros((*size, 3), np.uint8), np.zeros(size, np.uint8)
    for y in range(size[0]):
        for x in range(size[1]):
            inside = top + y < h and left + x < w
            at = y, size[1] - 1 - x if flip else x
            image[at] = element["image"][top + y, left + x] if inside else (124, 116, 104)
            label[at] = element["label"][top + y, left + x] if inside else 255
    return {"image": image, "label": label}


@pytest.mark.parametrize("size", [(5, 7), (12, 15), (20, 20), (16, 6), (3, 20), (1, 1)])
def test_without_scale_the_same_generator_gives_the_same_bytes_and_goes_on_alike(size):
    element = {key: np.random.default_rng(1).integers(0, 256, a.shape, np.uint8) for key, a in example().items()}
    for array in element.values():
        array.flags.writeable = False  # as a cache hands them out
    for seed in range(12):
        one, other = np.random.default_rng(seed), np.random.default_rng(seed)
        got, want = CropFlip(size).random_map(element, one), plainly(element, size, other)
        for key, array in want.items():
            np.testing.assert_array_equal(got[key], array)
        assert one.random() == other.random()


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.5, 2.0)])
def test_without_flip_nothing_is_flipped_and_the_crops_are_the_same(scale):
    for seed in range(20):
        never = CropFlip((5, 7), scale, flip=False).random_map(example(), np.random.default_rng(seed))
        maybe = CropFlip((5, 7), scale).random_map(example(), np.random.default_rng(seed))
        assert never["image"][0, 0, 1] < never["image"][0, -1, 1]
        flipped = maybe["image"][0, 0, 1] > maybe["image"][0, -1, 1]
        for key, array in never.items():
            np.testing.assert_array_equal(array[:, ::-1] if flipped else array, maybe[key])


# ---- Scale ----


def wide(axis):
    """A large example: pixel (y, x) has the colour (y, x, 77), its label is y (axis 0) or x (axis 1)."""
    y, x = np.mgrid[:200, :240]
    image = np.stack([y, x, np.full_like(y, 77)], axis=-1).astype(np.uint8)
    return {"image": image, "label": (y, x)[axis].astype(np.uint8)}


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("scale", [(0.5, 2.0), (0.3, 0.5), (2.5, 4.0)])
@pytest.mark.parametrize("size", [(50, 70), (200, 240), (150, 40)])
def test_image_and_mask_stay_paired_when_scaled(size, scale, axis):
    """The image's colour is the place that a pixel shows, the mask the whole pixel there: at most 1 apart."""
    for seed in range(10):
        out = CropFlip(size, scale).random_map(wide(axis), np.random.default_rng(seed))
        assert out["image"].shape == (*size, 3) and out["label"].shape == size
        inside = out["label"] != 255
        assert inside.any() and (out["image"][~inside] == [124, 116, 104]).all()
        assert (out["image"][inside][:, 2] == 77).all()
        place = out["image"][inside][:, axis].astype(int)
        assert np.abs(place - out["label"][inside]).max() <= 1


def test_growing_to_twice_the_size_by_hand():
    element = {"image": np.zeros((2, 2, 3), np.uint8), "label": np.array([[1, 2], [3, 255]], np.uint8)}
    element["image"][:, 1] = 100
    out = CropFlip((4, 4), (2.0, 2.0), flip=False).random_map(element, np.random.default_rng(0))
    np.testing.assert_array_equal(out["image"], np.broadcast_to(np.array([0, 25, 75, 100])[:, None], (4, 4, 3)))
    np.testing.assert_array_equal(out["label"], [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 255, 255], [3, 3, 255, 255]])


def test_shrinking_to_half_the_size_by_hand():
    """The mean of four pixels; the mask takes one of them; what is missing is padded."""
    element = {"image": np.zeros((2, 4, 3), np.uint8), "label": np.array([[5, 5, 5, 5], [5, 1, 5, 2]], np.uint8)}
    element["image"][:, 2:] = [[[40], [80]], [[60], [100]]]
    out = CropFlip((2, 3), (0.5, 0.5), flip=False).random_map(element, np.random.default_rng(0))
    padding = [124, 116, 104]
    np.testing.assert_array_equal(out["image"], [[[0] * 3, [70] * 3, padding], [padding] * 3])
    np.testing.assert_array_equal(out["label"], [[1, 2, 255], [255] * 3])


def factors(scale, count):
    """The factors of many draws, measured by how many pixels of the original the crop shows."""
    image = {"image": np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (40, 256, 3)).copy()}
    for seed in range(count):
        out = CropFlip((20, 60), scale, flip=False).random_map(image, np.random.default_rng(seed))["image"][0, :, 0]
        yield 50 / (int(out[54]) - int(out[4]))


def test_factors_are_log_uniform_within_the_range():
    """The logarithm's mean is 0, as often below as above; four standard deviations are 0.08 and 63."""
    logs = np.log2(list(factors((0.5, 2.0), 1000)))
    assert -1.05 < logs.min() < -0.95 and 0.95 < logs.max() < 1.1
    assert abs(logs.mean()) < 0.08 and 437 < (logs > 0).sum() < 563
    assert 187 < (logs > 0.5).sum() < 313  # a quarter; a factor drawn uniformly would give 39 %


def test_a_scaled_crop_moves_over_the_whole_image():
    corners = set()
    for seed in range(2000):
        out = CropFlip((6, 6), (2.0, 2.0), flip=False).random_map(example(), np.random.default_rng(seed))
        corners.add(tuple(out["image"][0, 0, :2].tolist()))
    assert corners == {(top, left) for top in range(H - 2) for left in range(W - 2)}


def test_an_extreme_shrink_leaves_at_least_one_pixel():
    out = CropFlip((4, 4), (0.01, 0.01)).random_map(example(), np.random.default_rng(0))
    assert (out["label"] != 255).sum() == 1


def test_a_scaled_example_without_mask_gets_the_same_image():
    for seed in range(5):
        with_label, without = (
            CropFlip((9, 9), (0.5, 2.0)).random_map(e, np.random.default_rng(seed))
            for e in (example(), {"image": example()["image"]})
        )
        assert set(without) == {"image"}
        np.testing.assert_array_equal(without["image"], with_label["image"])


@pytest.mark.parametrize("scale", [(2.0, 0.5), (0.0, 1.0), (-1.0, 1.0), (1.0, float("inf")), (float("nan"), 1.0), (1,)])
def test_a_wrong_scale_is_refused_by_name(scale):
    with pytest.raises(InputError, match=r"^scale=.*smaller first"):
        CropFlip((4, 4), scale)
