"""Lists the files of a split and examines one example; data/check/findings.py judges them."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Sequence

import numpy as np

from usss_jax.data import lists, sources
from usss_jax.data.decode import check_same_size, decode_image, read_file
from usss_jax.data.domain import UNKNOWN, Domain, Layout, lookup_table
from usss_jax.data.files import find_readable, matches
from usss_jax.data.mask_files import match_masks
from usss_jax.data.masks import decode_raw, train_ids
from usss_jax.data.palettes import Palettes
from usss_jax.data.patterns import EXTENSIONS
from usss_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Facts:
    """Contents of one example.

    Attributes:
      digest: of the image file's bytes, or of the pixels without a file; None if unreadable.
      size: (h, w) of the image file.
      raw: raw value -> pixels of the mask, colours as red + 2**8 * green + 2**16 * blue; None without a readable mask.
      by_color: whether the mask's palette is read by its colours, which contradict its indices.
      faults: (kind, file, message) of each fault.
    """

    digest: bytes | None = None
    size: tuple[int, int] | None = None
    raw: dict[int, int] | None = None
    by_color: bool = False
    faults: tuple[tuple[str, str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Listing:
    """The examples of one split, before any of them is opened.

    Attributes:
      ids: in order.
      look: opens the example of an id.
      images: id -> image file; empty for records and synthetic domains.
      masks: id -> mask file.
      unread: image files in unsupported formats.
      others: files among the images that are not images.
      without_mask: ids without a mask in a split with masks.
      no_masks: why the split has no masks, or "".
      target: raw value of a mask -> train id (255: ignore), or None for an unknown value.
      colors: whether the raw values are colours.
      looked_for: the expected mask of the first of `without_mask`, and similar names.
    """

    ids: list[str]
    look: Callable[[str], Facts]
    images: dict[str, str] = dataclasses.field(default_factory=dict)
    masks: dict[str, str] = dataclasses.field(default_factory=dict)
    unread: Sequence[str] = ()
    others: Sequence[str] = ()
    without_mask: Sequence[str] = ()
    no_masks: str = ""
    target: Callable[[int], int | None] = int
    colors: bool = False
    looked_for: str = ""


def list_split(domain: Domain, root: str | None, split: str, size: tuple[int, int]) -> Listing:
    """List one split without opening images or masks; raise InputError if it has no images."""
    in_folder = domain.synthetic is None and root is not None and os.path.isdir(root) and split in domain.splits
    if not in_folder:  # records, synthetic, or an error
        return _list_source(domain, root, split, size)
    why = ""
    try:
        found = find_readable(domain, str(root), split, with_masks=True)
    except InputError as error:
        why = str(error)
        found = find_readable(domain, str(root), split, with_masks=False)
    layout, palettes = found.layout, Palettes()
    images = {key: image.path for key, image in found.images.items()}
    masks, missing = ({}, {}) if why else match_masks(domain, str(root), found.files, found.images)
    first = re.search(r"looked for .*?(?=; add it)", next(iter(missing.values()), ""))
    return Listing(
        list(images),
        lambda key: look_at_files(images[key], masks.get(key), domain, layout, palettes),
        images,
        masks,
        found.unread,
        found.others,
        without_mask=[key for key in images if key not in masks] if not why else [],
        no_masks=why,
        target=_targets(domain, layout),
        colors=layout.encoding == "color",
        looked_for=first[0] if first else "",
    )


def masks_without_image(domain: Domain, root: str, used: set[str]) -> dict[str, tuple[list[str], list[str]]]:
    """Return the unused mask files of each split: those without an image, and companions.

    A companion has the name of a used mask with a suffix, such as NAME_inst_label.png next to NAME_label.png in
    IDD-Lite.
    """
    strays: dict[str, tuple[list[str], list[str]]] = {}
    seen = {os.path.normpath(path) for path in used}
    of_splits = [(split, files) for layout in domain.layouts for split, files in layout.splits.items() if files.masks]
    for split, files in of_splits:
        found = {os.path.normpath(path): key for key, path in matches(root, str(files.masks))}
        if not set(found) & seen:  # a layout that does not apply
            continue
        keys = {key for path, key in found.items() if path in seen}
        if files.list_file:  # selects from the images
            keys |= {key for key, _ in matches(root, files.images)}
        left = sorted(path for path, key in found.items() if path not in seen and key not in keys)
        companions = [path for path in left if _is_companion(found[path], keys)]
        alone, beside = strays.setdefault(split, ([], []))
        alone += [path for path in left if path not in companions]
        beside += companions
        seen |= set(found)
    return strays


def _is_companion(key, keys):
    return any(
        key[:at] in keys and re.search(r"[^\W\d_]", key[at:]) for at, letter in enumerate(key) if letter in "_-. "
    )


def missing_in_list(domain: Domain, root: str, split: str) -> list[str]:
    """Return the missing images of the list of a split, as "FILE:LINE: PATH".

    Empty for a split without a list, and for an invalid list, which `list_split` reports.
    """
    missing = []
    for files in (layout.splits[split] for layout in domain.layouts if split in layout.splits):
        path = os.path.join(root, files.list_file or "")
        try:
            lines = lists.read_lines(path) if files.list_file else []
        except InputError:
            continue
        if any(not lists.columns(text)[0].lower().endswith(EXTENSIONS) for _, text in lines):
            continue  # ids
        for number, text in lines:
            image = os.path.join(root, lists.columns(text)[0].lstrip("/"))
            if not files.images and not os.path.isfile(image):
                missing.append(f"{path}:{number}: {image}")
    return missing


def look_at_files(image: str, mask: str | None, domain: Domain, layout: Layout, palettes: Palettes) -> Facts:
    """Open an image and its mask, if any; return their contents and faults."""
    digest = pixels = raw = None
    by_color, faults = False, []
    try:
        data = read_file(image)
        digest = hashlib.blake2b(data, digest_size=16).digest()
        pixels = decode_image(data, image)
    except InputError as error:
        faults.append(("unusable file", image, str(error)))
    if mask is not None:
        try:
            data = read_file(mask)
            found = decode_raw(data, mask, domain, layout)
            values, by_color = found.values, found.by == "colour"
            raw = count_values(values)
            if any(_targets(domain, layout)(value) is None for value in raw):
                train_ids(found, mask, domain, layout)  # raises
            palettes.check(found.palette, mask)
        except InputError as error:
            faults.append(("unusable file", mask, str(error)))
        if raw is not None and pixels is not None:
            try:
                check_same_size(values, pixels, mask, image)
            except InputError as error:
                faults.append(("size of mask", mask, str(error)))
    return Facts(digest, None if pixels is None else pixels.shape[:2], raw, by_color, tuple(faults))


def count_values(values: np.ndarray) -> dict[int, int]:
    """Count the pixels of each value; by runs of equal pixels, which are few in masks.

    >>> count_values(np.array([[7, 7], [0, 7]]))
    {0: 1, 7: 3}
    """
    flat = values.ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    lengths = np.diff(starts, append=flat.size)
    found, place = np.unique(flat[starts], return_inverse=True)
    return dict(zip(found.tolist(), np.bincount(place, lengths).astype(np.int64).tolist(), strict=True))


def _targets(domain, layout):
    """Function raw value -> train id, 255 for ignore, None if unknown."""
    table = lookup_table(domain, layout)
    return lambda value: None if table[value] == UNKNOWN else int(table[value])


def _list_source(domain, root, split, size):
    """List records or a synthetic domain, whose masks have train ids."""
    opened = [sources.open_source(domain, root, split, size=size, with_masks=False)]
    without_mask, why = [], ""
    try:
        opened += [sources.open_source(domain, root, split, size=size, skip=lambda key, _: without_mask.append(key))]
        if not opened[1].ids:
            why = f"split {split!r} of domain {domain.name!r} in {root}: none of its images has a mask"
    except InputError as error:
        why = str(error)
    # The later source has the masks.
    places = {key: (source, index) for source in opened for index, key in enumerate(source.ids)}

    def look(key):
        source, index = places[key]
        try:
            example = source[index]
        except InputError as error:
            return Facts(faults=(("unusable file", "", str(error)),))
        image, label = example["image"], example.get("label")
        digest = hashlib.blake2b(np.ascontiguousarray(image), digest_size=16).digest()
        return Facts(digest, None, None if label is None else count_values(label))

    return Listing(list(places), look, without_mask=[] if why else sorted(without_mask), no_masks=why)
