"""What a split has on disk, and what a file of it holds; nothing is judged here."""

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
    """What one example holds.

    Attributes:
      digest: of the image file's bytes (of the pixels if there is no file); None if it cannot be read.
      size: (h, w) of the image file.
      raw: pixels of each raw value of the mask, colours as red + 2**8 * green + 2**16 * blue; None without a mask
        that can be read.
      by_color: whether the mask is a palette image that is read by its colours, since its indices contradict them.
      faults: (kind, file, message) of whatever is wrong.
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
      images: files of the images; empty for records and drawn domains.
      masks: files of the masks there are.
      unread: files of images in formats that are not read.
      others: files among the images that are none.
      without_mask: ids that have none although the split has masks.
      no_masks: why the split as a whole has no masks, "" if it has.
      looked_for: the mask of the first of these, and the names that come nearest.
      target: train id (255: ignore) of a raw value of the masks, None for one that the table lacks.
      colors: whether the raw values are colours.
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
    """List one split without opening an image or a mask; raises InputError where there are no images."""
    in_folder = domain.synthetic is None and root is not None and os.path.isdir(root) and split in domain.splits
    if not in_folder:  # records, or drawn, or an error that names what is missing
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
    """Mask files of each split that belong to none of the `used` ones, and those of them that are mere companions.

    A companion lies beside the mask of an image and has its name with more behind it, such as NAME_inst_label.png
    beside NAME_label.png in IDD-Lite.
    """
    strays: dict[str, tuple[list[str], list[str]]] = {}
    seen = {os.path.normpath(path) for path in used}
    of_splits = [(split, files) for layout in domain.layouts for split, files in layout.splits.items() if files.masks]
    for split, files in of_splits:
        found = {os.path.normpath(path): key for key, path in matches(root, str(files.masks))}
        if not set(found) & seen:  # another layout than the one that is there
            continue
        keys = {key for path, key in found.items() if path in seen}
        if files.list_file:  # which leaves out others of the images
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
    """Images, as "FILE:LINE: PATH", that the list of a split names and that are not there.

    None of a split without a list, or with one that cannot be read as a whole, which list_split says.
    """
    missing = []
    for files in (layout.splits[split] for layout in domain.layouts if split in layout.splits):
        path = os.path.join(root, files.list_file or "")
        try:
            lines = lists.read_lines(path) if files.list_file else []
        except InputError:
            continue
        if any(not lists.columns(text)[0].lower().endswith(EXTENSIONS) for _, text in lines):
            continue  # ids, of which list_split says how to write them
        for number, text in lines:
            image = os.path.join(root, lists.columns(text)[0].lstrip("/"))
            if not files.images and not os.path.isfile(image):
                missing.append(f"{path}:{number}: {image}")
    return missing


def look_at_files(image: str, mask: str | None, domain: Domain, layout: Layout, palettes: Palettes) -> Facts:
    """Open an image and its mask, if it has one, and say what they hold and what is wrong with either."""
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
                train_ids(found, mask, domain, layout)  # raises: says which value, and what to do
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
    """Count the pixels of each value; by runs of equal pixels, since masks have few and sorting pixels is slow."""
    flat = values.ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    lengths = np.diff(starts, append=flat.size)
    found, place = np.unique(flat[starts], return_inverse=True)
    return dict(zip(found.tolist(), np.bincount(place, lengths).astype(np.int64).tolist(), strict=True))


def _targets(domain, layout):
    """Function of a raw value: train id, 255 for ignore, None if the table lacks it."""
    table = lookup_table(domain, layout)
    return lambda value: None if table[value] == UNKNOWN else int(table[value])


def _list_source(domain, root, split, size):
    """Examples that are no files: records, or drawn ones. Their masks hold train ids."""
    opened = [sources.open_source(domain, root, split, size=size, with_masks=False)]
    without_mask, why = [], ""
    try:
        opened += [sources.open_source(domain, root, split, size=size, skip=lambda key, _: without_mask.append(key))]
        if not opened[1].ids:
            why = f"split {split!r} of domain {domain.name!r} in {root}: none of its images has a mask"
    except InputError as error:
        why = str(error)
    # With its mask where it has one: the later source.
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
