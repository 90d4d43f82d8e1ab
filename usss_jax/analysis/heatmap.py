"""A matrix of shares as a picture."""

import os
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from usss_jax.data.pictures import save_png

CELL, GAP = 30, 8  # pixels
PAPER, INK = (255, 255, 255), (32, 32, 32)
LOW, HIGH = np.array([255, 255, 255.0]), np.array([8, 64, 129.0])


def draw_heatmap(
    path: str | os.PathLike, shares: np.ndarray, rows: Sequence[str], columns: Sequence[str], title: str
) -> None:
    """Draw shares [R, C] from 0 to 1 as cells with their per cent, from 1 on, with the names of rows and columns.

    >>> draw_heatmap("map.png", np.array([[0.25, 0.75]]), ["road"], ["sky", "road"], "a as b sees it")
    """
    font, small = ImageFont.load_default(size=14), ImageFont.load_default(size=12)
    left = GAP + max(round(font.getlength(name)) for name in rows) + GAP
    top = 3 * GAP + 14 + max(round(font.getlength(name)) for name in columns) + GAP
    width = max(left + CELL * len(columns) + GAP, 2 * GAP + round(font.getlength(title)))
    picture = Image.new("RGB", (width, top + CELL * len(rows) + GAP), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((GAP, GAP), title, INK, font)
    for j, name in enumerate(columns):
        strip = Image.new("RGB", (round(font.getlength(name)) + 2, CELL), PAPER)
        ImageDraw.Draw(strip).text((1, CELL / 2), name, INK, font, anchor="lm")
        upright = strip.transpose(Image.Transpose.ROTATE_90)
        picture.paste(upright, (left + CELL * j, top - GAP // 2 - upright.height))
    for i, name in enumerate(rows):
        draw.text((left - GAP, top + CELL * (i + 0.5)), name, INK, font, anchor="rm")
        for j, share in enumerate(shares[i]):
            color = tuple(np.round(LOW + (HIGH - LOW) * share).astype(int).tolist())
            box = (left + CELL * j, top + CELL * i, left + CELL * (j + 1) - 1, top + CELL * (i + 1) - 1)
            draw.rectangle(box, color, (225, 225, 225))
            if share >= 0.01:
                middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
                draw.text(middle, f"{100 * share:.0f}", PAPER if share > 0.5 else INK, small, anchor="mm")
    save_png(path, np.asarray(picture))
