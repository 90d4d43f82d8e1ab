"""Rare-class sampling against DAFormer's formula by hand and by long draws."""

import numpy as np
import pytest

from usss_jax.data.labels import read_labels
from usss_jax.data.sampling import rare_class_probabilities
from usss_jax.data.streams import SampleRare
from usss_jax.errors import InputError


class Masks:
    """Source of three masks of 4 pixels."""

    labels = np.array([[[0, 0], [0, 0]], [[0, 1], [255, 255]], [[0, 0], [2, 1]]], np.uint8)
    ids = ("a", "b", "c")

    def __len__(self):
        return 3

    def label(self, index):
        return self.labels[index]


def test_pixels_are_counted_per_image_and_class_without_the_ignored_ones():
    np.testing.assert_array_equal(read_labels(Masks(), 4).counts, [[4, 0, 0, 0], [1, 1, 0, 0], [2, 1, 1, 0]])


def test_probabilities_are_those_of_the_formula():
    """Shares 0.7, 0.2, 0.1 at T = 0.5: exp(0.6), exp(1.6), exp(1.8) over their sum; an absent class has 0."""
    weights = np.exp([0.6, 1.6, 1.8])
    want = [*(weights / weights.sum()), 0]
    np.testing.assert_allclose(rare_class_probabilities(read_labels(Masks(), 4).counts, 0.5), want, rtol=1e-12)


def test_a_low_temperature_leaves_the_rarest_class_and_does_not_overflow():
    np.testing.assert_allclose(rare_class_probabilities(np.array([[90, 9, 1]]), 1e-6), [0, 0, 1], atol=1e-12)


def test_without_a_labeled_pixel_it_is_an_error():
    with pytest.raises(InputError, match="no labeled image has a labeled pixel"):
        rare_class_probabilities(np.zeros((2, 3), int), 0.1)


def test_images_are_drawn_by_their_classes():
    """Class 1 is in images 1 and 2 alike, class 2 in image 2 alone: 0.25 / 2 and 0.25 / 2 + 0.75."""
    counts = read_labels(Masks(), 3).counts
    draw = SampleRare(np.array([0, 0.25, 0.75]), counts > 0)
    rng = np.random.default_rng(0)
    drawn = np.bincount([draw.random_map(0, rng) for _ in range(4000)], minlength=3) / 4000
    np.testing.assert_allclose(drawn, [0, 0.125, 0.875], atol=0.02)
