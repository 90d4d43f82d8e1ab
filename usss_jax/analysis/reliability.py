"""The reliability curve as a picture: accuracy over confidence, and how the pixels spread over the confidence."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from usss_jax.analysis.heatmap import GAP, HIGH, INK, PAPER
from usss_jax.data.pictures import save_png

SIDE, STRIP, LEFT = 360, 72, 56  # pixels
GRID, BAR, MISSING = (225, 225, 225), tuple(HIGH.astype(int).tolist()), (230, 159, 0)


def draw_reliability(path: str | os.PathLike, bins: Sequence[Mapping[str, Any]], title: Sequence[str]) -> None:
    """Draw the accuracy of every bin, its distance to the mean confidence, and its share of the pixels below.

    Args:
      path: of the PNG.
      bins: of `evaluation.calibration.reliability`.
      title: lines above the curve.

    >>> bins = [{"from": 0.0, "to": 1.0, "pixels": 4, "confidence": 0.75, "accuracy": 0.5}]
    >>> draw_reliability("curve.png", bins, ["camvid", "ECE 25.00 %"])
    """
    font, small = ImageFont.load_default(size=14), ImageFont.load_default(size=12)
    title = [*title, "frames: from the accuracy to the mean confidence"]
    top = GAP + 20 * len(title) + GAP
    bottom, below = top + SIDE, top + SIDE + 2 * GAP + STRIP
    width = max(LEFT + SIDE + 2 * GAP, *(round(font.getlength(line)) + 2 * GAP for line in title))
    picture = Image.new("RGB", (width, below + 52), PAPER)
    draw = ImageDraw.Draw(picture)
    for i, line in enumerate(title):
        draw.text((GAP, GAP + 20 * i), line, INK, font)

    def at(share: float) -> int:
        return round(SIDE * share)

    for tick in np.linspace(0, 1, 6).tolist():
        x, y = LEFT + at(tick), bottom - at(tick)
        draw.line((LEFT, y, LEFT + SIDE, y), GRID)
        draw.line((x, top, x, below), GRID)
        draw.text((LEFT - GAP, y), f"{tick:.1f}", INK, small, anchor="rm")
        draw.text((x, below + 4), f"{tick:.1f}", INK, small, anchor="ma")
    most = max(one["pixels"] for one in bins) or 1
    for one in bins:
        left, right = LEFT + at(one["from"]) + 1, LEFT + at(one["to"]) - 1
        if one["pixels"]:
            accuracy, confidence = bottom - at(one["accuracy"]), bottom - at(one["confidence"])
            draw.rectangle((left, accuracy, right, bottom), BAR)
            draw.rectangle((left, min(accuracy, confidence), right, max(accuracy, confidence)), None, MISSING, 2)
            draw.rectangle((left, below - round(STRIP * one["pixels"] / most), right, below), BAR)
    draw.line((LEFT, bottom, LEFT + SIDE, top), INK, 1)
    for axis in ((LEFT, top, LEFT, bottom), (LEFT, bottom, LEFT + SIDE, bottom), (LEFT, below, LEFT + SIDE, below)):
        draw.line(axis, INK)
    draw.text((LEFT + SIDE / 2, below + 22), "confidence", INK, font, anchor="ma")
    upright = Image.new("RGB", (bottom - top, 18), PAPER)
    ImageDraw.Draw(upright).text((upright.width / 2, 9), "accuracy", INK, font, anchor="mm")
    picture.paste(upright.transpose(Image.Transpose.ROTATE_90), (GAP, top))
    draw.text((LEFT - GAP, below - STRIP / 2), "pixels", INK, small, anchor="rm")
    save_png(path, np.asarray(picture))
