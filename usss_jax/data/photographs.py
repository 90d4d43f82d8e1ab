"""Decodes any photograph to upright 8-bit RGB; what it converts, data/decode.py refuses in images to train on."""

import cv2
import numpy as np

from usss_jax.data.decode import decode_pixels, decode_rgba
from usss_jax.data.headers import Header
from usss_jax.errors import InputError


def conversions(header: Header) -> list[str]:
    """What `decode_photograph` does to a file with this header beyond decoding it, in words.

    >>> conversions(Header("JPEG", (6, 4), 8, 1, b"", False, 6))
    ['grey to RGB', 'rotated or mirrored as EXIF says']
    """
    grey = header.channels < 3 and not header.palette
    return [
        text
        for text, applies in (
            ("grey to RGB", grey),
            ("16 to 8 bits", header.bits > 8),
            ("CMYK to RGB", header.format == "JPEG" and header.channels == 4),
            ("transparency onto black", header.alpha),
            ("rotated or mirrored as EXIF says", header.orientation != 1),
        )
        if applies
    ]


def upright_size(header: Header) -> tuple[int, int]:
    """Height and width after the rotation that EXIF asks for."""
    height, width = header.size
    return (width, height) if header.orientation >= 5 else (height, width)


def decode_photograph(data: bytes, header: Header, name: str) -> np.ndarray:
    """Decode a PNG or JPEG file to upright RGB, uint8 [h, w, 3].

    Grey is repeated, a palette expanded, 16 bits cut to the upper 8; CMYK is converted without colour profile;
    transparent pixels are put on black; the image is rotated and mirrored as EXIF says.

    Raises:
      InputError: naming the file, if it cannot be decoded, or if it is 16-bit grey with a transparent level.

    >>> from usss_jax.data.headers import read_header
    >>> _, data = cv2.imencode(".png", np.full((1, 1), 7 * 256, np.uint16))
    >>> decode_photograph(data.tobytes(), read_header(data.tobytes(), "a.png"), "a.png").tolist()
    [[[7, 7, 7]]]
    """
    if header.alpha and header.bits > 8 and header.channels == 1:  # Pillow would clip it
        raise InputError(f"{name}: is 16-bit grey with a transparent level; save it with 8 bits, or without that")
    if header.alpha:
        image = _on_black(decode_rgba(data, name))
    else:
        image = decode_pixels(data, name, cv2.IMREAD_COLOR_RGB)
    return np.ascontiguousarray(_turned(image, header.orientation))


def _on_black(pixels):
    """RGB of RGBA uint8 [h, w, 4], times alpha."""
    return ((pixels[:, :, :3] * pixels[:, :, 3:].astype(np.uint16) + 127) // 255).astype(np.uint8)


def _turned(image, orientation):
    """Upright image by the orientation tag of EXIF, from 1 to 8."""
    if orientation >= 5:  # stored columns are rows
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image
