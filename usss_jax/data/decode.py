"""Decodes and resizes image files, with one clear error per faulty file; data/masks.py decodes masks."""

import io

import cv2
import numpy as np
from PIL import Image

from usss_jax.data.headers import Header, read_header
from usss_jax.data.sizes import height_width
from usss_jax.errors import InputError


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decode a PNG or JPEG file to RGB, uint8 [h, w, 3]; grey is repeated, a palette expanded.

    Raises:
      InputError: naming the file, if it is damaged or not equivalent to upright 8-bit RGB: CMYK, 16 bits, transparency
        or an EXIF orientation, which masks do not have.

    >>> _, data = cv2.imencode(".png", np.full((1, 2), 7, np.uint8))
    >>> decode_image(data.tobytes(), "grey.png").tolist()
    [[[7, 7, 7], [7, 7, 7]]]
    """
    header = read_header(data, name)
    check_upright(header, name)
    if header.bits > 8:
        raise InputError(
            f"{name}: has {header.bits} bits per channel; scale it as you choose and save it with 8 bits (mogrify "
            "-depth 8 FILE divides by 257)"
        )
    if header.format == "JPEG" and header.channels == 4:
        raise InputError(f"{name}: is a CMYK image; convert it to RGB (mogrify -colorspace sRGB FILE)")
    if header.alpha:
        pixels = decode_rgba(data, name)
        if pixels[:, :, 3].min() < 255:
            raise InputError(
                f"{name}: has transparent pixels; put it on a background (mogrify -background black -alpha remove FILE)"
            )
        return np.ascontiguousarray(pixels[:, :, :3])
    return decode_pixels(data, name, cv2.IMREAD_COLOR_RGB)


def check_same_size(label: np.ndarray, image: np.ndarray, mask_name: str, image_name: str):
    """Raise InputError, naming the files, unless a label [h, w] is as large as its image [h, w, 3]."""
    if label.shape != image.shape[:2]:
        raise InputError(
            f"{mask_name}: the mask is {height_width(label.shape)} but its image {image_name} is "
            f"{height_width(image.shape)} (height x width); replace the wrong one or remove this id"
        )


# Options of ImageMagick for an EXIF orientation, which its version 6 does not read in a PNG file.
_TURNS = dict(enumerate(["flop", "rotate 180", "flip", "transpose", "rotate 90", "transverse", "rotate 270"], start=2))


def check_upright(header: Header, name: str):
    """Raise InputError if EXIF rotates or mirrors the image."""
    if header.orientation == 1:
        return
    options = f"-{_TURNS[header.orientation]} -strip" if header.format == "PNG" else "-auto-orient"
    how = f"mogrify {options} FILE"
    if header.palette:  # mogrify reorders the palette, whose indices may be classes
        how = "ImageOps.exif_transpose of Pillow keeps its palette"
    raise InputError(
        f"{name}: EXIF orientation {header.orientation} rotates or mirrors it, but image and mask are read as stored; "
        f"rotate its pixels ({how}) or, if image and mask fit as stored, remove the tag (exiftool -Orientation= FILE)"
    )


def decode_pixels(data: bytes, name: str, mode: int) -> np.ndarray:
    """Decode a file with a mode of OpenCV, without rotation; raise InputError if OpenCV cannot read it."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), mode | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise InputError(f"{name}: cannot be decoded; restore this file or remove its id")
    return pixels


def decode_rgba(data, name):
    """Decode a PNG to uint8 [h, w, 4] by Pillow, which supports all kinds of alpha; raise InputError if it cannot."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            return np.asarray(image.convert("RGBA"))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(f"{name}: cannot be decoded ({error}); restore this file or remove its id") from error


def read_file(path) -> bytes:
    """Read a file; raise InputError, naming the file, if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); restore this file or remove its id") from error


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize uint8 [h, w, 3] to size (h, w): by area averages if no side grows, else bilinearly.

    >>> resize_image(np.array([[[0] * 3, [100] * 3]], np.uint8), (1, 1)).tolist()
    [[[50, 50, 50]]]
    """
    if image.shape[:2] == tuple(size):
        return image
    shrinks = size[0] <= image.shape[0] and size[1] <= image.shape[1]
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def resize_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize uint8 [h, w] to size (h, w): each pixel gets the value of the pixel at its centre.

    By NumPy, since the fixed-point arithmetic of OpenCV's INTER_NEAREST_EXACT is off by one for some sizes.

    >>> resize_label(np.array([[1, 2, 3]], np.uint8), (2, 1)).tolist()
    [[2], [2]]
    """
    if label.shape == tuple(size):
        return label
    rows, columns = ((2 * np.arange(n) + 1) * m // (2 * n) for n, m in zip(size, label.shape, strict=True))
    return label.take(rows, axis=0).take(columns, axis=1)
