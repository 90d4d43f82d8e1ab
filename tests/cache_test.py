"""Decoded examples in memory: bounded, shared, right under threads."""

import pickle
import threading

import numpy as np
import pytest

from usss_jax.data.cache import Budget, CachedSource


class CountingSource:
    def __init__(self, ids=("a", "b", "c")):
        self.ids, self.calls = list(ids), []

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        self.calls.append(self.ids[index])
        return {"image": np.full((4, 5, 3), index, np.uint8), "label": np.zeros((4, 5), np.uint8)}

    def select(self, ids):
        return CountingSource(ids)


def test_cache_keeps_examples_up_to_its_bound():
    inner, budget = CountingSource(), Budget(2 * 80)
    cached = CachedSource(inner, budget)
    for _ in range(3):
        assert [int(cached[i]["image"][0, 0, 0]) for i in range(3)] == [0, 1, 2]
    assert budget.used == 160 and len(cached) == 3
    assert inner.calls.count("a") == inner.calls.count("b") == 1 and inner.calls.count("c") == 3


def test_what_the_cache_returns_cannot_change_the_cache():
    cached = CachedSource(CountingSource(), Budget(80))
    for index in (0, 0, 1):  # fresh, from the cache, not cached
        with pytest.raises(ValueError):
            cached[index]["image"][0] = 9
    cached[0]["extra"] = 1
    assert set(cached[0]) == {"image", "label"}


def test_caches_share_one_budget():
    budget = Budget(3 * 80)
    caches = [CachedSource(CountingSource(), budget) for _ in range(2)]
    for cached in caches:
        for i in range(3):
            cached[i]
    assert budget.used == 240
    assert [cached._source.calls for cached in caches] == [["a", "b", "c"]] * 2
    for cached in caches:
        for i in range(3):
            cached[i]
    assert [len(cached._source.calls) for cached in caches] == [3, 6]


def test_index_may_be_negative_and_must_exist():
    cached = CachedSource(CountingSource(), Budget(1000))
    assert int(cached[-1]["image"][0, 0, 0]) == 2
    with pytest.raises(IndexError):
        cached[3]


def test_cache_is_right_under_threads():
    source, budget = CountingSource([f"{i:02d}" for i in range(20)]), Budget(10 * 80)
    cached = CachedSource(source, budget)
    wrong = []

    def read(seed):
        for i in np.random.default_rng(seed).permutation(20):
            if not (cached[i]["image"] == i).all():
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and budget.used == 10 * 80


def test_example_that_two_threads_decode_at_once_is_counted_once():
    both_decode = threading.Barrier(2, timeout=10)

    class SlowSource(CountingSource):
        def __getitem__(self, index):
            both_decode.wait()
            return super().__getitem__(index)

    budget = Budget(1000)
    cached = CachedSource(SlowSource(), budget)
    threads = [threading.Thread(target=cached.__getitem__, args=(0,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert budget.used == 80


def test_selection_of_a_cache_starts_empty_in_the_same_budget():
    budget = Budget(1000)
    cached = CachedSource(CountingSource(), budget)
    cached[0]
    chosen = cached.select(["b"])
    assert chosen.ids == ["b"] and budget.used == 80
    chosen[0]
    assert budget.used == 160


def test_copy_in_another_process_starts_empty():
    cached = CachedSource(CountingSource(), Budget(1000))
    cached[0]
    copy = pickle.loads(pickle.dumps(cached))
    assert copy._budget.used == 0 and copy._budget.max_bytes == 1000 and copy.ids == cached.ids
    assert np.array_equal(copy[1]["label"], cached[1]["label"])
