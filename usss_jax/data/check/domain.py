"""Examines a domain: opens every file of every split once and counts its contents."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from usss_jax.data.check.contents import DomainReport, SplitReport
from usss_jax.data.check.files import Listing, list_split, masks_without_image, missing_in_list
from usss_jax.data.domain import Domain
from usss_jax.errors import InputError

Uses = Mapping[str, Sequence[str]]  # split -> some of USES
Progress = Callable[[str, int, int], Callable[[], None]]
USES = ("labeled", "unlabeled", "val", "test")
LABELED_USES = {"labeled", "val", "test"}  # need masks
_MAX_SYNTHETIC = 32  # opened images of each split of a synthetic domain, which has no faults


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
    progress: Progress | None = None,
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
    open_chosen(report, listings, chosen, threads, progress)
    _share_digests(report)
    report.seconds = time.monotonic() - started
    return report


def open_chosen(
    report: DomainReport,
    listings: Mapping[str, Listing],
    chosen: Mapping[str, Sequence[str]],
    threads: int,
    progress: Progress | None,
):
    """Open the chosen ids of each split, and add their contents to the report."""
    step = progress(report.domain.name, sum(map(len, chosen.values())), 0) if progress else lambda: None
    with ThreadPoolExecutor(threads) as pool:
        for name, ids in chosen.items():
            for start in range(0, len(ids), 64):  # few at a time, so that an interrupted check ends at once
                some = ids[start : start + 64]
                for key, facts in zip(some, pool.map(listings[name].look, some), strict=True):
                    report.splits[name].add(key, facts, listings[name].target)
                    step()


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


def _share_digests(report):
    """Copy the digests of files that were not opened again."""
    known = {s.images[key]: digest for s in report.splits.values() for key, digest in s.digests.items() if s.images}
    for split in report.splits.values():
        if split.same_as:
            split.digests = {key: known[path] for key, path in split.images.items() if path in known}
