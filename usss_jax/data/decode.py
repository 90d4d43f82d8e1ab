"""Image and mask files to arrays: RGB bytes and train ids, with one clear error for whatever is wrong with a file."""

import io
import zlib

import cv2
import numpy as np
from PIL import Image

from usss_jax.data.domain import Domain, Layout, color_table, lookup_table
from usss_jax.errors import InputError


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decode a PNG or JPEG file to RGB, uint8 [h, w, 3]; grey is repeated, alpha dropped, 16 bits become 8.

    The EXIF orientation is not applied, since masks carry none. Raises InputError naming a damaged file.
    """
    _check_complete(data, name)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        image = None
    if image is None:
        raise InputError(f"{name}: cannot be decoded; restore this file or leave its id out")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def decode_mask(data: bytes, name: str, domain: Domain, layout: Layout) -> np.ndarray:
    """Decode a PNG mask of that layout to train ids, uint8 [h, w], 255 = ignore.

    Raises InputError naming the file if it is damaged or not such a mask, or has an id that the table lacks.
    """
    _check_complete(data, name, png_only=True)
    if layout.encoding == "color":
        return _from_colors(_decode_png(data, name, "RGB"), name, domain, layout)
    raw = _decode_ids(data, name, layout.encoding)
    labels = lookup_table(domain, layout)[raw]
    if labels.min() < 0:
        unknown = np.unique(raw[labels < 0]).tolist()
        known = np.flatnonzero(lookup_table(domain, layout) >= 0)
        raise InputError(
            f"{name}: raw id {_first(unknown)} not in the table of domain {domain.name!r}, which has "
            f"{_ranges(known)}; make the mask in that label space or add the ids to the domain"
        )
    return labels.astype(np.uint8)


def _from_colors(pixels, name, domain, layout):
    codes, train_ids = color_table(domain, layout)
    packed = pixels.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
    at = np.minimum(np.searchsorted(codes, packed), len(codes) - 1)
    wrong = codes[at] != packed
    if wrong.any():
        unknown = [(int(c) >> 16, int(c) >> 8 & 255, int(c) & 255) for c in np.unique(packed[wrong])]
        raise InputError(
            f"{name}: colour {_first(unknown)} not in the table of domain {domain.name!r}, which has "
            f"{', '.join(str(c.color) for c in domain.classes)} and to ignore "
            f"{', '.join(map(str, layout.ignore_colors)) or 'none'}; correct the mask or add the colours"
        )
    return train_ids[at]


def _decode_ids(data, name, encoding):
    """Raw ids of a PNG, uint8 or uint16 [h, w]."""
    if encoding == "ids" and data[24] < 16:  # byte 24 of a PNG: bits per sample
        with_alpha, color = data[25] & 4, data[25] & 2 and not data[25] & 1  # byte 25: colour type
        if with_alpha or color:
            raise InputError(f"{name}: has colours or alpha, not class ids; give the mask of ids, or encoding: color")
        return _decode_png(data, name, "P" if data[25] & 1 else "L")
    # Pillow reads 16-bit colour as 8 bits; OpenCV keeps it, with the channels in the order blue, green, red.
    try:
        raw = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        raw = None
    if raw is None:
        raise InputError(f"{name}: cannot be decoded; restore this file or leave its id out")
    if raw.ndim == 3 and encoding == "ids":
        raise InputError(
            f"{name}: has {raw.shape[2]} channels, not class ids; give the mask of ids, or encoding: ids16"
        )
    return raw if raw.ndim == 2 else raw[:, :, 2]


def _decode_png(data, name, mode):
    """Pixels of a PNG by Pillow: the indices of a palette ("P"), grey levels ("L") or colours ("RGB")."""
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


def _check_complete(data, name, png_only=False):
    """Find damage that decoders may pass over in silence, returning a picture that is partly grey."""
    if not data:
        fault = "is empty"
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        fault = _png_fault(data)
    elif data.startswith(b"\xff\xd8") and png_only:
        fault = "is a JPEG file, whose compression changes class ids; save masks as PNG"
    elif data.startswith(b"\xff\xd8"):
        fault = None if _jpeg_ends(data) else "is truncated"
    else:
        fault = "is not a PNG file" if png_only else "is not a PNG or JPEG file"
    if fault:
        raise InputError(f"{name}: {fault}; restore this file or leave its id out")


def _png_fault(data):
    view, at = memoryview(data), 8
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(view[at : at + 4], "big")
        if end > len(data):
            break
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            return "is damaged (a checksum is wrong)"
        if view[at + 4 : at + 8] == b"IEND":
            return None
        at = end
    return "is truncated"


def _jpeg_ends(data):
    """Whether an end marker follows the start of the scan: pixels contain none, thumbnails lie before."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        if data[at + 1] == 0xDA:
            return data.find(b"\xff\xd9", at) >= 0
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


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


def width_height(array) -> str:
    """Size of an image or mask for messages."""
    return f"{array.shape[1]}x{array.shape[0]}"


def _first(values):
    more = f" and {len(values) - 5} more" if len(values) > 5 else ""
    return ", ".join(map(str, values[:5])) + more + (" is" if len(values) == 1 else " are")


def _ranges(numbers):
    """Text such as "0-11, 255" for sorted numbers."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
