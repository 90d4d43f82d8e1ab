"""Rasterizes IDD's masks of level 3 from its official polygons.

Label names and ids are those of helpers/anue_labels.py of https://github.com/AutoNUE/public-code (level3Id).
"""

import json

import numpy as np
from PIL import Image, ImageDraw

from usss_jax.data.domain import IGNORE
from usss_jax.data.domains import get_domain
from usss_jax.errors import InputError

# The classes of the domain "idd" are the levels 0..25; these labels share the level of another name.
_SAME_LEVEL_AS = {
    "parking": "drivable fallback",
    "rail track": "non-drivable fallback",
    "animal": "person",
    "caravan": "vehicle fallback",
    "trailer": "vehicle fallback",
    "train": "vehicle fallback",
    "polegroup": "pole",
    "tunnel": "bridge",
    "fallback background": "sky",
}
_IGNORED = ("unlabeled", "ego vehicle", "rectification border", "out of roi", "license plate")


def _levels():
    levels = {name: level for level, name in enumerate(get_domain("idd").class_names)}
    levels |= {name: levels[other] for name, other in _SAME_LEVEL_AS.items()}
    return levels | dict.fromkeys(_IGNORED, IGNORE)


LEVEL3 = _levels()


def rasterize_level3(data: bytes, name: str) -> np.ndarray:
    """Rasterize the polygons of one JSON file, later ones over earlier ones: uint8 [h, w] of level3Id, 255 = ignore.

    Raises:
      InputError: naming the file, for a damaged file or an unknown label.
    """
    try:
        frame = json.loads(data)
        size = int(frame["imgWidth"]), int(frame["imgHeight"])
        objects = [(o["label"], o["polygon"]) for o in frame["objects"] if not o.get("deleted")]
        mask = Image.new("L", size, IGNORE)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{name}: is not a file of IDD polygons ({type(error).__name__}: {error}); restore this file or remove its "
            "id"
        ) from error
    drawing = ImageDraw.Draw(mask)
    for label, polygon in objects:
        level = _level(label, name)
        try:
            drawing.polygon([(x, y) for x, y in polygon], fill=level)
        except (ValueError, TypeError) as error:
            raise InputError(f"{name}: polygon of {label!r} is wrong ({error}); correct it or remove its id") from error
    return np.asarray(mask)


def _level(label, name):
    """Level of a label; a group ("cargroup") has the level of its members."""
    for known in (str(label), str(label).removesuffix("group")):
        if known in LEVEL3:
            return LEVEL3[known]
    raise InputError(f"{name}: label {label!r} is not one of IDD's; correct it or remove its id")
