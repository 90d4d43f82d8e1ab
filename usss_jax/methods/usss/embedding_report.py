"""What a file of label embeddings looks like: cosines within and between domains, nearest classes, a heat map."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SEPARATE = (
    "The domains' networks were trained separately, and each domain's PCA has axes of its own, whose signs are "
    "arbitrary: the rows of two domains live in unrelated spaces that share no more than their dimension. A cosine "
    "between domains says nothing about how alike two classes look; large ones are common, of either sign, because a "
    "few leading axes hold most of every row. They are not without effect: the entropy module maps all pixels into "
    "one space, where rows of two domains with a high cosine are easily chosen together, whatever they mean. Cosines "
    "within a domain can be compared."
)
COMMON = "The rows of all domains were made in one space: cosines between domains can be compared like those within."
RANDOM = "The rows are random directions: no cosine means anything."
UNKNOWN = "The rows are those of a file; whether cosines between domains mean anything depends on how it was made."

_PAPER, _INK = (255, 255, 255), (32, 32, 32)
_NEGATIVE, _POSITIVE = np.array([33, 82, 160]), np.array([178, 34, 34])
_GAP = 10


def report(
    embeddings: Mapping[str, np.ndarray], meta: Mapping[str, Any], explained: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Build the report of a file of label embeddings.

    Args:
      embeddings: per domain float [n, d], rows of unit length.
      meta: what the file says (methods/usss/label_embeddings.py).
      explained: per domain the share of variance of every principal component [d]; domains without PCA are left out.

    Returns:
      JSON-ready dict; "cosines" is the matrix of all "rows", whose names are domain:class or domain:class:k.
    """
    names = {domain: row_names(domain, meta["domains"][domain]) for domain in embeddings}
    cosines = cosine_matrix(embeddings)
    return {
        "method": meta.get("method"),
        "note": note(str(meta.get("method"))),
        "rows": [name for of_domain in names.values() for name in of_domain],
        "cosines": [[round(float(c), 4) for c in row] for row in cosines],
        "nearest": nearest_classes(embeddings, meta),
        "domains": {domain: _of_domain(meta["domains"][domain], explained.get(domain)) for domain in embeddings},
    }


def _of_domain(about: Mapping[str, Any], explained: np.ndarray | None) -> dict[str, Any]:
    out = {name: about[name] for name in ("absent", "counts", "kmeans", "checkpoint") if name in about}
    if explained is not None:
        out["explained_variance"] = [round(float(x), 6) for x in explained]
        out["explained_variance_cumulative"] = [round(float(x), 6) for x in np.cumsum(explained)]
    return out


def note(method: str) -> str:
    """What cosines between domains mean, by how the embeddings were made."""
    for start, text in (("prototypes:", SEPARATE), ("random:", RANDOM), ("words:", COMMON)):
        if method.startswith(start):
            return text
    return UNKNOWN


def row_names(domain: str, about: Mapping[str, Any]) -> list[str]:
    """Name every row: domain:class, with :k where classes have several rows."""
    classes = list(about["classes"])
    if len(set(classes)) == len(classes) and "kmeans" not in about:
        return [f"{domain}:{name}" for name in classes]
    return [f"{domain}:{name}:{classes[:i].count(name)}" for i, name in enumerate(classes)]


def cosine_matrix(embeddings: Mapping[str, np.ndarray]) -> np.ndarray:
    """Cosines between all rows of all domains, float64 [N, N]."""
    rows = np.concatenate([np.asarray(e, np.float64) for e in embeddings.values()])
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return rows @ rows.T


def nearest_classes(embeddings: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """For every class and every other domain its nearest class there, by the largest cosine of their rows."""
    out: dict[str, dict[str, Any]] = {}
    for domain in embeddings:
        classes = np.array(meta["domains"][domain]["classes"])
        for name in dict.fromkeys(classes.tolist()):
            mine = np.asarray(embeddings[domain][classes == name], np.float64)
            out[f"{domain}:{name}"] = {
                other: {
                    "class": meta["domains"][other]["classes"][int((mine @ rows.T).max(0).argmax())],
                    "cosine": round(float((mine @ rows.T).max()), 4),
                }
                for other, rows in embeddings.items()
                if other != domain and len(rows)
            }
    return out


def draw_cosines(cosines: np.ndarray, names: Sequence[str], groups: Sequence[int]) -> np.ndarray:
    """Draw a labelled heat map uint8 [h, w, 3]: blue -1, white 0, red 1.

    Args:
      cosines: [N, N].
      names: of the N rows.
      groups: rows of every domain, in order; lines are drawn between them.
    """
    cell = int(np.clip(1100 // max(1, len(names)), 11, 24))
    font = ImageFont.load_default(size=max(10, cell - 4))
    margin = max(round(font.getlength(name)) for name in names) + 2 * _GAP
    side = cell * len(names)
    width, height = max(margin + side + _GAP, margin + 320), margin + side + 2 * _GAP + 3 * cell
    page = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(page)
    page.paste(Image.fromarray(colors(cosines)).resize((side, side), Image.Resampling.NEAREST), (margin, margin))
    for i, name in enumerate(names):
        middle = margin + cell * i + cell / 2
        draw.text((margin - _GAP // 2, middle), name, _INK, font, anchor="rm")
        strip = Image.new("RGB", (margin, cell), _PAPER)
        ImageDraw.Draw(strip).text((_GAP // 2, cell / 2), name, _INK, font, anchor="lm")
        page.paste(strip.transpose(Image.Transpose.ROTATE_90), (margin + cell * i, 0))
    for edge in np.cumsum([0, *groups]):
        at = margin + cell * int(edge)
        draw.line((margin, at, margin + side, at), _INK, 2)
        draw.line((at, margin, at, margin + side), _INK, 2)
    scale = colors(np.linspace(-1, 1, 201)[None])
    top = margin + side + _GAP
    page.paste(Image.fromarray(scale).resize((300, cell), Image.Resampling.NEAREST), (margin, top))
    for value in (-1, 0, 1):
        draw.text((margin + 150 + 145 * value, top + 1.5 * cell + 2), f"{value}", _INK, font, anchor="mm")
    return np.asarray(page)


def colors(cosines: np.ndarray) -> np.ndarray:
    """Colour values from -1 (blue) over 0 (white) to 1 (red): [h, w] -> uint8 [h, w, 3]."""
    strength = np.clip(np.abs(cosines), 0, 1)[..., None]
    end = np.where(np.asarray(cosines)[..., None] < 0, _NEGATIVE, _POSITIVE)
    return np.rint(255 + strength * (end - 255.0)).astype(np.uint8)
