"""Draws coloured label maps, overlays, and grids that compare predictions."""

import dataclasses
import io
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from usss_jax.errors import InputError
from usss_jax.local_files import write_whole
from usss_jax.objectives import IGNORE

Legend = Sequence[tuple[str, tuple[int, int, int]]]  # name and colour of each class

_PAPER, _INK, _FRAME = (255, 255, 255), (32, 32, 32), (170, 170, 170)
_MIN_TILE = 160  # pixels; thin classes are lost on smaller tiles
_GAP = 10


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a comparison: its name and its tiles, each uint8 [h, w, 3], all of the same size."""

    name: str
    tiles: Sequence[np.ndarray]


def colorize(label: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Colour a label uint8 [h, w] by a palette uint8 [256, 3] as uint8 [h, w, 3]; ignore is always black.

    Raises:
      InputError: for a palette of another shape.

    >>> palette = np.zeros((256, 3), np.uint8)
    >>> palette[0] = 128, 64, 128
    >>> colorize(np.array([[0, 255]], np.uint8), palette).tolist()
    [[[128, 64, 128], [0, 0, 0]]]
    """
    if palette.shape != (256, 3):
        raise InputError(f"a palette must have the shape (256, 3), not {palette.shape}")
    colors = palette.astype(np.uint8)
    colors[IGNORE] = 0
    return colors[label]


def overlay(image: np.ndarray, label: np.ndarray, palette: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """Blend an image uint8 [h, w, 3] with its label's colours, weighted alpha, except where the label is ignore.

    Raises:
      InputError: if image and label differ in size.

    >>> image, palette = np.full((1, 2, 3), 100, np.uint8), np.full((256, 3), 200, np.uint8)
    >>> overlay(image, np.array([[0, 255]], np.uint8), palette)[0, :, 0].tolist()
    [150, 100]
    """
    _check_same_size(image, label)
    mixed = (1 - alpha) * image + alpha * colorize(label, palette)
    mixed = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    return np.where((label == IGNORE)[..., None], image, mixed)


def comparison(
    rows: Sequence[Row], column_titles: Sequence[str], legends: Mapping[str, Legend], scale: int | None = None
) -> np.ndarray:
    """Draw a grid of images, uint8 [h, w, 3].

    Args:
      rows: each with one tile per title.
      column_titles: above the grid.
      legends: by domain, below the grid.
      scale: enlargement of the first row's tiles, whose height all rows get; None: to at least 160 pixels.

    Raises:
      InputError: for rows without one tile per title, or with tiles of different sizes.
    """
    _check_rows(rows, column_titles, scale)
    native = rows[0].tiles[0].shape[0]
    height = native * (scale or -(-_MIN_TILE // native))
    text_size = min(28, max(15, height // 11))
    font = ImageFont.load_default(size=text_size)
    line = round(text_size * 1.7)
    strips = [[_enlarge(tile, height) for tile in row.tiles] for row in rows]
    titles = [round(font.getlength(title)) for title in column_titles]
    columns = [max(strip[0].width for strip in strips)] * len(titles)
    columns = [max(pair) for pair in zip(columns, titles, strict=True)]
    lefts = [line + _GAP + sum(columns[:i]) + i * _GAP for i in range(len(columns))]
    width = lefts[-1] + columns[-1] + _GAP
    entries, legend_height = _flow(legends, font, width, line)
    below = line + len(rows) * (height + _GAP)

    page = Image.new("RGB", (width, below + legend_height), _PAPER)
    draw = ImageDraw.Draw(page)
    for left, column, title in zip(lefts, columns, column_titles, strict=True):
        draw.text((left + column / 2, line / 2), title, _INK, font, anchor="mm")
    for i, (row, strip) in enumerate(zip(rows, strips, strict=True)):
        top = line + i * (height + _GAP)
        page.paste(_upright(row.name, font, line, height), (_GAP // 2, top))
        for left, column, tile in zip(lefts, columns, strip, strict=True):
            x = left + (column - tile.width) // 2
            page.paste(tile, (x, top))
            draw.rectangle((x - 1, top - 1, x + tile.width, top + height), outline=_FRAME)
    for x, y, text, color in entries:
        _draw_entry(draw, (x, below + y), text, color, font, line)
    return np.asarray(page)


def save_png(path: str | os.PathLike, array: np.ndarray, palette: np.ndarray | None = None) -> None:
    """Write uint8 [h, w, 3] or [h, w] as a PNG file, atomically; create the parent folder.

    With a palette uint8 [n, 3], values [h, w] are written as its indices.

    Raises:
      InputError: if the file cannot be written.
    """
    data, image = io.BytesIO(), Image.fromarray(array)
    if palette is not None:
        image.putpalette(palette.tobytes())
    image.save(data, format="PNG")
    try:
        write_whole(pathlib.Path(path), data.getvalue())
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None


def _check_same_size(first, second):
    if first.shape[:2] != second.shape[:2]:
        raise InputError(f"image and label must have the same size, not {first.shape[:2]} and {second.shape[:2]}")


def _check_rows(rows, titles, scale):
    if not rows or not titles:
        raise InputError("a comparison needs at least one row and one column")
    if scale is not None and (scale < 1 or scale != int(scale)):
        raise InputError(f"scale must be a positive integer, not {scale}")
    for row in rows:
        if len(row.tiles) != len(titles):
            raise InputError(f"row {row.name!r} has {len(row.tiles)} tiles for {len(titles)} columns")
        if len({tile.shape for tile in row.tiles}) > 1 or row.tiles[0].shape[2:] != (3,):
            raise InputError(f"the tiles of row {row.name!r} must be [h, w, 3] of the same size")


def _enlarge(tile, height):
    """Resize a tile to this height; nearest, as colours of labels must not mix."""
    width = max(1, round(tile.shape[1] * height / tile.shape[0]))
    return Image.fromarray(tile).resize((width, height), Image.Resampling.NEAREST)


def _upright(text, font, width, height):
    """Draw text that reads upwards, shrunk to the height of the tile."""
    size = min(font.size, font.size * height / max(1, font.getlength(text)))
    strip = Image.new("RGB", (height, width), _PAPER)
    font = ImageFont.load_default(size=max(8, size))
    ImageDraw.Draw(strip).text((height / 2, width / 2), text, _INK, font, anchor="mm")
    return strip.transpose(Image.Transpose.ROTATE_90)


def _flow(legends, font, width, line):
    """Lay out entries (x, y, text, colour) in lines of this width; return them and their height."""
    indent = _GAP + max((round(font.getlength(name)) for name in legends), default=0) + 2 * _GAP
    entries, y = [], 0
    for name, legend in legends.items():
        entries.append((_GAP, y, name, None))
        x = indent
        for text, color in legend:
            advance = line + round(font.getlength(text)) + _GAP
            if x + advance > width and x > indent:
                x, y = indent, y + line
            entries.append((x, y, text, color))
            x += advance
        y += line
    return entries, y + (_GAP // 2 if entries else 0)


def _draw_entry(draw, corner, text, color, font, line):
    (x, y), size = corner, round(font.size)
    middle = y + line / 2
    if color is not None:
        draw.rectangle((x, middle - size / 2, x + size, middle + size / 2), tuple(color), _FRAME)
        x += size + 5
    draw.text((x, middle), text, _INK, font, anchor="lm")
