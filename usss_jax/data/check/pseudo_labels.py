"""Examines a folder of pseudo-labels: opens every file once and judges it."""

import dataclasses
import os
import time
from collections.abc import Callable

from usss_jax.data.check.contents import DomainReport, SplitReport
from usss_jax.data.check.domain import Progress, open_chosen, spread
from usss_jax.data.check.files import Facts, Listing, count_values
from usss_jax.data.check.findings import FAULT, NOTE, WARNING, Finding, finder, plural
from usss_jax.data.content import hash_of
from usss_jax.data.domain import IGNORE, Domain
from usss_jax.data.options import Options
from usss_jax.data.pseudo_label_files import CONFIDENCES, LABELS, PseudoLabelFiles, open_folder, read_manifest
from usss_jax.data.pseudo_labels import PseudoLabeled
from usss_jax.data.unlabeled import open_unlabeled
from usss_jax.errors import InputError

SPLIT = "pseudo-labels"


def check_pseudo_labels(
    domain: Domain,
    root: str | None,
    folder: str | os.PathLike,
    options: Options,
    threads: int = 4,
    limit: int | None = None,
    progress: Progress | None = None,
) -> tuple[DomainReport, list[Finding]]:
    """Open the files of a folder of pseudo-labels and judge them.

    Args:
      domain: of the images.
      root: its folder, or "tfds:DIR"; None for a synthetic one.
      folder: of the pseudo-labels.
      options: how the images are used: their splits and list.
      threads, limit, progress: as in `check_domain`.

    Returns:
      The report, with the one split SPLIT, and its findings.

    Raises:
      InputError: if the manifest is unreadable.
    """
    started = time.monotonic()
    content = read_manifest(folder)
    size = options.size or _size(content) or domain.size
    domain = dataclasses.replace(domain, size=size)
    report = DomainReport(domain, str(folder), size, {}, limit=limit)
    try:
        files = open_folder(folder, domain)
        images = open_unlabeled(domain, root, dataclasses.replace(options, size=size), ())
    except InputError as error:
        report.error = str(error)
        return report, [finder(report)(FAULT, "folder", report.error)]
    known = set(images.ids)
    ids = files.ids()
    split = report.splits[SPLIT] = SplitReport(SPLIT, ("labeled",), ids)
    listing = Listing(ids, lambda key: look_at_pair(files, key, key in known))
    open_chosen(report, {SPLIT: listing}, {SPLIT: spread(ids, limit)}, threads, progress)
    report.pictured = PseudoLabeled(images, files)
    report.seconds = time.monotonic() - started
    return report, find_pseudo_label_faults(report, split, str(content.get("images")))


def look_at_pair(files: PseudoLabelFiles, key: str, has_image: bool) -> Facts:
    """Open the label and the confidence of an image; return the contents of the label, and all faults."""
    faults: list[tuple[str, str, str]] = []

    def read(kind: str, reader: Callable):
        try:
            return reader(key)
        except InputError as error:
            faults.append(("unusable file", str(files.path(kind, key)), str(error)))

    label = read(LABELS, files.label)
    read(CONFIDENCES, files.confidence)
    if not has_image:
        path = str(files.path(LABELS, key))
        remedy = "give the --config of the run, or remove the file"
        faults.append(("no image", path, f"{path}: is of none of the unlabeled images; {remedy}"))
    if label is None:
        return Facts(faults=tuple(faults))
    return Facts(None, label.shape, count_values(label), faults=tuple(faults))


def find_pseudo_label_faults(report: DomainReport, split: SplitReport, images: str) -> list[Finding]:
    """Judge the opened pseudo-labels; `images`: number and hash of the ids in the manifest."""
    finding = finder(report, SPLIT)
    out = [finding(FAULT, kind, message) for _, kind, _, message in split.faults]
    if hash_of(split.ids) != images:
        what = f"files of {plural(len(split.ids), 'image')}, but the manifest is of {images}"
        out.append(finding(FAULT, "incomplete", what, remedy="run the labelling pass again"))
    pixels = split.pixels()
    if not pixels:
        return out
    never = [name for index, name in enumerate(report.domain.class_names) if not pixels[index]]
    if never:
        remedy = "expected of few images and of classes that the images lack; else lower their thresholds"
        out.append(finding(WARNING, "absent classes", "no pixel in any opened pseudo-label of", never, remedy))
    empty = [key for key, classes in split.classes.items() if not classes]
    if empty:
        out.append(
            finding(WARNING, "labels ignored", f"{plural(len(empty), 'image')} without any labeled pixel", empty)
        )
    labeled = 1 - pixels[IGNORE] / pixels.total()
    out.append(finding(NOTE, "labeled pixels", f"{labeled:.1%} of the pixels are labeled"))
    return out


def _size(content) -> tuple[int, int] | None:
    """Size (h, w) of the manifest; None if it has none."""
    match content.get("size"):
        case [int(height), int(width)] if height > 0 and width > 0:
            return height, width
    return None
