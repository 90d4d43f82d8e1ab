"""Calibration by hand."""

import numpy as np
import pytest

from usss_jax.evaluation.calibration import calibration_counts, expected_calibration_error, reliability


def test_expected_calibration_error_by_hand():
    """Bin (0.2, 0.267]: 2 pixels at 0.25, one right. Bin (0.867, 0.933]: 3 pixels at 0.9, one right.

    2 / 5 * |0.5 - 0.25| + 3 / 5 * |1 / 3 - 0.9| = 0.1 + 0.34.
    """
    right = np.array([True, False, False, True, False])
    confidence = np.array([0.25, 0.25, 0.9, 0.9, 0.9], np.float32)
    counts = calibration_counts(right, confidence)
    assert expected_calibration_error(counts) == pytest.approx(0.44)
    bins = reliability(counts)
    assert [i for i, one in enumerate(bins) if one["pixels"]] == [3, 13]
    assert bins[13]["accuracy"] == pytest.approx(1 / 3) and bins[3]["confidence"] == pytest.approx(0.25)
    assert bins[0]["accuracy"] is None and len(bins) == 15


def test_errors_of_one_bin_are_averaged_before_their_size_is_taken():
    """0.58 and right, 0.56 and wrong: 57 % confidence, 50 % right."""
    counts = calibration_counts(np.array([True, False]), np.array([0.58, 0.56], np.float32))
    assert expected_calibration_error(counts) == pytest.approx(0.07, abs=1e-6)


def test_a_split_without_labeled_pixels_has_none():
    assert expected_calibration_error(calibration_counts(np.zeros(0, bool), np.zeros(0, np.float32))) is None
