"""Colours against Pillow, colorsys and NumPy; mixing on images that carry their own label; eight devices as one."""

import colorsys
import json
import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from usss_jax.data import augment_device
from usss_jax.data.augment_device import DeviceAugment, augment, change_colors, mix
from usss_jax.errors import InputError

B, H, W = 4, 12, 16
EVERYTHING = {"color_jitter": 0.5, "grey": 0.3, "blur": 0.5}
KEY = jax.random.key(7)
LUMA = np.array([0.299, 0.587, 0.114])

# Compiling takes nearly all of the time here, so let the compiler do less where its optimisations are not of interest.
compiled = jax.jit(augment, static_argnums=2, compiler_options={"xla_backend_optimization_level": 0})
colors = jax.jit(change_colors, static_argnums=2)
mixed = jax.jit(mix, static_argnums=2)
jitter = jax.jit(augment_device.jitter)
half_the_classes = jax.jit(augment_device.half_the_classes)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def told(count=B, seed=0, classes=6):
    """Images whose first channel is the label, whose second the image's number; a quarter of the pixels is ignored."""
    r = np.random.default_rng(seed)
    label = r.integers(0, classes, (count, H, W)).astype(np.uint8)
    label[r.random(label.shape) < 0.25] = 255
    number = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None], label.shape)
    return np.stack([label, number, np.full_like(label, 77)], axis=-1), label


def batch(domains=("a", "b"), passes=2):
    labeled, unlabeled = {}, {}
    for i, domain in enumerate(domains):
        image, label = told(seed=i)
        labeled[domain] = {"image": image, "label": label}
        unlabeled[domain] = {"image": noise(passes, B, H, W, seed=i)}
    return {"labeled": labeled, "unlabeled": unlabeled} if passes else {"labeled": labeled}


def factor(value):
    return jnp.full((B, 1, 1, 1), value, jnp.float32)


def assert_same(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


# ---- The whole batch ----


def test_without_settings_the_batch_is_handed_back_untouched():
    given = batch()
    assert DeviceAugment().is_identity
    assert augment(given, KEY, DeviceAugment()) is given


@pytest.mark.parametrize("changes", [{"color_jitter": 0.1}, {"grey": 0.1}, {"blur": 0.1}, {"mix": "cutmix"}])
def test_every_setting_is_a_change(changes):
    assert not DeviceAugment(**changes).is_identity


@pytest.mark.parametrize("how", ["none", "classmix"])
@pytest.mark.slow
def test_structure_shapes_and_types_with_changed_colours(how):
    given = batch()
    out = jax.device_get(compiled(given, KEY, DeviceAugment(**EVERYTHING, mix=how)))
    assert jax.tree.structure(out) == jax.tree.structure(given)
    for kind, parts in given.items():
        for domain, part in parts.items():
            image = out[kind][domain]["image"]
            assert image.shape == part["image"].shape and image.dtype == np.float32
            assert image.min() >= 0 and 0.5 < image.max() <= 1
    labels = [out["labeled"][d]["label"] for d in ("a", "b")]
    assert all(label.dtype == np.uint8 for label in labels)


def test_colours_never_touch_the_labels():
    given = batch()
    out = compiled(given, KEY, DeviceAugment(**EVERYTHING))
    for domain, part in given["labeled"].items():
        np.testing.assert_array_equal(out["labeled"][domain]["label"], part["label"])


def test_mixing_alone_leaves_bytes_and_unlabeled_images():
    given = batch()
    out = jax.device_get(compiled(given, KEY, DeviceAugment(mix="cutmix")))
    assert_same(out["unlabeled"], given["unlabeled"])
    for domain, part in out["labeled"].items():
        assert part["image"].dtype == np.uint8
        assert (part["image"] != given["labeled"][domain]["image"]).any()


def test_supervised_training_has_no_unlabeled_part():
    assert set(compiled(batch(passes=0), KEY, DeviceAugment(grey=1.0))) == {"labeled"}


def test_the_key_alone_decides():
    given, settings = batch(), DeviceAugment(**EVERYTHING, mix="cutmix")
    first = jax.device_get(compiled(given, KEY, settings))
    assert_same(jax.device_get(compiled(given, KEY, settings)), first)
    other = jax.device_get(compiled(given, jax.random.key(8), settings))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True):
        assert (a != b).any()


def test_a_domain_is_changed_alike_whichever_other_domains_take_part():
    settings = DeviceAugment(**EVERYTHING, mix="classmix")
    both = jax.device_get(compiled(batch(("a", "b")), KEY, settings))
    alone = jax.device_get(compiled(batch(("a",)), KEY, settings))
    labeled_only = jax.device_get(compiled(batch(("a",), passes=0), KEY, settings))
    for got in (alone, labeled_only):
        np.testing.assert_array_equal(got["labeled"]["a"]["label"], both["labeled"]["a"]["label"])
        np.testing.assert_allclose(got["labeled"]["a"]["image"], both["labeled"]["a"]["image"], atol=1e-6)
    np.testing.assert_allclose(alone["unlabeled"]["a"]["image"], both["unlabeled"]["a"]["image"], atol=1e-6)


def test_parts_and_images_are_changed_differently():
    """All images are the same, so that whatever differs was drawn."""
    image = np.broadcast_to(noise(1, 1)[0], (B, H, W, 3))
    given = {
        "labeled": {d: {"image": image, "label": np.zeros((B, H, W), np.uint8)} for d in ("a", "b")},
        "unlabeled": {d: {"image": np.stack([image] * 2)} for d in ("a", "b")},
    }
    out = jax.device_get(compiled(given, KEY, DeviceAugment(color_jitter=0.9)))
    drawn = [out[kind][d]["image"].reshape(-1, H, W, 3) for kind in out for d in ("a", "b")]
    changed = [i.tobytes() for part in drawn for i in part if not np.allclose(i, image[0] / 255, atol=1e-3)]
    assert len(changed) > 12 and len(set(changed)) == len(changed)


def test_every_part_has_its_own_key():
    parts = [(kind, domain) for kind in ("labeled", "unlabeled", "mix") for domain in ("a", "b", "ab")]
    keys = [jax.random.key_data(augment_device.part_key(KEY, *part)).tolist() for part in parts]
    assert len({tuple(key) for key in keys}) == len(parts)


def test_a_micro_batch_alone_is_changed_as_in_the_whole_batch():
    """The training step may do it inside its scan."""
    given, settings = batch(passes=3), DeviceAugment(**EVERYTHING)
    whole = compiled(given, KEY, settings)["unlabeled"]["b"]["image"]
    one = jax.jit(partial(augment_device.change_micro_batch, domain="b", settings=settings))
    for u in range(3):
        got = one(given["unlabeled"]["b"]["image"][u], u, key=KEY)
        np.testing.assert_allclose(got, whole[u], atol=1e-6)


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
@pytest.mark.parametrize("field", ["color_jitter", "grey", "blur"])
def test_a_value_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(InputError, match=rf"^{field}={value} is not a .* between 0 and 1"):
        DeviceAugment(**{field: value})


def test_an_unknown_mix_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="mix='mixup' is not one of none, cutmix, classmix"):
        DeviceAugment(mix="mixup")


# ---- Colours ----


@pytest.mark.parametrize(
    ("name", "enhance"),
    [("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast), ("saturation", ImageEnhance.Color)],
)
@pytest.mark.parametrize("value", [0.0, 0.6, 1.0, 1.7])
def test_brightness_contrast_and_saturation_are_those_of_pillow(name, enhance, value):
    """Up to Pillow's rounding to bytes, of the result and of the grey that it blends with."""
    images = noise(B, H, W)
    factors = {f: factor(value if f == name else 1.0) for f in ("brightness", "contrast", "saturation")}
    got = np.asarray(jitter(images / np.float32(255), hue=factor(0.0), **factors)) * 255
    want = np.stack([np.asarray(enhance(Image.fromarray(image)).enhance(value)) for image in images])
    assert np.abs(got - want).max() < 1.6


def test_jitter_by_hand():
    """One image of two pixels, (0.2, 0.4, 0.6) and (0.8, 0.8, 0.8): x 0.5, contrast 2, saturation 0.5."""
    image = np.array([0.2, 0.4, 0.6, 0.8, 0.8, 0.8], np.float32).reshape(1, 1, 2, 3)
    one = partial(np.full, (1, 1, 1, 1), dtype=np.float32)
    got = jitter(image, one(0.5), one(2.0), one(0.5), one(0.0))
    a, b = np.array([0.1, 0.2, 0.3]), np.array([0.4, 0.4, 0.4])
    mean = (a @ LUMA + 0.4) / 2  # 0.29075
    a, b = np.clip(2 * a - mean, 0, 1), 2 * b - mean  # red of the first would be negative
    a = 0.5 * a + 0.5 * (a @ LUMA)
    np.testing.assert_allclose(got[0, 0], [a, b], atol=1e-6)


@pytest.mark.parametrize("shift", [0.0, 0.125, -0.3, 1 / 3, 0.5])
def test_hue_is_that_of_colorsys(shift):
    corners = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1]), -1).reshape(-1, 3)
    pixels = np.concatenate([noise(200) / 255, corners, corners / 2, np.full((1, 3), 0.3)])
    got = augment_device.shift_hue(jnp.asarray(pixels, jnp.float32), shift)
    want = [colorsys.hsv_to_rgb((h + shift) % 1, s, v) for h, s, v in (colorsys.rgb_to_hsv(*p) for p in pixels)]
    np.testing.assert_allclose(got, want, atol=2e-6)


def test_a_third_of_the_circle_turns_red_into_green_into_blue():
    red_green = jnp.array([[1.0, 0.0, 0.0], [0.2, 0.9, 0.2]])
    np.testing.assert_allclose(augment_device.shift_hue(red_green, 1 / 3), [[0, 1, 0], [0.2, 0.2, 0.9]], atol=1e-6)


def test_grey_has_the_weights_of_pillow():
    images = noise(B, H, W)
    got = np.asarray(colors(images, KEY, DeviceAugment(grey=1.0)))
    want = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])
    assert got.shape == images.shape and (got == got[..., :1]).all()
    assert np.abs(got[..., 0] * 255 - want).max() < 0.51


def plain_blur(image, sigma):
    """One image in float64, the two-dimensional window written out."""
    offsets = np.arange(-6, 7)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * sigma**2))
    window /= window.sum()
    padded = np.pad(image.astype(np.float64), ((6, 6), (6, 6), (0, 0)), mode="edge")
    h, w = image.shape[:2]
    return sum(window[y, x] * padded[y : y + h, x : x + w] for y in range(13) for x in range(13))


@pytest.mark.parametrize("shape", [(12, 16), (3, 20), (1, 1)])
def test_blur_is_the_plain_one_with_its_own_deviation_for_every_image(shape):
    images, sigmas = noise(B, *shape) / np.float32(255), np.array([0.1, 0.7, 1.3, 2.0], np.float32)
    got = jax.jit(augment_device.blur)(images, sigmas[:, None, None, None])
    want = np.stack([plain_blur(image, sigma) for image, sigma in zip(images, sigmas, strict=True)])
    np.testing.assert_allclose(got, want, atol=1e-6)
    np.testing.assert_allclose(got[0], images[0], atol=1e-6)  # 0.1 pixels: nothing to see


def test_blurred_images_have_deviations_between_the_limits():
    """Impulses: the variance of the blurred one is the square of its deviation, less what discrete pixels take."""
    images = np.zeros((300, 25, 1, 3), np.uint8)
    images[:, 12] = 255
    column = np.asarray(colors(images, KEY, DeviceAugment(blur=1.0)))[:, :, 0, 0]
    np.testing.assert_allclose(column.sum(1), 1, atol=1e-5)
    deviations = np.sqrt((column * (np.arange(25) - 12.0) ** 2).sum(1))
    assert deviations.min() < 0.1 and 1.9 < deviations.max() < 2.0
    assert abs(np.mean(deviations > 1.05) - 0.5) < 0.12  # uniform in [0.1, 2]; four standard deviations


@pytest.mark.parametrize(
    ("changes", "share"), [({"grey": 0.3}, 0.3), ({"blur": 0.6}, 0.6), ({"color_jitter": 0.5}, 0.8), ({"grey": 1}, 1)]
)
def test_as_many_images_change_as_the_probability_says_and_the_others_are_as_the_model_scales_bytes(changes, share):
    """600 images; four standard deviations are 0.08 at most. Exactly: the others must not differ in the last bit."""
    images = noise(600, 2, 3)
    out = np.asarray(colors(images, KEY, DeviceAugment(**changes)))
    same = (out == jax.jit(lambda x: x.astype(jnp.float32) / 255)(images)).all((1, 2, 3))
    assert abs(np.mean(~same) - share) < 0.08
    assert share < 1 or not same.any()


def test_factors_of_brightness_are_uniform_within_the_strength():
    """On an image of one grey only brightness can be seen."""
    images = np.full((1000, 2, 2, 3), 100, np.uint8)
    out = np.asarray(colors(images, KEY, DeviceAugment(color_jitter=0.4)))
    assert np.ptp(out, axis=(1, 2, 3)).max() < 1e-6
    drawn = out[:, 0, 0, 0] * 255 / 100
    drawn = drawn[np.abs(drawn - 1) > 1e-6]  # the others were not to be changed
    assert 0.6 - 1e-5 < drawn.min() < 0.61 and 1.39 < drawn.max() < 1.4 + 1e-5
    np.testing.assert_allclose(np.histogram(drawn, 4, (0.6, 1.4))[0] / len(drawn), 0.25, atol=0.065)


def test_hue_moves_by_at_most_a_quarter_of_the_strength():
    """Brightness, contrast and saturation keep the hue of a colour that none of them clips."""
    images = np.broadcast_to(np.array([115, 128, 102], np.uint8), (1000, 1, 1, 3))
    out = np.asarray(colors(images, KEY, DeviceAugment(color_jitter=0.2)), np.float64)[:, 0, 0]
    turned = np.array([colorsys.rgb_to_hsv(*pixel)[0] for pixel in out]) - colorsys.rgb_to_hsv(115, 128, 102)[0]
    assert -0.0501 < turned.min() < -0.048 and 0.048 < turned.max() < 0.0501


def test_a_uniform_image_keeps_its_colour_when_blurred_and_stays_in_range_when_jittered():
    images = np.full((B, H, W, 3), 200, np.uint8)
    blurred = colors(images, KEY, DeviceAugment(blur=1.0))
    np.testing.assert_allclose(blurred, 200 / 255, atol=1e-6)
    strong = np.asarray(colors(noise(60, H, W), KEY, DeviceAugment(color_jitter=1.0, blur=1.0)))
    assert strong.min() >= 0 and strong.max() <= 1


def test_switching_one_change_on_leaves_the_draws_of_the_others():
    images = noise(40, 2, 3)
    jittered = np.asarray(colors(images, KEY, DeviceAugment(color_jitter=0.5)))
    both = np.asarray(colors(images, KEY, DeviceAugment(color_jitter=0.5, grey=0.5)))
    coloured = np.ptp(both, axis=-1).max((1, 2)) > 0
    assert 8 < coloured.sum() < 32
    np.testing.assert_allclose(both[coloured], jittered[coloured], atol=1e-6)


def test_compiled_jitter_is_that_of_numpy_and_colorsys():
    """On many pixels: a compiler that computes the largest channel twice, rounding differently, must not turn a hue."""
    images = noise(B, 60, 80)
    brightness, contrast, saturation, hue = 1.1, 0.9, 1.2, 0.05
    got = jitter(images / np.float32(255), *(factor(value) for value in (brightness, contrast, saturation, hue)))
    for image, one in zip(images / 255, np.asarray(got), strict=True):
        want = np.clip(brightness * image, 0, 1)
        want = np.clip(contrast * want + (1 - contrast) * (want @ LUMA).mean(), 0, 1)
        want = np.clip(saturation * want + (1 - saturation) * (want @ LUMA)[..., None], 0, 1)
        hsv = (colorsys.rgb_to_hsv(*pixel) for pixel in want.reshape(-1, 3))
        turned = [colorsys.hsv_to_rgb((h + hue) % 1, s, v) for h, s, v in hsv]
        np.testing.assert_allclose(one.reshape(-1, 3), turned, atol=2e-6)


def test_floating_point_images_are_taken_as_they_are():
    images = noise(B, H, W)
    settings = DeviceAugment(**EVERYTHING)
    got = colors(images.astype(np.float32) / np.float32(255), KEY, settings)
    np.testing.assert_allclose(got, colors(images, KEY, settings), atol=1e-6)


# ---- Mixing ----


def paste(how, count=B, seed=0, classes=6):
    """Mix images that tell their label; return it with what is pasted, after checking that label and pixels agree."""
    image, label = told(count, seed, classes)
    maps = jax.device_get(mixed({"image": image, "label": label}, jax.random.key(seed), how))
    out, out_label = maps["image"], maps["label"]
    assert out.dtype == out_label.dtype == np.uint8
    np.testing.assert_array_equal(out[..., 0], out_label)
    number = np.arange(count)[:, None, None]
    pasted = out[..., 1] != number
    assert (out[..., 1] == np.where(pasted, (number - 1) % count, number)).all()
    partner = np.roll(label, 1, axis=0)
    np.testing.assert_array_equal(out_label, np.where(pasted, partner, label))
    return pasted, partner


@pytest.mark.parametrize("how", ["cutmix", "classmix"])
@pytest.mark.parametrize("seed", range(4))
def test_the_label_follows_the_pixels(how, seed):
    pasted, _ = paste(how, seed=seed)
    assert pasted.any() and not pasted.all()


@pytest.mark.parametrize("how", ["cutmix", "classmix"])
def test_the_label_follows_the_pixels_with_colours_changed_after_mixing(how):
    """The third channel holds no class, so that grey images still tell label and number by one value."""
    given = batch(passes=0)
    for part in given["labeled"].values():
        part["image"][..., 2] = part["image"][..., 1] = 0
    out = jax.device_get(compiled(given, KEY, DeviceAugment(grey=1.0, mix=how)))
    for part in out["labeled"].values():
        np.testing.assert_array_equal(np.round(part["image"][..., 0] * 255 / 0.299), part["label"])


def test_cutmix_pastes_one_box():
    pasted, _ = paste("cutmix", count=200)
    for box in pasted:
        rows, columns = np.flatnonzero(box.any(1)), np.flatnonzero(box.any(0))
        assert box.sum() == len(rows) * len(columns)
        if len(rows):
            assert len(rows) == np.ptp(rows) + 1 and len(columns) == np.ptp(columns) + 1


def test_boxes_have_any_share_of_the_area_and_lie_anywhere():
    """A uniform share, so 250 of 1000 in every quarter; four standard deviations are 55. Large enough to round well."""
    boxes = np.asarray(jax.jit(augment_device.cut_boxes, static_argnums=1)(KEY, (1000, 60, 80)))
    shares = boxes.mean((1, 2))
    counts = np.histogram(shares, 4, (0, 1))[0]
    assert (np.abs(counts - 250) < 55).all()
    rows, columns = boxes.any(2).sum(1), boxes.any(1).sum(1)
    small = (shares > 0.05) & (shares < 0.3)
    assert (rows[small] / 60 > 2 * columns[small] / 80).any() and (columns[small] / 80 > 2 * rows[small] / 60).any()
    often = boxes.mean(0)
    assert often[30, 40] > often[0, 0] > 0
    np.testing.assert_allclose(often, often[::-1], atol=0.1)
    np.testing.assert_allclose(often, often[:, ::-1], atol=0.1)


def test_classmix_pastes_whole_classes_half_of_them_and_never_ignored_pixels():
    pasted, partner = paste("classmix", count=20, classes=7)
    for part, label in zip(pasted, partner, strict=True):
        present = set(np.unique(label)) - {255}
        assert len(present) == 7
        chosen = set(np.unique(label[part]))
        assert len(chosen) == 3 and 255 not in chosen  # rounded down
        np.testing.assert_array_equal(part, np.isin(label, list(chosen)))


def test_every_class_is_chosen_equally_often():
    """Two of four classes: half of 600 images; four standard deviations are 0.08."""
    labels = np.broadcast_to(np.array([[0, 3], [254, 77]], np.uint8), (600, 2, 2))
    pasted = np.asarray(half_the_classes(KEY, labels))
    assert (pasted.sum((1, 2)) == 2).all()
    assert (np.abs(pasted.mean(0) - 0.5) < 0.08).all()


@pytest.mark.parametrize("label", [5, 255])
def test_an_image_of_one_class_or_of_none_is_not_pasted(label):
    labels = np.full((B, H, W), label, np.uint8)
    assert not np.asarray(half_the_classes(KEY, labels)).any()


@pytest.mark.parametrize("how", ["cutmix", "classmix"])
def test_labels_of_another_integer_type_keep_it(how):
    image, label = told()
    want = mixed({"image": image, "label": label}, KEY, how)
    got = mixed({"image": image, "label": label.astype(np.int32)}, KEY, how)
    assert got["label"].dtype == np.int32
    assert_same(got, {**want, "label": want["label"].astype(np.int32)})


@pytest.mark.parametrize("how", ["cutmix", "classmix"])
def test_a_single_image_has_no_partner(how):
    image, label = told(1)
    maps = {"image": image, "label": label}
    assert mix(maps, KEY, how) is maps


def with_other_maps(part):
    """The part of a batch with maps that tell its label: confidence, validity, and a soft target one dict below."""
    label = part["label"]
    soft = np.stack([label] * 5, -1).astype(np.float32)
    return {**part, "confidence": 255 - label, "valid": label != 255, "teacher": {"soft_target": soft}}


@pytest.mark.parametrize("how", ["cutmix", "classmix"])
def test_all_maps_of_an_example_get_the_same_part_of_the_same_partner(how):
    """In a training step and for maps alone; image and label are those without other maps."""
    given, settings = batch(passes=0), DeviceAugment(mix=how)
    more = {"labeled": {domain: with_other_maps(part) for domain, part in given["labeled"].items()}}
    plain, out = (jax.device_get(compiled(b, KEY, settings))["labeled"] for b in (given, more))
    for domain, part in out.items():
        assert (part["label"] != given["labeled"][domain]["label"]).any()
        assert_same({key: part[key] for key in ("image", "label")}, plain[domain])
        assert_same(part, with_other_maps(plain[domain]))


def test_images_without_labels_can_be_cut_and_mixed_with_their_maps():
    image, label = told()
    got = mixed({"image": image, "confidence": label}, KEY, "cutmix")
    want = mixed({"image": image, "label": label}, KEY, "cutmix")
    assert_same(got, {"image": want["image"], "confidence": want["label"]})


# ---- Devices ----


def on_devices(count):
    """The augmented batch of eight images per domain on so many devices, as NumPy."""
    from usss_jax.parallel import sharding

    mesh = sharding.create_mesh(jax.devices()[:count])
    given = {"labeled": {}, "unlabeled": {}}
    for i, domain in enumerate(("a", "b")):
        image, label = told(8, seed=i)
        given["labeled"][domain] = {"image": image, "label": label}
        given["unlabeled"][domain] = {"image": noise(2, 8, H, W, seed=i)}
    shardings = sharding.step_batch_shardings(mesh)
    out = {}
    for how in ("cutmix", "classmix"):
        run = jax.jit(
            partial(augment, settings=DeviceAugment(**EVERYTHING, mix=how)),
            in_shardings=(shardings, sharding.replicated(mesh)),
            out_shardings=shardings,
        )
        out[how] = jax.device_get(run(sharding.put(given, shardings), KEY))
    return out


def compare_devices():
    """Largest difference of labels and of images between one device and eight."""
    differences = {"label": 0.0, "image": 0.0}
    one, eight = on_devices(1), on_devices(8)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(eight), strict=True):
        name = path[-1].key
        differences[name] = max(differences[name], float(np.abs(a.astype(np.float64) - b).max()))
    return {"devices": jax.device_count(), **differences}


@pytest.mark.nightly
def test_eight_devices_give_the_images_and_labels_of_one():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    result = subprocess.run([sys.executable, __file__], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    differences = json.loads(result.stdout.splitlines()[-1])
    assert differences["devices"] == 8
    assert differences["label"] == 0 and differences["image"] < 1e-6


if __name__ == "__main__":
    print(json.dumps(compare_devices()))
