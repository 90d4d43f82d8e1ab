"""Cross-entropy over labeled pixels and the entropy of pixels, by hand-computed numbers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from usss_jax.objectives.losses import cross_entropy, pixel_entropy

LOG3 = math.log(3)


def random_case(seed=0, shape=(2, 3, 4), classes=5, ignored=0.3):
    r = np.random.default_rng(seed)
    labels = r.integers(0, classes, shape).astype(np.uint8)
    labels[r.random(shape) < ignored] = 255
    return 3 * r.standard_normal((*shape, classes)), labels


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_cross_entropy_of_two_pixels():
    """softmax(0, ln 3) = (1/4, 3/4): -ln 1/4 for label 0 and -ln 3/4 for label 1, mean 0.836988."""
    logits = jnp.array([[[[0, LOG3], [0, LOG3]]]])
    assert float(cross_entropy(logits, jnp.array([[[0, 1]]]))) == pytest.approx(0.8369882168, rel=1e-6)
    assert float(cross_entropy(logits, jnp.array([[[0, 0]]]))) == pytest.approx(math.log(4), rel=1e-6)


def test_the_mean_is_over_labeled_pixels_of_the_whole_batch():
    """Three labeled pixels, one in the first image, two in the second: (ln 4 + 2 ln 4/3) / 3, no mean of means."""
    logits = jnp.broadcast_to(jnp.array([0, LOG3]), (2, 1, 3, 2))
    labels = jnp.array([[[0, 255, 255]], [[1, 255, 1]]], jnp.uint8)
    want = (math.log(4) + 2 * math.log(4 / 3)) / 3
    assert float(cross_entropy(logits, labels)) == pytest.approx(want, rel=1e-6)


def test_cross_entropy_equals_a_loop_over_pixels():
    logits, labels = random_case()
    p, total, count = softmax(logits), 0.0, 0
    for index in np.ndindex(labels.shape):
        if labels[index] != 255:
            total, count = total - math.log(p[index][labels[index]]), count + 1
    assert 0 < count < labels.size
    with jax.enable_x64(True):
        np.testing.assert_allclose(cross_entropy(jnp.asarray(logits), labels), total / count, rtol=1e-13)


def test_its_gradient_is_softmax_minus_one_hot_at_labeled_pixels():
    logits, labels = random_case(1)
    labeled = labels != 255
    want = (softmax(logits) - np.eye(256)[labels][..., :5]) * labeled[..., None] / labeled.sum()
    with jax.enable_x64(True):
        got = jax.grad(cross_entropy)(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_allclose(got, want, atol=1e-14)


def test_ignored_pixels_do_not_change_the_loss():
    logits, labels = random_case(2)
    changed = np.where((labels == 255)[..., None], 50 * np.random.default_rng(3).standard_normal(logits.shape), logits)
    assert np.abs(changed - logits).max() > 10
    with jax.enable_x64(True):
        np.testing.assert_array_equal(
            cross_entropy(jnp.asarray(logits), labels), cross_entropy(jnp.asarray(changed), labels)
        )


@pytest.mark.slow
def test_without_a_labeled_pixel_loss_and_gradient_are_zero():
    logits = jnp.asarray(random_case(4)[0], jnp.float32)
    loss, grad = jax.value_and_grad(cross_entropy)(logits, jnp.full(logits.shape[:-1], 255, jnp.uint8))
    assert float(loss) == 0.0
    np.testing.assert_array_equal(grad, np.zeros(logits.shape))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64])
def test_labels_may_have_any_integer_type(dtype):
    logits, labels = random_case(5)
    want = cross_entropy(jnp.asarray(logits), jnp.asarray(labels.astype(np.int32)))
    np.testing.assert_array_equal(cross_entropy(jnp.asarray(logits), labels.astype(dtype)), want)


def test_large_logits_stay_finite():
    logits = jnp.array([[[[1e4, -1e4], [-1e4, 1e4]]]])
    loss, grad = jax.value_and_grad(cross_entropy)(logits, jnp.array([[[0, 0]]]))
    assert float(loss) == pytest.approx(1e4)
    np.testing.assert_allclose(grad, [[[[0, 0], [-0.5, 0.5]]]])


def test_entropy_by_hand():
    """Of (1/2, 1/2): ln 2. Of (1/4, 3/4): ln 4 - 3/4 ln 3 = 0.562335. Of (1/2, 1/4, 1/4): 3/2 ln 2."""
    assert float(pixel_entropy(jnp.zeros(2))) == pytest.approx(0.6931471806, rel=1e-6)
    assert float(pixel_entropy(jnp.array([0, LOG3]))) == pytest.approx(0.5623351446, rel=1e-6)
    assert float(pixel_entropy(jnp.array([math.log(2), 0, 0]))) == pytest.approx(1.0397207709, rel=1e-6)


def test_entropy_is_taken_along_the_last_axis():
    logits = jnp.array([[[0.0, 0.0], [0.0, LOG3]]])
    np.testing.assert_allclose(pixel_entropy(logits), [[0.6931471806, 0.5623351446]], rtol=1e-6)


@pytest.mark.parametrize("classes", [1, 4, 19])
def test_entropy_of_equal_logits_is_the_logarithm_of_their_number(classes):
    np.testing.assert_allclose(pixel_entropy(jnp.full((3, classes), 12.5)), math.log(classes), rtol=1e-5, atol=1e-7)


def test_entropy_and_its_gradient_vanish_where_the_choice_is_certain():
    logits = jnp.array([1e4, -1e4, 0.0])
    value, grad = jax.value_and_grad(pixel_entropy)(logits)
    assert float(value) == 0.0
    np.testing.assert_array_equal(grad, np.zeros(3))


def test_gradient_of_the_entropy():
    """dH / dz_k = -p_k (ln p_k + H)."""
    logits = random_case(6)[0]
    p = softmax(logits)
    entropy = -(p * np.log(p)).sum(-1, keepdims=True)
    with jax.enable_x64(True):
        got = jax.grad(lambda z: pixel_entropy(z).sum())(jnp.asarray(logits))
    np.testing.assert_allclose(got, -p * (np.log(p) + entropy), atol=1e-14)
