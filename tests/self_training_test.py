"""Losses of self-training against NumPy in float64 and by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from usss_jax.objectives.losses import cross_entropy, pixel_entropy
from usss_jax.objectives.self_training import class_ratio_loss, hard_example_cross_entropy, image_level_loss

LOG3 = math.log(3)


def random_case(shape=(2, 20, 20), classes=5, ignored=0.2, seed=0, spread=4):
    r = np.random.default_rng(seed)
    labels = r.integers(0, classes, shape).astype(np.uint8)
    logits = spread * r.standard_normal((*shape, classes)) + 3 * np.eye(256)[labels][..., :classes]
    labels[r.random(shape) < ignored] = 255
    return logits, labels


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def by_sorting(logits, labels, threshold, min_kept):
    """Loss and gradient, in NumPy."""
    p, (places,) = softmax(logits).reshape(-1, logits.shape[-1]), np.nonzero(labels.ravel() != 255)
    of_label = p[places, labels.ravel()[places]]
    kept = places
    if len(places) > min_kept:
        kept = places[of_label <= max(threshold, np.sort(of_label)[min_kept - 1])]
    gradient = np.zeros_like(p)
    gradient[kept] = (p[kept] - np.eye(p.shape[-1])[labels.ravel()[kept]]) / len(kept)
    return -np.log(p[kept, labels.ravel()[kept]]).mean(), gradient.reshape(logits.shape), len(kept)


@pytest.mark.parametrize(("threshold", "min_kept"), [(0.6, 256), (0.01, 100), (0.9, 5)])
def test_hard_examples_equal_those_of_a_sort(threshold, min_kept):
    logits, labels = random_case()
    loss, gradient, kept = by_sorting(logits, labels, threshold, min_kept)
    assert min_kept <= kept < (labels != 255).sum()
    with jax.enable_x64(True):
        got = jax.value_and_grad(hard_example_cross_entropy)(jnp.asarray(logits), labels, threshold, min_kept)
    np.testing.assert_allclose(got[0], loss, rtol=1e-12)
    np.testing.assert_allclose(got[1], gradient, atol=1e-14)


@pytest.mark.parametrize("labeled", [1, 255, 256])
def test_with_at_most_256_labeled_pixels_it_is_the_cross_entropy(labeled):
    logits, labels = random_case(ignored=0, spread=9)
    labels.ravel()[np.random.default_rng(1).permutation(labels.size)[labeled:]] = 255
    logits = jnp.asarray(logits, jnp.float32)
    want = jax.value_and_grad(cross_entropy)(logits, labels)
    got = jax.value_and_grad(hard_example_cross_entropy)(logits, labels)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_small_batch_keeps_all_its_pixels():
    logits, labels = random_case((1, 3, 4))
    logits = jnp.asarray(logits)
    np.testing.assert_allclose(hard_example_cross_entropy(logits, labels), cross_entropy(logits, labels), rtol=1e-6)


def test_without_a_labeled_pixel_loss_and_gradient_are_zero():
    logits = jnp.asarray(random_case()[0], jnp.float32)
    loss, gradient = jax.value_and_grad(hard_example_cross_entropy)(logits, np.full(logits.shape[:3], 255, np.uint8))
    assert float(loss) == 0
    np.testing.assert_array_equal(gradient, np.zeros(logits.shape))


def test_confident_pixels_give_no_gradient():
    """p = (3/4, 1/2) for the labels, threshold 0.6: the second pixel alone, ln 2."""
    logits = jnp.array([[[[LOG3, 0], [0.0, 0.0]]]])
    loss, gradient = jax.value_and_grad(hard_example_cross_entropy)(logits, jnp.array([[[0, 0]]]), 0.6, 1)
    assert float(loss) == pytest.approx(math.log(2))
    np.testing.assert_allclose(gradient, [[[[0, 0], [-0.5, 0.5]]]])


def test_gradient_of_the_image_level_loss():
    """lambda / C (sigmoid - c) for a batch of one image; the mean over two images halves it."""
    r, lam = np.random.default_rng(0), 0.025
    logits, targets = 5 * r.standard_normal((1, 19)), r.integers(0, 2, (1, 19)).astype(float)
    with jax.enable_x64(True):
        got = jax.grad(lambda z: lam * image_level_loss(z, targets))(jnp.asarray(logits))
        two = jax.grad(lambda z: lam * image_level_loss(z, targets.repeat(2, 0)))(jnp.asarray(logits.repeat(2, 0)))
    want = lam / 19 * (1 / (1 + np.exp(-logits)) - targets)
    np.testing.assert_allclose(got, want, rtol=1e-12)
    np.testing.assert_allclose(two, want.repeat(2, 0) / 2, rtol=1e-12)


def test_the_image_level_loss_by_hand_and_for_large_logits():
    """sigmoid(ln 3) = 3/4: -(ln 3/4 + ln 1/4) / 2 for the labels 1 and 0."""
    got = image_level_loss(jnp.array([[LOG3, LOG3]]), jnp.array([[1.0, 0.0]]))
    assert float(got) == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2, rel=1e-6)
    logits, targets = jnp.array([[1e4, -1e4]]), jnp.array([[0.0, 1.0]])
    loss, gradient = jax.value_and_grad(image_level_loss)(logits, targets)
    assert float(loss) == pytest.approx(1e4) and gradient.tolist() == [[0.5, -0.5]]
    assert float(image_level_loss(jnp.array([[20.0]]), jnp.array([[1.0]]))) == pytest.approx(2.0611536e-9, rel=1e-5)


def test_class_ratios_by_hand():
    """Means (3/4, 1/4) and (1/2, 1/2); ratios (0.2, 0.8), mu = 0.5: max(0, 0.4 - 1/4) = 0.15, and 0; mean 0.075."""
    logits = jnp.array([[[[LOG3, 0.0]]], [[[0.0, 0.0]]]])
    assert float(class_ratio_loss(logits, jnp.array([0.2, 0.8]))) == pytest.approx(0.075, rel=1e-5)
    assert float(class_ratio_loss(logits, jnp.array([0.2, 0.8]), mu=0.0)) == 0
    # mu = 1: 0.55 in the first image and 0.3 in the second
    assert float(class_ratio_loss(logits, jnp.array([0.2, 0.8]), mu=1.0)) == pytest.approx(0.425, rel=1e-5)


def test_class_ratios_concern_the_mean_over_an_image_and_not_its_pixels():
    """Two certain pixels of different classes have the mean (1/2, 1/2), though each lacks one class."""
    logits = jnp.array([[[[50.0, -50.0], [-50.0, 50.0]]]])
    assert float(class_ratio_loss(logits, jnp.array([0.5, 0.5]), mu=1.0)) == 0
    assert float(pixel_entropy(logits).mean()) < 1e-6
