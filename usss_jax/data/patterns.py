"""Patterns of paths, by which a split says where its images and masks are.

A pattern has either `{id}` once, which stands for any text, folders too, or stars: `*` stands for text within one
name, `**/` for any folders or none. What `{id}` or the stars (with "/" between them) stand for is the image's id. A
pattern that does not end with one of EXTENSIONS means a file with any of them.
"""

import functools
import posixpath
import re
from collections.abc import Sequence

from usss_jax.data.folders import normal

EXTENSIONS = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi")
SHOWN = (".png", ".jpg", ".jpeg")  # in messages
OTHER_FORMATS = (
    *(".tif", ".tiff", ".bmp", ".dib", ".gif", ".webp", ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".pam"),
    *(
        ".pfm",
        ".npy",
        ".npz",
        ".heic",
        ".heif",
        ".avif",
        ".jxl",
        ".jxr",
        ".tga",
        ".exr",
        ".hdr",
        ".dng",
        ".cr2",
        ".cr3",
    ),
    *(".nef", ".arw", ".orf", ".raf", ".rw2", ".psd", ".svg", ".ico", ".dds", ".pcx", ".ras", ".sgi", ".rgb", ".qoi"),
    *(".xcf", ".eps", ".mp4", ".avi", ".mov", ".mkv", ".webm"),
)
_WILD = re.compile(r"\{id\}|\*\*/|\*")


def stars(pattern: str) -> int:
    """Number of stars, `**/` being one."""
    return len(_WILD.findall(pattern.replace("{id}", "")))


def folder(pattern: str) -> str:
    """Folder that all files of a pattern are below, "" for any."""
    return _WILD.split(pattern)[0].rpartition("/")[0]


def captures(pattern: str, path: str) -> tuple[str, ...] | None:
    """What `{id}` or each star stands for in the file `path`, None if it is not of that form."""
    match = _of_path(pattern).fullmatch(path)
    return match and match.groups("")


def match_id(pattern: str, path: str) -> str | None:
    """Id of the file `path` (relative, "/" between folders) under a pattern, None if it is not of that form."""
    found = captures(pattern, path)
    return None if found is None else "/".join(text for text in found if text)


def match_other(pattern: str, path: str) -> str | None:
    """Id of a file that would match if it ended with one of EXTENSIONS, or with the pattern's own; else None."""
    base = posixpath.splitext(path)[0]
    return match_id(pattern, base + (_extension(pattern) or EXTENSIONS[0]))


def has_ending(pattern: str) -> bool:
    """Whether a pattern says how its files end."""
    return bool(_extension(pattern))


def fill(pattern: str, key: str, found: Sequence[str] = ()) -> str:
    """Path with the id `key` in place of `{id}`, and the texts `found` in place of the stars."""
    texts = iter(found)
    path = _WILD.sub(lambda wild: key if wild[0] == "{id}" else next(texts) + wild[0].replace("*", ""), pattern)
    return posixpath.normpath(path.lstrip("/"))


def path_of_id(pattern: str, key: str) -> str | None:
    """Path of the image `key`, without its extension if the pattern has none; None if no path has that id."""
    match = _of_id(pattern).fullmatch(key)
    return match and fill(pattern, key, match.groups(""))


def stem(path: str) -> str:
    """Path without a doubled "/", "./" and the extension of an image."""
    path = normal(posixpath.normpath(path))
    base, extension = posixpath.splitext(path)
    return base if extension.lower() in EXTENSIONS else path


def shown(pattern: str) -> str:
    """Pattern for messages, such as train/*.{png,jpg,jpeg}."""
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
    """The pattern's extension as it is written, "" if it has none."""
    extension = posixpath.splitext(pattern)[1]
    return extension if extension.lower() in EXTENSIONS else ""
