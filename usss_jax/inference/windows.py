"""Overlapping windows over large images, each of which contributes its middle.

A network sees zeros beyond the border of its input, so that pixels near a border are predicted with less context. Each
pixel is therefore taken from the window whose border is farther away: the overlap-tile strategy of Ronneberger et al.
2015. One result per pixel is kept, not a sum of scores over windows, so that memory does not grow with the classes.
"""

from collections.abc import Callable
from itertools import pairwise, product
from typing import Any, NamedTuple

import jax
import numpy as np


class Span(NamedTuple):
    """A window along one axis: where it starts, and the pixels from `first` to before `end` that come from it."""

    start: int
    first: int
    end: int


def spans(size: int, window: int, overlap: int) -> list[Span]:
    """Windows along an axis of `size` pixels; neighbours overlap by at least `overlap`, the last two by more.

    >>> spans(10, window=6, overlap=2)
    [Span(start=0, first=0, end=5), Span(start=4, first=5, end=10)]
    """
    if size <= window:
        return [Span(0, 0, size)]
    starts = [*range(0, size - window, window - overlap), size - window]
    cuts = [0, *((a + window + b) // 2 for a, b in pairwise(starts)), size]
    return [Span(*of) for of in zip(starts, cuts, cuts[1:], strict=False)]


def by_windows(function: Callable[[np.ndarray], Any], images: np.ndarray, window: int, overlap: int, count: int) -> Any:
    """Compute a function of images by windows.

    Args:
      function: maps images [N, h, w, 3], h and w at most `window`, to a tree of arrays [N, h, w, ...].
      images: [B, H, W, 3].
      window, overlap: pixels along each axis (see `spans`).
      count: N, windows per call; the last call repeats a window to fill it up.

    Returns:
      Tree of arrays [B, H, W, ...], in host memory.

    >>> def column(images):
    ...     return np.broadcast_to(np.arange(images.shape[2]), images.shape[:3])
    >>> by_windows(column, np.zeros((1, 1, 10, 3), np.uint8), window=6, overlap=2, count=4).tolist()
    [[[0, 1, 2, 3, 4, 1, 2, 3, 4, 5]]]
    """
    height, width = (min(side, window) for side in images.shape[1:3])
    rows, columns = (spans(side, window, overlap) for side in images.shape[1:3])
    places = list(product(range(len(images)), rows, columns))
    whole: Any = None
    for start in range(0, len(places), count):
        now = places[start : start + count]
        crops = [images[i, y.start : y.start + height, x.start : x.start + width] for i, y, x in now]
        results = function(np.stack(crops + crops[-1:] * (count - len(crops))))
        if whole is None:
            whole = jax.tree.map(lambda a: np.empty((*images.shape[:3], *a.shape[3:]), a.dtype), results)
        for n, (i, y, x) in enumerate(now):

            def paste(into, result, n=n, i=i, y=y, x=x):
                middle = result[n, y.first - y.start : y.end - y.start, x.first - x.start : x.end - x.start]
                into[i, y.first : y.end, x.first : x.end] = middle

            jax.tree.map(paste, whole, results)
    return whole
