"""Class-balanced thresholds of CBST (ECCV 2018), exact and in bounded memory, and the rare classes.

The threshold k_c is the n-th largest confidence of class c in all target images. All confidences do not fit into
memory: 2975 images of Cityscapes have 6e9 pixels. Float32 numbers have the order of integers made of their bits, so two
passes of counting over the images find the n-th largest exactly. The first pass counts the upper 16 bits of all
confidences. The second counts the lower 16 bits of those that share the upper bits of the n-th largest. The counts are
int64 [C, 65536], 10 MB for 19 classes, whatever the number of images.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np

BINS = 2**16
SIGN = np.uint32(2**31)
POLICIES = ("cb", "global")
Samples = Callable[[], Iterable[Sequence[np.ndarray]]]


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """Thresholds of all classes.

    Attributes:
      values: k_c, float32 [C]; infinite for a class of which no pixel may be selected.
      sizes: number of sampled confidences of each class, int64 [C].
    """

    values: np.ndarray
    sizes: np.ndarray


def confidence_samples(
    classes: np.ndarray, confidences: np.ndarray, num_classes: int, stride: int = 4
) -> list[np.ndarray]:
    """Sample the confidences of one image for `class_thresholds`: of the pixels predicted as c, every `stride`-th.

    Args:
      classes: predicted classes, uint8 [H, W]; pixels of other classes (IGNORE) are left out.
      confidences: float32 [H, W].
      num_classes: C.
      stride: step in the list of the pixels predicted as c, in raster order.

    Returns:
      For every class float32 [m].

    >>> classes, confidences = np.array([[0, 1, 0, 0]]), np.array([[0.5, 0.6, 0.7, 0.8]], np.float32)
    >>> [values.tolist() for values in confidence_samples(classes, confidences, num_classes=2, stride=2)]
    [[0.5, 0.800000011920929], [0.6000000238418579]]
    """
    return [confidences[classes == c][::stride] for c in range(num_classes)]


def probability_samples(scores: np.ndarray, stride: int = 4) -> list[np.ndarray]:
    """Sample the scores of every class at all pixels, every `stride`-th: the other choice of values, "prob".

    Args:
      scores: float32 [H, W, C].
      stride: step in the list of all pixels, in raster order.

    Returns:
      For every class float32 [m]. All classes have the same m, so these samples show no rare classes.

    >>> [values.tolist() for values in probability_samples(np.array([[[0.5, 0.25], [0.75, 0.0]]]), stride=1)]
    [[0.5, 0.75], [0.25, 0.0]]
    """
    return list(scores.reshape(-1, scores.shape[-1])[::stride].T)


def class_thresholds(samples: Samples, num_classes: int, portion: float, policy: str = "cb") -> Thresholds:
    """Compute k_c, the n-th largest confidence of every class with n = floor(portion * number of confidences).

    Args:
      samples: called twice; each time it returns an iterable over the images, of `confidence_samples`. Both times the
        values must be the same.
      num_classes: C.
      portion: p, share of the confidences that reach the threshold.
      policy: "cb": one threshold per class; "global": one for all confidences together (plain self-training).

    Returns:
      Thresholds. k_c is infinite if n = 0, or if the n-th largest confidence is not positive.

    Raises:
      ValueError: if the policy is unknown, or a confidence is not finite.

    >>> image = [np.array([0.5, 0.875, 0.75, 0.625], np.float32), np.array([], np.float32)]
    >>> found = class_thresholds(lambda: [image], num_classes=2, portion=0.5)
    >>> found.values.tolist(), found.sizes.tolist()
    ([0.75, inf], [4, 0])
    """
    if policy not in POLICIES:
        raise ValueError(f"policy={policy!r} is not one of {', '.join(POLICIES)}")

    def pooled(counts: np.ndarray) -> np.ndarray:
        return counts if policy == "cb" else counts.sum(0, keepdims=True)

    counts = np.zeros((num_classes, BINS), np.int64)
    for image in samples():
        for count, values in zip(counts, image, strict=True):
            if not np.isfinite(values).all():
                raise ValueError("a confidence is not finite; the network may have diverged")
            count += np.bincount(_keys(values) >> 16, minlength=BINS)
    sizes = counts.sum(1)
    ranks = np.floor(portion * pooled(counts).sum(1)).astype(np.int64)
    upper, ranks_in_bin = _bin_of_rank(pooled(counts), ranks)

    counts = np.zeros((num_classes, BINS), np.int64)
    for image in samples():
        for count, values, wanted in zip(counts, image, np.broadcast_to(upper, num_classes), strict=True):
            keys = _keys(values)
            count += np.bincount(keys[keys >> 16 == wanted] % BINS, minlength=BINS)
    lower, _ = _bin_of_rank(pooled(counts), ranks_in_bin)

    values = _values((upper * BINS + lower).astype(np.uint32))
    values = np.where((ranks > 0) & (values > 0), values, np.float32(np.inf))
    return Thresholds(np.broadcast_to(values, num_classes).copy(), sizes)


def rare_classes(sizes: np.ndarray, count: int = 3, share: float = 0.001) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Find the classes that crops are to show more often (data/mining.py).

    Args:
      sizes: of all classes, [C], from `Thresholds`.
      count: number of rare classes.
      share: classes below this share of all predictions have priority.

    Returns:
      (the `count` rarest classes, the rarest first; the classes with priority). Classes that are never predicted are
      in both.

    >>> rare_classes(np.array([5000, 0, 4, 300]), count=2)
    ((1, 2), (1, 2))
    """
    shares = sizes / max(sizes.sum(), 1)
    rarest = np.argsort(shares, kind="stable")[:count]
    return tuple(rarest.tolist()), tuple(np.flatnonzero(shares < share).tolist())


def _bin_of_rank(counts: np.ndarray, ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the bin of the n-th largest value: counts [G, BINS], n [G] -> (bin [G], rank among the bin's values [G])."""
    at_least = counts[:, ::-1].cumsum(1)[:, ::-1]  # number of values in this bin and those above
    found = (at_least >= ranks[:, None]).sum(1) - 1
    rows = np.arange(len(counts))
    return found, ranks - (at_least[rows, found] - counts[rows, found])


def _keys(values: np.ndarray) -> np.ndarray:
    """Integers with the order of the values: float32 [m] -> uint32 [m]."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    return np.where(bits & SIGN, ~bits, bits | SIGN)


def _values(keys: np.ndarray) -> np.ndarray:
    """Invert `_keys`."""
    return np.where(keys & SIGN, keys ^ SIGN, ~keys).view(np.float32)
