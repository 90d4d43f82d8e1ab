"""The report of a preparation: report.json next to the records, and the same as text."""

import collections
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from usss_jax.data.domain import IGNORE

FILE = "report.json"


def summarise(
    config, by_split: Mapping[str, Sequence[dict]], skipped: Mapping[str, Sequence[str]], absent: Sequence[str]
) -> dict:
    """Summarise the statistics of the shards.

    Shares of classes refer to the labeled pixels, that of ignore to all pixels of the masks.

    Args:
      config: RecordsConfig.
      by_split: statistics of the shards of each split.
      skipped: messages about images that were skipped before sharding.
      absent: splits without images.
    """
    return {
        "records": config.name,
        "domain": config.domain.name,
        "size": list(config.size) if config.size else "original",
        "images": _images(config),
        "lossy": config.image_format == "jpeg",
        "splits": {name: _split(config.domain, shards) for name, shards in by_split.items()},
        "absent_splits": list(absent),
        "skipped": [line for name, shards in by_split.items() for line in [*skipped[name], *_skipped(shards)]],
        "seconds": round(sum(s["seconds"] for shards in by_split.values() for s in shards), 2),
        "mb": _mb(s for shards in by_split.values() for s in shards),
    }


def _images(config):
    if config.size is None:
        return "the original files"
    if config.image_format == "jpeg":
        return "resized ones as JPEG of quality 95 (lossy), the others the original files"
    return "resized ones as PNG, the others the original files"


def _skipped(shards):
    return [line for s in shards for line in s["skipped"]]


def _mb(shards):
    return round(sum(s["bytes"] for s in shards) / 1e6, 2)


def _split(domain, shards):
    ids = [key for s in shards for key in s["ids"]]
    without_label = sum(len(s["without_label"]) for s in shards)
    histogram = np.sum([s["histogram"] for s in shards], axis=0)
    pixels, ignored = int(histogram.sum()), int(histogram[IGNORE])
    sizes = sum((collections.Counter(s["image_sizes"]) for s in shards), collections.Counter())
    return {
        "images": len(ids),
        "pairs": len(ids) - without_label,
        "without_label": without_label,
        "ids_sha256": hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16],
        "image_sizes": dict(sizes.most_common()),
        "ignore_share": _share(ignored, pixels),
        "classes": {
            name: {"pixels": int(histogram[i]), "share": _share(int(histogram[i]), pixels - ignored)}
            for i, name in enumerate(domain.class_names)
        },
        "shards": len(shards),
        "mb": _mb(shards),
    }


def _share(part, whole):
    return round(part / whole, 6) if whole else 0.0


def as_text(report: dict) -> str:
    """Format the report as text."""
    lines = [f"{report['records']}: {report['mb']} MB; images: {report['images']}; {report['seconds']} s of work", ""]
    lines += _table(
        ["split", "images", "pairs", "without label", "ignore", "shards", "MB", "ids", "image sizes (height x width)"],
        [
            [
                *(name, s["images"], s["pairs"], s["without_label"], f"{s['ignore_share']:.2%}", s["shards"], s["mb"]),
                *(s["ids_sha256"], _sizes(s["image_sizes"])),
            ]
            for name, s in report["splits"].items()
        ],
    )
    labeled = {name: s["classes"] for name, s in report["splits"].items() if s["pairs"]}
    rows = [
        [name, *(f"{classes[name]['pixels']} {classes[name]['share']:7.2%}" for classes in labeled.values())]
        for name in next(iter(report["splits"].values()))["classes"]
    ]
    lines += ["", *_table(["pixels of class", *labeled], rows), ""]
    lines += [f"no images of split {name}" for name in report["absent_splits"]]
    lines += [f"{len(report['skipped'])} examples were skipped"] if report["skipped"] else []
    lines += [f"skipped: {line}" for line in report["skipped"]]
    return "\n".join(lines).rstrip()


def _sizes(sizes):
    shown = [f"{size}: {count}" for size, count in list(sizes.items())[:3]]
    return ", ".join(shown) + (f", {len(sizes) - 3} more" if len(sizes) > 3 else "")


def _table(head, rows):
    """Lines with columns of equal width, only the first aligned to the left."""
    cells = [[str(cell) for cell in row] for row in [head, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in cells
    ]
