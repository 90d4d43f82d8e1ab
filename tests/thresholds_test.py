"""Class-balanced thresholds against a plain sort, and the rare classes by hand."""

import itertools
import tracemalloc

import numpy as np
import pytest

from usss_jax.methods.self_training.selection import most_probable, select_labels
from usss_jax.methods.self_training.thresholds import (
    class_thresholds,
    confidence_samples,
    probability_samples,
    rare_classes,
)

CLASSES, ABSENT = 5, 3


def random_images(count=6, size=(17, 23), seed=0):
    """Predicted classes and confidences with many ties: half of them are multiples of 1/16; ABSENT never occurs."""
    r = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        classes = r.choice([0, 1, 2, 4, 255], size, p=[0.6, 0.2, 0.1, 0.05, 0.05]).astype(np.uint8)
        fine = r.random(size) ** 0.2
        images.append((classes, np.where(r.random(size) < 0.5, np.round(fine * 16) / 16, fine).astype(np.float32)))
    return images


def samples_of(images, stride):
    return lambda: (confidence_samples(*image, CLASSES, stride) for image in images)


def sorted_lists(images, stride):
    """M_c of CBST, written out: every stride-th confidence of an image's list."""
    lists = [[] for _ in range(CLASSES)]
    for classes, confidences in images:
        for c in range(CLASSES):
            own = [v for k, v in zip(classes.flat, confidences.flat, strict=True) if k == c]
            lists[c] += own[::stride]
    return [sorted(values, reverse=True) for values in lists]


def nth(values, portion):
    n = int(len(values) * portion)
    return values[n - 1] if n else np.inf


def test_half_of_four_confidences():
    """0.9, 0.8, 0.6, 0.5 and p = 0.5: n = 2, so k = 0.8; an absent class is never selected."""
    confidences = np.array([[0.6, 0.9], [0.5, 0.8]], np.float32)
    found = class_thresholds(lambda: [confidence_samples(np.zeros((2, 2), np.uint8), confidences, 2, 1)], 2, 0.5)
    assert found.values.tolist() == [np.float32(0.8), np.inf] and found.sizes.tolist() == [4, 0]
    scores = np.stack([confidences, np.full((2, 2), 1e30)], -1).astype(np.float32)
    labels, _ = select_labels(np.where(scores > 1, 0, scores), found.values)
    assert np.asarray(labels).tolist() == [[255, 0], [255, 0]]
    assert (np.asarray(select_labels(scores, found.values)[0]) != 1).all()


def test_a_factor_of_one_class_cancels():
    """If the arg max stays; the factor is a power of two, so the numbers are the same and not only close."""
    r = np.random.default_rng(1)
    scores = r.random((40, 50, 3)).astype(np.float32)
    scores[..., 1] = np.where(r.random((40, 50)) < 0.3, 2 + r.random((40, 50)), 0.01 * scores[..., 1])
    scaled = scores * np.array([1, 0.5, 1], np.float32)
    labels = []
    for q in (scores, scaled):
        classes, confidences = (np.asarray(a) for a in most_probable(q))
        found = class_thresholds(lambda c=classes, v=confidences: [confidence_samples(c, v, 3)], 3, 0.4)
        labels.append((classes, q / found.values, np.asarray(select_labels(q, found.values)[0])))
    for got, want in zip(*labels, strict=True):
        np.testing.assert_array_equal(got, want)
    assert len(np.unique(labels[0][2])) == 4  # all classes, and ignored pixels


def test_the_global_threshold_is_that_of_all_confidences_together():
    images = random_images()
    found = class_thresholds(samples_of(images, 4), CLASSES, 0.3, policy="global")
    want = sorted_lists(images, 4)
    assert set(found.values.tolist()) == {float(nth(sorted(itertools.chain(*want), reverse=True), 0.3))}
    np.testing.assert_array_equal(found.sizes, [len(values) for values in want])


@pytest.mark.parametrize("stride", [1, 4, 7])
@pytest.mark.parametrize("portion", [0.0, 0.001, 0.15, 0.5, 0.99, 1.0])
def test_thresholds_equal_those_of_a_sort(portion, stride):
    images = random_images()
    found = class_thresholds(samples_of(images, stride), CLASSES, portion)
    want = sorted_lists(images, stride)
    np.testing.assert_array_equal(found.values, np.array([nth(values, portion) for values in want], np.float32))
    np.testing.assert_array_equal(found.sizes, [len(values) for values in want])
    assert found.values.dtype == np.float32 and found.sizes[ABSENT] == 0 and np.isinf(found.values[ABSENT])


@pytest.mark.parametrize("policy", ["cb", "global"])
def test_any_positive_float_may_be_the_threshold(policy):
    """From the smallest to the largest float32, with zeros and negative values, which are no thresholds."""
    r = np.random.default_rng(2)
    values = r.integers(0, 2**32, 4001, np.uint32).view(np.float32)
    values = np.concatenate([values[np.isfinite(values)], np.zeros(50, np.float32), -np.zeros(50, np.float32)])
    ordered = np.sort(values)[::-1]
    for n in [1, 2, 700, 1500, len(values) - 1, len(values)]:
        found = class_thresholds(lambda: [[values[:1000]], [values[1000:]]], 1, (n + 0.5) / len(values), policy)
        assert found.values[0] == (ordered[n - 1] if ordered[n - 1] > 0 else np.inf)
    assert (ordered[699] > 0) and (ordered[-1] < 0)


def test_neighbouring_floats_are_told_apart():
    """All share their upper 16 bits."""
    values = np.float32(0.75) + np.arange(100, dtype=np.float32) * np.float32(2**-24)
    assert len(np.unique(values)) == 100
    found = class_thresholds(lambda: [[values]], 1, 0.3)
    assert found.values[0] == np.sort(values)[70]


def test_memory_does_not_grow_with_the_number_of_images():
    def peak(count):
        def samples():
            r = np.random.default_rng(0)
            return ([r.random(50_000, np.float32)] * 2 for _ in range(count))

        tracemalloc.start()
        class_thresholds(samples, 2, 0.3)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    few, many = peak(3), peak(60)
    assert many < 1.02 * few + 10_000 < 60 * 2 * 50_000 * 4  # less than all confidences of the 60 images


def test_the_other_choice_of_values_takes_all_pixels_of_every_class():
    scores = np.random.default_rng(3).random((9, 11, CLASSES)).astype(np.float32)
    found = class_thresholds(lambda: [probability_samples(scores, 4)] * 2, CLASSES, 0.25)
    for c in range(CLASSES):
        values = list(scores[..., c].ravel()[::4]) * 2
        assert found.values[c] == nth(sorted(values, reverse=True), 0.25) and found.sizes[c] == 50


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match=r"'local'.*cb.*global"):
        class_thresholds(lambda: [], 1, 0.5, policy="local")
    with pytest.raises(ValueError, match="not finite"):
        class_thresholds(lambda: [[np.array([0.5, np.inf], np.float32)]], 1, 0.5)


def test_a_network_that_returns_nan_is_noticed():
    classes, confidences = (np.asarray(a) for a in most_probable(np.full((2, 2, 3), np.nan, np.float32)))
    with pytest.raises(ValueError, match="diverged"):
        class_thresholds(lambda: [confidence_samples(classes, confidences, 3, 1)], 3, 0.5)


def test_rare_classes():
    """Shares 0.6, 0, 0.0005, 0.3, 0.0005, 0.099: the three smallest, of equal ones the first; three have priority."""
    rare, priority = rare_classes(np.array([6000, 0, 5, 3000, 5, 990]))
    assert rare == (1, 2, 4) and priority == (1, 2, 4)
    assert rare_classes(np.array([50, 30, 20]), count=2) == ((2, 1), ())
    assert rare_classes(np.array([999, 1]), count=1, share=0.001) == ((1,), ())  # the share is exactly 0.001
    assert rare_classes(np.array([0, 0]), count=1) == ((0,), (0, 1))  # nothing is predicted
