"""Cosines of the label embeddings in a file: within and between domains, nearest classes, a heat map."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SEPARATE = (
    "The networks of the domains were trained separately, and the PCA of each domain has its own axes with arbitrary "
    "signs: the embeddings of two domains are in unrelated spaces of the same dimension. A cosine between domains says "
    "nothing about how similar two classes look; large cosines of either sign are common, because a few leading axes "
    "dominate every embedding. They still have an effect: the entropy module maps all pixels into one space, where "
    "pixels near an embedding are also near every embedding of another domain with a high cosine to it, whatever the "
    "two classes are. Cosines within a domain are meaningful."
)
COMMON = "The embeddings of all domains are in one space: cosines between domains are as meaningful as within a domain."
RANDOM = "The embeddings are random directions: their cosines mean nothing."
UNKNOWN = "The embeddings come from a file; whether cosines between domains mean anything depends on how it was made."

_PAPER, _INK = (255, 255, 255), (32, 32, 32)
_NEGATIVE, _POSITIVE = np.array([33, 82, 160]), np.array([178, 34, 34])
_GAP = 10


def compare(
    embeddings: Mapping[str, np.ndarray], meta: Mapping[str, Any], explained: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Compare the label embeddings of a file.

    Args:
      embeddings: per domain float [n, d], rows of unit length.
      meta: metadata of the file (methods/usss/label_embeddings.py).
      explained: share of variance of every principal component [d], for the domains that have a PCA.

    Returns:
      JSON-serialisable dict; "cosines" is the matrix of all "rows", named domain:class or domain:class:k.
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
    """Explain what cosines between domains mean for embeddings of this origin (see `label_embeddings.method`).

    >>> note("random: seed 0")
    'The embeddings are random directions: their cosines mean nothing.'
    """
    for start, text in (("prototypes:", SEPARATE), ("random:", RANDOM), ("words:", COMMON)):
        if method.startswith(start):
            return text
    return UNKNOWN


def row_names(domain: str, about: Mapping[str, Any]) -> list[str]:
    """Name the rows domain:class, with :k where classes have several rows.

    >>> row_names("city", {"classes": ["road", "road", "sky"]})
    ['city:road:0', 'city:road:1', 'city:sky:0']
    """
    classes = list(about["classes"])
    if len(set(classes)) == len(classes) and "kmeans" not in about:
        return [f"{domain}:{name}" for name in classes]
    return [f"{domain}:{name}:{classes[:i].count(name)}" for i, name in enumerate(classes)]


def cosine_matrix(embeddings: Mapping[str, np.ndarray]) -> np.ndarray:
    """Cosines between all rows of all domains, float64 [N, N].

    >>> cosine_matrix({"city": np.eye(2), "town": np.array([[-3.0, 0.0]])}).tolist()
    [[1.0, 0.0, -1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 1.0]]
    """
    rows = np.concatenate([np.asarray(e, np.float64) for e in embeddings.values()])
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return rows @ rows.T


def nearest_classes(embeddings: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """For every class, the nearest class of every other domain, by the largest cosine between their rows.

    >>> embeddings = {"city": np.array([[1.0, 0.0]]), "town": np.array([[0.6, 0.8], [0.0, 1.0]])}
    >>> meta = {"domains": {"city": {"classes": ["road"]}, "town": {"classes": ["street", "sky"]}}}
    >>> nearest_classes(embeddings, meta)["city:road"]
    {'town': {'class': 'street', 'cosine': 0.6}}
    """
    out: dict[str, dict[str, Any]] = {}
    for domain in embeddings:
        classes = np.array(meta["domains"][domain]["classes"])
        for name in dict.fromkeys(classes.tolist()):
            own = np.asarray(embeddings[domain][classes == name], np.float64)
            out[f"{domain}:{name}"] = {
                other: {
                    "class": meta["domains"][other]["classes"][int((own @ rows.T).max(0).argmax())],
                    "cosine": round(float((own @ rows.T).max()), 4),
                }
                for other, rows in embeddings.items()
                if other != domain and len(rows)
            }
    return out


def draw_cosines(cosines: np.ndarray, names: Sequence[str], groups: Sequence[int]) -> np.ndarray:
    """Draw a labelled heat map uint8 [h, w, 3], from blue (-1) over white (0) to red (1).

    Args:
      cosines: [N, N].
      names: of the N rows.
      groups: number of rows of every domain, in order; lines separate the domains.
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
    """Colour values from -1 (blue) over 0 (white) to 1 (red): [h, w] -> uint8 [h, w, 3].

    >>> colors(np.array([[-1.0, 0.0, 1.0]])).tolist()
    [[[33, 82, 160], [255, 255, 255], [178, 34, 34]]]
    """
    strength = np.clip(np.abs(cosines), 0, 1)[..., None]
    end = np.where(np.asarray(cosines)[..., None] < 0, _NEGATIVE, _POSITIVE)
    return np.rint(255 + strength * (end - 255.0)).astype(np.uint8)
