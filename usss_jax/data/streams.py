"""Labeled and unlabeled streams of all domains, as one dict per training step.

Every stream is a chain of grain `MapDataset`s, so that the batch of step s is a pure function of (seed, s): a restarted
run resumes exactly, whatever the number of threads and hosts.
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


def stream(source: Examples, pool: Pools, seed: int, validity: bool = False) -> grain.MapDataset:
    """Endless stream of augmented examples of one of the pool's sources, in a new order every epoch."""
    return _augment(grain.MapDataset.source(source).seed(seed).shuffle().repeat(), pool, validity)


def rare_stream(pool: Pools, seed: int, temperature: float) -> grain.MapDataset:
    """Endless stream of augmented labeled examples with rare-class sampling (data/sampling.py); reads all masks."""
    sample = SampleRare(rare_class_probabilities(pool.label_counts, temperature), pool.label_counts > 0)
    indices = grain.MapDataset.range(sys.maxsize).seed(seed).random_map(sample)
    return _augment(indices.map(pool.labeled.__getitem__), pool)


@dataclasses.dataclass(frozen=True, eq=False)
class SampleRare(grain.transforms.RandomMap):
    """Samples the index of a labeled image: first a class by `probabilities`, then an image that has it, uniformly.

    Attributes:
      probabilities: of the classes, [C].
      present: bool [N, C], which image has which class.

    >>> sample = SampleRare(np.array([0.0, 1.0]), np.array([[True, False], [True, True]]))
    >>> sample.random_map(0, np.random.default_rng(0))
    1
    """

    probabilities: np.ndarray
    present: np.ndarray

    def random_map(self, element: int, rng: np.random.Generator) -> int:
        """Return the index of an image; `element` is ignored."""
        sampled = rng.choice(len(self.probabilities), p=self.probabilities)
        return int(rng.choice(np.flatnonzero(self.present[:, sampled])))


@dataclasses.dataclass(frozen=True)
class WithValidity(grain.transforms.RandomMap):
    """A transform of examples that get a further map "valid", uint8 [h, w]: 1 on the image, 0 on its padding."""

    transform: grain.transforms.RandomMap

    def random_map(self, element: dict, rng: np.random.Generator) -> dict:
        """Transform the example as without the map."""
        valid = np.ones(element["image"].shape[:2], np.uint8)
        return self.transform.random_map({**element, "valid": valid}, rng)


def transform_of(pool: Pools) -> grain.transforms.RandomMap:
    """Return what crops and flips the training examples of a pool."""
    return pool.mapped or CropFlip(pool.crop, pool.scale, pool.flip)


def _augment(examples: grain.MapDataset, pool: Pools, validity: bool = False) -> grain.MapDataset:
    chosen = transform_of(pool)
    return examples.random_map(WithValidity(chosen) if validity else chosen)


def _share(examples: grain.MapDataset, batch_size: int, share: tuple[int, int]) -> grain.MapDataset:
    """Lists of the examples of this host's share, (index, count), of each global batch."""
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
    unlabeled_batch_size: int | Mapping[str, int] = 0,
    unlabeled_batches: Mapping[str, int] | None = None,
    validity: bool = False,
    seed: int = 0,
    share: tuple[int, int] = (0, 1),
) -> grain.MapDataset:
    """Batches of all training steps; item s is the batch of step s.

    Args:
      pools: by domain; one without labeled images has no part in "labeled".
      batch_size: global number of labeled images per domain.
      unlabeled_batch_size: global number of images of an unlabeled micro-batch, of every domain or by domain.
      unlabeled_batches: U_k, micro-batches per step and domain; None or empty for supervised training.
      validity: whether unlabeled examples have a map "valid", which tells their padding; for all domains, also those
        whose images never need padding, so that domains of equal crops have equal shapes and share their passes.
      seed: of order and augmentation.
      share: (index, count) of this host, which makes the index-th of `count` equal parts of every batch.

    Returns:
      Items {"labeled": {domain: {"image": uint8 [B, h, w, 3], "label": uint8 [B, h, w]}},
      "unlabeled": {domain: {"image": uint8 [U, B, h, w, 3]}}} with this host's share of every batch; with `validity`
      the unlabeled examples also have "valid": uint8 [U, B, h, w].

    Raises:
      InputError: if the hosts cannot share a batch equally.
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
        examples = stream(pool.unlabeled, pool, _seed(seed, name, "unlabeled"), validity)
        size = unlabeled_batch_size if isinstance(unlabeled_batch_size, int) else unlabeled_batch_size[name]
        micro_batches = _share(examples, size, share)
        parts["unlabeled", name] = micro_batches.batch(passes, drop_remainder=True, batch_fn=_stack_micro_batches)

    def name_parts(values: tuple) -> dict:
        batch: dict[str, dict] = {}
        for (kind, name), value in zip(parts, values, strict=True):
            batch.setdefault(kind, {})[name] = value
        return batch

    # Every stream is practically endless, but batch sizes divide its length differently and Zip requires equal ones.
    steps = min(len(part) for part in parts.values())
    return grain.experimental.ZipMapDataset([part[:steps] for part in parts.values()]).map(name_parts)


def iterate(batches: grain.MapDataset, start: int, threads: int) -> grain.DatasetIterator:
    """Iterate from step `start` while `threads` threads prepare the next batches; close the iterator when done."""
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    iterator = iter(batches.to_iter_dataset(options))
    iterator.set_state({"next_index": start})
    return iterator


def epoch_steps(pools: Mapping[str, Pools], batch_size: int) -> int:
    """Steps of an epoch: the labeled batches of the domain that has most; the others repeat."""
    return max(-(-len(pool.labeled) // batch_size) for pool in pools.values())


def micro_batches(rule: int | str, pool: Pools, steps: int, unlabeled_batch_size: int) -> int:
    """Number U of unlabeled micro-batches per step: `rule` itself, or by the paper's rule "pool".

    "pool": floor(unlabeled batches / steps of an epoch), at least 1, so that an epoch covers the unlabeled images once.
    """
    if rule != "pool":
        return int(rule)
    return max(1, -(-len(pool.unlabeled) // unlabeled_batch_size) // steps)


def _seed(seed: int, domain: str, kind: str) -> int:
    return zlib.crc32(f"{seed}:{domain}:{kind}".encode()) & 0x7FFFFFFF
