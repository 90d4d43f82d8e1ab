"""Finds the image and mask files of a split; opens only lists."""

import os
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from usss_jax.data import lists, patterns
from usss_jax.data.domain import Domain, Files, Layout
from usss_jax.data.folders import Names, below, normal, similar_names, walk
from usss_jax.data.mask_files import Image, expected_masks, match_masks
from usss_jax.errors import InputError


class NoMasksError(InputError):
    """A split has images but no masks; `what` is the message without its remedy."""

    def __init__(self, what: str, remedy: str, split: str):
        super().__init__(f"{what}; {remedy}")
        self.what, self.split = what, split


class Found(NamedTuple):
    """The files of a split.

    Attributes:
      layout: the matching layout.
      files: of the split in this layout.
      images: by id, sorted.
      unread: paths of images in unsupported formats.
      others: paths of other files among the images, or with another extension than the pattern's.
    """

    layout: Layout
    files: Files
    images: dict[str, Image]
    unread: list[str]
    others: list[str]


def find_images(domain: Domain, root: str | os.PathLike, split: str, with_masks: bool) -> Found:
    """Find the images of a split by the first layout that has images or, `with_masks`, that has most masks.

    Raises:
      NoMasksError: if masks are needed and no layout has any.
      InputError: if no layout has images, a list is wrong, or some images have unsupported formats.
    """
    found = find_readable(domain, root, split, with_masks)
    if found.unread:
        raise InputError(_unread_text(domain, root, split, found.unread))
    return found


def find_readable(domain: Domain, root: str | os.PathLike, split: str, with_masks: bool) -> Found:
    """Find the images of a split like `find_images`, but return images of unsupported formats as `unread`."""
    tried = [(layout, layout.splits[split]) for layout in domain.layouts if split in layout.splits]
    found = [_find(root, layout, files, domain, split) for layout, files in tried]
    if not any(one.images for one in found):
        if unread := sorted({path for one in found for path in one.unread}):
            raise InputError(_unread_text(domain, root, split, unread))
        looked_for = dict.fromkeys(files.images or str(files.list_file) for _, files in tried)
        what = f"no images; looked for {', '.join(map(patterns.shown, looked_for))}"
        raise _nothing(domain, root, split, what, f"to get them: {domain.how_to_get}", looked_for)
    with_images = [one for one in found if one.images]
    best = with_images[0]
    if with_masks:
        counts = [len(match_masks(domain, root, one.files, one.images)[0]) for one in with_images]
        best = with_images[counts.index(max(counts))]
        if not max(counts) and not any(map(_may_have_masks, found)):
            what = f"{root}: split {split!r} of domain {domain.name!r}: it has no labels"
            raise NoMasksError(what, give_masks(split), split)
        if not max(counts) and best.files.masks:  # missing masks of a list are reported later, by line
            looked_for = dict.fromkeys(one.files.masks for one in found if one.files.masks)
            what = f"images but no masks; looked for {', '.join(map(patterns.shown, looked_for))}"
            key, image = next(iter(best.images.items()))
            error = _nothing(domain, root, split, what, "", expected_masks(key, image, best.files, root)[:1])
            raise NoMasksError(str(error).removesuffix("; "), f"to get them: {domain.how_to_get}", split)
    return best._replace(images=_hold_out(best.images, best.layout.holdout, split, domain))


def _nothing(domain, root, split, what, remedy, looked_for=()):
    names = Names(root)
    near = [name for path in looked_for for name in names.nearest(path.replace("/{id}", "").replace("{id}", ""))]
    return InputError(f"{root}: split {split!r} of domain {domain.name!r}: {what}{similar_names(near[:3])}; {remedy}")


def _unread_text(domain, root, split, paths):
    endings = " or ".join(sorted({os.path.splitext(path)[1].lower() or "without an ending" for path in paths}))
    what, them = f"{len(paths)} files such as {paths[0]} have unsupported formats ({endings})", "them"
    if len(paths) == 1:
        what, them = f"{paths[0]} has an unsupported format ({endings})", "it"
    remedy = f"convert {them} to PNG or JPEG (files that end with .png or .jpg), or move {them} away"
    return f"{root}: split {split!r} of domain {domain.name!r}: {what}; {remedy}"


def give_masks(split: str) -> str:
    """Format the remedy for a split that needs masks but has none in the domain's definition.

    >>> give_masks("train")
    "give it masks in the domain's file"
    """
    other = "" if split == "train" else ", or set val_split and test_split there to splits that have some"
    return f"give it masks in the domain's file{other}"


def others_text(others: Sequence[str]) -> str:
    """Format the number of other files by extension, with the first as an example.

    >>> others_text(["a.txt", "b.txt", "c.md"])
    '3 other files among the images (.txt 2, .md 1), such as a.txt'
    """
    endings = Counter(os.path.splitext(path)[1].lower() or "no ending" for path in others)
    kinds = ", ".join(f"{ending} {count}" for ending, count in endings.most_common())
    files = "file" if len(others) == 1 else "files"
    return f"{len(others)} other {files} among the images ({kinds}), such as {others[0]}"


def _may_have_masks(found):
    return bool(found.files.masks) or any(image.mask for image in found.images.values())


# ---- images --------------------------------------------------------------------------------------------


def _find(root, layout, files, domain, split):
    if not files.list_file:
        images, unread, others = _matching(root, files)
    elif files.images:
        images, unread, others = _matching(root, files)
        path = os.path.join(root, files.list_file)
        keys = lists.read_ids(path, domain, images, (split,))
        images = {key: images[key] for key in keys}
        _check_mask_column(path, keys, files, images, root)
        unread, others = [], []  # the list decides
    else:
        images, unread, others = _listed(root, files.list_file), [], []
    return Found(layout, files, dict(sorted(images.items())), unread, others)


def _matching(root, files):
    """Images of a pattern by id; sorted paths of images in unsupported formats, and of other files."""
    images, unread, others = {}, {}, []
    pattern = files.images
    for path in _walk(root, pattern):
        name = below(root, path)
        key, other = patterns.match_id(pattern, name), patterns.match_other(pattern, name)
        if key in images:
            both = " and ".join(sorted((images[key].path, path)))
            alike = ", which differ only in their Unicode form" if normal(path) == normal(images[key].path) else ""
            raise InputError(f"{both} have the same id {key!r}{alike}; remove one")
        try:
            (key or other or "").encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{path!a}: the name of this file is not UTF-8 text; rename it") from error
        if key is not None:
            images[key] = Image(path)
        elif other is None or (files.masks and patterns.match_id(files.masks, name)):
            continue  # in another folder, or a mask
        elif patterns.has_ending(pattern) or not is_image(path):
            others.append(path)
        else:
            unread[path] = other
    # One with a PNG or JPEG of the same id is not lost: the original of a conversion, or depth beside colour.
    unread_paths = sorted(path for path, key in unread.items() if key not in images)
    return images, unread_paths, sorted(others)


# First bytes of image files of any format, to recognize them despite unusual extensions.
_STARTS = (
    *(b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP", b"\0\0\0\x0cJXL", b"\xff\x0a"),
    *(b"P1 P2 P3 P4 P5 P6 P7 Pf PF qoif 8BPS v/1\x01 #?R \x93NUMPY".split(b" ")),
)


def is_image(path: str) -> bool:
    """Return whether a file is an image, by its extension or its first bytes.

    >>> with open("picture.unknown", "wb") as file:
    ...     _ = file.write(b"GIF89a" + bytes(10))
    >>> is_image("photo.TIFF"), is_image("picture.unknown"), is_image("missing.txt")
    (True, True, False)
    """
    if path.lower().endswith(patterns.OTHER_FORMATS):
        return True
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError:
        return False
    is_webp = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    return start.startswith(_STARTS) or is_webp or start[4:8] == b"ftyp"


def _listed(root, name):
    """Images of a list of paths, by id."""
    path, images, names = os.path.join(root, name), {}, Names(root)
    for number, text in lists.read_lines(path):
        line = f"{path}:{number}"
        name, mask = lists.columns(text)
        name = _check_listed(name, patterns.EXTENSIONS, line, root)
        if mask is not None:
            mask = _check_listed(mask, (".png",), line, root)
        file = os.path.join(root, name)
        if not os.path.isfile(file):
            alike = names.alike(name)
            if len(alike) != 1 or not os.path.isfile(alike[0]):
                near = similar_names(names.nearest(name))
                raise InputError(f"{line}: no image {file}{near}; add it, or correct or remove this line")
            file = alike[0]
        image = Image(file, mask, line)
        key = patterns.stem(name)
        if other := images.get(key):
            raise InputError(
                f"{line}: {image.path} has the same id {key!r} as {other.path} of {other.line}; remove one line"
            )
        images[key] = image
    return images


def _check_listed(name, extensions, line, root):
    """Path below root of a line's entry, which may start with "/" or with the root."""
    name = _below_own_name(name.removeprefix(os.path.join(os.path.abspath(root), "")).lstrip("/"), root)
    if ".." in name.split("/"):
        raise InputError(f"{line}: {name!r} must be a path below the domain's root, without ..")
    if not name.lower().endswith(extensions):
        raise InputError(
            f"{line}: {name!r} does not end with {' or '.join(extensions)}; a line is an image, or an image, a tab "
            "and its mask (.png). For a list of ids, add the folders: {list: FILE, images: FOLDER, masks: FOLDER}"
        )
    return posixpath.normpath(name)


def _below_own_name(name, root):
    """The path without leading folders that are the end of root, as in data/train/a.png below the folder data."""
    root = os.path.abspath(root).replace(os.sep, "/")
    parts = name.split("/")
    for count in range(len(parts) - 1, 0, -1):
        rest = "/".join(parts[count:])
        if root.endswith("/" + "/".join(parts[:count])) and not os.path.exists(os.path.join(root, name)):
            return rest
    return name


def _check_mask_column(path, keys, files, images, root):
    """Raise InputError for a line whose mask differs from that of the masks' pattern."""
    for (number, text), key in zip(lists.read_lines(path), keys, strict=True):
        mask = lists.columns(text)[1] or ""
        if not (files.masks and mask.lower().endswith(".png")):
            continue
        ends = [f"/{name}".lower() for name in expected_masks(key, images[key], files, root)]
        named = f"/{normal(mask.lstrip('/'))}".lower()
        if not any(named.endswith(end) or end.endswith(named) for end in ends):
            raise InputError(
                f"{path}:{number}: names the mask {mask!r}, but by {files.masks} of the domain's file it is "
                f"{ends[0][1:]}; correct the line, or remove its second column"
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


def matches(root: str | os.PathLike, pattern: str) -> Iterator[tuple[str, str]]:
    """Yield (id, path) of the files below root that match a pattern (data/patterns.py)."""
    for path in _walk(root, pattern):
        key = patterns.match_id(pattern, below(root, path))
        if key is not None:
            yield key, path


def _walk(root, pattern):
    """Iterate over all files below the folder of a pattern, whether they match or not."""
    start = Names(root).folder(patterns.folder(pattern))
    return walk(start) if os.path.isdir(start) else ()
