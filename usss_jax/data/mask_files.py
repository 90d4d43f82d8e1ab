"""Finds the mask of an image: the expected file, or one whose name differs only in case or Unicode form."""

import os
from collections.abc import Mapping
from typing import NamedTuple

from usss_jax.data import patterns
from usss_jax.data.domain import Domain, Files
from usss_jax.data.folders import Names, below, similar_names
from usss_jax.errors import InputError


class Image(NamedTuple):
    """An image file: its path and, if from a list, its mask below the root and its line, "FILE:LINE"."""

    path: str
    mask: str | None = None
    line: str = ""


def match_masks(
    domain: Domain, root: str | os.PathLike, files: Files, images: Mapping[str, Image]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the paths of existing masks, and an error message for every other image, by id.

    A unique mask whose name differs slightly is accepted: in case, such as .PNG, in composed or decomposed letters, or
    by the image's extension before the mask's (a.jpg.png for a.jpg).
    """
    names = Names(root)
    expected: dict[str, list[str]] = {}
    missing: dict[str, str] = {}
    for key, image in images.items():
        try:
            expected[key] = expected_masks(key, image, files, root)
        except InputError as error:
            missing[key] = str(error)
    masks = {}
    for key, paths in expected.items():
        path = os.path.join(root, paths[0])
        if os.path.isfile(path):
            masks[key] = path
    taken = set(masks.values())
    for key, paths in expected.items():
        if key in masks:
            continue
        alike = [path for one in paths for path in names.alike(one) if path not in taken]
        if len(set(alike)) == 1 and os.path.isfile(alike[0]):
            masks[key] = alike[0]
            continue
        image = images[key]
        where = f"{image.line}: " if image.line else ""
        instead = (
            f"; {' and '.join(alike)} may be its mask, rename one" if alike else similar_names(names.nearest(paths[0]))
        )
        missing[key] = (
            f"{where}{image.path} has no mask: looked for {os.path.join(root, paths[0])}{instead}; add it, remove the "
            f"image, or set data.on_bad_example=skip. To get all masks of {domain.name}: {domain.how_to_get}"
        )
    return {key: masks[key] for key in images if key in masks}, missing


def expected_masks(key: str, image: Image, files: Files, root: str | os.PathLike) -> list[str]:
    """Return possible paths of an image's mask below root, the usual one first; raise InputError if there are none.

    >>> expected_masks("01", Image("data/train/01.jpg"), Files("train/{id}", "masks/{id}.png"), "data")
    ['masks/01.png', 'masks/01.jpg.png']
    """
    if files.masks is None:
        if image.mask is None:
            raise InputError(
                f"{image.line or 'its list'}: names no mask for {image.path}; add its path to the line, or set "
                "data.on_bad_example=skip"
            )
        return [image.mask]
    if files.mask_shift:
        if not (key.isascii() and key.isdigit()):
            raise InputError(f"{image.path}: {key!r} must be a number to find its mask; rename or remove the image")
        return [patterns.fill(files.masks, f"{int(key) + files.mask_shift:0{len(key)}d}")]
    found = patterns.captures(files.images, below(root, image.path)) or ()
    with_ending = key + os.path.splitext(image.path)[1]
    return [patterns.fill(files.masks, key, found)] + (
        [patterns.fill(files.masks, with_ending)] if "{id}" in files.masks else []
    )
