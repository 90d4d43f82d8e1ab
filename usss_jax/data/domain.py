"""An image domain: its classes, its files on disk, and the mapping from raw ids to train ids."""

import dataclasses
import functools

import numpy as np

from usss_jax.objectives import IGNORE

UNKNOWN = 254  # marks raw values outside the class table; hence at most 254 classes
ENCODINGS = ("ids", "color", "ids16")


@dataclasses.dataclass(frozen=True)
class LabelClass:
    """A class: its name and its RGB colour in pictures, and in masks of encoding "color"."""

    name: str
    color: tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Files:
    """The files of one split, below the domain's folder: by patterns (data/patterns.py), a list, or both.

    Attributes:
      images: pattern; without an extension, it matches any image format.
      masks: pattern; None: a split without labels.
      mask_shift: number in the mask's name minus the number in the image's.
      list_file: text file with a line "image [mask]" per image; with patterns, it selects from their images.
    """

    images: str = ""
    masks: str | None = None
    mask_shift: int = 0
    list_file: str | None = None


@dataclasses.dataclass(frozen=True)
class Layout:
    """One way in which a data set is stored on disk.

    Attributes:
      splits: files of each split.
      raw_ids: of each class; empty for encoding "color".
      ignore_ids, ignore_colors: raw ids and colours that mean ignore.
      encoding: "ids": class ids; "color": colours of the class table; "ids16": the class in the first channel
        (SYNTHIA). data/masks.py defines how each kind of file is read.
      other_colors: for "color": ignore colours outside the class table instead of raising an error.
      holdout: k: train and val share a folder; of the sorted ids the k-th, the 2k-th, ... are val and the others train,
        while a split of another name has all of them.
    """

    splits: dict[str, Files] = dataclasses.field(hash=False)
    raw_ids: tuple[tuple[int, ...], ...] = ()
    ignore_ids: tuple[int, ...] = ()
    ignore_colors: tuple[tuple[int, int, int], ...] = ()
    encoding: str = "ids"
    other_colors: bool = False
    holdout: int | None = None


@dataclasses.dataclass(frozen=True)
class MaskClasses:
    """Classes of masks that are mapped to other classes (data/class_map.py).

    Attributes:
      domain: the masks have its classes.
      train_ids: of each of these classes: its train id in the labels, 255 = ignore.
    """

    domain: "Domain"
    train_ids: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Domain:
    """One image domain with its label space.

    Attributes:
      name, title: for configs and for people.
      classes: in the order of the train ids.
      layouts: possible ways of storage.
      folder: below data.root, or an absolute path.
      size: (h, w) at which images are loaded.
      crop: (h, w) of training examples, at most `size`.
      val_split, test_split: splits that choose the checkpoint and that give the scores.
      unlabeled_splits: splits whose images are used without their masks.
      synthetic: split -> number of images of a synthetic domain; None: a data set on disk.
      how_to_get: instructions for error messages.
      mask_classes: if the labels are mapped to `classes`: the classes of the masks, which the layouts describe.
    """

    name: str
    title: str
    classes: tuple[LabelClass, ...]
    layouts: tuple[Layout, ...]
    folder: str
    size: tuple[int, int]
    crop: tuple[int, int]
    val_split: str = "val"
    test_split: str = "val"
    unlabeled_splits: tuple[str, ...] = ("train",)
    synthetic: dict[str, int] | None = dataclasses.field(default=None, hash=False)
    how_to_get: str = ""
    mask_classes: MaskClasses | None = None

    @property
    def original(self) -> "Domain":
        """The domain with the classes of the masks: this one, unless its labels are mapped."""
        return self if self.mask_classes is None else self.mask_classes.domain

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the train ids."""
        return tuple(c.name for c in self.classes)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits of all layouts."""
        if self.synthetic is not None:
            return tuple(self.synthetic)
        return tuple(dict.fromkeys(split for layout in self.layouts for split in layout.splits))


def parse_classes(table: str) -> tuple[LabelClass, ...]:
    """Parse classes from "name red green blue, name red green blue".

    >>> parse_classes("road 128 64 128, traffic sign 220 220 0")[1]
    LabelClass(name='traffic sign', color=(220, 220, 0))
    """
    rows = (row.rsplit(" ", 3) for row in table.split(", "))
    return tuple(LabelClass(name, (int(r), int(g), int(b))) for name, r, g, b in rows)


def map_labels(labels: np.ndarray, domain: Domain) -> np.ndarray:
    """Map train ids of domain.original, uint8 of any shape, to those of the domain; 254 and 255 stay.

    >>> from usss_jax.data.domains import get_domain
    >>> camvid = get_domain("camvid")
    >>> reversed_ids = MaskClasses(camvid, tuple(range(10, -1, -1)))
    >>> map_labels(np.array([0, 10, 255], np.uint8), dataclasses.replace(camvid, mask_classes=reversed_ids)).tolist()
    [10, 0, 255]
    """
    if domain.mask_classes is None:
        return labels
    table = np.arange(256, dtype=np.uint8)
    table[: domain.original.num_classes] = domain.mask_classes.train_ids
    return table[labels]


@functools.cache
def lookup_table(domain: Domain, layout: Layout) -> np.ndarray:
    """Train id of every raw id, uint8 [65536], or for encoding "color" of every colour, uint8 [2**24]; read-only.

    A colour is indexed by red + 2**8 * green + 2**16 * blue. Raw values outside the class table have UNKNOWN.

    >>> from usss_jax.data.domains import get_domain
    >>> camvid = get_domain("camvid")  # 11 classes; raw id 11 is ignored
    >>> lookup_table(camvid, camvid.layouts[0])[[0, 10, 11, 12]].tolist()
    [0, 10, 255, 254]
    """
    if layout.encoding == "color":
        classes = domain.original.classes
        train_ids = dict.fromkeys(layout.ignore_colors, IGNORE) | {c.color: i for i, c in enumerate(classes)}
        raw_ids = {r | g << 8 | b << 16: train_id for (r, g, b), train_id in train_ids.items()}
    else:
        raw_ids = dict.fromkeys(layout.ignore_ids, IGNORE) | {r: i for i, ids in enumerate(layout.raw_ids) for r in ids}
    other = IGNORE if layout.encoding == "color" and layout.other_colors else UNKNOWN
    table = np.full(1 << (24 if layout.encoding == "color" else 16), other, np.uint8)
    table[list(raw_ids)] = list(raw_ids.values())
    table = map_labels(table, domain)
    table.flags.writeable = False
    return table


def palette(domain: Domain) -> np.ndarray:
    """Return the colours of the train ids, uint8 [256, 3]; ignore and unused ids are black.

    >>> from usss_jax.data.domains import get_domain
    >>> palette(get_domain("camvid"))[:2].tolist()  # sky, building
    [[128, 128, 128], [128, 0, 0]]
    """
    colors = np.zeros((256, 3), np.uint8)
    colors[: domain.num_classes] = [c.color for c in domain.classes]
    return colors
