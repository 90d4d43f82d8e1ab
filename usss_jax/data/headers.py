"""Reads the headers of PNG and JPEG files, and checks that the files are complete."""

import zlib
from collections.abc import Iterator
from typing import NamedTuple

from usss_jax.errors import InputError

PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_EXIF_START = b"Exif\0\0"


class Header(NamedTuple):
    """Header of an image file.

    Attributes:
      format: "PNG" or "JPEG".
      size: (h, w).
      bits: per channel.
      channels: in the file; 1 for a palette.
      palette: red, green, blue of each entry; empty without one.
      alpha: whether pixels may be transparent.
      orientation: of EXIF; 1 is upright.
    """

    format: str
    size: tuple[int, int]
    bits: int
    channels: int
    palette: bytes
    alpha: bool
    orientation: int


def read_header(data: bytes, name: str) -> Header:
    """Read the header of a PNG or JPEG file.

    Raises:
      InputError: naming the file, for another format or for damage that decoders may ignore, returning an image that
        is partly grey.

    >>> import cv2, numpy as np
    >>> _, data = cv2.imencode(".png", np.zeros((2, 3, 3), np.uint8))
    >>> read_header(data.tobytes(), "a.png")[:4]
    ('PNG', (2, 3), 8, 3)
    """
    if data.startswith(PNG_START):
        header, fault = _read_png(data)
    elif data.startswith(b"\xff\xd8"):
        header, fault = _read_jpeg(data)
    else:
        header, fault = None, "is not a PNG or JPEG file" if data else "is empty"
    if header is None:
        raise InputError(f"{name}: {fault}; restore this file or remove its id")
    return header


def _read_png(data):
    """Header and None, or None and the fault; every chunk has a checksum."""
    if not data.startswith(b"\0\0\0\x0dIHDR", len(PNG_START)):
        return None, "is damaged (a PNG file without a header)" if len(data) > 15 else "is truncated"
    view, at = memoryview(data), len(PNG_START)
    orientation, alpha, palette = 1, False, b""
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(view[at : at + 4], "big")
        if end > len(data):
            break
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            return None, "is damaged (a checksum is wrong)"
        kind = data[at + 4 : at + 8]
        if kind == b"IEND":
            bits, color = data[24], data[25]
            if color == 3 and (not palette or len(palette) % 3):
                return None, "is damaged (a palette image without a palette)"
            size = int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")
            channels, palette = _PNG_CHANNELS.get(color, 0), palette if color == 3 else b""
            return Header("PNG", size, bits, channels, palette, alpha or color >= 4, orientation), None
        if kind == b"tRNS":
            alpha = True
        elif kind == b"PLTE":
            palette = data[at + 8 : end - 4]
        elif kind == b"eXIf":
            orientation = _orientation(data[at + 8 : end - 4].removeprefix(_EXIF_START))
        at = end
    return None, "is truncated"


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and content of each chunk of a complete PNG file."""
    at = len(PNG_START)
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        if data[at + 4 : at + 8] == b"IEND":
            return
        at += 12 + size


def _read_jpeg(data):
    """Header and None, or None and the fault; without checksums, damaged pixels are not detected."""
    at, size, bits, channels, orientation = 2, (0, 0), 8, 0, 1
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # padding before a marker
            at += 1
            continue
        if marker == 0xDA:  # the pixels: they contain no end marker, and thumbnails come before them
            if data.rfind(b"\xff\xd9", at) < 0:
                break
            return Header("JPEG", size, bits, channels, b"", False, orientation), None
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            bits, channels = int.from_bytes(data[at + 4 : at + 5], "big"), int.from_bytes(data[at + 9 : at + 10], "big")
            size = int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
        elif marker == 0xE1 and data.startswith(_EXIF_START, at + 4):
            orientation = _orientation(data[at + 4 + len(_EXIF_START) : at + 2 + length])
        at += 2 + length
    return None, "is truncated"


def _orientation(exif):
    """Orientation tag of an EXIF block: 2 to 8 if it rotates or mirrors the image, 1 if upright or invalid."""
    order = {b"II": "little", b"MM": "big"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return 1
    at = int.from_bytes(exif[4:8], order)
    count = int.from_bytes(exif[at : at + 2], order)
    for entry in range(at + 2, min(at + 2 + 12 * count, len(exif) - 11), 12):
        if int.from_bytes(exif[entry : entry + 2], order) == 0x0112:
            value = int.from_bytes(exif[entry + 8 : entry + 10], order)
            return value if 2 <= value <= 8 else 1
    return 1
