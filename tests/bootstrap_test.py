"""Intervals over images, on so few that all draws can be written out."""

import numpy as np
import pytest

from usss_jax.evaluation.bootstrap import compare, image_confusions
from usss_jax.evaluation.metrics import confusion_matrix, iou, mean_iou


def confusions(seed, count, classes=3):
    return np.random.default_rng(seed).integers(1, 20, (count, classes, classes))


def test_confusions_of_images_sum_to_that_of_the_split():
    r = np.random.default_rng(0)
    label, prediction = r.integers(0, 4, (5, 6, 7)).astype(np.uint8), r.integers(0, 3, (5, 6, 7)).astype(np.uint8)
    label[label == 3] = 255
    found = image_confusions(label, prediction, 3)
    np.testing.assert_array_equal(found.sum(0), confusion_matrix(label, prediction, 3))


def test_two_images_have_three_draws():
    """Twice the one, both, twice the other: the interval is from the smallest to the largest difference."""
    one, other = confusions(0, 2), confusions(1, 2)
    found = compare({"a": one}, {"a": other}, samples=4000)["a"]
    draws = [np.array(weights) for weights in ((2, 0), (1, 1), (0, 2))]

    def difference(score):
        return [score(np.tensordot(w, other, 1)) - score(np.tensordot(w, one, 1)) for w in draws]

    for got, score in ((found["miou"], mean_iou), (found["classes"][1], lambda m: iou(m)[1])):
        want = difference(score)
        assert [got["difference"], got["low"], got["high"]] == pytest.approx([want[1], min(want), max(want)])


def test_images_are_the_same_for_both_networks():
    """Networks that differ by a constant number of right pixels per image differ in every draw alike."""
    one = confusions(0, 30)
    assert compare({"a": one}, {"a": one})["a"]["miou"] == {"difference": 0.0, "low": 0.0, "high": 0.0}


def test_the_average_is_over_domains_and_absent_classes_do_not_count():
    one, other = confusions(0, 6), confusions(1, 6)
    gone = one.copy()
    gone[:, 2] = 0
    found = compare({"a": one, "b": gone}, {"a": other, "b": other * (gone > 0)})
    assert found["b"]["classes"][2] is None
    mean = (found["a"]["miou"]["difference"] + found["b"]["miou"]["difference"]) / 2
    assert found["average"]["difference"] == pytest.approx(mean)
    want = mean_iou((other * (gone > 0)).sum(0)) - mean_iou(gone.sum(0))
    assert found["b"]["miou"]["difference"] == pytest.approx(want)
