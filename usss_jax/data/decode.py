"""Image and mask files to arrays: RGB bytes and train ids, with one clear error for whatever is wrong with a file."""

import io

import cv2
import numpy as np
from PIL import Image

from usss_jax.data.domain import UNKNOWN, Domain, Layout, lookup_table
from usss_jax.data.headers import read_header
from usss_jax.data.sizes import height_width
from usss_jax.errors import InputError


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decode a PNG or JPEG file to RGB, uint8 [h, w, 3]; grey is repeated, a palette expanded.

    Raises InputError naming the file if it is damaged, or if 8-bit RGB would not be what it shows: CMYK, 16 bits,
    transparency, or an EXIF orientation, which masks do not have.
    """
    header = read_header(data, name)
    _check_upright(header, name)
    if header.bits > 8:
        raise InputError(
            f"{name}: has {header.bits} bits per channel; how to scale them is your choice, so save it with 8 bits "
            "(mogrify -depth 8 FILE divides by 257)"
        )
    if header.format == "JPEG" and header.channels == 4:
        raise InputError(f"{name}: is a CMYK image; convert it to RGB (mogrify -colorspace sRGB FILE)")
    if header.alpha:
        pixels = _decode_png(data, name, "RGBA")
        if pixels[:, :, 3].min() < 255:
            raise InputError(
                f"{name}: has transparent pixels; put it on a background (mogrify -background black -alpha remove FILE)"
            )
        return np.ascontiguousarray(pixels[:, :, :3])
    return _decode(data, name, cv2.IMREAD_COLOR_RGB)


def decode_mask(data: bytes, name: str, domain: Domain, layout: Layout) -> np.ndarray:
    """Decode a PNG mask of that layout to train ids, uint8 [h, w], 255 = ignore.

    Raises InputError naming the file if it is damaged or not such a mask, or has an id that the table lacks.
    """
    raw = decode_raw(data, name, layout)
    table = lookup_table(domain, layout)
    labels = cv2.LUT(raw, table[:256]) if raw.dtype == np.uint8 else table.take(raw)
    if (labels == UNKNOWN).any():
        raise InputError(f"{name}: {_unknown(np.unique(raw[labels == UNKNOWN]), domain, layout)}")
    return labels


def decode_raw(data: bytes, name: str, layout: Layout) -> np.ndarray:
    """Decode a PNG mask to what it holds, [h, w]: ids, uint8 or uint16, or colours, uint32 (see `lookup_table`).

    Raises InputError naming the file if it is damaged or not such a mask.
    """
    header = read_header(data, name)
    if header.format != "PNG":
        raise InputError(f"{name}: is a JPEG file, whose compression changes class ids; save masks as PNG")
    _check_upright(header, name)
    return (_decode_colors if layout.encoding == "color" else _decode_ids)(data, name, header, layout)


def check_same_size(label: np.ndarray, image: np.ndarray, mask_name: str, image_name: str):
    """Raise InputError unless a label [h, w] is as large as its image [h, w, 3]; the names are of their files."""
    if label.shape != image.shape[:2]:
        raise InputError(
            f"{mask_name}: the mask is {height_width(label.shape)} but its image {image_name} is "
            f"{height_width(image.shape)} (height x width); replace the wrong one or leave this id out"
        )


def _check_upright(header, name):
    if header.orientation != 1:
        raise InputError(
            f"{name}: EXIF orientation {header.orientation} shows it turned or mirrored, but image and mask are taken "
            "as they are stored; turn its pixels (mogrify -auto-orient FILE) or, if image and mask fit as they are, "
            "remove the tag (exiftool -Orientation= FILE)"
        )


def _decode_ids(data, name, header, layout):
    """Raw ids of a PNG, uint8 or uint16 [h, w]."""
    if layout.encoding == "ids16":
        raw = _decode(data, name, cv2.IMREAD_UNCHANGED)  # channels in the order blue, green, red
        return raw if raw.ndim == 2 else np.ascontiguousarray(raw[:, :, 2])
    if header.channels > 1:
        remedy = "encoding: color" if header.bits <= 8 else "encoding: ids16 if the first channel is the class"
        raise InputError(f"{name}: has colours or alpha, not class ids; give the mask of ids, or {remedy}")
    if header.palette:
        return _decode_png(data, name, "P")
    raw = _decode(data, name, cv2.IMREAD_UNCHANGED if header.bits == 16 else cv2.IMREAD_GRAYSCALE)
    return raw if header.bits >= 8 else _of_few_bits(raw, header.bits, name, layout)


def _of_few_bits(levels, bits, name, layout):
    """Ids of a grey PNG of 1, 2 or 4 bits, whose levels OpenCV spreads over 0 to 255.

    An optimiser makes such files from levels like 0 and 255, other software from ids like 0 and 1: the class table
    tells which is meant.
    """
    known = {i for ids in layout.raw_ids for i in ids} | set(layout.ignore_ids)
    spread = set(np.unique(levels).tolist())
    step = 255 // (2**bits - 1)
    fits = spread <= known, {level // step for level in spread} <= known
    if all(fits) and spread != {0}:
        raise InputError(
            f"{name}: a {bits}-bit mask, in which the table allows both the ids 0 to {2**bits - 1} and levels up "
            "to 255; save it with 8 bits"
        )
    return levels // step if fits[1] else levels


def _decode_colors(data, name, header, layout):
    """Colours of a PNG as red + 2**8 * green + 2**16 * blue, uint32 [h, w]."""
    if header.bits > 8:
        raise InputError(f"{name}: has {header.bits} bits per channel; save colour masks with 8 bits")
    pixels = cv2.cvtColor(_decode(data, name, cv2.IMREAD_COLOR_RGB), cv2.COLOR_RGB2RGBA)
    return pixels.view("<u4")[:, :, 0] & 0xFFFFFF


def _unknown(raw, domain, layout):
    """What to say of raw ids or colours that the table lacks."""
    if layout.encoding == "color":
        return (
            f"colour {_first([(int(c) & 255, int(c) >> 8 & 255, int(c) >> 16) for c in raw])} not in the table of "
            f"domain {domain.name!r}, which has {', '.join(str(c.color) for c in domain.classes)} and to ignore "
            f"{', '.join(map(str, layout.ignore_colors)) or 'none'}; correct the mask or add the colours"
        )
    known = np.flatnonzero(lookup_table(domain, layout) != UNKNOWN)
    return (
        f"raw id {_first(raw.tolist())} not in the table of domain {domain.name!r}, which has {_ranges(known)}; make "
        "the mask in that label space or add the ids to the domain"
    )


def _decode(data, name, mode):
    """Pixels by OpenCV."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), mode | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise InputError(f"{name}: cannot be decoded; restore this file or leave its id out")
    return pixels


def _decode_png(data, name, mode):
    """Pixels by Pillow, which tells the indices of a palette ("P") from its colours and knows all kinds of alpha."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            return np.asarray(image if image.mode == mode else image.convert(mode))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(f"{name}: cannot be decoded ({error}); restore this file or leave its id out") from error


def read_file(path) -> bytes:
    """Read a whole file; InputError names one that cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); restore this file or leave its id out") from error


# ---- sizes ---------------------------------------------------------------------------------------------


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize uint8 [h, w, 3] to size (h, w): area averages if no side grows, else bilinear."""
    if image.shape[:2] == tuple(size):
        return image
    shrinks = size[0] <= image.shape[0] and size[1] <= image.shape[1]
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def resize_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize uint8 [h, w] to size (h, w): each pixel takes the value of the pixel under its centre.

    By NumPy, because the fixed point arithmetic of OpenCV's INTER_NEAREST_EXACT is off by one for some sizes.
    """
    if label.shape == tuple(size):
        return label
    rows, columns = ((2 * np.arange(n) + 1) * m // (2 * n) for n, m in zip(size, label.shape, strict=True))
    return label.take(rows, axis=0).take(columns, axis=1)


def _first(values):
    more = f" and {len(values) - 5} more" if len(values) > 5 else ""
    return ", ".join(map(str, values[:5])) + more + (" is" if len(values) == 1 else " are")


def _ranges(numbers):
    """Text such as "0-11, 255" for sorted numbers."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
