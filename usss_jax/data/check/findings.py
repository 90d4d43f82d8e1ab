"""What is wrong with a domain, by its examination: faults, which are to be mended, and warnings, which may be meant.

The docstring of __main__.py lists both.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence

from usss_jax.data.check.domain import LABELED_USES, DomainReport, SplitReport
from usss_jax.data.domain import IGNORE
from usss_jax.data.files import others_text
from usss_jax.data.sizes import height_width
from usss_jax.data.sources import RECORDS

FAULT, WARNING, NOTE = "fault", "warning", "note"
EVALUATION = {"val", "test"}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the report: how bad, where, what, in which files or of which classes (all of them), what to do."""

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
    """Function that makes a Finding of this domain, and split, of its level, kind, what, items and remedy."""

    def finding(level, kind, what, items=(), remedy=""):
        return Finding(level, report.domain.name, split, kind, what, items, remedy)

    return finding


def find_faults(
    report: DomainReport, labeled_list: bool = False, without_labels: bool = False, least_classes: int = 2
) -> list[Finding]:
    """Judge a domain.

    Args:
      report: of the domain.
      labeled_list: whether only the images of such a list need masks in train.
      without_labels: whether it is used without labels: no mask is needed, and a class may be in none.
      least_classes: that each evaluated split must show (min_classes).
    """
    finding = finder(report)
    if report.error:
        return [finding(FAULT, "folder", report.error)]
    out = []
    if (report.root or "").startswith(RECORDS):
        what = (
            "records hold train ids, at the size they were prepared at: "
            "raw ids, sizes of the files and masks without an image cannot be told"
        )
        out.append(finding(NOTE, "records", what, remedy="check the folder"))
    for split in report.splits.values():
        needs_masks = not (without_labels or (labeled_list and split.name == "train"))
        out += _of_files(report, split, needs_masks and bool(LABELED_USES & set(split.uses)))
    return [*out, *_of_classes(report, without_labels, least_classes), *_of_copies(report)]


def plural(count: int, noun: str) -> str:
    """Number with its noun."""
    return f"{count} {noun}" + ("s" if count != 1 else "")


# ---- files ---------------------------------------------------------------------------------------------


def _of_files(report: DomainReport, split: SplitReport, needs_masks: bool) -> Iterator[Finding]:
    finding = finder(report, split.name)
    if_used = FAULT if split.uses else NOTE
    if split.error:
        if len(split.missing) > 1:  # the error names one
            what = f"{plural(len(split.missing), 'image')} of the list not there"
            yield finding(if_used, "images of list", what, split.missing, "add them, or correct or remove these lines")
        else:
            yield finding(if_used, "no images", split.error)
        return
    if split.unread:
        endings = ", ".join(sorted({os.path.splitext(path)[1].lower() or "no ending" for path in split.unread}))
        what = f"{plural(len(split.unread), 'image')} in unsupported formats ({endings})"
        yield finding(if_used, "unread images", what, split.unread, "convert them to PNG or JPEG, or move them away")
    if split.no_masks and needs_masks:
        remedy = f"or use {report.domain.name} without labels, beside one with labels: its data.labeled_per_domain is 0"
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
        what = f"{plural(len(split.without_image), 'mask')} without an image, which nothing will read"
        yield finding(FAULT, "mask without image", what, split.without_image, "add the images or remove the masks")
    if split.others:
        remedy = "they are left out; move them away if that is not meant"
        yield finding(NOTE, "other files", others_text(split.others), remedy=remedy)
    if split.companions:
        what = f"{plural(len(split.companions), 'file')} beside the masks, which nothing reads"
        yield finding(NOTE, "companions", what, split.companions)
    if split.by_color:
        what = (
            f"{plural(len(split.by_color), 'palette mask')} whose colours are those of other classes than their "
            "indices mean; the colours decide"
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
        remedy = "set data.image_size to another shape if that is not meant"
        yield finding(NOTE, "aspect ratio", f"{what}, from", list(map(height_width, squeezed)), remedy)


# ---- content -------------------------------------------------------------------------------------------


def _of_classes(report: DomainReport, without_labels: bool, least_classes: int) -> Iterator[Finding]:
    """What the masks that were opened say of the classes: of the domain as a whole, then of each split."""
    labeled = [split for split in report.splits.values() if split.classes]
    seen = {index for split in labeled for classes in split.classes.values() for index in classes}
    nowhere = [name for index, name in enumerate(report.domain.class_names) if index not in seen]
    finding = finder(report)
    if nowhere and labeled and not without_labels and all(split.examined == len(split.ids) for split in labeled):
        remedy = "the table and the masks do not fit: correct one of them, or remove these classes"
        yield finding(FAULT, "absent classes", "no pixel in any mask of", nowhere, remedy)
    elif labeled and nowhere:
        remedy = "expected of few images; open all of them to be sure"
        yield finding(WARNING, "absent classes", "no pixel in any mask that was opened of", nowhere, remedy)
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
    wrong = {fault[0] for fault in split.faults}  # told already
    empty = [split.masks.get(key, key) for key, found in split.classes.items() if not found and key not in wrong]
    if empty:
        what = f"{plural(len(empty), 'mask')} without any labeled pixel"
        yield finding(WARNING, "labels ignored", what, empty, "leave these images out, or label them")
    share = pixels[IGNORE] / max(1, sum(pixels.values()))
    if share > 0.5:
        remedy = "check that the ids to ignore are meant"
        yield finding(WARNING, "ignored pixels", f"{share:.0%} of the pixels are ignored", remedy=remedy)


def _of_copies(report: DomainReport) -> Iterator[Finding]:
    """Images with the same content, within a split and in two; the same file in two is right but for the evaluation."""
    places: dict[bytes, list[tuple[str, str]]] = {}
    for split in report.splits.values():
        for key, digest in split.digests.items():
            places.setdefault(digest, []).append((split.name, key))
    groups: dict[tuple[str, str, bool], list[tuple[str, str]]] = {}
    for same in places.values():
        firsts: dict[str, str] = {}
        for name, key in same:
            if name in firsts and not report.splits[name].same_as:  # else told of the splits that have these files
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
            where = "there twice" if a == b else f"also in {b}"
            exactly = "byte for byte" if report.splits[a].images else "pixel for pixel"  # without files: as loaded
            what = f"{plural(len(pairs), 'image')} {where}, {exactly} the same"
            files = [f"{_below(report, a, first)} = {_below(report, b, second)}" for first, second in sorted(pairs)]
            remedy = "remove one of each" if not shared else f"take other images in {a} or {b}"
            yield finder(report, a)(level, "copies", what, files, remedy)


def _below(report, split, key):
    """File of an image below the domain's folder, or its id if it is no file."""
    path = report.splits[split].images.get(key)
    return os.path.relpath(path, report.root) if path else f"{split}/{key}"


def _level(first, second, same_split, shared_file):
    """How bad it is that two splits of these uses have an image in common; None if it is meant."""
    if same_split:
        return FAULT
    evaluation = [EVALUATION & first, EVALUATION & second]
    if any(evaluation) and (all(evaluation) or "labeled" in first | second):
        return FAULT
    if any(evaluation) and "unlabeled" in first | second:
        return WARNING if shared_file else FAULT  # the same file: chosen so, to learn from it without its mask
    return None if shared_file else WARNING
