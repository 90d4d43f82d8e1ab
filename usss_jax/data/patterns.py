"""Patterns of paths that define the images and masks of a split.

A pattern has either one `{id}`, which matches any text including folders, or stars: `*` matches text within one name,
`**/` any number of folders. The matched text (that of several stars joined by "/") is the image's id. A pattern that
does not end with one of EXTENSIONS matches files with any of them.
"""

import functools
import posixpath
import re
from collections.abc import Sequence

from usss_jax.data.folders import normal

EXTENSIONS = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi")
SHOWN = (".png", ".jpg", ".jpeg")  # in messages
OTHER_FORMATS = (
    *(".tif", ".tiff", ".bmp", ".dib", ".gif", ".webp", ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".pam", ".pfm", ".npy", ".npz", ".heic", ".heif", ".avif", ".jxl", ".jxr", ".tga", ".exr", ".hdr", ".dng"),
    *(".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".psd", ".svg", ".ico", ".dds", ".pcx", ".ras", ".sgi"),
    *(".rgb", ".qoi", ".xcf", ".eps", ".mp4", ".avi", ".mov", ".mkv", ".webm"),
)
_WILD = re.compile(r"\{id\}|\*\*/|\*")


def stars(pattern: str) -> int:
    """Return the number of stars; `**/` counts as one.

    >>> stars("img/**/*_rgb.jpg"), stars("train/{id}.png")
    (2, 0)
    """
    return len(_WILD.findall(pattern.replace("{id}", "")))


def folder(pattern: str) -> str:
    """Return the folder that contains all files of a pattern; "" is the root.

    >>> folder("img/train/*_rgb.jpg"), folder("{id}.png")
    ('img/train', '')
    """
    return _WILD.split(pattern)[0].rpartition("/")[0]


def captures(pattern: str, path: str) -> tuple[str, ...] | None:
    """Return what `{id}` or each star matches in `path`; None if the pattern does not match.

    >>> captures("img/*/*_rgb.jpg", "img/ulm/01_rgb.jpg")
    ('ulm', '01')
    """
    match = _of_path(pattern).fullmatch(path)
    return match and match.groups("")


def match_id(pattern: str, path: str) -> str | None:
    """Return the id of the file `path` (relative, "/" between folders); None if the pattern does not match.

    >>> match_id("img/*/*_rgb.jpg", "img/ulm/01_rgb.jpg"), match_id("img/{id}", "masks/01.png")
    ('ulm/01', None)
    """
    found = captures(pattern, path)
    return None if found is None else "/".join(text for text in found if text)


def match_other(pattern: str, path: str) -> str | None:
    """Return the id of a file that would match with another extension, else None.

    >>> match_other("img/{id}", "img/01.tif")
    '01'
    """
    base = posixpath.splitext(path)[0]
    return match_id(pattern, base + (_extension(pattern) or EXTENSIONS[0]))


def has_ending(pattern: str) -> bool:
    """Return whether a pattern defines the extension of its files.

    >>> has_ending("img/{id}.png"), has_ending("img/{id}")
    (True, False)
    """
    return bool(_extension(pattern))


def fill(pattern: str, key: str, found: Sequence[str] = ()) -> str:
    """Replace `{id}` by the id `key`, or the stars by the texts `found`.

    >>> fill("masks/{id}.png", "ulm/01"), fill("gt/*/*_ids.png", "", ["ulm", "01"])
    ('masks/ulm/01.png', 'gt/ulm/01_ids.png')
    """
    texts = iter(found)
    path = _WILD.sub(lambda wild: key if wild[0] == "{id}" else next(texts) + wild[0].replace("*", ""), pattern)
    return posixpath.normpath(path.lstrip("/"))


def path_of_id(pattern: str, key: str) -> str | None:
    """Return the path of the image `key`, without extension if the pattern has none; None if no path has this id.

    >>> path_of_id("img/*/*_rgb.jpg", "ulm/01")
    'img/ulm/01_rgb.jpg'
    """
    match = _of_id(pattern).fullmatch(key)
    return match and fill(pattern, key, match.groups(""))


def stem(path: str) -> str:
    """Normalize a path and remove the extension of an image.

    >>> stem("./train//01.JPG")
    'train/01'
    """
    path = normal(posixpath.normpath(path))
    base, extension = posixpath.splitext(path)
    return base if extension.lower() in EXTENSIONS else path


def shown(pattern: str) -> str:
    """Format a pattern for messages.

    >>> shown("train/{id}")
    'train/*.{png,jpg,jpeg}'
    """
    ending = "" if _extension(pattern) or not _WILD.search(pattern) else f".{{{','.join(e[1:] for e in SHOWN)}}}"
    return pattern.replace("{id}", "*") + ending


_REGEX = {"{id}": "(.+)", "**/": "(?:(.+)/)?", "*": "([^/]+?)"}


@functools.cache
def _of_path(pattern):
    pattern = normal(pattern)
    extension = _extension(pattern)
    body = pattern.removesuffix(extension)
    literals, wild = _WILD.split(body), _WILD.findall(body)
    text = re.escape(literals[0]) + "".join(_REGEX[w] + re.escape(t) for w, t in zip(wild, literals[1:], strict=True))
    endings = "|".join(map(re.escape, (extension,) if extension else EXTENSIONS))
    return re.compile(f"{text}(?i:{endings})", re.DOTALL)


@functools.cache
def _of_id(pattern):
    wild = _WILD.findall(pattern)
    return re.compile("".join(_REGEX[w] + "/" * (w == "*") for w in wild).removesuffix("/"), re.DOTALL)


def _extension(pattern):
    """The pattern's extension as written, "" if it has none."""
    extension = posixpath.splitext(pattern)[1]
    return extension if extension.lower() in EXTENSIONS else ""
