"""Which target images are labelled, by hand."""

import numpy as np
import pytest

from usss_jax.methods.self_training.target_images import best, class_balanced_score


def test_the_score_is_the_mean_over_classes_of_their_mean_confidence():
    """Class 0: (0.9 + 0.7) / 2; class 2: 0.4, with as much weight; the ignored pixel none."""
    classes = np.array([[0, 0], [2, 255]], np.uint8)
    confidences = np.array([[0.9, 0.7], [0.4, 1.0]], np.float32)
    assert class_balanced_score(classes, confidences) == pytest.approx((0.8 + 0.4) / 2)


def test_a_large_class_counts_as_much_as_a_small_one():
    classes, confidences = np.zeros((10, 10), np.uint8), np.full((10, 10), 0.9, np.float32)
    classes[0, 0], confidences[0, 0] = 1, 0.1
    assert class_balanced_score(classes, confidences) == pytest.approx(0.5)


def test_an_image_without_a_prediction_comes_last():
    assert class_balanced_score(np.full((2, 2), 255, np.uint8), np.ones((2, 2), np.float32)) == 0


def test_the_best_keep_the_order_of_the_list():
    assert best(["d", "a", "c", "b"], [0.2, 0.9, 0.9, 0.1], 2) == ["a", "c"]
    assert best(["d", "a", "c", "b"], [0.2, 0.9, 0.9, 0.1], 3) == ["d", "a", "c"]
    assert best(["x", "y"], [0.5, 0.5], 1) == ["x"]
    assert best(["x", "y"], [0.1, 0.5], 9) == ["x", "y"]
