"""PNG files of every kind: Pillow and OpenCV write neither interlaced ones nor grey ones of 2 or 4 bits."""

import zlib

import numpy as np

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def png(pixels, kind=GREY, bits=8, palette=None, interlaced=False, chunks=()):
    """File of samples [h, w] or [h, w, channels]; `palette` [n, 3]; `chunks` are further (kind, content)."""
    height, width = pixels.shape[:2]
    passes = [pixels[y::dy, x::dx] for y, x, dy, dx in _ADAM7] if interlaced else [pixels]
    rows = b"".join(_rows(part, bits) for part in passes if part.size)
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([bits, kind, 0, 0, interlaced])
    content = [(b"IHDR", header), *chunks]
    if palette is not None:
        content.insert(1, (b"PLTE", np.asarray(palette, np.uint8).tobytes()))
    content += [(b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, body) for name, body in content)


def chunk(name, body):
    """One chunk of a file, with its checksum."""
    return len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")


def _rows(pixels, bits):
    """Rows without a filter, each with its filter byte."""
    samples = pixels.reshape(len(pixels), -1)
    if bits == 16:
        packed = samples.astype(">u2").view(np.uint8)
    elif bits == 8:
        packed = samples.astype(np.uint8)
    else:
        single = (samples[..., None] >> np.arange(bits - 1, -1, -1) & 1).reshape(len(samples), -1)
        packed = np.packbits(single.astype(np.uint8), axis=1)
    return np.pad(packed, ((0, 0), (1, 0))).tobytes()
