"""Image files to arrays of RGB bytes, with one clear error for whatever is wrong with a file; sizes.

Masks: data/masks.py.
"""

import io

import cv2
import numpy as np
from PIL import Image

from usss_jax.data.headers import Header, read_header
from usss_jax.data.sizes import height_width
from usss_jax.errors import InputError


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decode a PNG or JPEG file to RGB, uint8 [h, w, 3]; grey is repeated, a palette expanded.

    Raises InputError naming the file if it is damaged, or if 8-bit RGB would not be what it shows: CMYK, 16 bits,
    transparency, or an EXIF orientation, which masks do not have.
    """
    header = read_header(data, name)
    check_upright(header, name)
    if header.bits > 8:
        raise InputError(
            f"{name}: has {header.bits} bits per channel; how to scale them is your choice, so save it with 8 bits "
            "(mogrify -depth 8 FILE divides by 257)"
        )
    if header.format == "JPEG" and header.channels == 4:
        raise InputError(f"{name}: is a CMYK image; convert it to RGB (mogrify -colorspace sRGB FILE)")
    if header.alpha:
        pixels = _decode_rgba(data, name)
        if pixels[:, :, 3].min() < 255:
            raise InputError(
                f"{name}: has transparent pixels; put it on a background (mogrify -background black -alpha remove FILE)"
            )
        return np.ascontiguousarray(pixels[:, :, :3])
    return decode_pixels(data, name, cv2.IMREAD_COLOR_RGB)


def check_same_size(label: np.ndarray, image: np.ndarray, mask_name: str, image_name: str):
    """Raise InputError unless a label [h, w] is as large as its image [h, w, 3]; the names are of their files."""
    if label.shape != image.shape[:2]:
        raise InputError(
            f"{mask_name}: the mask is {height_width(label.shape)} but its image {image_name} is "
            f"{height_width(image.shape)} (height x width); replace the wrong one or leave this id out"
        )


# What ImageMagick is to do for an EXIF orientation, which its version 6 does not find in a PNG file.
_TURNS = dict(enumerate(["flop", "rotate 180", "flip", "transpose", "rotate 90", "transverse", "rotate 270"], start=2))


def check_upright(header: Header, name: str):
    """Raise InputError if EXIF turns or mirrors the picture."""
    if header.orientation == 1:
        return
    options = f"-{_TURNS[header.orientation]} -strip" if header.format == "PNG" else "-auto-orient"
    how = f"mogrify {options} FILE"
    if header.palette:  # which mogrify sorts anew, but its indices may be classes
        how = "ImageOps.exif_transpose of Pillow keeps its palette"
    raise InputError(
        f"{name}: EXIF orientation {header.orientation} shows it turned or mirrored, but image and mask are taken "
        f"as they are stored; turn its pixels ({how}) or, if image and mask fit as they are, remove the tag "
        "(exiftool -Orientation= FILE)"
    )


def decode_pixels(data: bytes, name: str, mode: int) -> np.ndarray:
    """Decode a file by OpenCV's mode, as stored; raises InputError naming one that it cannot read."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), mode | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise InputError(f"{name}: cannot be decoded; restore this file or leave its id out")
    return pixels


def _decode_rgba(data, name):
    """Pixels of a PNG by Pillow, which knows all kinds of alpha."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            return np.asarray(image.convert("RGBA"))
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
