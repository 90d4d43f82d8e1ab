"""The images of one domain by their use: labeled, unlabeled, for selection, for the report."""

import dataclasses
from collections.abc import Sequence

from usss_jax.data import sources, splits
from usss_jax.data.domain import Domain


@dataclasses.dataclass(frozen=True)
class Pools:
    """Sources of one domain (see data/sources.py).

    Attributes:
      domain: its class table.
      crop: (h, w) of training examples.
      labeled: the N labeled training images with masks.
      unlabeled: all training images, the labeled ones included, without masks: theirs are never opened.
      select: images with masks on which the best checkpoint is chosen.
      report: images with masks whose scores are reported.
    """

    domain: Domain
    crop: tuple[int, int]
    labeled: sources.Source
    unlabeled: sources.Source
    select: sources.Source
    report: sources.Source

    @property
    def labeled_ids(self) -> Sequence[str]:
        """Ids of the labeled images."""
        return self.labeled.ids


def open_pools(
    domain: Domain,
    root: str | None,
    *,
    labeled: int | str,
    split_seed: int,
    size: tuple[int, int] | None = None,
    crop: tuple[int, int] | None = None,
    cache_bytes: int = 0,
) -> Pools:
    """Open the splits of one domain.

    Args:
      domain: the domain.
      root: its folder; None for a synthetic one.
      labeled: N, or "all".
      split_seed: chooses the labeled images (data/splits.py).
      size: (h, w) at which images are loaded; None for the domain's own.
      crop: (h, w) of training examples; None for the domain's own, or the whole image if `size` is given.
      cache_bytes: memory for decoded images, shared by the four sources of the domain.

    Raises:
      InputError: for missing data, a missing mask, N larger than the pool.
    """
    train = sources.open_source(domain, root, "train", size=size)
    ids = splits.choose_labeled(train.ids, labeled, split_seed, domain.name)
    opened = {
        "labeled": train.select(ids),
        "unlabeled": sources.open_source(domain, root, "train", size=size, with_masks=False),
        "select": sources.open_source(domain, root, domain.select_split, size=size),
        "report": sources.open_source(domain, root, domain.report_split, size=size),
    }
    if domain.report_split == domain.select_split:
        opened["report"] = opened["select"]
    # Shares by number of images: if not all fit into memory, the same part of every source does.
    distinct = {id(source): source for source in opened.values()}
    total = sum(map(len, distinct.values()))
    caches = {key: sources.CachedSource(s, cache_bytes * len(s) // total) for key, s in distinct.items()}
    cached = {use: caches[id(source)] for use, source in opened.items()}
    return Pools(domain, crop or size or domain.crop, **cached)
