"""The report of a check: as text, and as a dict for check.json."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

from usss_jax.data.check.contents import DomainReport, SplitReport
from usss_jax.data.check.findings import FAULT, NOTE, WARNING, Finding
from usss_jax.data.check.labeled import Labeled
from usss_jax.data.domain import IGNORE
from usss_jax.data.sizes import height_width

SHOWN = 10  # findings of a kind; check.json has all


def domain_text(report: DomainReport, labeled: Labeled | None) -> str:
    """Render the tables of one domain: splits, pixels of classes by raw value, labeled images."""
    where, size = report.root or "synthetic", height_width(report.size)
    lines = [f"{report.domain.name}: {report.domain.title}", f"  {where}, loaded at {size} (height x width)"]
    if not report.error:
        lines += ["", *_aligned(_split_rows(report), left=2), "", *_aligned(_class_rows(report), left=2)]
    if labeled:
        lines += ["", f"  {len(labeled.ids)} labeled and {labeled.unlabeled} unlabeled images, {labeled.both} are both"]
    return "\n".join(lines)


def findings_text(findings: Sequence[Finding]) -> str:
    """Render faults, warnings and notes below their headings, the first SHOWN of a kind.

    >>> print(findings_text([Finding(FAULT, "mine", "train", "copies", "2 images twice", remedy="remove one")]))
    faults (1), to be fixed
      - mine, train: 2 images twice; remove one
    """
    lines = []
    for level, meaning in ((FAULT, ", to be fixed"), (WARNING, ", may be intended"), (NOTE, "")):
        some = [f for f in findings if f.level == level]
        if some:
            lines += ["", f"{level}s ({len(some)}){meaning}"]
        groups: dict[tuple[str, str, str], list[Finding]] = {}
        for finding in some:
            groups.setdefault((finding.domain, finding.split, finding.kind), []).append(finding)
        for group in groups.values():
            lines += [f"  - {finding}" for finding in group[:SHOWN]]
            if len(group) > SHOWN:
                lines.append(f"    and {len(group) - SHOWN} more like the last, see check.json")
    return "\n".join(lines).lstrip("\n")


def domain_json(report: DomainReport, labeled: Labeled | None) -> dict[str, Any]:
    """Return everything about one domain as JSON; sizes as HEIGHTxWIDTH."""
    out: dict[str, Any] = {"root": report.root, "size": height_width(report.size), "seconds": round(report.seconds, 2)}
    out["labeled"] = dataclasses.asdict(labeled) if labeled else None
    out["splits"] = {}
    for name, split in report.splits.items():
        pixels = split.pixels()
        total = max(1, sum(pixels.values()))
        out["splits"][name] = {
            "uses": split.uses,
            "images": len(split.ids),
            "masks": _masks(split),
            "opened": split.examined,
            "error": split.error or split.no_masks,
            "image_sizes": {height_width(size): count for size, count in split.sizes.items()},
            "faulty_files": [
                dict(zip(("id", "kind", "file", "message"), fault, strict=True)) for fault in split.faults
            ],
            "raw": [
                {"value": _value(value, split.colors), "class": _meaning(report, target), "pixels": count}
                for (value, target), count in sorted(split.raw.items(), key=lambda item: item[0][0])
            ],
            "class_shares": {c: pixels[i] / total for i, c in enumerate(report.domain.class_names)} if pixels else {},
            "ignore_share": pixels[IGNORE] / total if pixels else None,
            "unknown_share": pixels[None] / total if pixels else None,
        }
    return out


def _split_rows(report):
    rows = [("split", "used for", "images", "masks", "opened", "faulty", "sizes of the images")]
    for split in report.splits.values():
        uses = ", ".join(split.uses) or "-"
        if split.error:
            rows.append((split.name, uses, "0", "0", "0", "0", "-"))
            continue
        sizes = [height_width(s) + f" ({count})" * (len(split.sizes) > 1) for s, count in split.sizes.most_common()]
        more = f" and {len(sizes) - 3} more" if len(sizes) > 3 else ""
        faulty = len({(fault[0], fault[2]) for fault in split.faults})
        counts = (len(split.ids), _masks(split), split.examined, faulty)
        rows.append((split.name, uses, *map(str, counts), ", ".join(sizes[:3]) + more or "-"))
    return rows


def _class_rows(report):
    """Share of each class in the pixels of each split, then of each of its raw values if there are several."""
    splits = [split for split in report.splits.values() if split.classes]
    if not splits:
        return []
    from_files = any(split.masks for split in splits)  # other sources have train ids instead of raw values
    colors = splits[0].colors
    raw = sum((split.raw for split in splits), Counter())
    values = {target: sorted(v for v, t in raw if t == target) for target in {t for _, t in raw}}
    head = ("colour in mask" if colors else "raw id") if from_files else "id"
    rows = [("class", head, "pixels", *(f"{split.name} %" for split in splits))]
    counts = [(split, split.pixels(), max(1, sum(split.raw.values()))) for split in splits]
    for target in (*range(report.domain.num_classes), IGNORE, None):
        own = values.get(target, [])
        if target is None and not own:
            continue
        one = _value(own[0], colors) if len(own) == 1 else "all" if own else "-"
        shares = [_share(pixels[target], total) for _, pixels, total in counts]
        rows.append((_meaning(report, target), one, f"{sum(p[target] for _, p, _ in counts):,}", *shares))
        for value in own if len(own) > 1 else ():
            shares = [_share(split.raw[value, target], total) for split, _, total in counts]
            rows.append(("", _value(value, colors), f"{raw[value, target]:,}", *shares))
    return rows


def _aligned(rows, left):
    """Align rows as lines: the first `left` columns and the sizes to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
            text = i < left or rows[0][i].startswith("sizes")
            cells.append(cell.ljust(width) if text else cell.rjust(width))
        lines.append(("  " + "  ".join(cells)).rstrip())
    return lines


def _masks(split: SplitReport) -> int:
    return len(split.ids) - len(split.without_mask) if split.has_masks else 0


def _meaning(report, target):
    return {IGNORE: "ignored", None: "UNKNOWN"}.get(target) or report.domain.class_names[target]


def _value(value, colors):
    if value < 0:
        return "others"
    return f"({value & 255}, {value >> 8 & 255}, {value >> 16})" if colors else str(value)


def _share(count, total):
    if not count:
        return "-"
    return f"{100 * count / total:.2f}" if count / total >= 0.00005 else "<0.01"
