"""The loss of consistency, its thresholds and its views, by numbers written out by hand or pixel by pixel."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import enlarge

from usss_jax.data.augment_device import DeviceAugment
from usss_jax.methods.usss.views import drop_channels, paste_across, strong_view
from usss_jax.models.strips import sum_over_pixels
from usss_jax.objectives import consistency

# Pixels of two images: kept, below its class's threshold, kept, kept but padding, ignored, kept
LABELS = jnp.asarray([[[0, 1, 1]], [[0, 255, 0]]])
CONFIDENCE = jnp.asarray([[[0.9, 0.8, 0.9]], [[1.0, 1.0, 0.7]]])
VALID = jnp.asarray([[[1, 1, 1]], [[0, 1, 1]]], jnp.uint8)
THRESHOLDS = jnp.asarray([0.7, 0.85])
KEPT = [[[True, False, True]], [[False, False, True]]]


def logits_of(probabilities):
    """Logits [2, 1, 3, 2] from the probability of class 0 of every pixel."""
    p = jnp.asarray(probabilities).reshape(2, 1, 3)
    return jnp.log(jnp.stack([p, 1 - p], -1))


LOGITS = logits_of([0.5, 0.5, 0.75, 0.5, 0.5, 0.25])


def test_a_pixel_counts_if_it_is_valid_and_reaches_the_threshold_of_its_class():
    assert consistency.kept(LABELS, CONFIDENCE, VALID, THRESHOLDS).tolist() == KEPT


@pytest.mark.parametrize(("over", "pixels"), [("valid", 4), ("kept", 3)])
def test_the_loss_is_a_mean_over_valid_or_over_kept_pixels(over, pixels):
    """-ln 0.5 - ln 0.25 - ln 0.25; four pixels are neither padding nor ignored."""
    loss = consistency.consistency_loss(LOGITS, LABELS, CONFIDENCE, VALID, THRESHOLDS, over)
    assert float(loss) == pytest.approx(5 * math.log(2) / pixels, rel=1e-6)


@pytest.mark.parametrize("over", ["valid", "kept"])
def test_padding_and_ignored_pixels_have_no_gradient_and_nothing_kept_is_0(over):
    settings = (LABELS, CONFIDENCE, VALID)
    gradient = jax.grad(consistency.consistency_loss)(LOGITS, *settings, THRESHOLDS, over)
    assert ((np.abs(gradient).max(-1) > 0) == np.asarray(KEPT)).all()
    assert float(consistency.consistency_loss(LOGITS, *settings, jnp.ones(2) * 2, over)) == 0


def test_confidence_is_the_largest_probability():
    label, confidence = consistency.pseudo_labels(LOGITS)
    np.testing.assert_allclose(confidence, [[[0.5, 0.5, 0.75]], [[0.5, 0.5, 0.75]]], rtol=1e-6)
    assert label[0, 0, 2] == 0 and label[1, 0, 2] == 1


def test_adaptive_thresholds_are_the_average_confidence_of_each_class_over_steps():
    """From 1/3: a step with 0.6 and 1.0 of class 0, then one with 0.5; class 1 is seen once, class 2 never."""
    average = jnp.full(3, 1 / 3)
    for labels, confidence in (([0, 0, 255], [0.6, 1.0, 0.9]), ([0, 1, 255], [0.5, 0.4, 0.9])):
        labels, confidence = jnp.asarray(labels), jnp.asarray(confidence)
        sums = consistency.per_class(labels, confidence, 3)
        counts = consistency.per_class(labels, labels != 255, 3)
        average = consistency.moved_confidence(average, sums, counts, 0.9)
    first = 0.9 * (0.9 / 3 + 0.1 * 0.8) + 0.1 * 0.5
    np.testing.assert_allclose(average, [first, 0.9 / 3 + 0.1 * 0.4, 1 / 3], rtol=1e-6)


def test_shares_are_of_the_pixels_predicted_as_each_class():
    labels, keep = jnp.asarray([0, 0, 0, 1, 255]), jnp.asarray([1, 0, 0, 1, 0])
    counts = consistency.per_class(labels, labels != 255, 3)
    whole, by_class = consistency.shares(consistency.per_class(labels, keep, 3), counts)
    np.testing.assert_allclose([whole, *by_class], [0.5, 1 / 3, 1, 0], rtol=1e-6)


def test_soft_targets_are_the_teachers_probabilities_of_the_image_that_a_pixel_is_of():
    """On the upsampled scores, as in training; the teacher's logits are constants."""
    r = np.random.default_rng(0)
    student, own, other = (jnp.asarray(r.standard_normal((2, 2, 3, 4)), jnp.float32) for _ in range(3))
    pasted, weights = r.random((2, 16, 24)) < 0.5, (r.random((2, 16, 24)) < 0.7).astype(np.float32)

    def total(student, own, other):
        scores = jnp.concatenate([student, own, other], -1)
        pixel = consistency.soft_pixel_cross_entropy
        return sum_over_pixels(pixel, scores, jnp.asarray(weights), jnp.asarray(pasted), size=(16, 24), stride=8)

    value, gradients = jax.value_and_grad(total, argnums=(0, 1, 2))(student, own, other)
    s, a, b = (np.asarray(enlarge(x, (16, 24)), np.float64) for x in (student, own, other))
    teacher = np.exp(np.where(pasted[..., None], b, a))
    log_p = s - np.log(np.exp(s).sum(-1, keepdims=True))
    want = -((teacher / teacher.sum(-1, keepdims=True)) * log_p).sum(-1) * weights
    assert float(value) == pytest.approx(want.sum(), rel=1e-5)
    assert np.abs(gradients[0]).max() > 0.1 and not np.any(gradients[1]) and not np.any(gradients[2])


def test_agreement_pulls_nowhere_where_student_and_teacher_agree_however_unsure_they_are():
    """Confidence, which the entropy terms reward, is nothing to win by: the gradient is student - teacher."""
    scores = jnp.asarray([[[[0.3, -0.2, 0.1]]]])

    def loss(student, teacher):
        logits = jnp.concatenate([student, teacher, teacher], -1)
        return consistency.soft_pixel_cross_entropy(logits, jnp.ones((1, 1, 1)), jnp.zeros((1, 1, 1))).sum()

    np.testing.assert_allclose(jax.grad(loss)(scores, scores), 0, atol=1e-7)
    gradient = jax.grad(loss)(3 * scores, scores)  # the same class, with more confidence than the teacher
    want = np.exp(3 * scores) / np.exp(3 * scores).sum() - np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(gradient, want, atol=1e-6)
    assert gradient[..., 0] > 0.05  # which lowers it


# ---- Views ----


@pytest.mark.parametrize("how", ["cutmix", "classmix"])
def test_mixing_takes_every_map_of_a_pixel_from_the_same_image(how):
    r = np.random.default_rng(1)
    shape = (4, 16, 24)
    maps = {
        "image": jnp.asarray(r.random((*shape, 3)), jnp.float32),
        "label": jnp.asarray(r.integers(0, 6, shape), jnp.uint8),
        "confidence": jnp.asarray(r.random(shape), jnp.float32),
        "valid": jnp.asarray(r.random(shape) < 0.8, jnp.uint8),
    }
    maps["label"] = jnp.where(maps["valid"] != 0, maps["label"], 255)
    mixed, pasted, _ = jax.jit(strong_view, static_argnums=2)(maps, jax.random.key(3), DeviceAugment(mix=how))
    assert mixed.keys() == maps.keys() and 0.05 < pasted.mean() < 0.95
    for name, array in maps.items():
        before = np.roll(array, 1, axis=0)
        mask = np.asarray(pasted).reshape(shape + (1,) * (array.ndim - 3))
        np.testing.assert_array_equal(mixed[name], np.where(mask, before, array), err_msg=name)
        assert mixed[name].dtype == array.dtype
    if how == "classmix":  # whole classes, and never padding
        before = np.roll(maps["label"], 1, axis=0)
        assert not np.any(np.asarray(pasted)[before == 255])
        for i in range(4):
            for c in range(6):
                of_class = np.asarray(pasted)[i][before[i] == c]
                assert of_class.all() or not of_class.any()


@pytest.mark.parametrize("how", ["cutmix", "classmix"])
def test_a_pasted_pixel_has_the_maps_of_the_other_domain_alone(how):
    """The other domain has fewer images, which are repeated, lower and wider ones."""
    r, own, others = np.random.default_rng(2), (6, 16, 24), (4, 12, 32)
    image, other_image = (jnp.asarray(r.integers(0, 256, (*shape, 3)), jnp.uint8) for shape in (own, others))
    maps = {"image": image, "label": jnp.zeros(own, jnp.uint8), "valid": jnp.asarray(r.random(own) < 0.8, jnp.uint8)}
    labels = jnp.asarray(r.integers(3, 9, others), jnp.uint8)
    other = {"image": other_image, "label": labels, "valid": jnp.asarray(r.random(others) < 0.8, jnp.uint8)}
    mixed, pasted = jax.jit(paste_across, static_argnums=3)(maps, other, jax.random.key(6), how)
    where = np.asarray(pasted["valid"]) != 0
    repeated = [0, 1, 2, 3, 0, 1]
    np.testing.assert_array_equal(mixed["valid"], np.where(where, 0, maps["valid"]))
    assert not where[:, 12:].any() and (np.asarray(other["valid"])[repeated, :, :24] >= where[:, :12]).all()
    cut = np.asarray(other_image)[repeated, :, :24]
    np.testing.assert_array_equal(mixed["image"][:, 12:], image[:, 12:])
    np.testing.assert_array_equal(mixed["image"][:, :12], np.where(where[:, :12, :, None], cut, image[:, :12]))
    np.testing.assert_array_equal(np.asarray(pasted["label"])[:, :12], np.asarray(labels)[repeated, :, :24])
    into = where.any((1, 2))
    assert 0 < into.sum() < 6 and mixed["image"].dtype == jnp.uint8
    if how == "classmix":  # three of the six classes that are inside the image
        for i in np.flatnonzero(into):
            assert len(set(np.asarray(pasted["label"])[i][where[i]])) == 3


def test_about_half_of_the_images_get_a_part_of_another_domain():
    maps = {"image": jnp.zeros((400, 8, 8, 3)), "label": jnp.zeros((400, 8, 8)), "valid": jnp.ones((400, 8, 8))}
    _, pasted = paste_across(maps, maps, jax.random.key(0), "cutmix")
    assert (np.asarray(pasted["valid"]) != 0).any((1, 2)).mean() == pytest.approx(0.5, abs=0.08)


def test_colours_change_after_mixing_and_leave_the_maps_alone():
    maps = {"image": jnp.full((2, 16, 24, 3), 120, jnp.uint8), "label": jnp.zeros((2, 16, 24), jnp.uint8)}
    changed, pasted, _ = strong_view(maps, jax.random.key(0), DeviceAugment(color_jitter=1.0, mix="none"))
    assert not pasted.any() and changed["image"].dtype == jnp.float32
    assert np.abs(changed["image"] - 120 / 255).max() > 0.01 and not changed["label"].any()


def test_dropped_channels_are_whole_channels_of_an_image():
    features = jnp.asarray(1 + np.random.default_rng(0).random((3, 4, 5, 400)), jnp.float32)
    dropped = np.asarray(drop_channels(features, jax.random.key(1), 0.25))
    gone = dropped == 0
    assert (gone == gone[:, :1, :1]).all() and gone.mean() == pytest.approx(0.25, abs=0.05)
    assert (gone[0] != gone[1]).any()
    np.testing.assert_allclose(dropped[~gone], np.asarray(features / 0.75)[~gone], rtol=1e-6)
