"""The images that a user asks to predict: which files, under which names, of which size, and what is converted."""

import glob
import os
import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from usss_jax.data.decode import read_file
from usss_jax.data.files import others_text
from usss_jax.data.folders import is_data, walk
from usss_jax.data.headers import Header, read_header
from usss_jax.data.photographs import conversions, upright_size
from usss_jax.data.sizes import height_width
from usss_jax.errors import InputError

IMAGES = (".png", ".jpg", ".jpeg")
MAX_PIXELS = 2**29  # 0.5 gigapixels: 1.6 GB as RGB, kept once


class Photograph(NamedTuple):
    """An image to predict.

    Attributes:
      path: of the file.
      name: of its outputs, without ending, "/" between folders.
      size: (height, width), upright.
      converted: what decoding converts.
    """

    path: str
    name: str
    size: tuple[int, int]
    converted: list[str]


def find_files(text: str, output: pathlib.Path) -> list[str]:
    """Paths of the images that a file, a folder with all its subfolders, or a pattern such as "photos/*.jpg" names.

    Other files in a folder are counted on the console.

    Raises:
      InputError: if there are none, or if outputs would be among them.
    """
    path = os.path.expanduser(text)
    if os.path.isdir(path):
        found = sorted(walk(path))
        others = [one for one in found if not one.lower().endswith(IMAGES)]
        found = [one for one in found if one.lower().endswith(IMAGES)]
        if others and found:
            print(f"{text}: {others_text(others)}, not predicted")
        what = f"no PNG or JPEG file (.png, .jpg, .jpeg) is in it{'; ' + others_text(others) if others else ''}"
    elif os.path.lexists(path):
        return [path]
    else:
        found = sorted(one for one in glob.glob(path, recursive=True) if is_data(os.path.basename(one)))
        found = [one for one in found if not os.path.isdir(one)]
        what = "no file matches this pattern" if glob.has_magic(path) else "there is no such file or folder"
    if not found:
        raise InputError(f"--input={text}: {what}; give an image, a folder of images, a pattern or a video")
    inside = os.path.join(os.path.realpath(output), "")
    if os.path.isdir(path) and inside.startswith(os.path.join(os.path.realpath(path), "")):
        raise InputError(f"--output={output}: is in the folder --input={text}; give another")
    if mixed := [one for one in found if os.path.realpath(one).startswith(inside)]:
        raise InputError(f"--output={output}: {mixed[0]} of --input is in it; give another folder")
    return found


def read_photographs(paths: Sequence[str], smallest: int) -> list[Photograph]:
    """Read the headers of all files, so that a bad file is reported before the first prediction.

    Raises:
      InputError: for a file that is no complete PNG or JPEG file, is smaller than `smallest` pixels along an axis, or
        has more than `MAX_PIXELS`.
    """
    return [_read(path, name, smallest) for path, name in zip(paths, output_names(paths), strict=True)]


def _read(path: str, name: str, smallest: int) -> Photograph:
    header = header_of(read_file(path), path)
    size = upright_size(header)
    if min(size) < smallest:
        least = f"{smallest}x{smallest}"
        raise InputError(f"{path}: is {height_width(size)}; the smallest image for this network is {least}, one cell")
    if size[0] * size[1] > MAX_PIXELS:
        raise InputError(
            f"{path}: is {height_width(size)} (height x width), more than {MAX_PIXELS / 1e6:.0f} million pixels; cut "
            "or shrink it"
        )
    return Photograph(path, name, size, conversions(header))


def header_of(data: bytes, path: str) -> Header:
    """Header of an image file; raises InputError if it is no complete PNG or JPEG file."""
    try:
        return read_header(data, path)
    except InputError as e:
        raise InputError(str(e).replace("restore this file or remove its id", "restore it, or leave it out")) from e


def output_names(paths: Sequence[str]) -> list[str]:
    """Distinct names of outputs: paths below the common folder without ending, or with it if two would be the same.

    >>> output_names(["photos/a.jpg", "photos/b/a.png"]), output_names(["a.jpg", "A.png"])
    (['a', 'b/a'], ['a.jpg', 'A.png'])
    """
    common = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    below = [pathlib.Path(os.path.relpath(os.path.abspath(path), common)) for path in paths]
    stems = [path.with_suffix("").as_posix() for path in below]
    if max(Counter(stem.lower() for stem in stems).values()) == 1:
        return stems
    return [path.as_posix() for path in below]


def conversions_text(photographs: Sequence[Photograph]) -> list[str]:
    """Lines that count the conversions of images, each with an example.

    >>> conversions_text([Photograph("a.png", "a", (4, 4), ["grey to RGB"])])
    ['converted: grey to RGB, 1 image such as a.png']
    """
    first: dict[str, str] = {}
    for one in photographs:
        for what in one.converted:
            first.setdefault(what, one.path)
    counts = Counter(what for one in photographs for what in one.converted)
    return [
        f"converted: {what}, {counts[what]} image{'s' * (counts[what] > 1)} such as {path}"
        for what, path in first.items()
    ]
