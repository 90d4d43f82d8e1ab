"""What data is, by value and not by path: whatever of a domain changes the pixels, labels or classes of an example."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from usss_jax.data.domain import Domain, Layout


def label_space(domain: Domain) -> dict[str, Any]:
    """Describe how files become examples of a domain, as JSON: classes, ids, encodings, where files are below root."""
    layouts = {f"layout {number}": _layout(domain, one) for number, one in enumerate(domain.layouts, start=1)}
    own = layouts["layout 1"] if len(layouts) == 1 else layouts
    colors = {one.name: one.color for one in domain.classes}
    return _plain({"classes": domain.class_names, "colors": colors, "drawn": domain.synthetic, **own})


def differences(before: Any, now: Any, where: str = "") -> list[str]:
    """List what differs between two descriptions: "ids.road was [2], is now [1]"; labels only if all else agrees."""
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


def _plain(value):
    """The value as JSON gives it back."""
    return json.loads(json.dumps(value))


def hash_of(texts: Sequence[str]) -> str:
    """Number and hash of texts in any order, such as "100, hash 9f7c96453d746c49": of a SHA-256 the first 16 digits."""
    return f"{len(texts)}, hash {hashlib.sha256(json.dumps(sorted(texts)).encode()).hexdigest()[:16]}"


def _shown(value):
    if value is None or isinstance(value, Mapping):
        return "absent" if value is None else "there"
    return json.dumps(value, ensure_ascii=False)
