"""The spatial prior against OpenCV's Gaussian inside the image, and by hand."""

import cv2
import numpy as np
import pytest

from usss_jax.methods.self_training.spatial_prior import apply_prior, class_frequencies, spatial_prior, unit_mean


def labels(count=5, seed=0):
    """Labels of different sizes, without class 2."""
    r = np.random.default_rng(seed)
    return [r.choice([0, 1, 3, 255], (20 + i, 30 - i)).astype(np.uint8) for i in range(count)]


def test_frequencies_are_counts_at_the_size_of_the_target():
    """The pixel (y, x) of 40x60 shows the pixel of the label at the same relative place."""
    found = class_frequencies(labels(), 4, (40, 60))
    want = np.zeros((40, 60, 4), int)
    for label in labels():
        h, w = label.shape
        for y, x in np.ndindex(40, 60):
            c = label[int((y + 0.5) / 40 * h), int((x + 0.5) / 60 * w)]
            if c != 255:
                want[y, x, c] += 1
    np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize("sigma", [1.0, 2.5])
def test_inside_the_image_it_is_a_gaussian_of_the_counts(sigma):
    counts = np.zeros((50, 60, 2), np.int32)
    counts[20:30, 25:35] = np.random.default_rng(0).integers(0, 9, (10, 10, 2))
    got = spatial_prior(counts, sigma)
    kernel = cv2.getGaussianKernel(41, sigma)
    for c in range(2):
        want = cv2.sepFilter2D(counts[..., c].astype(float), -1, kernel, kernel)[10:40, 15:45]
        np.testing.assert_allclose(got[10:40, 15:45, c] / got[..., c].max(), want / want.max(), atol=1e-6)


def test_each_class_has_the_mean_1_and_an_absent_one_is_0():
    prior = spatial_prior(class_frequencies(labels(), 4, (40, 60)), 5.0)
    assert prior.dtype == np.float32 and prior.shape == (40, 60, 4) and (prior >= 0).all()
    np.testing.assert_allclose(prior.mean((0, 1), dtype=np.float64), [1, 1, 0, 1], rtol=1e-6)
    assert (prior[..., 2] == 0).all()


def test_a_class_that_is_everywhere_has_the_prior_1_at_the_border_too():
    np.testing.assert_allclose(spatial_prior(np.full((30, 20, 1), 7), 4.0), 1, rtol=1e-6)


def test_a_class_is_expected_where_the_source_has_it():
    """Sky above, road below: by hand, the prior of sky in the first row is nearly twice its mean."""
    label = np.repeat(np.array([0, 1], np.uint8), 20)[:, None].repeat(10, 1)
    prior = spatial_prior(class_frequencies([label], 2, (40, 10)), 1.0)
    np.testing.assert_allclose(prior[0, :, 0], 2, rtol=1e-4)
    np.testing.assert_allclose(prior[:, :, 0], prior[::-1, :, 1], rtol=1e-5)
    np.testing.assert_allclose(prior[19, 0, 0] + prior[20, 0, 0], 2, rtol=1e-5)  # half of both at the edge


def test_small_negative_values_of_a_prior_from_elsewhere_become_0():
    np.testing.assert_allclose(unit_mean(np.array([[[3.0], [-0.1]]])).ravel(), [2, 0])


def test_scores_are_products_and_never_predict_an_absent_class():
    probabilities = np.array([[[0.2, 0.2, 0.6]]])
    assert apply_prior(probabilities, np.array([[[2.0, 1.0, 0.0]]])).tolist() == [[[0.4, 0.2, 0.0]]]
    assert apply_prior(probabilities[None], np.ones((1, 1, 3))).shape == (1, 1, 1, 3)
    with pytest.raises(ValueError, match=r"\(1, 1, 2\).*\(1, 1, 3\)"):
        apply_prior(probabilities, np.ones((1, 1, 2)))
