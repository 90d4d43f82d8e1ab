"""Caches decoded examples in memory, within one budget for all sources of a run."""

import operator
import threading
from collections.abc import Iterable

import numpy as np


class Budget:
    """Memory that several caches share: `used` bytes of `max_bytes`.

    >>> budget = Budget(100)
    >>> budget.take(80), budget.take(30), budget.take(20), budget.used
    (True, False, True, 100)
    """

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self.used = 0
        self._lock = threading.Lock()

    def take(self, count: int) -> bool:
        """Reserve `count` bytes if they are free; return whether they were."""
        with self._lock:
            free = self.used + count <= self.max_bytes
            self.used += count * free
            return free

    def __reduce__(self):
        return Budget, (self.max_bytes,)


class CachedSource:
    """Caches the decoded examples of a source while the budget lasts; the arrays are read-only.

    Once the budget is spent, further examples are decoded on every access; none is evicted. Threads may share the
    cache; a copy in another process starts empty.
    """

    def __init__(self, source, budget: Budget):
        self.ids = source.ids
        self._source, self._budget = source, budget
        self._examples: dict[int, dict[str, np.ndarray]] = {}
        self._lock = threading.Lock()

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        index = range(len(self.ids))[operator.index(index)]
        example = self._examples.get(index)
        if example is None:
            example = self._source[index]
            for array in example.values():
                array.flags.writeable = False
            self._keep(index, example)
        return dict(example)

    def label(self, index) -> np.ndarray:
        """Decode only the label of an example, without caching it."""
        example = self._examples.get(range(len(self.ids))[operator.index(index)])
        return example["label"] if example else self._source.label(index)

    def file_size(self, index) -> tuple[int, int]:
        """Return (h, w) of an image before it is resized."""
        return self._source.file_size(index)

    def _keep(self, index, example):
        with self._lock:
            if index not in self._examples and self._budget.take(sum(array.nbytes for array in example.values())):
                self._examples[index] = example

    def select(self, ids: Iterable[str]) -> "CachedSource":
        """Restrict to the given ids, with a new, empty cache in the same budget."""
        return CachedSource(self._source.select(ids), self._budget)

    def __reduce__(self):
        return CachedSource, (self._source, self._budget)
