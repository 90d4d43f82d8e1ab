"""Judges the report of a domain: faults, which must be fixed, and warnings, which may be intended.

The docstring of __main__.py lists both.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence

from usss_jax.data.check.contents import DomainReport, SplitReport
from usss_jax.data.check.domain import LABELED_USES
from usss_jax.data.domain import IGNORE
from usss_jax.data.files import others_text
from usss_jax.data.sizes import height_width
from usss_jax.data.sources import RECORDS

FAULT, WARNING, NOTE = "fault", "warning", "note"
EVALUATION = {"val", "test"}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
      level: FAULT, WARNING or NOTE.
      domain, split: where; "" for no split.
      kind: groups similar findings.
      what: message.
      items: all files or classes concerned.
      remedy: what to do.

    >>> print(Finding(WARNING, "camvid", "val", "absent classes", "no pixel in 5 masks of", ["sky"], "check the ids"))
    camvid, val: no pixel in 5 masks of: sky; check the ids
    """

    level: str
    domain: str
    split: str
    kind: str
    what: str
    items: Sequence[str] = ()
    remedy: str = ""

    def __str__(self):
        where = f"{self.domain}, {self.split}" if self.split else self.domain
        more = f" and {len(self.items) - 5} more" if len(self.items) > 5 else ""
        items = f": {', '.join(self.items[:5])}{more}" if self.items else ""
        return f"{where}: {self.what}{items}" + (f"; {self.remedy}" if self.remedy else "")


def finder(report: DomainReport, split: str = "") -> Callable[..., Finding]:
    """Return a function (level, kind, what, items, remedy) -> Finding for this domain and split."""

    def finding(level, kind, what, items=(), remedy=""):
        return Finding(level, report.domain.name, split, kind, what, items, remedy)

    return finding


def find_faults(
    report: DomainReport, labeled_list: bool = False, without_labels: bool = False, least_classes: int = 2
) -> list[Finding]:
    """Judge the files, classes and copies of a domain.

    Args:
      report: of the domain.
      labeled_list: whether only the images of a list need masks in train.
      without_labels: whether the domain is used without labels, so that masks and classes may be missing.
      least_classes: smallest number of classes of each evaluated split (data.min_classes).
    """
    finding = finder(report)
    if report.error:
        return [finding(FAULT, "folder", report.error)]
    out = []
    if (report.root or "").startswith(RECORDS):
        what = (
            "records have train ids, at the size of their preparation: "
            "raw ids, file sizes and masks without an image are unknown"
        )
        out.append(finding(NOTE, "records", what, remedy="check the folder"))
    for split in report.splits.values():
        needs_masks = not (without_labels or (labeled_list and split.name == "train"))
        out += _of_files(report, split, needs_masks and bool(LABELED_USES & set(split.uses)))
    return [*out, *_of_classes(report, without_labels, least_classes), *_of_copies(report)]


def plural(count: int, noun: str) -> str:
    """Format a number with its noun.

    >>> plural(1, "mask"), plural(3, "mask")
    ('1 mask', '3 masks')
    """
    return f"{count} {noun}" + ("s" if count != 1 else "")


# ---- files ---------------------------------------------------------------------------------------------


def _of_files(report: DomainReport, split: SplitReport, needs_masks: bool) -> Iterator[Finding]:
    finding = finder(report, split.name)
    if_used = FAULT if split.uses else NOTE
    if split.error:
        if len(split.missing) > 1:  # the error names one
            what = f"{plural(len(split.missing), 'image')} of the list missing"
            yield finding(if_used, "images of list", what, split.missing, "add them, or correct or remove these lines")
        else:
            yield finding(if_used, "no images", split.error)
        return
    if split.unread:
        endings = ", ".join(sorted({os.path.splitext(path)[1].lower() or "no ending" for path in split.unread}))
        what = f"{plural(len(split.unread), 'image')} in unsupported formats ({endings})"
        yield finding(if_used, "unread images", what, split.unread, "convert them to PNG or JPEG, or move them away")
    if split.no_masks and needs_masks:
        name = report.domain.name
        remedy = f"or use {name} without labels (data.labeled_per_domain={name}=0), with a domain that has some"
        yield finding(FAULT, "no masks", split.no_masks, remedy=remedy if "labeled" in split.uses else "")
    if split.without_mask:
        yield finding(
            FAULT if needs_masks else NOTE,
            "image without mask",
            f"{len(split.without_mask)} of {plural(len(split.ids), 'image')} without a mask",
            [split.images.get(key, repr(key)) for key in split.without_mask],
            (f"of the first, {split.looked_for}; " if split.looked_for else "")
            + "add the masks, remove the images, or name the labeled images in a data.labeled_list",
        )
    if split.without_image:
        what = f"{plural(len(split.without_image), 'mask')} without an image, never read"
        yield finding(FAULT, "mask without image", what, split.without_image, "add the images or remove the masks")
    if split.others:
        remedy = "they are ignored; move them away if this is not intended"
        yield finding(NOTE, "other files", others_text(split.others), remedy=remedy)
    if split.companions:
        what = f"{plural(len(split.companions), 'file')} next to the masks, never read"
        yield finding(NOTE, "companions", what, split.companions)
    if split.by_color:
        what = (
            f"{plural(len(split.by_color), 'palette mask')} whose colours and indices mean different classes; the "
            "colours decide"
        )
        remedy = "if the indices are right, correct the colours of the classes, or save the masks as grey images"
        yield finding(WARNING, "palettes", what, split.by_color, remedy)
    for _, kind, _, message in split.faults:  # the message has file and remedy
        yield finding(FAULT, kind, message)
    if split.same_as:
        yield finding(NOTE, "not opened again", f"has the files of {' and '.join(split.same_as)}")
    height, width = report.size
    squeezed = {s: n for s, n in split.sizes.items() if not 1 / 1.1 < s[1] * height / (s[0] * width) < 1.1}
    if split.sizes and all((h - w) * (height - width) < 0 for h, w in split.sizes):
        what = f"images are loaded at {height}x{width} (height x width), but the files have"
        remedy = f"did you mean {width}x{height}? size in the domain's file and data.image_size are height, width"
        level = FAULT if split.uses else NOTE
        yield finding(level, "orientation", what, list(map(height_width, split.sizes)), remedy)
    elif squeezed:
        what = f"{sum(squeezed.values())} of {split.examined} images are squeezed to {height}x{width} (height x width)"
        remedy = "set data.image_size to another shape if this is not intended"
        yield finding(NOTE, "aspect ratio", f"{what}, from", list(map(height_width, squeezed)), remedy)


# ---- content -------------------------------------------------------------------------------------------


def _of_classes(report: DomainReport, without_labels: bool, least_classes: int) -> Iterator[Finding]:
    """Findings about the classes of the opened masks: of the whole domain, then of each split."""
    labeled = [split for split in report.splits.values() if split.classes]
    seen = {index for split in labeled for classes in split.classes.values() for index in classes}
    nowhere = [name for index, name in enumerate(report.domain.class_names) if index not in seen]
    finding = finder(report)
    if nowhere and labeled and not without_labels and all(split.examined == len(split.ids) for split in labeled):
        remedy = "the class table and the masks disagree: correct one of them, or remove these classes"
        yield finding(FAULT, "absent classes", "no pixel in any mask of", nowhere, remedy)
    elif labeled and nowhere:
        remedy = "expected of few images; open all of them to be sure"
        yield finding(WARNING, "absent classes", "no pixel in any opened mask of", nowhere, remedy)
    for split in labeled:
        yield from _of_masks(report, split, seen)
        shown = {index for classes in split.classes.values() for index in classes}
        if EVALUATION & set(split.uses) and split.examined == len(split.ids) and len(shown) < max(1, least_classes):
            names = [report.domain.class_names[index] for index in sorted(shown)]
            what = f"all labeled pixels are {', '.join(names)}" if names else "no pixel is labeled"
            remedy = "training would stop: compare the ids of the table with those of the masks"
            yield finder(report, split.name)(FAULT, "lone class", what, remedy=remedy)


def _of_masks(report: DomainReport, split: SplitReport, seen: set[int]) -> Iterator[Finding]:
    """Warnings of a split's masks; `seen`: train ids that some split has."""
    finding, masks = finder(report, split.name), plural(len(split.classes), "mask")
    pixels = split.pixels()
    absent = [name for index, name in enumerate(report.domain.class_names) if index in seen and not pixels[index]]
    if absent:
        remedy = "expected of few images; else compare the ids of the table with those of the masks"
        yield finding(WARNING, "absent classes", f"no pixel in {masks} of", absent, remedy)
    wrong = {fault[0] for fault in split.faults}  # reported as faults
    empty = [split.masks.get(key, key) for key, found in split.classes.items() if not found and key not in wrong]
    if empty:
        what = f"{plural(len(empty), 'mask')} without any labeled pixel"
        yield finding(WARNING, "labels ignored", what, empty, "remove these images, or label them")
    share = pixels[IGNORE] / max(1, sum(pixels.values()))
    if share > 0.5:
        remedy = "check the ids to ignore"
        yield finding(WARNING, "ignored pixels", f"{share:.0%} of the pixels are ignored", remedy=remedy)


def _of_copies(report: DomainReport) -> Iterator[Finding]:
    """Images with the same content, within a split and in two; two splits may share a file unless one is evaluated."""
    places: dict[bytes, list[tuple[str, str]]] = {}
    for split in report.splits.values():
        for key, digest in split.digests.items():
            places.setdefault(digest, []).append((split.name, key))
    groups: dict[tuple[str, str, bool], list[tuple[str, str]]] = {}
    for same in places.values():
        firsts: dict[str, str] = {}
        for name, key in same:
            if name in firsts and not report.splits[name].same_as:  # else reported for the splits with these files
                groups.setdefault((name, name, False), []).append((firsts[name], key))
            firsts.setdefault(name, key)
        for i, (a, first) in enumerate(firsts.items()):
            for b, second in list(firsts.items())[i + 1 :]:
                one, other = report.splits[a].images.get(first), report.splits[b].images.get(second)
                shared = one is not None and other is not None and os.path.realpath(one) == os.path.realpath(other)
                groups.setdefault((a, b, shared), []).append((first, second))
    for (a, b, shared), pairs in groups.items():
        level = _level(set(report.splits[a].uses), set(report.splits[b].uses), a == b, shared)
        if level:
            where = "twice" if a == b else f"also in {b}"
            exactly = "byte for byte" if report.splits[a].images else "pixel for pixel"  # without files: as loaded
            what = f"{plural(len(pairs), 'image')} {where}, {exactly} the same"
            files = [f"{_below(report, a, first)} = {_below(report, b, second)}" for first, second in sorted(pairs)]
            remedy = "remove one of each" if not shared else f"use other images in {a} or {b}"
            yield finder(report, a)(level, "copies", what, files, remedy)


def _below(report, split, key):
    """File of an image below the domain's folder, or its split and id if it is not a file."""
    path = report.splits[split].images.get(key)
    return os.path.relpath(path, report.root) if path else f"{split}/{key}"


def _level(first, second, same_split, shared_file):
    """Level of a common image of two splits with these uses; None if intended."""
    if same_split:
        return FAULT
    evaluation = [EVALUATION & first, EVALUATION & second]
    if any(evaluation) and (all(evaluation) or "labeled" in first | second):
        return FAULT
    if any(evaluation) and "unlabeled" in first | second:
        return WARNING if shared_file else FAULT  # the same file: probably chosen, for training without its mask
    return None if shared_file else WARNING
