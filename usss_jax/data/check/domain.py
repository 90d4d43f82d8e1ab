"""Examines a domain: opens every file of every split once and counts its contents."""

import dataclasses
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from usss_jax.data.check.files import Facts, Listing, list_split, masks_without_image, missing_in_list
from usss_jax.data.domain import IGNORE, Domain
from usss_jax.errors import InputError

Uses = Mapping[str, Sequence[str]]  # split -> some of USES
USES = ("labeled", "unlabeled", "val", "test")
LABELED_USES = {"labeled", "val", "test"}  # need masks
_MAX_SYNTHETIC = 32  # opened images of each split of a synthetic domain, which has no faults
_MAX_UNKNOWN = 1000  # raw values counted separately: a smoothed colour mask has millions


@dataclasses.dataclass
class SplitReport:
    """Contents of one split.

    Attributes:
      name: of the split.
      uses: a subset of USES.
      ids: of its images; `images` and `masks` are their files (empty for records and synthetic domains).
      error: why it could not be listed, or ""; `no_masks`: why it has no masks, or "".
      missing: images of its list that do not exist.
      unread: image files in unsupported formats.
      others: files among the images that are not images.
      without_mask: ids of images whose mask is missing; `without_image`: masks whose image is missing.
      looked_for: the expected mask of the first of `without_mask`, and similar names.
      companions: unused files next to the masks.
      by_color: palette masks whose colours contradict their indices, and decide.
      same_as: splits that contain all of its files, which were not opened again.
      sizes: number of images of each (h, w).
      raw: (raw value, train id) -> pixels; train id 255: ignore, None: not in the class table.
      colors: whether raw values are colours, red + 2**8 * green + 2**16 * blue.
      digests: id -> digest of each opened image.
      classes: id -> train ids of each opened mask.
      faults: (id, kind, file, message) of each faulty file.
      examined: number of opened ids.
    """

    name: str
    uses: tuple[str, ...] = ()
    ids: list[str] = dataclasses.field(default_factory=list)
    images: dict[str, str] = dataclasses.field(default_factory=dict)
    masks: dict[str, str] = dataclasses.field(default_factory=dict)
    error: str = ""
    no_masks: str = ""
    missing: list[str] = dataclasses.field(default_factory=list)
    unread: Sequence[str] = ()
    others: Sequence[str] = ()
    without_mask: Sequence[str] = ()
    looked_for: str = ""
    without_image: list[str] = dataclasses.field(default_factory=list)
    companions: list[str] = dataclasses.field(default_factory=list)
    by_color: list[str] = dataclasses.field(default_factory=list)
    same_as: tuple[str, ...] = ()
    sizes: Counter[tuple[int, int]] = dataclasses.field(default_factory=Counter)
    raw: Counter[tuple[int, int | None]] = dataclasses.field(default_factory=Counter)
    colors: bool = False
    digests: dict[str, bytes] = dataclasses.field(default_factory=dict)
    classes: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    faults: list[tuple[str, str, str, str]] = dataclasses.field(default_factory=list)
    examined: int = 0

    @property
    def has_masks(self) -> bool:
        """Whether some image has a mask."""
        return not self.error and not self.no_masks

    def pixels(self) -> Counter[int | None]:
        """Count the pixels of each train id, of ignore (255) and of unknown raw values (None)."""
        out: Counter[int | None] = Counter()
        for (_, target), count in self.raw.items():
            out[target] += count
        return out

    def usable(self) -> list[str]:
        """Return the ids opened without a fault, and with a mask if the split has masks."""
        wrong = {fault[0] for fault in self.faults}
        opened = self.classes if self.has_masks else self.digests
        return [key for key in self.ids if key in opened and key not in wrong]


@dataclasses.dataclass
class DomainReport:
    """Contents of a domain: `splits` in the order of their use; `error`: why it could not be opened, or ""."""

    domain: Domain
    root: str | None
    size: tuple[int, int]
    splits: dict[str, SplitReport]
    error: str = ""
    limit: int | None = None
    seconds: float = 0.0


def uses_of(
    domain: Domain, unlabeled_splits: Sequence[str] | None = None, without_labels: bool = False
) -> dict[str, tuple[str, ...]]:
    """Return the splits of a domain with their uses; those that need masks come first.

    >>> from usss_jax.data.domains import get_domain
    >>> uses_of(get_domain("camvid"))
    {'train': ('labeled', 'unlabeled'), 'val': ('val',), 'test': ('test',)}
    """
    wanted = {
        "labeled": ("train",),
        "unlabeled": tuple(unlabeled_splits or domain.unlabeled_splits),
        "val": (domain.val_split,),
        "test": (domain.test_split,),
    }
    if without_labels:  # evaluation is optional
        scored = {use: tuple(s for s in wanted[use] if s in domain.splits) for use in ("val", "test")}
        wanted |= {"labeled": ()} | scored
    order = dict.fromkeys([*(split for use in USES for split in wanted[use]), *domain.splits])
    order = dict.fromkeys(sorted(order, key=lambda split: not any(split in wanted[use] for use in LABELED_USES)))
    return {split: tuple(use for use in USES if split in wanted[use]) for split in order}


def spread(items: Sequence, count: int | None) -> list:
    """Select up to `count` of the items at equal distances; all for None.

    >>> spread("abcdefg", 3)
    ['b', 'd', 'f']
    """
    if count is None or count >= len(items):
        return list(items)
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]


def check_domain(
    domain: Domain,
    root: str | None,
    uses: Uses,
    *,
    size: tuple[int, int] | None = None,
    threads: int = 4,
    limit: int | None = None,
    progress: Callable[[str, int, int], Callable[[], None]] | None = None,
) -> DomainReport:
    """Open every file of every split once and count its contents; data/check/findings.py judges them.

    Args:
      domain: the domain.
      root: its folder, or "tfds:DIR"; None for a synthetic one.
      uses: splits with their uses (`uses_of`).
      size: (h, w) at which images are loaded; None: the domain's.
      threads: number of threads that open files.
      limit: number of images to open of each split, spread through the ids; None: all.
      progress: called with a name, the number of images to open, and 0; returns a function called after each.

    Returns:
      The report, which includes all faults of the data: they do not raise.
    """
    started = time.monotonic()
    if domain.synthetic is not None:
        limit = min(limit or _MAX_SYNTHETIC, _MAX_SYNTHETIC)
    report = DomainReport(domain, root, size or domain.size, {}, limit=limit)
    listings = _list_splits(report, uses)
    chosen = _choose(report, listings, limit)
    step = progress(domain.name, sum(map(len, chosen.values())), 0) if progress else lambda: None
    with ThreadPoolExecutor(threads) as pool:
        for name, ids in chosen.items():
            for start in range(0, len(ids), 64):  # few at a time, so that an interrupted check ends at once
                some = ids[start : start + 64]
                for key, facts in zip(some, pool.map(listings[name].look, some), strict=True):
                    _add(report.splits[name], key, facts, listings[name].target)
                    step()
    _share_digests(report)
    report.seconds = time.monotonic() - started
    return report


def _list_splits(report: DomainReport, uses: Uses) -> dict[str, Listing]:
    """Fill in everything known without opening images; return the listings of the readable splits."""
    domain, root = report.domain, report.root
    listings: dict[str, Listing] = {}
    for name in uses:
        report.splits[name] = split = SplitReport(name, tuple(uses[name]))
        try:
            listings[name] = listing = list_split(domain, root, name, report.size)
        except InputError as error:
            split.error = str(error)
            split.missing = missing_in_list(domain, root, name) if root and os.path.isdir(root) else []
            continue
        split.ids, split.images, split.masks, split.unread = listing.ids, listing.images, listing.masks, listing.unread
        split.without_mask, split.no_masks, split.colors = listing.without_mask, listing.no_masks, listing.colors
        split.others, split.looked_for = listing.others, listing.looked_for
    errors = {split.error for split in report.splits.values()}
    if not listings and len(errors) == 1 and not any(split.missing for split in report.splits.values()):
        report.error = errors.pop()  # of the folder as a whole
    used_masks = {path for split in report.splits.values() for path in split.masks.values()}
    if used_masks and root is not None:
        for name, strays in masks_without_image(domain, root, used_masks).items():
            if name in report.splits:
                report.splits[name].without_image, report.splits[name].companions = strays
    return listings


def _choose(report: DomainReport, listings: Mapping[str, Listing], limit: int | None) -> dict[str, list[str]]:
    """Choose the ids to open: none of a split whose files other splits have, unless its masks are needed."""
    owners: dict[str, str] = {}  # first split of each file
    chosen: dict[str, list[str]] = {}
    for name in listings:
        split = report.splits[name]
        known = {owners.get(path) for path in split.images.values()}
        if known and None not in known and not LABELED_USES & set(split.uses):
            split.same_as = tuple(sorted(str(owner) for owner in known))
        chosen[name] = [] if split.same_as else spread(split.ids, limit)
        for path in split.images.values():
            owners.setdefault(path, name)
    return chosen


def _add(split, key, facts: Facts, target):
    split.examined += 1
    split.faults += [(key, *fault) for fault in facts.faults]
    if facts.by_color:
        split.by_color.append(split.masks[key])
    if facts.digest is not None:
        split.digests[key] = facts.digest
    if facts.size is not None:
        split.sizes[facts.size] += 1
    if facts.raw is not None:
        meanings = {value: target(value) for value in facts.raw}
        split.classes[key] = tuple(sorted({t for t in meanings.values() if t is not None and t != IGNORE}))
        for value, count in facts.raw.items():
            meaning = meanings[value]
            if meaning is None and (value, None) not in split.raw and len(split.raw) > _MAX_UNKNOWN:
                value = -1  # all others
            split.raw[value, meaning] += count


def _share_digests(report):
    """Copy the digests of files that were not opened again."""
    known = {s.images[key]: digest for s in report.splits.values() for key, digest in s.digests.items() if s.images}
    for split in report.splits.values():
        if split.same_as:
            split.digests = {key: known[path] for key, path in split.images.items() if path in known}
