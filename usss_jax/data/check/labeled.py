"""Judges the labeled and unlabeled images that a config chooses from a domain."""

import dataclasses
from collections.abc import Sequence

from usss_jax.data.check.contents import DomainReport
from usss_jax.data.check.findings import FAULT, WARNING, Finding, finder, plural
from usss_jax.data.options import Options
from usss_jax.data.pools import open_pools
from usss_jax.errors import InputError

_STOPPING = ("no images", "images of list", "unread images", "no masks", "image without mask")  # also stop training


@dataclasses.dataclass(frozen=True)
class Labeled:
    """The chosen images: labeled ids, numbers of unlabeled images and of both, and classes without a labeled pixel."""

    ids: Sequence[str]
    unlabeled: int
    both: int
    never_seen: Sequence[str]


def check_labeled(
    report: DomainReport, options: Options, faults: Sequence[Finding], least_classes: int = 2
) -> tuple[Labeled | None, list[Finding]]:
    """Choose the labeled images as in training and judge the choice.

    Args:
      report: of the domain.
      options: how its images are used.
      faults: of the domain, which are not reported again.
      least_classes: smallest number of classes of the labeled images (data.min_classes).

    Returns:
      The choice, None if training would stop before it; and its findings.
    """
    try:
        # Bad examples are already reported; the choice without them is not judged.
        pools = open_pools(report.domain, report.root, dataclasses.replace(options, on_bad_example="error"))
    except InputError as error:
        if _is_reported(str(error), faults):
            return None, []
        return None, [finder(report)(FAULT, "stops", f"training would stop at once: {error}")]
    if not len(pools.labeled):
        return Labeled([], len(pools.unlabeled), 0, []), []
    includes_labeled = options.unlabeled_includes_labeled
    return find_labeled(report, list(pools.labeled.ids), list(pools.unlabeled.ids), includes_labeled, least_classes)


def _is_reported(error: str, faults: Sequence[Finding]) -> bool:
    """Whether an error of open_pools repeats one of these faults, by its text or a file."""
    stopping = [fault for fault in faults if fault.level == FAULT and fault.kind in _STOPPING]
    files = [item.rpartition(": ")[2] for fault in stopping for item in fault.items]  # those of a list: FILE:LINE: PATH
    return any(text in error for text in [*(fault.what for fault in stopping), *files])


def find_labeled(
    report: DomainReport, ids: Sequence[str], unlabeled: Sequence[str], includes_labeled: bool, least_classes: int = 2
) -> tuple[Labeled, list[Finding]]:
    """Judge the labeled images of a domain; `find_faults` reports copies of evaluated images.

    Args:
      report: of the domain.
      ids: of the labeled images, all in train.
      unlabeled: ids of the unlabeled images, after "SPLIT/" if two splits share an id.
      includes_labeled: whether all labeled images are also unlabeled ones (data.unlabeled_includes_labeled).
      least_classes: smallest number of classes of the labeled images (data.min_classes).
    """
    train, finding = report.splits["train"], finder(report, "train")
    out = []
    digests = {}
    for split in report.splits.values():
        for key, digest in split.digests.items() if "unlabeled" in split.uses else ():
            digests[key] = digests[f"{split.name}/{key}"] = digest
    contents = {digests[key] for key in unlabeled if key in digests}
    both = list(ids) if includes_labeled else [key for key in ids if train.digests.get(key) in contents]
    if both and not includes_labeled:
        what = f"{len(both)} of {plural(len(ids), 'labeled image')} also among the unlabeled ones, by content"
        remedy = "remove the copies, or set data.unlabeled_includes_labeled=True"
        out.append(finding(FAULT, "labeled and unlabeled", what, both, remedy))

    opened = [key for key in ids if key in train.classes]
    if empty := [key for key in opened if not train.classes[key]]:
        what = f"{plural(len(empty), 'labeled image')} without any labeled pixel"
        out.append(finding(WARNING, "labels ignored", what, empty, "choose other images with a data.labeled_list"))
    seen = {index for key in opened for index in train.classes[key]}
    whole = report.limit is None or len(opened) == len(ids)
    never = [name for index, name in enumerate(report.domain.class_names) if index not in seen]
    never = never if opened and whole else []  # unknown if some were not opened
    if opened and whole and len(seen) < max(1, least_classes):
        names = ", ".join(report.domain.class_names[index] for index in sorted(seen)) or "none"
        what = f"training would stop at once: the classes of the {plural(len(ids), 'labeled image')} are {names}"
        out.append(finding(FAULT, "lone class", what, remedy="label more images, or correct the ids"))
    elif never:
        what = f"no pixel in the {plural(len(ids), 'labeled image')} of"
        remedy = "they cannot be learned: label more images, or use another data.split_seed or data.labeled_list"
        out.append(finding(WARNING, "classes never labeled", what, never, remedy))
    return Labeled(ids, len(unlabeled), len(both), never), out
