"""Pseudo-labels from scores and thresholds, by hand and against a loop over pixels."""

import jax
import numpy as np
import pytest

from usss_jax.data.domain import lookup_table
from usss_jax.data.domains import get_domain
from usss_jax.methods.self_training.selection import most_probable, select_labels

SELECT = jax.jit(select_labels)


def test_the_label_may_differ_from_the_most_probable_class():
    """q / k = (0.6 / 0.9, 0.4 / 0.25) = (0.67, 1.6): class 1, though class 0 is more probable."""
    q = np.array([[0.6, 0.4]], np.float32)
    assert int(most_probable(q)[0][0]) == 0
    labels, confidences = SELECT(q, np.array([0.9, 0.25], np.float32))
    assert labels.tolist() == [1] and confidences.tolist() == [102]  # 0.4 * 255


def test_a_pixel_is_kept_where_a_score_reaches_its_threshold():
    r = np.random.default_rng(0)
    scores = r.dirichlet(np.ones(4), (13, 17)).astype(np.float32)
    thresholds = np.array([0.6, 0.3, 0.55, np.inf], np.float32)
    labels, confidences = (np.asarray(a) for a in SELECT(scores, thresholds))
    assert labels.dtype == confidences.dtype == np.uint8
    for place in np.ndindex(13, 17):
        s = scores[place].astype(np.float64) / thresholds
        assert labels[place] == (s.argmax() if s.max() >= 1 else 255)
        want = 255 * scores[place][labels[place]] if labels[place] != 255 else 0
        assert abs(confidences[place] - want) <= 0.51
    assert set(np.unique(labels)) == {0, 1, 2, 255}


def test_ignored_pixels_have_the_label_of_cityscapes_id_0():
    """The released code writes id 0 to a PNG file, which reads as 255."""
    domain = get_domain("cityscapes")
    layout = next(layout for layout in domain.layouts if layout.raw_ids[0] == (7,))  # road
    assert lookup_table(domain, layout)[0] == 255
    assert SELECT(np.array([[0.5, 0.4]], np.float32), np.array([0.6, 0.6], np.float32))[0].tolist() == [255]


@pytest.mark.parametrize("seed", range(3))
def test_the_pixel_at_the_threshold_is_kept_and_the_next_float_below_is_not(seed):
    thresholds = np.random.default_rng(seed).random(1000).astype(np.float32)
    for scores, kept in ((thresholds, True), (np.nextafter(thresholds, np.float32(0)), False)):
        found = jax.jit(jax.vmap(select_labels))(scores[:, None], thresholds[:, None])[0]
        assert ((np.asarray(found) == 0) == kept).all()


def test_without_a_score_there_is_no_prediction_and_no_label():
    zeros = np.zeros((2, 3), np.float32)
    assert most_probable(zeros)[0].tolist() == [255, 255]
    labels, confidences = SELECT(zeros, np.array([0.5, 1e-30, np.inf], np.float32))
    assert labels.tolist() == [255, 255] and confidences.tolist() == [0, 0]


def test_a_confidence_is_a_share_even_if_a_prior_makes_scores_large():
    labels, confidences = SELECT(np.array([[30.0, 10.0]], np.float32), np.array([20.0, 20.0], np.float32))
    assert labels.tolist() == [0] and confidences.tolist() == [191]  # 0.75 * 255 = 191.25


def test_nothing_is_selected_without_thresholds():
    scores = np.random.default_rng(1).random((5, 3)).astype(np.float32)
    assert (np.asarray(SELECT(scores, np.full(3, np.inf, np.float32))[0]) == 255).all()
