"""Finds the splits in a data set's folder and cuts them into shards."""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from usss_jax.data import files as data_files
from usss_jax.data.domain import Domain, Files, Layout
from usss_jax.data.mask_files import Image
from usss_jax.errors import InputError

# A killed run loses at most one shard.
SHARD_EXAMPLES = 500
SHARD_BYTES = 256 * 2**20  # of the original files

# (folder of the data set, files of the split, images) -> paths of the masks, and messages about images without, by id.
FindMasks = Callable[[str, Files, Mapping[str, Image]], tuple[dict[str, str], dict[str, str]]]


@dataclasses.dataclass(frozen=True)
class Item:
    """One image with its mask.

    Attributes:
      id: in the split.
      image: path.
      mask: path, or None.
      stamps: (path below the data set's folder, size in bytes, modification time) of each file.
    """

    id: str
    image: str
    mask: str | None
    stamps: tuple[tuple[str, int, int], ...]


@dataclasses.dataclass(frozen=True)
class Split:
    """The items of one split, sorted by id.

    Attributes:
      name: of the split in the domain.
      labeled: whether the domain defines masks for it.
      layout: that decodes its masks.
      items: existing images.
      skipped: one line per skipped image.
      others: files among the images that are not images.
    """

    name: str
    labeled: bool
    layout: Layout
    items: tuple[Item, ...]
    skipped: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def find_splits(
    domain: Domain, folder: str, find_masks: FindMasks, *, missing_mask: str, on_bad_example: str
) -> tuple[list[Split], list[str]]:
    """Find the files of every split; return the splits, and the names of those without images.

    Raises:
      InputError: if a split that training needs has no images, or for an image without mask (missing_mask "error").
    """
    needed = {"train", domain.val_split, domain.test_split, *domain.unlabeled_splits}
    if not os.path.isdir(folder):
        raise InputError(f"no folder {folder!r} for domain {domain.name!r}; to get it: {domain.how_to_get}")
    found, absent = [], []
    for name in domain.splits:
        if _is_train_and_val(domain, name):
            continue
        if not re.fullmatch(r"\w+", name, re.ASCII) or name == "all":
            raise InputError(
                f"split {name!r} of {domain.name}: records need a name of letters, digits and _, and not 'all'; rename "
                "it in the domain's file"
            )
        if name in needed or _has_images(domain, folder, name):
            found.append(_find_split(domain, folder, name, find_masks, missing_mask, on_bad_example))
        else:
            absent.append(name)
    return found, absent


def _layouts(domain, split):
    return [layout for layout in domain.layouts if split in layout.splits]


def _is_train_and_val(domain, split):
    """Whether a split is the union of train and val ("all" of the rendered data sets)."""
    return split not in ("train", "val") and all(
        layout.holdout and layout.splits["train"] == layout.splits[split] for layout in _layouts(domain, split)
    )


def _has_images(domain, folder, split):
    for layout in _layouts(domain, split):
        files = layout.splits[split]
        if files.list_file and os.path.exists(os.path.join(folder, files.list_file)):
            return True
        if not files.list_file and any(True for _ in data_files.matches(folder, files.images)):
            return True
    return False


def _find_split(domain, folder, name, find_masks, missing_mask, on_bad_example):
    labeled = any(layout.splits[name].masks or layout.splits[name].list_file for layout in _layouts(domain, name))
    no_masks, skipped = None, ()
    try:
        layout, files, images, _, others = data_files.find_images(domain, folder, name, labeled)
    except InputError as error:  # perhaps polygons instead of masks, or images without masks to be kept
        if not labeled:
            raise
        layout, files, images, _, others = data_files.find_images(domain, folder, name, False)
        no_masks = error
        labeled = bool(files.images) or any(image.mask for image in images.values())
    masks, errors = find_masks(folder, files, images) if labeled else ({}, {})
    if missing_mask == "error" and errors:
        if not masks and no_masks:
            raise no_masks
        if on_bad_example == "error":
            first = next(iter(errors.values()))
            raise InputError(f"{first} (--missing_mask=keep keeps such images without label)")
        images = {key: image for key, image in images.items() if key in masks}
        skipped = tuple(errors.values())
    items = tuple(_item(key, image.path, masks.get(key), folder) for key, image in images.items())
    return Split(name, labeled, layout, items, skipped, tuple(others))


def _item(key, image, mask, folder):
    stamps = []
    for path in (image, mask) if mask else (image,):
        try:
            status = os.stat(path)
            stamps.append((os.path.relpath(path, folder), status.st_size, status.st_mtime_ns))
        except OSError:  # a broken link, which raises when read
            stamps.append((os.path.relpath(path, folder), 0, 0))
    return Item(key, image, mask, tuple(stamps))


# ---- shards --------------------------------------------------------------------------------------------


def cut_into_shards(items: Sequence[Item]) -> list[tuple[Item, ...]]:
    """Cut items into shards of at most SHARD_EXAMPLES examples and about SHARD_BYTES; at least one shard."""
    shards: list[list[Item]] = [[]]
    filled = 0
    for item in items:
        count = sum(size for _, size, _ in item.stamps)
        if shards[-1] and (len(shards[-1]) == SHARD_EXAMPLES or filled + count > SHARD_BYTES):
            shards.append([])
            filled = 0
        shards[-1].append(item)
        filled += count
    return [tuple(shard) for shard in shards]


def fingerprint(items: Iterable[Item], settings: Sequence) -> str:
    """Hash the ids, and the paths, sizes and times of the files of some items, and the settings."""
    content = [list(settings), [[item.id, item.stamps] for item in items]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
