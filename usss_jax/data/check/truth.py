"""Compares pseudo-labels with the masks of their images, which no training has seen."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from usss_jax.data.domain import IGNORE, Domain
from usss_jax.data.pseudo_label_files import open_folder
from usss_jax.data.sources import open_source
from usss_jax.errors import InputError


def compare_with_masks(
    domain: Domain, root: str | None, folder: str | os.PathLike, split: str, limit: int | None = None
) -> dict[str, Any]:
    """Say how many pixels have pseudo-labels, and how many of those are right, of all and by class.

    Args:
      domain: of the images, at the size of the pseudo-labels.
      root: its folder, or "tfds:DIR"; None for a synthetic one.
      folder: of the pseudo-labels.
      split: whose masks are opened; it must have all images.
      limit: compare only so many images, spread through the ids; None: all.

    Returns:
      JSON: "covered": share of the pixels with a class in their mask that have a pseudo-label; "right": share of those
      whose pseudo-label is that class; "classes": by name "covered" and "found" (the share of the pixels of the class
      with a pseudo-label, and with the right one) and "right" (the share of the pixels with a pseudo-label of the class
      that are of it). None where there are no such pixels.

    Raises:
      InputError: if the split has no masks, or lacks an image.
    """
    files = open_folder(folder, domain)
    ids = files.ids()
    source = open_source(domain, root, split, size=domain.size)
    if absent := sorted({*ids} - {*source.ids}):
        raise InputError(f"--truth={split}: {absent[0]} is no image of that split of {domain.name}; give its split")
    ids = ids[:: max(1, len(ids) // limit)][:limit] if limit else ids
    masks, count = source.select(ids), domain.num_classes
    confusion = np.zeros((count, count + 1), np.int64)  # the last column: without a pseudo-label
    for i, key in enumerate(ids):
        mask, label = masks.label(i).astype(np.int64), files.label(key).astype(np.int64)
        inside = mask != IGNORE
        place = mask[inside] * (count + 1) + np.where(label == IGNORE, count, label)[inside]
        confusion += np.bincount(place, minlength=confusion.size).reshape(confusion.shape)
    return {"split": split, "images": len(ids), **shares(confusion, domain)}


def shares(confusion: np.ndarray, domain: Domain) -> dict[str, Any]:
    """Shares of `compare_with_masks`, of a matrix [C, C + 1] of pixels by class and pseudo-label."""
    labeled, right = confusion[:, :-1], np.diag(confusion)
    by_class = {
        name: {
            "covered": _share(labeled[i].sum(), confusion[i].sum()),
            "found": _share(right[i], confusion[i].sum()),
            "right": _share(right[i], labeled[:, i].sum()),
        }
        for i, name in enumerate(domain.class_names)
    }
    whole = {"covered": _share(labeled.sum(), confusion.sum()), "right": _share(right.sum(), labeled.sum())}
    return {**whole, "classes": by_class}


def _share(part, whole) -> float | None:
    return float(part / whole) if whole else None


def truth_text(domain: Domain, found: Mapping[str, Any]) -> str:
    """Render the result of `compare_with_masks` as a Markdown table."""
    lines = [
        f"{domain.name}: pseudo-labels of {found['images']} images against their masks ({found['split']}), in %",
        "",
        "| class | covered | found | right |",
        "|---|---|---|---|",
    ]
    for name, row in found["classes"].items():
        lines.append(f"| {name} | {' | '.join(_percent(row[key]) for key in ('covered', 'found', 'right'))} |")
    return "\n".join([*lines, f"| all | {_percent(found['covered'])} | - | {_percent(found['right'])} |"])


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
