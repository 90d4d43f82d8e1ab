"""What a domain is: its classes, its files on disk, raw id -> train id."""

import dataclasses
import functools

import numpy as np

from usss_jax.objectives import IGNORE

UNKNOWN = 254  # marks what no class table has, so that there are at most 254 classes
ENCODINGS = ("ids", "color", "ids16")


@dataclasses.dataclass(frozen=True)
class LabelClass:
    """One class: its name and its RGB colour in pictures (and in masks of encoding "color")."""

    name: str
    color: tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Files:
    """Where the files of one split are, below the domain's folder: by patterns (data/patterns.py), a list or both."""

    images: str = ""  # pattern; without an extension any will do
    masks: str | None = None  # None: a split without labels
    mask_shift: int = 0  # the number in the mask's name minus the number in the image's
    list_file: str | None = None  # text file: with patterns a line for each of their images that is wanted, else
    # with a line "image [mask]" for each image


@dataclasses.dataclass(frozen=True)
class Layout:
    """One way in which a data set lies on disk.

    encoding "ids": class ids; "color": colours of the class table; "ids16": the class in the first channel (SYNTHIA);
    data/masks.py says how each kind of file is read. other_colors: colours that the table lacks are ignored, not an
    error. holdout=k: train and val share a folder; of the sorted ids the k-th, the 2k-th, ... are val and the others
    train, while a split of another name has all of them.
    """

    splits: dict[str, Files] = dataclasses.field(hash=False)
    raw_ids: tuple[tuple[int, ...], ...] = ()  # per class; empty for "color"
    ignore_ids: tuple[int, ...] = ()
    ignore_colors: tuple[tuple[int, int, int], ...] = ()
    encoding: str = "ids"
    other_colors: bool = False  # of "color": ignore every other one
    holdout: int | None = None


@dataclasses.dataclass(frozen=True)
class Domain:
    """One image domain with its label space; sizes are (h, w)."""

    name: str
    title: str
    classes: tuple[LabelClass, ...]
    layouts: tuple[Layout, ...]
    folder: str  # below data.root, or an absolute path
    size: tuple[int, int]  # images are loaded at
    crop: tuple[int, int]  # of it, for training
    val_split: str = "val"
    test_split: str = "val"
    unlabeled_splits: tuple[str, ...] = ("train",)  # whose images are used without their masks
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


@functools.cache
def lookup_table(domain: Domain, layout: Layout) -> np.ndarray:
    """Train id of every raw id of masks, uint8 [65536], read-only; UNKNOWN for an id that the class table lacks.

    For encoding "color" it is the train id of every colour, uint8 [2**24]: red + 2**8 * green + 2**16 * blue.
    """
    if layout.encoding == "color":
        train_ids = dict.fromkeys(layout.ignore_colors, IGNORE) | {c.color: i for i, c in enumerate(domain.classes)}
        raw_ids = {r | g << 8 | b << 16: train_id for (r, g, b), train_id in train_ids.items()}
    else:
        raw_ids = dict.fromkeys(layout.ignore_ids, IGNORE) | {r: i for i, ids in enumerate(layout.raw_ids) for r in ids}
    other = IGNORE if layout.encoding == "color" and layout.other_colors else UNKNOWN
    table = np.full(1 << (24 if layout.encoding == "color" else 16), other, np.uint8)
    table[list(raw_ids)] = list(raw_ids.values())
    table.flags.writeable = False
    return table


def palette(domain: Domain) -> np.ndarray:
    """Colours of the train ids for pictures, uint8 [256, 3]; ignore and unused ids are black."""
    colors = np.zeros((256, 3), np.uint8)
    colors[: domain.num_classes] = [c.color for c in domain.classes]
    return colors
