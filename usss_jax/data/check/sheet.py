"""The contact sheet of a domain: some images of each split, with their masks as overlays."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from usss_jax.data import pictures, sources
from usss_jax.data.check.contents import DomainReport, SplitReport
from usss_jax.data.check.domain import spread
from usss_jax.data.decode import resize_image
from usss_jax.data.domain import palette
from usss_jax.data.examples import Examples
from usss_jax.errors import InputError

PER_SPLIT = 4
_AREA = 260 * 195  # pixels of one picture
_GAP = 4
_CAPTION = 22
_PAPER, _INK = (255, 255, 255), (32, 32, 32)


def draw_sheet(report: DomainReport) -> np.ndarray | None:
    """Draw PER_SPLIT usable images of each split, uint8 [h, w, 3]; None without any."""
    rows, masked, labels = [], False, "pseudo-label" if report.pictured else "mask"
    for split in report.splits.values():
        cards = [] if split.same_as else _cards(report, split)
        if cards:
            masked |= split.has_masks
            cards += [np.full_like(cards[0], 255)] * (PER_SPLIT - len(cards))
            rows.append(pictures.Row(split.name, cards))
    if not rows:
        return None
    title = f"image | its {labels} laid over it" if masked else "image"
    legend = [(c.name, c.color) for c in report.domain.classes]
    legends = {report.domain.name: [*legend, ("ignored: as in the image", (255, 255, 255))]}
    return pictures.comparison(rows, [title] * PER_SPLIT, legends, scale=1)


def _cards(report: DomainReport, split: SplitReport) -> list[np.ndarray]:
    ids = spread(split.usable(), PER_SPLIT)
    if not ids:
        return []
    cards: list[np.ndarray] = []
    try:
        source = report.pictured.select(ids) if report.pictured else _open(report, split, ids)
    except InputError:  # a split with unsupported images, which is a fault
        return cards
    for key, index in zip(ids, range(len(source)), strict=True):
        try:
            cards.append(_card(key, source[index], palette(report.domain)))
        except InputError:  # changed since the examination
            continue
    return cards


def _open(report: DomainReport, split: SplitReport, ids: Sequence[str]) -> Examples:
    return sources.open_source(
        report.domain, report.root, split.name, size=report.size, with_masks=split.has_masks, ids=ids
    )


def _card(key: str, example, colors) -> np.ndarray:
    """Draw an image, its overlay if it has a mask, and its id below."""
    image = example["image"]
    panels = [image]
    if "label" in example:
        panels.append(pictures.overlay(image, example["label"], colors, alpha=0.65))
    height, width = _panel(image.shape[:2])
    page = Image.new("RGB", (len(panels) * (width + _GAP) - _GAP, height + _CAPTION), _PAPER)
    for place, picture in enumerate(panels):
        page.paste(Image.fromarray(resize_image(picture, (height, width))), (place * (width + _GAP), 0))
    font = ImageFont.load_default(size=14)
    text = _shortened(key, font, page.width - 2 * _GAP)
    ImageDraw.Draw(page).text((page.width / 2, height + _CAPTION / 2), text, _INK, font, anchor="mm")
    return np.asarray(page)


def _panel(size):
    """Size (h, w) of a panel, of the same area for all domains."""
    factor = (_AREA / (size[0] * size[1])) ** 0.5
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _shortened(text, font, width):
    """The text, or its end if it is too long."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("..." + text) > width:
        text = text[1:]
    return "..." + text
