"""Labeled images of a classification data set: random access to class folders and to tfds records."""

import dataclasses
import hashlib
import io
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from usss_jax.data.decode import decode_image, read_file
from usss_jax.data.examples import pick
from usss_jax.data.files import is_image
from usss_jax.data.folders import is_data
from usss_jax.data.headers import read_header
from usss_jax.data.patterns import EXTENSIONS, OTHER_FORMATS
from usss_jax.data.readable import readable
from usss_jax.data.records import RECORDS, import_tfds
from usss_jax.errors import InputError

TFDS_NAME = "imagenet2012"


@dataclasses.dataclass(frozen=True)
class ClassImages:
    """Images with one label each; example i is {"image": uint8 [h, w, 3], "label": int32 scalar}.

    Attributes:
      ids: names of the images, in order.
      read: id -> (encoded file, label, name for messages); thread-safe.
    """

    ids: Sequence[str]
    read: Callable[[str], tuple[bytes, int, str]]

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index) -> dict[str, np.ndarray]:
        data, label, name = self.read(self.ids[index])
        return {"image": decode_photo(data, name), "label": np.asarray(label, np.int32)}

    def select(self, ids: Iterable[str]) -> "ClassImages":
        """Restrict to the given ids, in their order; raises InputError for an unknown id."""
        known = dict.fromkeys(self.ids)
        return ClassImages(list(pick(known, ids, "this data set")), self.read)


@dataclasses.dataclass(frozen=True)
class DataSet:
    """Classes, in the order of their labels, and the images of both splits; `fingerprint` identifies the data set."""

    classes: tuple[str, ...]
    train: ClassImages
    val: ClassImages
    fingerprint: str

    def without_bad(self, threads: int) -> "DataSet":
        """Read every image once; leave out and report damaged ones. Raises InputError if none is left."""
        kept, bad = {}, []
        for split, source in (("train", self.train), ("val", self.val)):
            good, left_out = readable(source, split, threads)
            kept[split] = source.select(good.ids)
            bad += [f"without {split} {example.id}" for example in left_out]
        fingerprint = _hash([self.fingerprint, *bad]) if bad else self.fingerprint
        return DataSet(self.classes, kept["train"], kept["val"], fingerprint)


def open_data(data: str) -> DataSet:
    """Open "tfds:DIR" or a folder, but no image; raises InputError if something is missing."""
    if data.startswith(RECORDS):
        return open_tfds(pathlib.Path(data.removeprefix(RECORDS)).expanduser())
    return open_folders(pathlib.Path(data).expanduser())


def decode_photo(data: bytes, name: str) -> np.ndarray:
    """Decode a PNG or JPEG file to RGB, uint8 [h, w, 3]; raises InputError for a damaged file.

    Unlike `decode_image`, it converts CMYK to RGB and ignores the EXIF orientation, as is usual for ImageNet, which has
    a few of either.
    """
    header = read_header(data, name)
    if header.format == "PNG" or (header.channels < 4 and header.orientation == 1):
        return decode_image(data, name)
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(f"{name}: cannot be decoded ({error}); restore this file") from error


# ---- Folders of classes ----------------------------------------------------------------------------------


def open_folders(root: pathlib.Path) -> DataSet:
    """Open {train,val}/CLASS/IMAGE below root; labels number the sorted names of the class folders in train.

    Raises:
      InputError: for a missing folder, a class folder without images or with other files, images outside of class
        folders, and a class in val that train lacks.
    """
    ids = {split: list(_images_below(root / split)) for split in ("train", "val")}
    classes, of_val = (tuple(dict.fromkeys(key.partition("/")[0] for key in ids[s])) for s in ("train", "val"))
    if unknown := [name for name in of_val if name not in classes]:
        raise InputError(
            f"{root / 'val' / unknown[0]}: is not a class of {root / 'train'} ({len(classes)} classes, "
            f"{len(unknown)} unknown in val); rename the folder or add the class to train"
        )
    labels = {name: label for label, name in enumerate(classes)}

    def of_split(split: str) -> ClassImages:
        def read(key: str) -> tuple[bytes, int, str]:
            path = str(root / split / key)
            return read_file(path), labels[key.partition("/")[0]], path

        return ClassImages(ids[split], read)

    return DataSet(classes, of_split("train"), of_split("val"), _hash(f"{s}/{key}" for s in ids for key in ids[s]))


def _images_below(folder: pathlib.Path) -> Iterator[str]:
    """Yield CLASS/IMAGE, sorted as text by class and then by image."""
    found = _entries(folder)
    if images := [e.name for e in found if e.name.lower().endswith((*EXTENSIONS, *OTHER_FORMATS)) and not e.is_dir()]:
        raise InputError(
            f"{folder}: has images outside of class folders, such as {images[0]}; move each into that of its class"
        )
    names = [entry.name for entry in found if entry.is_dir()]
    if not names:
        raise InputError(f"{folder}: has no class folders; give {folder.name}/CLASS/IMAGE (.jpg, .jpeg or .png)")
    for name in names:
        files = _entries(folder / name)
        if wrong := [
            e.name for e in files if e.is_dir() or (not e.name.lower().endswith(EXTENSIONS) and is_image(e.path))
        ]:
            raise InputError(
                f"{folder / name / wrong[0]}: is neither PNG nor JPEG; convert it or move it out of the class folder"
            )
        images = [e.name for e in files if e.name.lower().endswith(EXTENSIONS)]
        if not images:
            raise InputError(f"{folder / name}: has no images (.jpg, .jpeg or .png); add some or remove the folder")
        yield from (f"{name}/{image}" for image in images)


def _entries(folder: pathlib.Path) -> list[os.DirEntry]:
    """Entries of a folder that may be data, sorted by name; raises InputError if it cannot be read."""
    try:
        with os.scandir(folder) as opened:
            entries = [entry for entry in opened if is_data(entry.name)]
    except OSError as error:
        raise InputError(
            f"{folder}: the folder cannot be read ({error.strerror}); data.root must have train/CLASS/IMAGE and "
            "val/CLASS/IMAGE"
        ) from error
    return sorted(entries, key=lambda entry: entry.name)


def _hash(texts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()[:16]


# ---- tfds records ----------------------------------------------------------------------------------------


def open_tfds(root: pathlib.Path) -> DataSet:
    """Open records of tfds's imagenet2012, or of a data set of the same form, as array_record (without TensorFlow).

    `root` is the data_dir of tfds or the folder of one version. The data set must have the splits train and validation
    and the features image and label. Labels are those of the records: for imagenet2012 the sorted synsets.

    Raises:
      InputError: if there is no such data set, or it has another form.
    """
    tfds = import_tfds()
    folder = _version_folder(root)
    try:
        builder = tfds.builder_from_directory(str(folder))
        splits, features = builder.info.splits, builder.info.features
        known = f"splits {', '.join(splits)} and features {', '.join(features)}"
        if not {"train", "validation"} <= set(splits) or not {"image", "label"} <= set(features):
            raise InputError(f"{folder}: has {known}; needed are train and validation, image and label")
        skip = {"image": tfds.decode.SkipDecoding()}
        rows = {s: builder.as_data_source(s, decoders=skip) for s in ("train", "validation")}
    except InputError:
        raise
    except Exception as error:  # of many types in tfds and its readers
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{folder}: cannot be read as array_record files of tfds ({reason}); prepare it again"
        ) from error
    of_records = (f"{builder.info.full_name} {s} {splits[s].shard_lengths}" for s in rows)
    train, val = (_tfds_images(folder, split, rows[split]) for split in rows)
    return DataSet(tuple(features["label"].names), train, val, _hash(of_records))


def _tfds_images(folder: pathlib.Path, split: str, rows: Sequence[Any]) -> ClassImages:
    def read(key: str) -> tuple[bytes, int, str]:
        name = f"{folder}: example {key} of split {split!r}"
        try:
            example = rows[int(key)]
        except (RuntimeError, OSError, ValueError, KeyError) as error:  # RuntimeError: a checksum is wrong
            reason = str(error).partition(";")[0]
            raise InputError(f"{name} cannot be read ({reason}); prepare the data set again") from error
        file = example.get("file_name", b"").decode(errors="replace")
        return example["image"], int(example["label"]), f"{name} ({file})" if file else name

    return ClassImages([str(row) for row in range(len(rows))], read)


def _version_folder(root: pathlib.Path) -> pathlib.Path:
    """Folder of the only prepared version at or below root."""
    if (root / "dataset_info.json").is_file():
        return root
    for pattern in (f"{TFDS_NAME}/[0-9]*/dataset_info.json", "[0-9]*/dataset_info.json"):  # which incomplete ones lack
        found = sorted(path.parent for path in root.glob(pattern))
        if len(found) > 1:
            raise InputError(
                f"{root}: has several data sets; give one of them: data.root=tfds:{found[0]} or tfds:{found[1]}"
            )
        if found:
            return found[0]
    raise InputError(
        f"{root}: has no tfds data set {TFDS_NAME}; prepare it where TensorFlow is installed (tfds build "
        f"{TFDS_NAME} --file_format=array_record --manual_dir=FOLDER_OF_THE_TAR_FILES --data_dir={root}), or give a "
        "folder with train/CLASS/IMAGE and val/CLASS/IMAGE"
    )
