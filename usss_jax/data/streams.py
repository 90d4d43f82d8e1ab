"""Labeled and unlabeled streams of all domains, as one dict per training step.

Every stream is a chain of grain `MapDataset`s, so that the batch of step s is a pure function of (seed, s): going on
after a restart is exact, whatever the number of threads and hosts.
"""

import dataclasses
import sys
import zlib
from collections.abc import Mapping, Sequence

import grain
import numpy as np

from usss_jax.data.augment import CropFlip, stack
from usss_jax.data.examples import Examples
from usss_jax.data.pools import Pools, with_labels
from usss_jax.data.sampling import rare_class_probabilities
from usss_jax.errors import InputError


def stream(source: Examples, pool: Pools, seed: int) -> grain.MapDataset:
    """Endless stream of augmented examples of one of the pool's sources: a new order every epoch, small ones cycle."""
    return _augment(grain.MapDataset.source(source).seed(seed).shuffle().repeat(), pool)


def rare_stream(pool: Pools, seed: int, temperature: float) -> grain.MapDataset:
    """Endless stream of augmented labeled examples, drawn by their classes (data/sampling.py); reads all masks once."""
    draw = DrawRare(rare_class_probabilities(pool.label_counts, temperature), pool.label_counts > 0)
    drawn = grain.MapDataset.range(sys.maxsize).seed(seed).random_map(draw)
    return _augment(drawn.map(pool.labeled.__getitem__), pool)


@dataclasses.dataclass(frozen=True, eq=False)
class DrawRare(grain.transforms.RandomMap):
    """Replaces a number by the index of a labeled image: first a class by `probabilities`, then an image that has it.

    Attributes:
      probabilities: of the classes, [C].
      present: bool [N, C], which image has which class.
    """

    probabilities: np.ndarray
    present: np.ndarray

    def random_map(self, element: int, rng: np.random.Generator) -> int:
        """Index of an image; the element itself is not used."""
        drawn = rng.choice(len(self.probabilities), p=self.probabilities)
        return int(rng.choice(np.flatnonzero(self.present[:, drawn])))


def _augment(examples: grain.MapDataset, pool: Pools) -> grain.MapDataset:
    return examples.random_map(CropFlip(pool.crop, pool.scale, pool.flip))


def _share(examples: grain.MapDataset, batch_size: int, share: tuple[int, int]) -> grain.MapDataset:
    """Lists of the examples that this host gives to each global batch: the index-th of `count` equal parts."""
    index, count = share
    if batch_size % count:
        raise InputError(f"{count} hosts cannot share batches of {batch_size}; set the batch size to a multiple")
    # drop_remainder: the practically endless length must stay an index. Lists: so that stacking copies only once.
    return examples.batch(batch_size // count, drop_remainder=True, batch_fn=list)[index::count]


def _stack_micro_batches(lists: Sequence[list[dict]]) -> dict:
    flat = stack([example for examples in lists for example in examples])
    return {key: array.reshape(len(lists), -1, *array.shape[1:]) for key, array in flat.items()}


def step_batches(
    pools: Mapping[str, Pools],
    *,
    batch_size: int,
    unlabeled_batch_size: int = 0,
    unlabeled_batches: Mapping[str, int] | None = None,
    seed: int = 0,
    share: tuple[int, int] = (0, 1),
) -> grain.MapDataset:
    """Batches of one training step after the other; item s belongs to step s.

    Args:
      pools: per domain; one without labeled images has no part in "labeled".
      batch_size: global number of labeled images of every domain.
      unlabeled_batch_size: global number of images of an unlabeled micro-batch.
      unlabeled_batches: U_k, micro-batches per step and domain; None or empty for supervised training.
      seed: of order and augmentation.
      share: (index, count) of this host: it makes the index-th of `count` equal parts of every batch.

    Returns:
      Items {"labeled": {domain: {"image": uint8 [B, h, w, 3], "label": uint8 [B, h, w]}},
      "unlabeled": {domain: {"image": uint8 [U, B, h, w, 3]}}} with this host's share of every batch.
    """
    parts: dict[tuple[str, str], grain.MapDataset] = {}
    for name, pool in with_labels(pools).items():
        seed_ = _seed(seed, name, "labeled")
        if pool.rare_temperature is None:
            examples = stream(pool.labeled, pool, seed_)
        else:
            examples = rare_stream(pool, seed_, pool.rare_temperature)
        parts["labeled", name] = _share(examples, batch_size, share).map(stack)
    for name, passes in (unlabeled_batches or {}).items():
        pool = pools[name]
        examples = stream(pool.unlabeled, pool, _seed(seed, name, "unlabeled"))
        micro_batches = _share(examples, unlabeled_batch_size, share)
        parts["unlabeled", name] = micro_batches.batch(passes, drop_remainder=True, batch_fn=_stack_micro_batches)

    def name_parts(values: tuple) -> dict:
        batch: dict[str, dict] = {}
        for (kind, name), value in zip(parts, values, strict=True):
            batch.setdefault(kind, {})[name] = value
        return batch

    # Every stream is practically endless, but the batch sizes divide that number differently and Zip wants equality.
    steps = min(len(part) for part in parts.values())
    return grain.experimental.ZipMapDataset([part[:steps] for part in parts.values()]).map(name_parts)


def iterate(batches: grain.MapDataset, start: int, threads: int) -> grain.DatasetIterator:
    """Iterate from step `start`, the next batches being prepared by `threads` threads; close it when done."""
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    iterator = iter(batches.to_iter_dataset(options))
    iterator.set_state({"next_index": start})
    return iterator


def epoch_steps(pools: Mapping[str, Pools], batch_size: int) -> int:
    """Steps of an epoch: labeled batches of the domain that has most; the others cycle."""
    return max(-(-len(pool.labeled) // batch_size) for pool in pools.values())


def micro_batches(rule: int | str, pool: Pools, steps: int, unlabeled_batch_size: int) -> int:
    """Number U of unlabeled micro-batches per step: the given number, or by the paper's rule "pool".

    "pool": floor(unlabeled batches / steps of an epoch), at least 1: every epoch sees the unlabeled pool once.
    """
    if rule != "pool":
        return int(rule)
    return max(1, -(-len(pool.unlabeled) // unlabeled_batch_size) // steps)


def _seed(seed: int, domain: str, kind: str) -> int:
    return zlib.crc32(f"{seed}:{domain}:{kind}".encode()) & 0x7FFFFFFF
