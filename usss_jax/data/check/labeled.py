"""The labeled and unlabeled images that a config chooses from a domain, and what is wrong with that choice."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from usss_jax.data.check.domain import DomainReport
from usss_jax.data.check.findings import EVALUATION, FAULT, WARNING, Finding, plural
from usss_jax.data.pools import open_pools
from usss_jax.errors import InputError

_TOLD = ("no images", "images of list", "no masks", "image without mask")  # which stop a training too


@dataclasses.dataclass(frozen=True)
class Labeled:
    """The labeled set that a config chooses: its ids, how many images are unlabeled and how many are both."""

    ids: Sequence[str]
    unlabeled: int
    both: int
    never_seen: Sequence[str]  # classes


def check_labeled(
    report: DomainReport, options: Mapping[str, Any], faults: Sequence[Finding]
) -> tuple[Labeled | None, list[Finding]]:
    """Choose the labeled images as a training would and judge the choice.

    Args:
      report: of the domain.
      options: of open_pools.
      faults: already found, which are not told twice.

    Returns:
      The choice, None if a training would stop before it; what is wrong with it.
    """
    try:
        # Bad examples have been found already: what is left of the choice without them is not of interest here.
        pools = open_pools(report.domain, report.root, **{**options, "on_bad_example": "error"})
    except InputError as error:
        told = [f for f in faults if f.level == FAULT and f.kind in _TOLD]
        texts = [text.rpartition(": ")[2] for fault in told for text in (fault.what, *fault.items)]
        if any(text in str(error) for text in texts):
            return None, []
        return None, [Finding(FAULT, report.domain.name, "", "stops", f"training would stop at once: {error}")]
    meant = options["unlabeled_includes_labeled"]
    return find_labeled(report, list(pools.labeled.ids), list(pools.unlabeled.ids), meant)


def find_labeled(
    report: DomainReport, ids: Sequence[str], unlabeled: Sequence[str], meant: bool
) -> tuple[Labeled, list[Finding]]:
    """Judge the labeled set of a domain that was examined.

    Args:
      report: of the domain.
      ids: of the labeled images, all in train.
      unlabeled: ids of the unlabeled images; with the split and "/" before them if two splits share an id.
      meant: whether labeled images are to be among the unlabeled ones (unlabeled_includes_labeled).
    """
    domain, train = report.domain, report.splits["train"]
    chosen, pool = set(unlabeled), {}
    for split in report.splits.values():
        for key, digest in split.digests.items() if "unlabeled" in split.uses else ():
            pool[key] = pool[f"{split.name}/{key}"] = digest
    contents = {pool[key] for key in chosen if key in pool}
    same_files = {key for key in ids if "unlabeled" in train.uses and {key, f"train/{key}"} & chosen}
    both = sum(key in same_files or train.digests.get(key) in contents for key in ids)
    opened = [key for key in ids if key in train.classes]
    whole = report.limit is None or len(opened) == len(ids)
    seen = {c for key in opened for c in train.classes[key]}
    never = [name for index, name in enumerate(domain.class_names) if index not in seen] if opened and whole else []
    out = []

    def find(level, kind, what, items, remedy):
        out.append(Finding(level, domain.name, "train", kind, what, items, remedy))

    if never:
        remedy = "they cannot be learned: label more images, or take another split_seed or labeled_list"
        find(WARNING, "classes never labeled", f"no pixel in the {plural(len(ids), 'labeled image')} of", never, remedy)
    if empty := [key for key in opened if not train.classes[key]]:
        what = f"{plural(len(empty), 'labeled image')} without any labeled pixel"
        find(WARNING, "labels ignored", what, empty, "take other images in a labeled_list")
    if both and not meant:
        what = f"{both} of {plural(len(ids), 'labeled image')} also among the unlabeled ones, by content"
        find(WARNING, "labeled and unlabeled", what, (), "remove the copies, or set unlabeled_includes_labeled=True")
    for split in report.splits.values():
        if EVALUATION & set(split.uses) and split.name != "train":
            contents = set(split.digests.values())
            if leaked := [key for key in ids if train.digests.get(key) in contents]:
                what = f"{plural(len(leaked), 'labeled image')} also in {split.name}, by content"
                find(FAULT, "labeled images in evaluation", what, leaked, "remove them from one of the two")
    return Labeled(ids, len(unlabeled), both, never), out
