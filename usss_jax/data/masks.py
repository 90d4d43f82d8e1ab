"""Decodes mask files to train ids.

Masks are PNG files, interlaced or not. Depending on the layout's `encoding`, the class is given by

| pixels of the file           | ids                                      | ids16             | color          |
|------------------------------|------------------------------------------|-------------------|----------------|
| grey, 8 bits                 | the level                                | the level         | the grey       |
| grey, 16 bits                | the level                                | the level         | refused        |
| grey, 1, 2 or 4 bits         | the sample (0, 1, 2, ...) or the level   | as for ids        | the grey       |
|                              | (0 to 255), whichever the table has;     |                   |                |
|                              | refused if ambiguous                     |                   |                |
| three channels, all equal    | the channel                              | the first channel | the colour     |
| three channels that differ   | refused                                  | the first channel | the colour     |
| palette of only greys        | the level; if the table lacks it and all | level             | the grey       |
|                              | colours are those of classes, the        |                   |                |
|                              | colour; refused if both fit and differ   |                   |                |
| palette with colours         | the index, unless a class's colour is at | the entry's first | the colour     |
|                              | the index of another class: then the     | channel           |                |
|                              | colour, or refused if some used entry    |                   |                |
|                              | has no class's colour; refused if only   |                   |                |
|                              | black contradicts the index              |                   |                |
| an alpha channel             | as without if it is opaque, else refused | as for ids        | as for ids     |

Transparent levels, colours and palette entries (tRNS) count as opaque. JPEG is refused, as are 16-bit channels for
`color`. Lossless optimisers store grey masks as palettes of greys. Indices count only if they mean the same in all
masks: two masks whose palettes give an index different colours are refused. In a palette, black means ignore if the
layout has ids to ignore and no class is black.
"""

import zlib
from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np

from usss_jax.data.decode import check_upright, decode_pixels
from usss_jax.data.domain import UNKNOWN, Domain, Layout, lookup_table
from usss_jax.data.headers import PNG_START, Header, png_chunks, read_header
from usss_jax.data.palettes import BLACK, Color, Palettes, palette_ids
from usss_jax.errors import InputError


class RawMask(NamedTuple):
    """A decoded mask, before the mapping to train ids.

    Attributes:
      values: [h, w]: raw ids, uint8 or uint16, or colours, uint32, red + 2**8 * green + 2**16 * blue.
      by: what the values are: "value", or for a palette "index", "level" or "colour".
      palette: colour of each used index, if the mask is read by index.
    """

    values: np.ndarray
    by: str = "value"
    palette: Mapping[int, Color] = {}


def decode_mask(data: bytes, name: str, domain: Domain, layout: Layout, palettes: Palettes | None = None) -> np.ndarray:
    """Decode a PNG mask of a layout to train ids, uint8 [h, w], 255 = ignore.

    With `palettes`, its palette is compared with those of earlier masks.

    Raises:
      InputError: naming the file, if it is damaged, has another encoding or a value outside the class table.

    >>> from usss_jax.data.domains import get_domain
    >>> _, data = cv2.imencode(".png", np.array([[0, 11]], np.uint8))
    >>> decode_mask(data.tobytes(), "mask.png", get_domain("camvid"), get_domain("camvid").layouts[0]).tolist()
    [[0, 255]]
    """
    raw = decode_raw(data, name, domain, layout)
    if palettes is not None:
        palettes.check(raw.palette, name)
    return train_ids(raw, name, domain, layout)


def train_ids(raw: RawMask, name: str, domain: Domain, layout: Layout) -> np.ndarray:
    """Map raw values to train ids, uint8 [h, w]; raise InputError for values outside the class table.

    >>> from usss_jax.data.domains import get_domain
    >>> camvid = get_domain("camvid")  # 11 classes; raw id 11 is ignored
    >>> train_ids(RawMask(np.array([[0, 11]], np.uint8)), "mask.png", camvid, camvid.layouts[0]).tolist()
    [[0, 255]]
    """
    table, values = lookup_table(domain, layout), raw.values
    labels = cv2.LUT(values, table[:256]) if values.dtype == np.uint8 else table.take(values)
    if (labels == UNKNOWN).any():
        raise InputError(f"{name}: {_unknown(values, labels, raw.by, domain, layout)}")
    return labels


def decode_raw(data: bytes, name: str, domain: Domain, layout: Layout) -> RawMask:
    """Decode a PNG mask to raw values, by the table above.

    Raises:
      InputError: naming the file, if it is damaged or has another encoding.
    """
    domain = domain.original  # its colours decide on palettes
    header = read_header(data, name)
    if header.format != "PNG":
        raise InputError(
            f"{name}: is a JPEG file, whose compression changes class ids; create this mask again as PNG (converting "
            "the JPEG file keeps the wrong ids)"
        )
    check_upright(header, name)
    if layout.encoding == "color":
        return RawMask(_colors(data, name, header))
    if header.palette:
        return _of_palette(data, name, header, domain, layout)
    if header.channels == 1:
        mode = cv2.IMREAD_UNCHANGED if header.bits == 16 else cv2.IMREAD_GRAYSCALE
        levels = decode_pixels(data, name, mode)
        return RawMask(levels if header.bits >= 8 else _of_few_bits(levels, header.bits, name, layout))
    channels = _channels(data, name, header)
    if layout.encoding == "ids" and (channels != channels[:, :, :1]).any():
        raise InputError(f"{name}: has colours, not class ids; {_instead_of_colors(channels, header, domain, layout)}")
    return RawMask(np.ascontiguousarray(channels[:, :, 2]))


def _channels(data, name, header: Header):
    """Blue, green and red, [h, w, 3]; an alpha channel must be opaque."""
    if header.channels == 3:  # a transparent colour (tRNS) is ignored
        return decode_pixels(data, name, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    pixels = decode_pixels(data, name, cv2.IMREAD_UNCHANGED)
    if (pixels[:, :, 3] != np.iinfo(pixels.dtype).max).any():
        raise InputError(
            f"{name}: has transparent pixels, whose class is unclear; remove the alpha channel (mogrify -alpha off "
            "FILE)"
        )
    return pixels[:, :, :3]


def _colors(data, name, header: Header):
    """Colours as red + 2**8 * green + 2**16 * blue, uint32 [h, w]."""
    if header.bits > 8:
        raise InputError(f"{name}: has {header.bits} bits per channel; save colour masks with 8 bits")
    if header.palette:
        indices, entries, _ = _indices(data, name, header)
        table = np.zeros(256, np.uint32)
        table[: len(entries)] = [r | g << 8 | b << 16 for r, g, b in entries]
        return table.take(indices)
    if header.channels in (2, 4):
        _channels(data, name, header)
    pixels = cv2.cvtColor(decode_pixels(data, name, cv2.IMREAD_COLOR_RGB), cv2.COLOR_RGB2RGBA)
    return pixels.view("<u4")[:, :, 0] & 0xFFFFFF


def _of_few_bits(levels, bits, name, layout):
    """Ids of a grey PNG of 1, 2 or 4 bits, whose samples OpenCV scales to 0 to 255.

    Optimisers write such files for levels like 0 and 255, other software for ids like 0 and 1: the class table decides.
    """
    known = {i for ids in layout.raw_ids for i in ids} | set(layout.ignore_ids)
    spread = set(np.unique(levels).tolist())
    step = 255 // (2**bits - 1)
    fits = spread <= known, {level // step for level in spread} <= known
    if all(fits) and spread != {0}:
        raise InputError(
            f"{name}: a {bits}-bit mask, for which the table allows both the ids 0 to {2**bits - 1} and levels up "
            "to 255; save it with 8 bits, the ids as grey levels"
        )
    return levels // step if fits[1] else levels


def _of_palette(data, name, header, domain, layout) -> RawMask:
    indices, entries, used = _indices(data, name, header)
    if layout.encoding == "ids16":
        ids, by = [red for red, _, _ in entries], "value"
    else:
        ids, by = palette_ids(entries, used, name, domain, layout)
    table = np.zeros(256, np.uint8 if max(ids) < 256 else np.uint16)
    table[: len(ids)] = ids
    return RawMask(table.take(indices), by, {i: entries[i] for i in used} if by == "index" else {})


def _indices(data, name, header) -> tuple[np.ndarray, list[Color], list[int]]:
    """Indices [h, w] of a palette image, the colours of its palette, and the used indices."""
    # OpenCV has no mode for indices; they are stored like the samples of a grey image, and decoded as such.
    indices = decode_pixels(_as_grey(data), name, cv2.IMREAD_GRAYSCALE)
    if header.bits < 8:
        indices //= 255 // (2**header.bits - 1)
    colors = np.frombuffer(header.palette, np.uint8).reshape(-1, 3)
    used = np.flatnonzero(cv2.calcHist([indices], [0], None, [256], [0, 256])).tolist()
    if used[-1] >= len(colors):
        raise InputError(f"{name}: is damaged (index {used[-1]} is not in its palette); restore this file")
    return indices, [(int(r), int(g), int(b)) for r, g, b in colors], used


def _as_grey(data):
    """Convert a PNG file with a palette to one with the indices as grey levels."""
    (_, body), *others = [(kind, body) for kind, body in png_chunks(data) if kind in (b"IHDR", b"IDAT")]
    grey = [(b"IHDR", body[:9] + b"\0" + body[10:]), *others, (b"IEND", b"")]
    parts = [PNG_START]
    for kind, content in grey:
        check = zlib.crc32(content, zlib.crc32(kind))
        parts += [len(content).to_bytes(4, "big"), kind, content, check.to_bytes(4, "big")]
    return b"".join(parts)


# ---- messages ------------------------------------------------------------------------------------------


def _unknown(values, labels, by, domain, layout):
    """Message about raw ids or colours outside the class table."""
    raw = np.unique(values[labels == UNKNOWN])
    if layout.encoding == "color":
        colors = [(int(c) & 255, int(c) >> 8 & 255, int(c) >> 16) for c in raw]
        remedy = "correct the mask, or add the colours to classes or ignore_colors"
        if (labels < domain.num_classes).any():  # else no labeled pixel would remain
            remedy = f"{remedy.replace(', or', ',')}, or set other_colors: ignore"
        elif all(r == g == b for r, g, b in colors):
            remedy += ", or set encoding: ids, with ids for the classes, if its grey levels are class ids"
        return (
            f"colour {_first(colors)} not in the table of domain {domain.name!r}, which has "
            f"{', '.join(str(c.color) for c in domain.original.classes)} and to ignore "
            f"{', '.join(map(str, layout.ignore_colors)) or 'none'}; {remedy}"
        )
    known = np.flatnonzero(lookup_table(domain, layout) != UNKNOWN)
    kind = {"value": "raw id", "index": "palette index", "level": "grey level of the palette", "colour": "raw id"}[by]
    return (
        f"{kind} {_first(raw.tolist())} not in the table of domain {domain.name!r}, which has {_ranges(known)}; "
        "correct the mask or, in your own domain file, add the ids to classes or ignore_ids"
    )


def _instead_of_colors(channels, header, domain, layout):
    """Remedy for a mask of colours, [h, w, 3] in the order blue, green, red, where ids are expected."""
    remedies = []
    wide = channels.astype(np.uint64) // (257 if header.bits > 8 else 1)
    used = np.unique(wide[:, :, 2] | wide[:, :, 1] << 8 | wide[:, :, 0] << 16).tolist()
    colors = {(c & 255, c >> 8 & 255, c >> 16) for c in used} - {BLACK}
    of_classes = colors & {one.color for one in domain.classes}
    if of_classes:
        saved = "save it with 8 bits and " if header.bits > 8 else ""
        others = " and other_colors: ignore" if of_classes < colors else ""
        remedies.append(f"{saved}set encoding: color{others}, without ids and ignore_ids")
    if (lookup_table(domain, layout)[channels[:, :, 2]] != UNKNOWN).all():
        remedies.append("set encoding: ids16 if its first channel is the class")
    instead = f"; or, in your own domain file, {', or '.join(remedies)}" if remedies else ""
    return f"use a mask of class ids{instead}"


def _first(values):
    more = f" and {len(values) - 5} more" if len(values) > 5 else ""
    return ", ".join(map(str, values[:5])) + more + (" is" if len(values) == 1 else " are")


def _ranges(numbers):
    """Text such as "0-11, 255" for sorted numbers."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
