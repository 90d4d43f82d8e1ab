"""Boundary IoU by hand, and by the authors' procedure: erosions of every class's mask."""

import cv2
import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from usss_jax.evaluation.boundary import boundary_counts, boundary_iou, boundary_width, near_contours
from usss_jax.evaluation.metrics import confusion_matrix, iou


def blobs(seed, size, classes=4):
    coarse = np.random.default_rng(seed).integers(0, classes, (6, 8)).astype(np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_NEAREST)


def test_a_shifted_square_by_hand():
    """A 4x4 square in 6x6 pixels, predicted one pixel to the right; d = 1.

    Its ring has 12 pixels in both. They share three columns of each of rows 1 and 4: 6 / (12 + 12 - 6). All 20 pixels
    of class 0 are at a contour in both; they share rows 0 and 5 and the first column: 16 / (20 + 20 - 16).
    """
    truth, prediction = np.zeros((2, 6, 6), np.uint8)
    truth[1:5, 1:5], prediction[1:5, 2:6] = 1, 1
    counts = boundary_counts(truth, prediction, 2)
    assert counts.tolist() == [[20, 12], [20, 12], [16, 6]]
    assert boundary_iou(counts, np.array([20, 16])) == pytest.approx([2 / 3, 1 / 3])
    assert iou(confusion_matrix(truth[None], prediction[None], 2)) == pytest.approx([16 / 24, 12 / 20])


@pytest.mark.parametrize("size", [(90, 120), (160, 60)])
def test_boundaries_are_what_erosion_of_the_masks_removes(size):
    truth, prediction = blobs(0, size), np.roll(blobs(0, size), 2, axis=1)
    width = boundary_width(size)
    assert width == round(0.02 * np.sqrt(size[0] ** 2 + size[1] ** 2)) == 3
    want = []
    for c in range(4):
        masks = [of == c for of in (truth, prediction)]
        eroded = [binary_erosion(mask, np.ones((3, 3)), iterations=width, border_value=0) for mask in masks]
        one, two = (mask & ~inner for mask, inner in zip(masks, eroded, strict=True))
        want.append([one.sum(), two.sum(), (one & two).sum()])
    np.testing.assert_array_equal(boundary_counts(truth, prediction, 4), np.transpose(want))


def test_ignored_pixels_do_not_count_and_are_a_contour_in_both():
    truth, prediction = blobs(0, (60, 80)), blobs(1, (60, 80))
    truth[20:40, 30:50] = 255
    other = prediction.copy()
    other[20:40, 30:50] = (other[20:40, 30:50] + 1) % 4
    np.testing.assert_array_equal(boundary_counts(truth, prediction, 4), boundary_counts(truth, other, 4))
    found = boundary_counts(truth, np.where(truth == 255, 0, truth).astype(np.uint8), 4)
    np.testing.assert_array_equal(found, [found[0]] * 3)  # all is right


def test_an_absent_class_has_no_boundary_iou_and_an_image_smaller_than_d_is_all_boundary():
    assert boundary_iou(np.array([[4, 0], [4, 2], [4, 0]]), np.array([9, 0])) == [1.0, None]
    assert near_contours(np.zeros((3, 4), np.uint8), 9).all()
