"""The rounds of self-training against the released schedule."""

import itertools

import numpy as np
import pytest

from usss_jax.methods.self_training.schedule import Ramp, schedule, source_subset


def subsets(count, rounds, seed=0, policy="cumulative"):
    return [source_subset(count, r.source_portion, seed=seed, round=r.index, policy=policy).tolist() for r in rounds]


def test_the_rounds_of_gta5():
    rounds = schedule(6)
    np.testing.assert_allclose(
        [r.learning_rate for r in rounds], [1e-4, 7.071e-5, 5e-5, 3.536e-5, 2.5e-5, 1.768e-5], rtol=2e-4
    )
    np.testing.assert_allclose([r.portion for r in rounds], [0.15, 0.2, 0.25, 0.3, 0.35, 0.4])
    np.testing.assert_allclose([r.source_portion for r in rounds], [0.03, 0.0325, 0.035, 0.0375, 0.04, 0.0425])
    assert [len(chosen) for chosen in subsets(24966, rounds)] == [748, 811, 873, 936, 998, 1061]


def test_the_rounds_of_synthia():
    rounds = schedule(6, portion=Ramp(0.2, 0.05, 0.5), source=Ramp(0.02, 0.0025, 0.06))
    np.testing.assert_allclose([r.portion for r in rounds], [0.2, 0.25, 0.3, 0.35, 0.4, 0.45])
    assert [len(chosen) for chosen in subsets(9400, rounds)] == [188, 211, 234, 258, 281, 305]


def test_cumulative_subsets_are_nested():
    chosen = subsets(1000, schedule(6))
    for before, after in itertools.pairwise(chosen):
        assert after[: len(before)] == before and len(after) > len(before)
        assert len(set(after)) == len(after)


def test_a_cumulative_subset_is_that_of_the_released_code():
    """NumPy's choice without replacement, with the same seed in every round."""
    want = np.random.RandomState(3).choice(500, 20, replace=False)
    np.testing.assert_array_equal(source_subset(500, 0.04, seed=3, round=5), want)


def test_random_subsets_differ_between_rounds_and_seeds_and_repeat():
    first, again = (subsets(1000, schedule(3), policy="random") for _ in range(2))
    assert first == again
    assert len(set(first[0]) & set(first[1])) < 10  # 30 of 1000 have about one in common with 32
    assert first != subsets(1000, schedule(3), seed=1, policy="random")


def test_values_stop_at_their_maximum_and_never_fall():
    assert Ramp(0.2, 0.2, 0.5).values(4) == [0.2, 0.4, 0.5, 0.5]
    assert Ramp(0.3, 0.0025, 0.06).values(3) == [0.3, 0.3, 0.3]


def test_a_small_source_has_at_least_one_image_in_a_round():
    assert len(source_subset(10, 0.03, seed=0, round=0)) == 1


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match=r"'all'.*cumulative.*random"):
        source_subset(10, 0.5, seed=0, round=0, policy="all")
