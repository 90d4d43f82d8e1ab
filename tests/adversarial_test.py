"""Losses of Hung et al. (2018) against numbers made by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from usss_jax.models.discriminator import Discriminator
from usss_jax.objectives import adversarial as losses

LN = math.log
LOGIT = {p: LN(p / (1 - p)) for p in (0.1, 0.19, 0.21, 0.25, 0.5, 0.75, 0.8, 0.9)}  # of a confidence


def pixels(*values):
    """One image of one row."""
    return jnp.asarray([[list(values)]])


def test_discriminator_loss_is_the_binary_cross_entropy_of_both_kinds():
    """Predictions judged 0.25 and 0.9, truth judged 0.8 and 0.5: -ln of 0.75, 0.1, 0.8 and 0.5, two by two."""
    of_predictions, of_truth = pixels(LOGIT[0.25], LOGIT[0.9]), pixels(LOGIT[0.8], LOGIT[0.5])
    value = losses.discriminator_loss(of_predictions, of_truth, pixels(True, True))
    assert float(value) == pytest.approx(-(LN(0.75) + LN(0.1) + LN(0.8) + LN(0.5)) / 2, rel=1e-5)
    value = losses.discriminator_loss(of_predictions, of_truth, pixels(True, False))
    assert float(value) == pytest.approx(-LN(0.75) - LN(0.8), rel=1e-5)


def test_discriminator_accuracy_counts_both_kinds():
    """Of 3 labeled pixels predictions are called false in 1, truth true in 2; undecided (0.5) is wrong."""
    of_predictions = pixels(LOGIT[0.25], LOGIT[0.9], LOGIT[0.8], LOGIT[0.1])
    of_truth = pixels(LOGIT[0.8], LOGIT[0.75], LOGIT[0.5], LOGIT[0.9])
    value = losses.discriminator_accuracy(of_predictions, of_truth, pixels(True, True, True, False))
    assert float(value) == pytest.approx(3 / 6)


def test_adversarial_loss_is_the_confidence_missing():
    judged = pixels(LOGIT[0.25], LOGIT[0.8])
    assert float(losses.adversarial_loss(judged)) == pytest.approx(-(LN(0.25) + LN(0.8)) / 2, rel=1e-5)
    counted = losses.adversarial_loss(judged, pixels(False, True))
    assert float(counted) == pytest.approx(-LN(0.8), rel=1e-5)


def test_without_a_labeled_pixel_the_losses_are_zero():
    none = pixels(False, False)
    judged = pixels(1.0, 2.0)
    assert float(losses.discriminator_loss(judged, judged, none)) == 0
    assert float(losses.adversarial_loss(judged, none)) == 0


def test_maps_are_zero_where_there_is_no_label():
    labels = jnp.asarray([[[1, 255]]], jnp.uint8)
    np.testing.assert_array_equal(losses.truth_map(labels, 3), [[[[0, 1, 0], [0, 0, 0]]]])
    many = losses.truth_map(labels, 256)  # 255 stays ignored where it would be a class
    assert float(many.sum()) == 1
    logits = jnp.log(jnp.asarray([[[[0.2, 0.5, 0.3], [0.7, 0.2, 0.1]]]]))
    np.testing.assert_allclose(losses.prediction_map(logits), jnp.exp(logits), rtol=1e-6)
    got = losses.prediction_map(logits, labels != 255)
    np.testing.assert_allclose(got, [[[[0.2, 0.5, 0.3], [0, 0, 0]]]], rtol=1e-6)


def test_self_taught_loss_takes_the_pixels_that_the_discriminator_trusts():
    """Confidences 0.19, 0.21, 0.9 and 0.1 at threshold 0.2: the second and the third; a mean over all four."""
    p = [[0.9, 0.1], [0.4, 0.6], [0.8, 0.2], [0.5, 0.5]]
    judged = pixels(*(LOGIT[c] for c in (0.19, 0.21, 0.9, 0.1)))
    value, share = losses.self_taught_loss(jnp.log(jnp.asarray([[p]])), judged, 0.2)
    assert float(value) == pytest.approx(-(LN(0.6) + LN(0.8)) / 4, rel=1e-5)
    assert float(share) == 0.5


def test_self_taught_loss_has_constant_targets_and_choice():
    """Its gradient is softmax minus one-hot of the arg max over 2 pixels where trusted, and none reaches D."""
    logits, judged = jnp.log(jnp.asarray([[[[0.3, 0.7], [0.6, 0.4]]]])), pixels(LOGIT[0.9], LOGIT[0.1])
    grads = jax.grad(lambda x, d: losses.self_taught_loss(x, d, 0.2)[0], argnums=(0, 1))(logits, judged)
    np.testing.assert_allclose(grads[0], [[[[0.15, -0.15], [0, 0]]]], atol=1e-6)
    np.testing.assert_array_equal(grads[1], np.zeros((1, 1, 2)))


@pytest.mark.slow
def test_ignored_pixels_teach_neither_network():
    """What the decoder says at pixels without a label changes no loss of the labeled batch."""
    r = np.random.default_rng(0)
    labels = r.integers(0, 3, (1, 40, 40))
    labels[:, 10:30, 10:30] = 255
    counts = jnp.asarray(labels != 255)
    logits = jnp.asarray(r.standard_normal((1, 40, 40, 3)))
    module = Discriminator(1 / 32)
    params = jax.tree.map(
        lambda a: jnp.asarray(r.standard_normal(a.shape), jnp.float32),
        module.init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32)),
    )
    truth = module.apply(params, losses.truth_map(jnp.asarray(labels), 3))

    def values(logits):
        judged = module.apply(params, losses.prediction_map(logits, counts))
        return float(losses.discriminator_loss(judged, truth, counts)), float(losses.adversarial_loss(judged, counts))

    def noise(where):
        return jnp.where(where[..., None], 5 * jnp.asarray(r.standard_normal(logits.shape)), 0)

    assert values(logits + noise(~counts)) == values(logits)
    assert values(logits + noise(counts)) != values(logits)
