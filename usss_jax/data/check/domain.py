"""The examination of one domain: every file of every split is opened once, and what it holds is counted."""

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
LABELED_USES = {"labeled", "val", "test"}  # that need masks
_MAX_DRAWN = 32  # of each split of a drawn domain, in which there is nothing to find
_MAX_UNKNOWN = 1000  # raw values told apart: a smoothed colour mask has millions


@dataclasses.dataclass
class SplitReport:
    """What one split has.

    Attributes:
      name: of the split.
      uses: what it is used for, of USES.
      ids: of its images, and `images`, `masks` their files (empty for records and drawn domains).
      error: why it could not be listed, "" if it could; `no_masks`: why it has no masks at all, "" if it has.
      missing: images that its list names and that are not there.
      unread: files of images in formats that are not read.
      others: files among the images that are none.
      looked_for: the mask of the first of `without_mask`, and the names that come nearest.
      without_mask: ids of images whose mask is missing; `without_image`: masks whose image is missing.
      companions: files beside the masks that nothing reads.
      by_color: palette masks whose colours contradict their indices, and decide.
      same_as: splits that have all of its files, which were not opened again.
      sizes: number of images of each (h, w).
      raw: pixels of each raw value of the masks, with the train id it means (255: ignore, None: not in the table).
      colors: whether raw values are colours, red + 2**8 * green + 2**16 * blue.
      digests: of each image that was opened.
      classes: train ids of each mask that was opened.
      faults: (id, kind, file, message) of each file with a fault.
      examined: number of ids that were opened.
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
        """Pixels of each train id, of ignore (255) and of raw values that the table lacks (None)."""
        out: Counter[int | None] = Counter()
        for (_, target), count in self.raw.items():
            out[target] += count
        return out

    def usable(self) -> list[str]:
        """Ids that were opened without a fault, with a mask if the split has masks."""
        wrong = {fault[0] for fault in self.faults}
        opened = self.classes if self.has_masks else self.digests
        return [key for key in self.ids if key in opened and key not in wrong]


@dataclasses.dataclass
class DomainReport:
    """What a domain has: `splits` in the order of their use. `error`: why nothing of it could be opened, or ""."""

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
    """Splits of a domain by their order, each with what it is used for."""
    wanted = {
        "labeled": ("train",),
        "unlabeled": tuple(unlabeled_splits or domain.unlabeled_splits),
        "val": (domain.val_split,),
        "test": (domain.test_split,),
    }
    if without_labels:  # evaluated where it can be
        scored = {use: tuple(s for s in wanted[use] if s in domain.splits) for use in ("val", "test")}
        wanted |= {"labeled": ()} | scored
    order = dict.fromkeys([*(split for use in USES for split in wanted[use]), *domain.splits])
    order = dict.fromkeys(sorted(order, key=lambda split: not any(split in wanted[use] for use in LABELED_USES)))
    return {split: tuple(use for use in USES if split in wanted[use]) for split in order}


def spread(items: Sequence, count: int | None) -> list:
    """Up to `count` of the items, at equal distances; all for None."""
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
    """Open every file of every split once and count what it holds; nothing is judged yet (data/check/findings.py).

    Args:
      domain: the domain.
      root: its folder, or "tfds:DIR"; None for a synthetic one.
      uses: splits and what each is used for (uses_of).
      size: (h, w) at which images are loaded; None for the domain's own.
      threads: that open files.
      limit: open that many images of each split, spread through the ids; None for all.
      progress: called with a name, the number of images to open, and 0; what it returns is called after each.

    Returns:
      Its report; what is wrong with the data is in there, and no reason to raise.
    """
    started = time.monotonic()
    if domain.synthetic is not None:
        limit = min(limit or _MAX_DRAWN, _MAX_DRAWN)
    report = DomainReport(domain, root, size or domain.size, {}, limit=limit)
    listings = _list_splits(report, uses)
    chosen = _choose(report, listings, limit)
    step = progress(domain.name, sum(map(len, chosen.values())), 0) if progress else lambda: None
    with ThreadPoolExecutor(threads) as pool:
        for name, ids in chosen.items():
            for start in range(0, len(ids), 64):  # few at a time: an interrupted check should end at once
                some = ids[start : start + 64]
                for key, facts in zip(some, pool.map(listings[name].look, some), strict=True):
                    _add(report.splits[name], key, facts, listings[name].target)
                    step()
    _share_digests(report)
    report.seconds = time.monotonic() - started
    return report


def _list_splits(report: DomainReport, uses: Uses) -> dict[str, Listing]:
    """Fill in what can be told without opening an image; returns the splits that could be listed."""
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
    """Choose the ids to open: none of a split whose files other splits have, unless its masks are wanted."""
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
                value = -1  # all further ones together
            split.raw[value, meaning] += count


def _share_digests(report):
    """Give the images that were not opened again the digest of their file."""
    known = {s.images[key]: digest for s in report.splits.values() for key, digest in s.digests.items() if s.images}
    for split in report.splits.values():
        if split.same_as:
            split.digests = {key: known[path] for key, path in split.images.items() if path in known}
