"""Which files on disk are the images and the masks of a split; nothing is opened but lists."""

import os
import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from usss_jax.data import lists, patterns
from usss_jax.data.domain import Domain, Files, Layout
from usss_jax.data.folders import Names, below, normal, there_are, walk
from usss_jax.data.mask_files import Image, expected_masks, match_masks
from usss_jax.errors import InputError


class NoMasksError(InputError):
    """A split has images and no mask at all; `what` is the message without its remedy."""

    def __init__(self, what: str, remedy: str, split: str):
        super().__init__(f"{what}; {remedy}")
        self.what, self.split = what, split


class Found(NamedTuple):
    """What a split has on disk.

    Attributes:
      layout: the layout that fits, and `files` of the split in it.
      images: by id, sorted.
      unread: paths of images of formats that are not read, which nothing must pass over in silence.
      others: paths of what else lies among the images: notes, or files that end otherwise than the pattern says.
    """

    layout: Layout
    files: Files
    images: dict[str, Image]
    unread: list[str]
    others: list[str]


def find_images(domain: Domain, root: str | os.PathLike, split: str, with_masks: bool) -> Found:
    """Find the images of a split by the layout that has images and, if wanted, most masks; the first of equal ones.

    Raises InputError if no layout has, saying what was looked for and how to get it, if a list is wrong, or for images
    of formats that are not read, which would else be left out in silence.
    """
    found = find_readable(domain, root, split, with_masks)
    if found.unread:
        raise InputError(_unread_text(domain, root, split, found.unread))
    return found


def find_readable(domain: Domain, root: str | os.PathLike, split: str, with_masks: bool) -> Found:
    """Do as find_images, but return images of formats that are not read beside those that are."""
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
        if not max(counts) and best.files.masks:  # a list names its masks: which of them is missing is told later
            looked_for = dict.fromkeys(one.files.masks for one in found if one.files.masks)
            what = f"images but no masks; looked for {', '.join(map(patterns.shown, looked_for))}"
            key, image = next(iter(best.images.items()))
            error = _nothing(domain, root, split, what, "", expected_masks(key, image, best.files, root)[:1])
            raise NoMasksError(str(error).removesuffix("; "), f"to get them: {domain.how_to_get}", split)
    return best._replace(images=_hold_out(best.images, best.layout.holdout, split, domain))


def _nothing(domain, root, split, what, remedy, looked_for=()):
    names = Names(root)
    near = [name for path in looked_for for name in names.nearest(path.replace("/{id}", "").replace("{id}", ""))]
    return InputError(f"{root}: split {split!r} of domain {domain.name!r}: {what}{there_are(near[:3])}; {remedy}")


def _unread_text(domain, root, split, paths):
    endings = " or ".join(sorted({os.path.splitext(path)[1].lower() or "without an ending" for path in paths}))
    what, them = f"{len(paths)} files such as {paths[0]} are in formats that are not read ({endings})", "them"
    if len(paths) == 1:
        what, them = f"{paths[0]} is in a format that is not read ({endings})", "it"
    remedy = f"convert {them} to PNG or JPEG (files that end with .png or .jpg), or move {them} away"
    return f"{root}: split {split!r} of domain {domain.name!r}: {what}; {remedy}"


def give_masks(split: str) -> str:
    """What to do with a split that is without masks by the domain's table, but is to be labeled or evaluated."""
    other = "" if split == "train" else ", or set val_split and test_split there to splits that have some"
    return f"give it masks in the domain's file{other}"


def others_text(others: Sequence[str]) -> str:
    """Count of other files by ending, with one of them: "3 other files among the images (.txt 2, .md 1), such as X"."""
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
        unread, others = [], []  # the list says what is wanted
    else:
        images, unread, others = _listed(root, files.list_file), [], []
    return Found(layout, files, dict(sorted(images.items())), unread, others)


def _matching(root, files):
    """Images of a pattern by id; sorted paths of images that are not read, and of what else is there."""
    images, unread, others = {}, {}, []
    pattern = files.images
    for path in _walk(root, pattern):
        name = below(root, path)
        key, other = patterns.match_id(pattern, name), patterns.match_other(pattern, name)
        if key in images:
            both = " and ".join(sorted((images[key].path, path)))
            alike = (
                ", told apart by composed and decomposed letters alone"
                if normal(path) == normal(images[key].path)
                else ""
            )
            raise InputError(f"{both} are two images with the same id {key!r}{alike}; remove one")
        try:
            (key or other or "").encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{path!a}: the name of this file is not UTF-8 text; rename it") from error
        if key is not None:
            images[key] = Image(path)
        elif other is None or (files.masks and patterns.match_id(files.masks, name)):
            continue  # not where images are, or a mask
        elif patterns.has_ending(pattern) or not is_image(path):
            others.append(path)
        else:
            unread[path] = other
    # One that is also there as PNG or JPEG is not lost: what it was converted from, or depth beside colour.
    unread_paths = sorted(path for path, key in unread.items() if key not in images)
    return images, unread_paths, sorted(others)


# How image files of any format begin, so that an unusual ending hides none.
_STARTS = (
    *(b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP", b"\0\0\0\x0cJXL", b"\xff\x0a"),
    *(
        b"P1",
        b"P2",
        b"P3",
        b"P4",
        b"P5",
        b"P6",
        b"P7",
        b"Pf",
        b"PF",
        b"qoif",
        b"8BPS",
        b"v/1\x01",
        b"#?R",
        b"\x93NUMPY",
    ),
)


def is_image(path: str) -> bool:
    """Whether a file that no pattern matches is an image all the same, by its ending or its first bytes."""
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
    """Images of a list of paths by id."""
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
                near = there_are(names.nearest(name))
                raise InputError(f"{line}: there is no image {file}{near}; add it, or correct or remove this line")
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
    """Path below root that a line names; a "/" before it, or the root itself, is no matter."""
    name = _below_own_name(name.removeprefix(os.path.join(os.path.abspath(root), "")).lstrip("/"), root)
    if ".." in name.split("/"):
        raise InputError(f"{line}: {name!r} must be a path below the domain's root, without ..")
    if not name.lower().endswith(extensions):
        raise InputError(
            f"{line}: {name!r} does not end with {' or '.join(extensions)}; a line is an image, or an image, a tab "
            "and its mask (.png). If the lines are ids, say where the files are beside the list: {list: FILE, images: "
            "FOLDER, masks: FOLDER}"
        )
    return posixpath.normpath(name)


def _below_own_name(name, root):
    """The path without the last names of root before it, as in data/train/a.png of the folder data."""
    root = os.path.abspath(root).replace(os.sep, "/")
    parts = name.split("/")
    for count in range(len(parts) - 1, 0, -1):
        rest = "/".join(parts[count:])
        if root.endswith("/" + "/".join(parts[:count])) and not os.path.exists(os.path.join(root, name)):
            return rest
    return name


def _check_mask_column(path, keys, files, images, root):
    """Raise InputError for a line whose mask is not that of its image by the pattern of masks."""
    for (number, text), key in zip(lists.read_lines(path), keys, strict=True):
        mask = lists.columns(text)[1] or ""
        if not (files.masks and mask.lower().endswith(".png")):
            continue
        ends = [f"/{name}".lower() for name in expected_masks(key, images[key], files, root)]
        named = f"/{normal(mask.lstrip('/'))}".lower()
        if not any(named.endswith(end) or end.endswith(named) for end in ends):
            raise InputError(
                f"{path}:{number}: names the mask {mask!r}, but by {files.masks} of the domain's file it is "
                f"{ends[0][1:]}; correct the line, or leave out its second column"
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
    """Return all files below the folder of a pattern, whether they match or not."""
    start = Names(root).folder(patterns.folder(pattern))
    return walk(start) if os.path.isdir(start) else ()
