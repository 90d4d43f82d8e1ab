"""Intersection over union from one confusion matrix; every expected number is worked out by hand."""

import jax
import numpy as np
import pytest

from usss_jax.evaluation.metrics import confusion_matrix, iou, mean_iou

LABELS = np.array([[[0, 0, 0, 0], [1, 1, 1, 2]], [[2, 2, 255, 255], [0, 1, 255, 2]]], np.uint8)
PREDICTIONS = np.array([[[0, 0, 1, 2], [1, 1, 0, 2]], [[2, 1, 0, 3], [0, 1, 2, 2]]], np.int32)
# rows: labels 0 to 3
CONFUSION = [[3, 1, 1, 0], [1, 3, 0, 0], [0, 1, 3, 0], [0, 0, 0, 0]]


def test_confusion_counts_labels_in_rows_and_leaves_ignored_pixels_out():
    """13 of the 16 pixels are labeled: class 0 five times, class 1 and class 2 four times, class 3 never."""
    got = confusion_matrix(LABELS, PREDICTIONS, 4)
    assert np.asarray(got).tolist() == CONFUSION
    assert got.dtype == np.int32 and int(got.sum()) == 13


def test_iou_of_every_class():
    """Expect inter / union:

    | class | TP | FP | FN | IoU  |
    |-------|----|----|----|------|
    | 0     | 3  | 1  | 2  | 3/6  |
    | 1     | 3  | 2  | 1  | 3/6  |
    | 2     | 3  | 1  | 1  | 3/5  |
    | 3     | 0  | 0  | 0  | none |
    """
    assert iou(np.array(CONFUSION)) == [0.5, 0.5, 0.6, None]


def test_mean_iou_is_over_the_classes_that_the_split_has():
    """(1/2 + 1/2 + 3/5) / 3 = 8/15; class 3 is absent."""
    assert mean_iou(np.array(CONFUSION)) == pytest.approx(8 / 15, rel=1e-12)


def test_mean_over_some_classes_comes_from_the_matrix_of_all():
    """(1/2 + 3/5) / 2 = 0.55: pixels of class 1 found as class 0 or 2 still count against these; class 3 is absent."""
    assert mean_iou(np.array(CONFUSION), [0, 2]) == pytest.approx(0.55, rel=1e-12)
    assert mean_iou(np.array(CONFUSION), [2, 3]) == 0.6
    assert mean_iou(np.array(CONFUSION), range(4)) == mean_iou(np.array(CONFUSION))
    assert mean_iou(np.array(CONFUSION), [3]) is None


def test_a_class_that_is_labeled_but_never_found_counts_as_zero():
    """IoU 2/3 and 0/1: mean 1/3."""
    confusion = np.array([[2, 0], [1, 0]])
    assert iou(confusion) == [2 / 3, 0.0]
    assert mean_iou(confusion) == pytest.approx(1 / 3, rel=1e-12)


def test_a_class_that_is_predicted_but_never_labeled_is_absent():
    """Its false positives still count against the class that they were taken from: 3/4."""
    confusion = np.array([[3, 1], [0, 0]])
    assert iou(confusion) == [0.75, None]
    assert mean_iou(confusion) == 0.75


def test_without_any_labeled_pixel_there_is_no_score():
    assert iou(np.zeros((2, 2), np.int64)) == [None, None]
    assert mean_iou(np.zeros((2, 2), np.int64)) is None


def test_what_is_predicted_on_ignored_pixels_does_not_matter():
    other = np.where(LABELS == 255, 1, PREDICTIONS)
    assert (other != PREDICTIONS).any()
    np.testing.assert_array_equal(confusion_matrix(LABELS, other, 4), CONFUSION)


def test_ids_beyond_the_table_are_ignored_too():
    labels = np.where(LABELS == 255, 4, LABELS).astype(np.uint8)
    np.testing.assert_array_equal(confusion_matrix(labels, PREDICTIONS, 4), CONFUSION)


def test_the_matrix_of_a_split_is_the_sum_over_its_batches_not_a_mean_of_scores():
    """First image alone: 2/5, 2/4, 1/2. Second: 1/1, 1/2, 2/3. Together: 3/6, 3/6, 3/5, no mean of these."""
    parts = [np.asarray(confusion_matrix(LABELS[i : i + 1], PREDICTIONS[i : i + 1], 4)) for i in range(2)]
    assert iou(parts[0]) == [0.4, 0.5, 0.5, None]
    assert iou(parts[1]) == [1.0, 0.5, pytest.approx(2 / 3), None]
    np.testing.assert_array_equal(parts[0] + parts[1], CONFUSION)


def test_a_random_batch_equals_a_loop_over_pixels():
    r = np.random.default_rng(0)
    labels, predictions = r.choice([0, 1, 2, 5, 18, 255], (3, 7, 5)).astype(np.uint8), r.integers(0, 19, (3, 7, 5))
    want = np.zeros((19, 19), int)
    for label, prediction in zip(labels.ravel(), predictions.ravel(), strict=True):
        if label < 19:
            want[label, prediction] += 1
    count = jax.jit(confusion_matrix, static_argnums=2)
    np.testing.assert_array_equal(count(labels, predictions, 19), want)


def test_counts_beyond_32_bits_are_exact():
    """3 of 4 parts of class 0 are found, and 2**31 of 2**31 + 2**30 pixels of class 1."""
    assert iou(np.array([[3 * 2**30, 2**30], [0, 2**31]])) == [3 / 4, 2 / 3]
