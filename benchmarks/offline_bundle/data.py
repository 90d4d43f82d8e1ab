"""A data set in its own folder layout at training size, without loss.

If the files are already as large as training loads them, or smaller than what a resized copy would be, they are taken
as they are: the loader resizes them. Else images and masks are resized by the loader's own functions and written as
PNG, so that training reads the same pixels either way.
"""

import dataclasses
import os
import pathlib
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from usss_jax.data import patterns
from usss_jax.data.decode import check_same_size, decode_image, read_file, resize_image, resize_label
from usss_jax.data.domain import Domain, Files, Layout
from usss_jax.data.files import find_images
from usss_jax.data.mask_files import find_masks
from usss_jax.data.masks import decode_raw
from usss_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Pair:
    """An image with its mask, if that is wanted, and where they go below the domain's folder."""

    image: str
    mask: str | None
    files: Files
    layout: Layout


def pack_domain(domain: Domain, root: str, folder: pathlib.Path, size: tuple[int, int] | None, threads: int = 2):
    """Write what training and evaluation read of a domain below `folder`.

    Args:
      domain: one of the built-in ones that have files.
      root: its folder.
      folder: of the copy.
      size: (h, w) at which training loads it; None for the domain's own.
      threads: that decode and encode.

    Returns:
      {"folder", "size": [h, w] of the packed files or None if they are the original ones, "own_size", "images"}.

    Raises:
      InputError: for a missing or damaged file, and for a domain whose files are named by a list.
    """
    wanted = domain.size if size is None else size
    pairs = list(needed(domain, root))
    with ThreadPoolExecutor(threads) as pool:
        larger = any(pool.map(lambda pair: other_size(pair, wanted), pairs))
        resized = folder.with_name(folder.name + ".resized")
        if larger:
            list(pool.map(lambda pair: write_resized(pair, domain, root, resized, wanted), pairs))
    originals = {file for pair in pairs for file in (pair.image, pair.mask) if file}
    as_they_are = not larger or sum(map(os.path.getsize, originals)) <= size_of(resized)
    if as_they_are:
        shutil.rmtree(resized, ignore_errors=True)
        for file in originals:
            target = folder / os.path.relpath(file, root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    else:
        os.replace(resized, folder)
    stored = None if as_they_are else list(wanted)
    return {"folder": domain.folder, "size": stored, "own_size": list(domain.size), "images": len(pairs)}


def needed(domain: Domain, root: str) -> Iterator[Pair]:
    """Yield train with its masks (which images are labeled is the config's choice), the splits of evaluation, and
    the images of the others that are used unlabeled."""
    if domain.synthetic is not None or pathlib.Path(domain.folder).is_absolute():
        raise InputError(f"--domains: {domain.name} cannot be packed: only built-in domains that have files can")
    with_masks = dict.fromkeys(("train", domain.select_split, domain.report_split), True)
    for split, masked in (dict.fromkeys(domain.unlabeled_splits, False) | with_masks).items():
        if not os.path.isdir(root):
            raise InputError(f"no folder {root!r} for domain {domain.name!r}; to get it: {domain.how_to_get}")
        layout, files, images, *_ = find_images(domain, root, split, masked)
        masks = find_masks(domain, root, files, images) if masked else {}
        for key, image in images.items():
            yield Pair(image.path, masks.get(key), files, layout)


def other_size(pair: Pair, size: tuple[int, int]) -> bool:
    """Whether an image is not (h, w) already."""
    return decode_image(read_file(pair.image), pair.image).shape[:2] != tuple(size)


def write_resized(pair: Pair, domain: Domain, root: str, folder: pathlib.Path, size: tuple[int, int]):
    """Write image and mask at size (h, w) as PNG; the mask keeps its raw ids or colours."""
    image = decode_image(read_file(pair.image), pair.image)
    below = os.path.relpath(pair.image, root).replace(os.sep, "/")
    name = str(pathlib.PurePosixPath(below).with_suffix(".png"))
    if pair.files.list_file or patterns.match_id(pair.files.images, name) is None:
        raise InputError(f"{pair.image}: {domain.name} names images with their ending; PNG cannot replace it")
    write_png(folder / name, cv2.cvtColor(resize_image(image, size), cv2.COLOR_RGB2BGR))
    if pair.mask:
        raw = decode_raw(read_file(pair.mask), pair.mask, domain, pair.layout).values
        check_same_size(raw, image, pair.mask, pair.image)
        raw = resize_label(raw, size)
        if pair.layout.encoding == "color":
            raw = np.stack([raw >> 16 & 255, raw >> 8 & 255, raw & 255], -1).astype(np.uint8)  # blue, green, red
        write_png(folder / os.path.relpath(pair.mask, root), raw)


def write_png(path: pathlib.Path, pixels: np.ndarray):
    """Write a PNG file, as small as zlib makes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes())


def size_of(folder: pathlib.Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
