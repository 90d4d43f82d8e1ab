"""Describes data by value, not by path: everything of a domain that affects the pixels and labels of an example."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from usss_jax.data.domain import IGNORE, Domain, Layout


def label_space(domain: Domain) -> dict[str, Any]:
    """Describe how files become examples of a domain, as JSON: classes, ids, encodings, patterns of files."""
    original = domain.original
    layouts = {f"layout {number}": _layout(original, one) for number, one in enumerate(domain.layouts, start=1)}
    own = layouts["layout 1"] if len(layouts) == 1 else layouts
    colors = {one.name: one.color for one in original.classes}
    drawn = domain.synthetic
    return _plain({"classes": domain.class_names, "colors": colors, "drawn": drawn, **_class_map(domain), **own})


def differences(before: Any, now: Any, where: str = "") -> list[str]:
    """List the differences between two descriptions; "labels" are compared only if all else agrees.

    >>> differences({"ids": {"road": [2]}}, {"ids": {"road": [1]}})
    ['ids.road was [2], is now [1]']
    """
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = [key for key in {**before, **now} if key != "labels"]
        found = [
            text
            for key in keys
            for text in differences(before.get(key), now.get(key), f"{where}.{key}" if where else key)
        ]
        labels = [one.get("labels", {}) for one in (before, now)]
        if not found and labels[0] != labels[1]:
            changed = [what for what in {**labels[0], **labels[1]} if labels[0].get(what) != labels[1].get(what)]
            found = [f"the labels of {where}, {what}, have changed" for what in changed]
        return found
    return [] if before == now else [f"{where} was {_shown(before)}, is now {_shown(now)}"]


def _layout(domain: Domain, layout: Layout):
    ids = dict(zip(domain.class_names, layout.raw_ids, strict=False))
    return {
        "encoding": layout.encoding,
        "ids": ids,
        "ignore_ids": layout.ignore_ids,
        "ignore_colors": layout.ignore_colors,
        "other_colors": "ignore" if layout.other_colors else "error",
        "holdout": layout.holdout,
        "splits": {
            name: {
                "images": files.images,
                "masks": files.masks,
                "mask_shift": files.mask_shift,
                "list": files.list_file,
            }
            for name, files in layout.splits.items()
        },
    }


def _class_map(domain: Domain):
    """The class of each class of the masks, if these are mapped."""
    if domain.mask_classes is None:
        return {}
    names = {**dict(enumerate(domain.class_names)), IGNORE: "ignore"}
    ids = zip(domain.original.class_names, domain.mask_classes.train_ids, strict=True)
    return {"class_map": {name: names[train_id] for name, train_id in ids}}


def _plain(value):
    """The value after a round trip through JSON."""
    return json.loads(json.dumps(value))


def hash_of(texts: Sequence[str]) -> str:
    """Format the number of texts and the first 16 hex digits of their SHA-256, whatever their order.

    >>> hash_of(["b", "a"]) == hash_of(["a", "b"])
    True
    >>> hash_of([])
    '0, hash 4f53cda18c2baa0c'
    """
    return f"{len(texts)}, hash {hashlib.sha256(json.dumps(sorted(texts)).encode()).hexdigest()[:16]}"


def _shown(value):
    if value is None or isinstance(value, Mapping):
        return "absent" if value is None else "there"
    return json.dumps(value, ensure_ascii=False)
