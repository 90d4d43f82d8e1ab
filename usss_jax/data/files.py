"""Which files on disk are the images and the masks of a split; nothing is opened but lists."""

import os
import posixpath
from collections.abc import Iterator
from typing import NamedTuple

from usss_jax.data import lists, patterns
from usss_jax.data.domain import Domain, Files, Layout
from usss_jax.errors import InputError


class NoMasksError(InputError):
    """A split has images and no mask at all; `what` is the message without its remedy."""

    def __init__(self, what: str, remedy: str, split: str):
        super().__init__(f"{what}; {remedy}")
        self.what, self.split = what, split


class Image(NamedTuple):
    """Path of an image; if a list names it, also the mask there, below the root, and the line as "FILE:LINE"."""

    path: str
    mask: str | None = None
    line: str = ""


def find_images(
    domain: Domain, root: str | os.PathLike, split: str, with_masks: bool
) -> tuple[Layout, Files, dict[str, Image]]:
    """Return the first layout that has images, and any mask if wanted, with its files and the images sorted by id.

    Raises InputError if no layout has, saying what was looked for and how to get it, if a list is wrong, or for images
    of formats that are not read, which would else be left out in silence.
    """
    layout, files, images, unread = find_readable(domain, root, split, with_masks)
    if unread:
        raise InputError(_unread_text(domain, root, split, unread))
    return layout, files, images


def find_readable(
    domain: Domain, root: str | os.PathLike, split: str, with_masks: bool
) -> tuple[Layout, Files, dict[str, Image], list[str]]:
    """Do as find_images, but return the paths of images of formats that are not read beside those that are."""
    tried = [(layout, layout.splits[split]) for layout in domain.layouts if split in layout.splits]
    found_images = False
    all_unread: set[str] = set()
    for layout, files in tried:
        images, unread = _listed(root, files.list_file) if files.list_file else _matching(root, files.images)
        found_images |= bool(images)
        all_unread |= set(unread)
        if images and (not with_masks or _any_mask(root, files, images)):
            images = dict(sorted(images.items()))
            return layout, files, _hold_out(images, layout.holdout, split, domain), unread
    if not found_images and all_unread:
        raise InputError(_unread_text(domain, root, split, sorted(all_unread)))
    where = f"{root}: split {split!r} of domain {domain.name!r}"
    if not found_images:
        looked_for = ", ".join(dict.fromkeys(patterns.shown(files.images) for _, files in tried))
        raise InputError(f"{where}: no images; looked for {looked_for}; to get them: {domain.how_to_get}")
    if not any(files.masks for _, files in tried):
        what, remedy = "it has no labels", "use a split that has, or open it without masks"
    else:
        looked_for = ", ".join(dict.fromkeys(patterns.shown(files.masks) for _, files in tried if files.masks))
        what, remedy = f"images but no masks; looked for {looked_for}", f"to get them: {domain.how_to_get}"
    raise NoMasksError(f"{where}: {what}", remedy, split)


def _unread_text(domain, root, split, paths):
    endings = " or ".join(sorted({os.path.splitext(path)[1].lower() for path in paths}))
    what, them = f"{len(paths)} files such as {paths[0]} are {endings} images, which are not read", "them"
    if len(paths) == 1:
        what, them = f"{paths[0]} is a {endings} image, which is not read", "it"
    remedy = f"convert {them} to PNG or JPEG, or move {them} away"
    return f"{root}: split {split!r} of domain {domain.name!r}: {what}; {remedy}"


def find_masks(domain: Domain, root: str | os.PathLike, files: Files, images: dict[str, Image]) -> dict[str, str]:
    """Path of the mask of every image; raises InputError naming an image without one."""
    masks = {}
    for key, image in images.items():
        masks[key] = os.path.join(root, _mask_of(key, image, files, root))
        if not os.path.isfile(masks[key]):
            where = f"{image.line}: " if image.line else ""
            raise InputError(
                f"{where}{image.path} has no mask: looked for {masks[key]}; add it, remove the image, or open only "
                f"the ids that have masks. To get all masks of {domain.name}: {domain.how_to_get}"
            )
    return masks


def _mask_of(key, image, files, root):
    if files.list_file:
        if image.mask is None:
            raise InputError(
                f"{image.line}: names no mask for {image.path}; add its path to the line, or open only the ids that "
                "have masks"
            )
        return image.mask
    if files.mask_shift:
        if not (key.isascii() and key.isdigit()):
            raise InputError(f"{image.path}: {key!r} must be a number to find its mask; rename or remove the image")
        return patterns.fill(files.masks, f"{int(key) + files.mask_shift:0{len(key)}d}")
    return patterns.fill(files.masks, key, patterns.captures(files.images, _below(root, image.path)))


def _any_mask(root, files, images):
    if files.list_file:
        return any(image.mask for image in images.values())
    return bool(files.masks) and any(True for _ in matches(root, files.masks))


# ---- images --------------------------------------------------------------------------------------------


def _matching(root, pattern):
    """Images of a pattern by id, and the sorted paths of those in formats that are not read."""
    images, unread = {}, {}
    for path in _walk(root, pattern):
        below = _below(root, path)
        key, other = patterns.match_id(pattern, below), patterns.match_other_format(pattern, below)
        if key in images:
            both = " and ".join(sorted((images[key].path, path)))
            raise InputError(f"{both} are two images with the same id {key!r}; remove one")
        try:
            (key or other or "").encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{path!a}: the name of this file is not UTF-8 text; rename it") from error
        if key is not None:
            images[key] = Image(path)
        elif other is not None:
            unread[path] = other
    # One that is also there as PNG or JPEG is not lost: what it was converted from, or depth beside colour.
    return images, sorted(path for path, key in unread.items() if key not in images)


def _listed(root, name):
    """Images of a list by id; it names none in formats that are not read."""
    path, images = os.path.join(root, name), {}
    for number, text in lists.read_lines(path):
        line = f"{path}:{number}"
        name, mask = lists.columns(text)
        _check_listed(name, patterns.EXTENSIONS, line)
        if mask is not None:
            _check_listed(mask, (".png",), line)
        image = Image(os.path.join(root, posixpath.normpath(name)), mask and posixpath.normpath(mask), line)
        if not os.path.isfile(image.path):
            raise InputError(f"{line}: there is no image {image.path}; add it, or correct or remove this line")
        key = patterns.stem(name)
        if other := images.get(key):
            raise InputError(
                f"{line}: {image.path} has the same id {key!r} as {other.path} of {other.line}; remove one line"
            )
        images[key] = image
    return images, []


def _check_listed(name, extensions, line):
    if posixpath.isabs(name) or ".." in name.split("/"):
        raise InputError(f"{line}: {name!r} must be a path below the domain's root: no absolute path and no ..")
    if not name.lower().endswith(extensions):
        raise InputError(
            f"{line}: {name!r} does not end with {' or '.join(extensions)}; a line is an image, or an image, a tab "
            "and its mask (.png)"
        )


def _hold_out(images, every, split, domain):
    if every is None or split not in ("train", "val"):
        return images
    keys = list(images)
    held_out = set(keys[every - 1 :: every])
    chosen = {key: image for key, image in images.items() if (key in held_out) == (split == "val")}
    if not chosen:
        raise InputError(
            f"split {split!r} of domain {domain.name!r} is empty: val is every {every}th image and there are "
            f"{len(keys)}; to get the others: {domain.how_to_get}"
        )
    return chosen


# ---- folders -------------------------------------------------------------------------------------------


def matches(root: str | os.PathLike, pattern: str) -> Iterator[tuple[str, str]]:
    """Yield (id, path) of the files below root that match a pattern (data/patterns.py)."""
    for path in _walk(root, pattern):
        key = patterns.match_id(pattern, _below(root, path))
        if key is not None:
            yield key, path


def _below(root, path):
    """Path of a file below root, with "/" between folders."""
    return path[len(os.path.join(root, "")) :].replace(os.sep, "/")


def _walk(root, pattern):
    """Return all files below the folder of a pattern, whether they match or not."""
    start = os.path.join(root, patterns.folder(pattern))
    return _files_below(start) if os.path.isdir(start) else ()


def _files_below(folder, parents=()):
    """Yield all files below a folder but hidden ones; a link back to a folder it lies in is not followed."""
    real = os.path.realpath(folder)
    if real in parents:
        return
    try:
        with os.scandir(folder) as opened:
            entries = list(opened)
    except OSError as error:
        raise InputError(f"{folder}: this folder cannot be read ({error.strerror}); correct its permissions") from error
    for entry in entries:
        if entry.name.startswith("."):  # a desktop's or an editor's files, such as ._0001.png
            continue
        if _is_folder(entry):
            yield from _files_below(entry.path, (*parents, real))
        else:  # broken links too: reading them is an error, leaving them out would be silent
            yield entry.path


def _is_folder(entry):
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
