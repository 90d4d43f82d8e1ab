"""The images of each domain by their use: labeled, unlabeled, val, test."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
from ml_collections import ConfigDict

from usss_jax.config import per_domain, per_domain_paths, read_count, read_one_of, read_range, read_size, read_splits
from usss_jax.data import lists, sources, splits
from usss_jax.data.cache import Budget, CachedSource
from usss_jax.data.content import hash_of, label_space
from usss_jax.data.domain import Domain
from usss_jax.data.domains import get_domain
from usss_jax.data.files import NoMasksError, others_text
from usss_jax.data.labels import Labels, read_labels
from usss_jax.data.readable import BadExample, readable, report_skipped
from usss_jax.data.sizes import check_orientation
from usss_jax.errors import InputError

LABELED = "labeled images"


@dataclasses.dataclass(frozen=True)
class Pools:
    """Sources of one domain (see data/sources.py).

    A domain without labels in this run (labeled_per_domain=0) has no labeled images, and val and test images only
    where its splits have masks; no checkpoint is chosen by them.

    Attributes:
      domain: its class table.
      crop: (h, w) of training examples.
      labeled: the N labeled training images with masks; empty for a domain without labels.
      unlabeled: training images without masks: theirs are never opened.
      val: images with masks on which the best checkpoint is chosen.
      test: images with masks whose scores are the result.
      scale: range of the random factor before the crop.
      flip: whether half of the training examples are mirrored.
      rare_temperature: of rare-class sampling of the labeled images; None: uniform.
      skipped: examples that cannot be used and were left out (on_bad_example="skip").
      left_out: a line for each folder that has files beside the images.
      budget: memory for decoded images; all domains of a run share it.
      scored_by: of a domain without labels: the domain whose decoder is scored on its val and test images.
    """

    domain: Domain
    crop: tuple[int, int]
    labeled: sources.Source
    unlabeled: sources.Examples
    val: sources.Source
    test: sources.Source
    scale: tuple[float, float] = (1.0, 1.0)
    flip: bool = True
    rare_temperature: float | None = None
    skipped: tuple[BadExample, ...] = ()
    left_out: tuple[str, ...] = ()
    budget: Budget = dataclasses.field(default_factory=lambda: Budget(0))
    scored_by: str | None = None

    @functools.cached_property
    def labels(self) -> dict[str, Labels]:
        """What the masks show of the "labeled images" and of the val and test splits; reads all of them."""
        return {
            what: read_labels(source, self.domain.num_classes, f"{self.domain.name}, {what}")
            for what, source in self.labeled_sources.items()
        }

    @property
    def labeled_sources(self) -> dict[str, sources.Source]:
        """The sources with masks: the "labeled images", and by their names the val and test splits."""
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
            del space["colors"]  # for pictures; where colours decide on palettes, the labels tell
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
      InputError: for whatever is wrong with the data or with the fields that describe it.
    """
    domains = {d.name: d for d in map(get_domain, config.data.domains)}
    names = list(domains)
    if len(names) != len(config.data.domains):
        raise InputError(
            f"data.domains={list(config.data.domains)}: two of them have the same name; rename one in its file"
        )
    options = pool_options(config, domains)
    budget = Budget(int(config.data.cache_gb * 1e9))
    pools: dict[str, Pools] = {}
    without: dict[str, NoMasksError] = {}
    for name, domain in domains.items():
        try:
            root = domain_root(config.data.root, domain, names)
            pools[name] = open_pools(domain, root, budget=budget, **options[name])
        except NoMasksError as e:
            if e.split != "train":
                raise
            without[name] = e
    labeled = with_labels(pools)
    for error in without.values():
        if not labeled:
            raise error
        values = {n: 0 if n in without else of["labeled"] for n, of in options.items()}
        listed = {n: of["labeled_list"] for n, of in options.items()}
        lists = f" and {splits.list_field(listed, without)}" if any(listed[n] for n in without) else ""
        raise InputError(
            f"{error.what}; add its masks, or train on its images without labels: {splits.labeled_field(values)}{lists}"
        )
    for name, pool in pools.items():
        if name not in labeled:
            has_all = (d for d, p in labeled.items() if {*pool.domain.class_names} <= {*p.domain.class_names})
            pools[name] = dataclasses.replace(pool, scored_by=next(has_all, None))
    return pools


def with_labels(pools: Mapping[str, Pools]) -> dict[str, Pools]:
    """Those of the domains that have labels in this run, in their order."""
    return {name: pool for name, pool in pools.items() if len(pool.labeled)}


def pool_options(config: ConfigDict, domains: Mapping[str, Domain]) -> dict[str, dict[str, Any]]:
    """Read what a config says to `open_pools` of each domain, by name; raises InputError for a wrong field."""
    names = list(domains)

    def read(field, reader=str):
        return per_domain(config.data[field], names, f"data.{field}", reader)

    fields = {
        "labeled": read("labeled_per_domain", read_count("all", least=0)),
        "labeled_list": per_domain_paths(config.data.labeled_list, names, "data.labeled_list"),
        "unlabeled_splits": read("unlabeled_splits", read_splits),
        "unlabeled_list": per_domain_paths(config.data.unlabeled_list, names, "data.unlabeled_list"),
        "size": read("image_size", read_size),
        "crop": read("crop_size", read_size),
        "scale": read("scale", read_range),
        "sampling": read("sampling", read_one_of("uniform", "rare")),
    }
    check_orientation(domains, fields["size"], "data.image_size")
    check_orientation(domains, fields["crop"], "data.crop_size")
    splits.check_given(str(config.data.labeled_per_domain), fields["labeled"], fields["labeled_list"])
    rare = {name: config.data.rare_temperature if s == "rare" else None for name, s in fields.pop("sampling").items()}
    return {
        name: {
            **{field: values[name] for field, values in fields.items()},
            "rare_temperature": rare[name],
            "split_seed": config.data.split_seed,
            "unlabeled_includes_labeled": config.data.unlabeled_includes_labeled,
            "flip": config.data.flip,
            "on_bad_example": config.data.on_bad_example,
            "threads": config.data.loader_threads,
        }
        for name in names
    }


def domain_root(data_root: str, domain: Domain, names: Sequence[str]) -> str | None:
    """Folder of a domain: named by data_root itself, or its sub-folder there; None for a synthetic domain.

    "tfds:DIR" means records (data/records.py) below DIR, of this domain or of all.
    """
    if domain.synthetic:
        return None
    root = per_domain_paths(data_root, names, "data.root")[domain.name]
    if root.startswith(sources.RECORDS):
        return sources.RECORDS + str(pathlib.Path(root.removeprefix(sources.RECORDS)).expanduser())
    if root and root != data_root.strip():  # given by name: the domain's own folder
        return str(pathlib.Path(root).expanduser())
    folder = pathlib.Path(root).expanduser() / domain.folder  # absolute for a YAML domain with a root of its own
    if not root and not folder.is_absolute():
        holder = f"that holds {domain.folder!r}" if domain.folder else "of its images"
        raise InputError(
            f"data.root is not set for {domain.name}: give the folder {holder} as --config.data.root=PATH, or its own "
            f"as {domain.name}=PATH; to get the data: {domain.how_to_get}"
        )
    return str(folder)


def open_pools(
    domain: Domain,
    root: str | None,
    *,
    labeled: int | str | None,
    split_seed: int = 0,
    labeled_list: str | None = None,
    unlabeled_splits: Sequence[str] | None = None,
    unlabeled_list: str | None = None,
    unlabeled_includes_labeled: bool = True,
    size: tuple[int, int] | None = None,
    crop: tuple[int, int] | None = None,
    scale: tuple[float, float] | None = None,
    flip: bool = True,
    rare_temperature: float | None = None,
    on_bad_example: str = "error",
    threads: int = 4,
    budget: Budget | None = None,
) -> Pools:
    """Open the splits of one domain.

    Args:
      domain: the domain.
      root: its folder, or "tfds:DIR"; None for a synthetic one.
      labeled: N, or "all"; 0: without labels, then no mask is needed, and none of train opened. Not used with
        `labeled_list`.
      split_seed: chooses the labeled images (data/splits.py).
      labeled_list: text file of the labeled images (data/lists.py); only these need masks.
      unlabeled_splits: splits whose images are unlabeled; None for the domain's own.
      unlabeled_list: text file of the unlabeled images among those.
      unlabeled_includes_labeled: whether the labeled images are among the unlabeled ones, as in the paper; if so
        they are even where `unlabeled_splits` or `unlabeled_list` leave them out.
      size: (h, w) at which images are loaded; None for the domain's own.
      crop: (h, w) of training examples; None for the domain's own, or the whole image if `size` is given.
      scale, flip, rare_temperature: see `Pools`.
      on_bad_example: "error": a missing mask is an error here, a file that cannot be used one when it is met. "skip":
        all files are read once here; what has no mask or cannot be used is left out and listed in `skipped`.
      threads: that read then.
      budget: memory for decoded images.

    Raises:
      NoMasksError: an InputError, for a split that needs masks and has none.
      InputError: for missing data, a missing mask, N larger than the pool, nothing left to train on.
    """
    without_labels = labeled == 0 and not labeled_list
    domain = dataclasses.replace(domain, size=size or domain.size)
    skipped: list[BadExample] = []

    def open_split(split: str, use: str, ids: Sequence[str] | None = None) -> sources.Source:
        """With masks; images without are an error, or skipped."""

        def skip(key: str, error: str):
            skipped.append(BadExample(f"{domain.name}, {use}", key, error))

        tolerant = skip if on_bad_example == "skip" else None
        return sources.open_source(domain, root, split, size=size, ids=ids, skip=tolerant)

    def open_scored(split: str, use: str) -> sources.Source:
        """With masks; for a domain without labels whose split has none, or is not there, empty."""
        if without_labels and split not in domain.splits:
            return nothing
        try:
            return open_split(split, use)
        except NoMasksError:
            if without_labels:
                return nothing
            raise

    if labeled_list:
        train = sources.open_source(domain, root, "train", size=size, with_masks=False)
        chosen = open_split("train", "labeled", lists.read_ids(labeled_list, domain, train.ids))
    elif without_labels:
        chosen = None
    elif labeled is not None:
        train = open_split("train", "labeled")
        chosen = train.select(splits.choose_labeled(train.ids, labeled, split_seed, domain.name))
    else:
        raise ValueError("open_pools needs a number of labeled images or a list of them")
    unlabeled = _open_unlabeled(
        domain,
        root,
        size,
        unlabeled_splits or domain.unlabeled_splits,
        unlabeled_list,
        chosen.ids if chosen else (),
        unlabeled_includes_labeled,
    )
    nothing = cast(sources.Source, unlabeled.select(()))
    opened = {
        "labeled": nothing if chosen is None else chosen,
        "unlabeled": unlabeled,
        "val": open_scored(domain.val_split, "val"),
    }
    if domain.test_split != domain.val_split:
        opened["test"] = open_scored(domain.test_split, "test")
    if on_bad_example == "skip":
        report_skipped(skipped)
        for use, source in opened.items():
            if without_labels and not len(source):
                continue
            opened[use], bad = readable(source, f"{domain.name}, {use}", threads)
            skipped += bad
    budget = budget or Budget(0)
    others = [source.others for source in opened.values() if isinstance(source, sources.FolderSource)]
    cached = {use: CachedSource(source, budget) for use, source in opened.items()}
    return Pools(
        domain,
        crop or size or domain.crop,
        labeled=cached["labeled"],
        unlabeled=cached["unlabeled"],
        val=cached["val"],
        test=cached.get("test", cached["val"]),
        scale=scale or (1.0, 1.0),
        flip=flip,
        rare_temperature=rare_temperature,
        skipped=tuple(skipped),
        left_out=tuple(others_text(paths) for paths in dict.fromkeys(others) if paths),
        budget=budget,
    )


def _open_unlabeled(domain, root, size, names, unlabeled_list, labeled, includes_labeled) -> sources.Examples:
    """Images of some splits (those of the list if there is one), and the labeled ones of train or not."""

    def open_split(split, ids=None):
        return sources.open_source(domain, root, split, size=size, with_masks=False, ids=ids)

    parts = {split: open_split(split) for split in names}
    if includes_labeled and labeled and "train" not in parts:
        parts["train"] = open_split("train", labeled)
    source = _Joined(parts)
    in_train = [source.name("train", i) for i in labeled] if "train" in parts else []
    ids = lists.read_ids(unlabeled_list, domain, source.ids, tuple(parts)) if unlabeled_list else source.ids
    if includes_labeled:
        ids = [*dict.fromkeys([*ids, *in_train])]
    else:
        out = set(in_train)
        ids = [i for i in ids if i not in out]
    if not ids:
        raise InputError(
            f"{domain.name}: data.unlabeled_includes_labeled=False leaves no unlabeled image; set it to True, label "
            "fewer images, or add unlabeled ones"
        )
    return source.select(ids) if len(parts) > 1 else parts[names[0]].select(ids)


class _Joined:
    """Several splits as one source; ids are told apart by their split where two splits have the same."""

    def __init__(self, parts: Mapping[str, sources.Source]):
        ids = [i for part in parts.values() for i in part.ids]
        self._told_apart = len(set(ids)) < len(ids)
        self._places = {
            self.name(split, i): (part, index) for split, part in parts.items() for index, i in enumerate(part.ids)
        }
        self.ids = list(self._places)

    def name(self, split: str, key: str) -> str:
        """Id here of an image of one of the splits."""
        return f"{split}/{key}" if self._told_apart else key

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index) -> dict[str, np.ndarray]:
        part, inside = self._places[self.ids[index]]
        return part[inside]

    def select(self, ids: Iterable[str]) -> "_Joined":
        """Restrict to the given ids, in their order."""
        chosen = _Joined({})
        chosen._places = {i: self._places[i] for i in ids}
        chosen.ids = list(chosen._places)
        return chosen
