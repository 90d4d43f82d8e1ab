"""Image-level labels against the numbers of GTA5 and by hand."""

import numpy as np
import pytest

from usss_jax.methods.self_training.image_labels import class_counts, labels_by_presence, labels_by_size, mean_sizes

GTA = [0.3232, 0.085, 0.1693, 0.0193, 0.0075, 0.0107, 0.0018, 0.0013, 0.0765, 0.0220]
GTA += [0.1364, 0.0039, 0.0023, 0.0274, 0.0169, 0.0181, 0.0143, 0.0019, 0.0031]
CROP = 63 * 63  # positions of a training crop at stride 8


@pytest.mark.parametrize(
    ("eta", "want"),
    [
        (0.0225, [29, 8, 16, 2, 1, 1, 1, 1, 7, 2, 13, 1, 1, 3, 2, 2, 2, 1, 1]),
        (0.05, [65, 17, 34, 4, 2, 3, 1, 1, 16, 5, 28, 1, 1, 6, 4, 4, 3, 1, 1]),
    ],
)
def test_fewest_pixels_of_a_class_in_a_crop(eta, want):
    counts = np.arange(100)[:, None].repeat(19, 1)
    found = labels_by_size(counts, CROP, np.array(GTA), eta)
    assert found.argmax(0).tolist() == want
    assert (np.diff(found, axis=0) >= 0).all() and found.dtype == np.float32


@pytest.mark.parametrize("eta", [0.0, 1e-9, 0.05])
def test_a_class_without_a_pixel_is_never_there(eta):
    sizes = np.array([0.0, 0.1, np.inf])
    assert not labels_by_size(np.zeros((1, 3), int), 100, sizes, eta).any()
    assert labels_by_size(np.full((1, 3), 100), 100, sizes, eta).tolist() == [[1, 1, 0]]


def test_sizes_of_two_images_by_hand():
    """Class 0: (4/12 + 6/12) / 2. Class 1: 3/12 in one image. Class 2 is absent. The area has ignored pixels."""
    first, second = np.full((2, 3, 4), 255, np.uint8)
    first.flat[:4], first.flat[4:7], second.flat[:6] = 0, 1, 0
    counts = np.stack([class_counts(first, 3), class_counts(second, 3)])
    assert counts.tolist() == [[4, 3, 0], [6, 0, 0]]
    sizes = mean_sizes(counts, 12)
    np.testing.assert_allclose(sizes, [5 / 12, 0.25, np.inf])
    assert labels_by_size(np.full((1, 3), 12), 12, sizes, 0.05).tolist() == [[1, 1, 0]]


def test_images_may_have_different_sizes():
    np.testing.assert_allclose(mean_sizes(np.array([[1, 0], [5, 5]]), [10, 20]), [(0.1 + 0.25) / 2, 0.25])


def test_presence_needs_one_pixel():
    labels = np.array([[[0, 255], [255, 255]], [[2, 2], [1, 255]]], np.uint8)
    found = labels_by_presence(np.stack([class_counts(label, 3) for label in labels]))
    assert found.tolist() == [[1, 0, 0], [0, 1, 1]]
