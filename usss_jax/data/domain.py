"""What a domain is: its classes, its files on disk, raw id -> train id."""

import dataclasses
import functools
import os

import numpy as np

IGNORE = 255
EXTENSIONS = (".png", ".jpg", ".jpeg")
ENCODINGS = ("ids", "color", "ids16")


@dataclasses.dataclass(frozen=True)
class LabelClass:
    """One class: its name and its RGB colour in pictures (and in masks of encoding "color")."""

    name: str
    color: tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Files:
    """Path templates of one split, relative to the domain's folder; `{id}` may span folders ("city/stem")."""

    images: str  # without an extension any of EXTENSIONS will do
    masks: str | None = None  # None: a split without labels
    mask_shift: int = 0  # the number in the mask's name minus the number in the image's


@dataclasses.dataclass(frozen=True)
class Layout:
    """One way in which a data set lies on disk.

    encoding "ids": grey levels or palette indices; "color": colours of the class table; "ids16": PNG of 8 or
    16 bits with the class in its first channel (SYNTHIA). holdout=k: train and val share a folder; of the
    sorted ids the k-th, the 2k-th, ... are val and the others train, while a split of another name has all
    of them.
    """

    splits: dict[str, Files] = dataclasses.field(hash=False)
    raw_ids: tuple[tuple[int, ...], ...] = ()  # per class; empty for "color"
    ignore_ids: tuple[int, ...] = ()
    ignore_colors: tuple[tuple[int, int, int], ...] = ()
    encoding: str = "ids"
    holdout: int | None = None


@dataclasses.dataclass(frozen=True)
class Domain:
    """One image domain with its label space; sizes are (h, w)."""

    name: str
    title: str
    classes: tuple[LabelClass, ...]
    layouts: tuple[Layout, ...]
    folder: str  # below data_root, or an absolute path
    size: tuple[int, int]  # images are loaded at
    crop: tuple[int, int]  # of it, for training
    select_split: str = "val"
    report_split: str = "val"
    synthetic: dict[str, int] | None = dataclasses.field(default=None, hash=False)  # split -> number of images
    how_to_get: str = ""

    @property
    def num_classes(self) -> int:
        """Number of train ids."""
        return len(self.classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in the order of the train ids."""
        return tuple(c.name for c in self.classes)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that some layout has."""
        if self.synthetic is not None:
            return tuple(self.synthetic)
        return tuple(dict.fromkeys(split for layout in self.layouts for split in layout.splits))


# ---- tables --------------------------------------------------------------------------------------------


def split_template(template: str) -> tuple[str, str, str, tuple[str, ...]]:
    """Split a path template into folder, text before `{id}`, text after it, and the extensions it allows."""
    extensions = tuple(e for e in EXTENSIONS if template.lower().endswith(e))
    stem = template[: -len(extensions[0])] if extensions else template
    before, tail = stem.split("{id}")
    folder, _, head = before.rpartition("/")
    return folder, head, tail, extensions or EXTENSIONS


def match_id(template: str, path: str) -> str | None:
    """Id of the file `path` (relative, "/" between folders) under `template`, None if it has another form."""
    folder, head, tail, extensions = split_template(template)
    inside = path.removeprefix(f"{folder}/") if folder else path
    stem, extension = os.path.splitext(inside)
    if (folder and inside == path) or extension.lower() not in extensions:
        return None
    if len(stem) <= len(head) + len(tail) or not (stem.startswith(head) and stem.endswith(tail)):
        return None
    return stem[len(head) : len(stem) - len(tail)]


@functools.cache
def lookup_table(domain: Domain, layout: Layout) -> np.ndarray:
    """Train id of every raw id, int16 [65536], read-only: 255 is ignore, -1 an id that the table lacks."""
    if layout.encoding == "color":
        raise ValueError("masks of encoding 'color' have colours, not ids: use color_table")
    table = np.full(65536, -1, np.int16)
    table[list(layout.ignore_ids)] = IGNORE
    for train_id, raw in enumerate(layout.raw_ids):
        table[list(raw)] = train_id
    table.flags.writeable = False
    return table


@functools.cache
def color_table(domain: Domain, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Colours as r * 65536 + g * 256 + b in rising order, int32 [n], and the train id of each, uint8 [n]."""
    ids = dict.fromkeys(layout.ignore_colors, IGNORE) | {c.color: i for i, c in enumerate(domain.classes)}
    codes = sorted((r << 16 | g << 8 | b, train_id) for (r, g, b), train_id in ids.items())
    return np.array([c for c, _ in codes], np.int32), np.array([t for _, t in codes], np.uint8)


def palette(domain: Domain) -> np.ndarray:
    """Colours of the train ids for pictures, uint8 [256, 3]; ignore and unused ids are black."""
    colors = np.zeros((256, 3), np.uint8)
    colors[: domain.num_classes] = [c.color for c in domain.classes]
    return colors
