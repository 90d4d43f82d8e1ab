"""The labeled, unlabeled, val and test images of each domain."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from ml_collections import ConfigDict

from usss_jax.data import lists, splits
from usss_jax.data.cache import Budget, CachedSource
from usss_jax.data.class_map import run_domains
from usss_jax.data.content import hash_of, label_space
from usss_jax.data.domain import Domain
from usss_jax.data.examples import Examples, Source
from usss_jax.data.files import NoMasksError, others_text
from usss_jax.data.labels import Labels, read_labels
from usss_jax.data.options import Options, domain_root, read_options
from usss_jax.data.readable import BadExample, readable, report_skipped
from usss_jax.data.sources import FolderSource, open_source
from usss_jax.data.unlabeled import open_unlabeled
from usss_jax.errors import InputError

LABELED = "labeled images"


@dataclasses.dataclass(frozen=True)
class Pools:
    """Sources (data/examples.py) of one domain.

    A domain without labels (data.labeled_per_domain=0) has no labeled images, and val and test images only if these
    splits have masks; they do not choose checkpoints.

    Attributes:
      domain: whose images these are.
      crop: (h, w) of training examples.
      labeled: the N labeled training images with masks; empty for a domain without labels.
      unlabeled: unlabeled training images; their masks are never opened.
      val: images with masks that choose the best checkpoint.
      test: images with masks for the final scores.
      scale: range of the random factor before the crop.
      flip: whether to flip half of the training examples.
      rare_temperature: of rare-class sampling of the labeled images; None: uniform sampling.
      skipped: examples that were skipped (data.on_bad_example="skip").
      left_out: a line for each folder with other files among the images.
      budget: memory for decoded images, shared by all domains of a run.
      scored_by: name of the decoder that is scored on its val and test images, if that is not its own.
      mapped: a grain transform of training examples, instead of `CropFlip` with the fields above.
    """

    domain: Domain
    crop: tuple[int, int]
    labeled: Source
    unlabeled: Examples
    val: Source
    test: Source
    scale: tuple[float, float] = (1.0, 1.0)
    flip: bool = True
    rare_temperature: float | None = None
    skipped: tuple[BadExample, ...] = ()
    left_out: tuple[str, ...] = ()
    budget: Budget = dataclasses.field(default_factory=lambda: Budget(0))
    scored_by: str | None = None
    mapped: Any = None

    @functools.cached_property
    def labels(self) -> dict[str, Labels]:
        """Statistics of the labels of the "labeled images", val and test; reads all masks."""
        return {
            what: read_labels(source, self.domain.num_classes, f"{self.domain.name}, {what}")
            for what, source in self.labeled_sources.items()
        }

    @property
    def labeled_sources(self) -> dict[str, Source]:
        """The sources with masks: "labeled images", and the val and test splits by name."""
        domain = self.domain
        found = {LABELED: self.labeled, domain.val_split: self.val, domain.test_split: self.test}
        return {what: source for what, source in found.items() if len(source)}

    @property
    def label_counts(self) -> np.ndarray:
        """Labeled pixels of every class in every labeled image, int64 [N, C]."""
        return self.labels[LABELED].counts

    @functools.cached_property
    def content(self) -> dict[str, Any]:
        """The data of this domain in a run, by value, as JSON (data/content.py); reads all labels."""
        space = label_space(self.domain)
        if not any(layout.encoding == "color" for layout in self.domain.layouts):
            del space["colors"]  # only for pictures; colours that decide on palettes change the labels
        return {
            **space,
            "size": list(self.domain.size),
            "crop": list(self.crop),
            "val_split": self.domain.val_split,
            "test_split": self.domain.test_split,
            **{f"images of {split}": hash_of(s.ids) for split, s in self.labeled_sources.items() if split != LABELED},
            "labeled images": hash_of(self.labeled.ids),
            "unlabeled images": hash_of(self.unlabeled.ids),
            "labels": {what: one.digest for what, one in self.labels.items()},
        }

    @property
    def labeled_ids(self) -> Sequence[str]:
        """Ids of the labeled images."""
        return self.labeled.ids


def open_all(config: ConfigDict) -> dict[str, Pools]:
    """Open the images of every domain of a config.

    Raises:
      InputError: if the data or the fields that describe it are wrong.
    """
    domains = {d.name: d for d in run_domains(config.data.domains, config.data.class_map)}
    if len(domains) != len(config.data.domains):
        raise InputError(
            f"data.domains={list(config.data.domains)}: two of them have the same name; rename one in its file"
        )
    options = read_options(config, domains)
    budget = Budget(int(config.data.cache_gb * 1e9))
    pools: dict[str, Pools] = {}
    without: dict[str, NoMasksError] = {}
    for name, domain in domains.items():
        try:
            root = domain_root(config.data.root, domain, list(domains))
            pools[name] = open_pools(domain, root, options[name], budget)
        except NoMasksError as e:
            if e.split != "train":
                raise
            without[name] = e
    if without:
        raise _without_masks(without, options, bool(with_labels(pools)))
    return _scored(pools)


def _without_masks(without: Mapping[str, NoMasksError], options: Mapping[str, Options], others: bool) -> InputError:
    """Error for domains whose train split has no masks; if others have labels, it suggests training without."""
    error = next(iter(without.values()))
    if not others:
        return error
    values = {name: 0 if name in without else of.labeled for name, of in options.items()}
    listed = {name: of.labeled_list for name, of in options.items()}
    lists = f" and {splits.list_field(listed, without)}" if any(listed[name] for name in without) else ""
    return InputError(
        f"{error.what}; add its masks, or train on its images without labels: {splits.labeled_field(values)}{lists}"
    )


def _scored(pools: Mapping[str, Pools]) -> dict[str, Pools]:
    """Set `scored_by` of each domain without labels to the first one with labels that has all of its classes."""
    out, labeled = dict(pools), with_labels(pools)
    for name, pool in pools.items():
        if name not in labeled:
            has_all = (d for d, p in labeled.items() if {*pool.domain.class_names} <= {*p.domain.class_names})
            out[name] = dataclasses.replace(pool, scored_by=next(has_all, None))
    return out


def with_labels(pools: Mapping[str, Pools]) -> dict[str, Pools]:
    """Return the domains with labeled images, in order."""
    return {name: pool for name, pool in pools.items() if len(pool.labeled)}


def without_labels(pool: Pools) -> Pools:
    """Return the pool without its labeled images."""
    return dataclasses.replace(pool, labeled=pool.labeled.select(()))


def open_pools(domain: Domain, root: str | None, options: Options, budget: Budget | None = None) -> Pools:
    """Open the images of one domain.

    Args:
      domain: the domain.
      root: its folder, or "tfds:DIR"; None for a synthetic one.
      options: how its images are used.
      budget: memory for decoded images; None: none is cached.

    Raises:
      NoMasksError: an InputError, if a split needs masks and has none.
      InputError: for missing data or masks, more labeled images than the split has, or no image to train on.
    """
    domain = dataclasses.replace(domain, size=options.size or domain.size)
    skipped: list[BadExample] = []
    opened = _open_uses(domain, root, options, skipped)
    if options.on_bad_example == "skip":
        report_skipped(skipped)
        for use, source in opened.items():
            if len(source) or not options.without_labels:
                opened[use], bad = readable(source, f"{domain.name}, {use}", options.threads)
                skipped += bad
    budget = budget or Budget(0)
    others = [source.others for source in opened.values() if isinstance(source, FolderSource)]
    cached = {use: CachedSource(source, budget) for use, source in opened.items()}
    return Pools(
        domain,
        options.crop or options.size or domain.crop,
        labeled=cached["labeled"],
        unlabeled=cached["unlabeled"],
        val=cached["val"],
        test=cached.get("test", cached["val"]),
        scale=options.scale or (1.0, 1.0),
        flip=options.flip,
        rare_temperature=options.rare_temperature,
        skipped=tuple(skipped),
        left_out=tuple(others_text(paths) for paths in dict.fromkeys(others) if paths),
        budget=budget,
    )


def _open_uses(domain, root, options: Options, skipped: list[BadExample]) -> dict[str, Examples]:
    """Open the labeled, unlabeled and val images, and the test images if they differ from val.

    Images that lack a required mask raise, or are added to `skipped`.
    """

    def open_split(split: str, use: str, ids: Sequence[str] | None = None) -> Source:
        def skip(key: str, error: str):
            skipped.append(BadExample(f"{domain.name}, {use}", key, error))

        tolerant = skip if options.on_bad_example == "skip" else None
        return open_source(domain, root, split, size=options.size, ids=ids, skip=tolerant)

    def open_scored(split: str, use: str) -> Source:
        if not options.without_labels:
            return open_split(split, use)
        try:
            return open_split(split, use) if split in domain.splits else nothing
        except NoMasksError:
            return nothing  # scores are optional for a domain without labels

    labeled = _open_labeled(domain, root, options, open_split)
    unlabeled = open_unlabeled(domain, root, options, labeled.ids if labeled else ())
    nothing = cast(Source, unlabeled.select(()))
    opened = {"labeled": nothing if labeled is None else labeled, "unlabeled": unlabeled}
    opened["val"] = open_scored(domain.val_split, "val")
    if domain.test_split != domain.val_split:
        opened["test"] = open_scored(domain.test_split, "test")
    return opened


def _open_labeled(domain, root, options: Options, open_split) -> Source | None:
    """Open the labeled images with `open_split`; None for a domain without labels."""
    if options.labeled_list:
        train = open_source(domain, root, "train", size=options.size, with_masks=False)
        return open_split("train", "labeled", lists.read_ids(options.labeled_list, domain, train.ids))
    if options.without_labels:
        return None
    if options.labeled is None:
        raise ValueError("open_pools needs a number of labeled images or a list of them")
    train = open_split("train", "labeled")
    return train.select(splits.choose_labeled(train.ids, options.labeled, options.split_seed, domain.name))
