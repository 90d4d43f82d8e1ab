"""The files of a round's pseudo-labels: written image by image, resumed, and read back.

A folder has `labels/ID.png` (train ids, 255 = ignore) and `confidences/ID.png` (255 times the confidence) for every
image, both 8-bit grey at the domain's size, and the manifest `pseudo_labels.json`, which is written first.
"""

import dataclasses
import json
import os
import pathlib
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from usss_jax.data.content import hash_of
from usss_jax.data.decode import decode_pixels, read_file
from usss_jax.data.domain import IGNORE, Domain
from usss_jax.data.headers import read_header
from usss_jax.data.pictures import save_png
from usss_jax.data.sizes import height_width
from usss_jax.errors import InputError
from usss_jax.local_files import read_object, reason, write_object

MANIFEST = "pseudo_labels.json"
LABELS, CONFIDENCES = "labels", "confidences"
_AGAIN = "remove {}, and run the command that made it again"


@dataclasses.dataclass(frozen=True)
class PseudoLabelFiles:
    """The files in a folder of pseudo-labels.

    Attributes:
      folder: the folder.
      domain: whose classes and size the files have.
    """

    folder: pathlib.Path
    domain: Domain

    def path(self, kind: str, key: str) -> pathlib.Path:
        """Return the file of an image, below the folder (`check_ids`); `kind` is LABELS or CONFIDENCES."""
        check_ids([key])
        return self.folder / kind / f"{key}.png"

    def write(self, key: str, label: np.ndarray, confidence: np.ndarray):
        """Write the files of one image, each atomically.

        Args:
          key: id of the image.
          label: train ids, uint8 [h, w], 255 = ignore.
          confidence: 255 times the confidence, uint8 [h, w].

        Raises:
          InputError: for an id that is not a path below a folder, or a file that cannot be written.
          ValueError: for another dtype, size or class.
        """
        pair = {CONFIDENCES: np.asarray(confidence), LABELS: np.asarray(label)}
        for kind, array in pair.items():
            if array.shape != tuple(self.domain.size) or array.dtype != np.uint8:
                raise ValueError(f"{kind} of {key}: {array.dtype} {array.shape} is not uint8 {self.domain.size}")
        if unknown := _unknown_classes(pair[LABELS], self.domain):
            raise ValueError(f"labels of {key}: {self.domain.name} has no classes {unknown}")
        for kind, array in pair.items():
            save_png(self.path(kind, key), array)

    def label(self, key: str) -> np.ndarray:
        """Read the label of an image, uint8 [h, w]; raise InputError, naming the file, if it is unusable."""
        label = self._read_grey(LABELS, key)
        if unknown := _unknown_classes(label, self.domain):
            raise InputError(
                f"{self.path(LABELS, key)}: has the train ids {unknown}, but {self.domain.name} has "
                f"{self.domain.num_classes} classes and 255 = ignore; {_AGAIN.format(self.folder)}"
            )
        return label

    def confidence(self, key: str) -> np.ndarray:
        """Read the confidence of an image, uint8 [h, w]; raise InputError, naming the file, if it is unusable."""
        return self._read_grey(CONFIDENCES, key)

    def _read_grey(self, kind, key):
        """Read an 8-bit grey PNG file at the domain's size, uint8 [h, w]; raise InputError, naming it, for others."""
        path, size, again = self.path(kind, key), self.domain.size, _AGAIN.format(self.folder)
        try:
            data = read_file(path)
            header = read_header(data, str(path))
            pixels = decode_pixels(data, str(path), cv2.IMREAD_GRAYSCALE)
        except InputError as error:
            raise InputError(f"{error}, or {again}") from error
        if (header.format, header.bits, header.channels, header.palette) != ("PNG", 8, 1, b""):
            raise InputError(f"{path}: is not an 8-bit grey PNG file; {again}")
        if header.size != tuple(size):
            raise InputError(
                f"{path}: is {height_width(header.size)}, not {height_width(size)} (height x width) like the manifest; "
                f"{again}"
            )
        return pixels

    def ids(self) -> list[str]:
        """List the ids that have a label or a confidence, sorted."""
        folders = [self.folder / kind for kind in (LABELS, CONFIDENCES)]
        found = {
            path.relative_to(one).as_posix().removesuffix(".png") for one in folders for path in one.rglob("*.png")
        }
        return sorted(found)

    def missing(self, ids: Iterable[str]) -> list[str]:
        """List the ids whose label or confidence is absent or unusable; reads all files."""
        return [key for key in ids if not self._is_usable(key)]

    def _is_usable(self, key):
        try:
            self.label(key)
            self.confidence(key)
        except InputError:
            return False
        return True


def create_folder(
    folder: str | os.PathLike, domain: Domain, ids: Sequence[str], settings: Mapping[str, Any]
) -> PseudoLabelFiles:
    """Start a folder of pseudo-labels, or resume one of the same content.

    Args:
      folder: created if needed.
      domain: whose images are labeled, at domain.size.
      ids: of all images.
      settings: how they are labeled (round, method, thresholds), as JSON without infinite numbers.

    Raises:
      InputError: for an id that is not a path below a folder, or if the folder holds pseudo-labels of other images,
        classes, sizes or settings, or of unknown origin.
      OSError: if the manifest cannot be written.

    >>> from usss_jax.data.domains import get_domain
    >>> room = get_domain("indoor_room")
    >>> files = create_folder("round1", room, ["00000", "00001"], {"round": 1})
    >>> files.write("00000", np.full(room.size, 255, np.uint8), np.zeros(room.size, np.uint8))
    >>> files.missing(["00000", "00001"])
    ['00001']
    """
    folder = pathlib.Path(folder)
    check_ids(ids)
    content = {**_content(domain, ids), "settings": dict(settings)}
    text = json.dumps(content, allow_nan=False)
    if (folder / MANIFEST).exists():
        _check_content(folder, json.loads(text))
    elif (folder / LABELS).exists() or (folder / CONFIDENCES).exists():
        raise InputError(f"{folder} has pseudo-labels but no {MANIFEST}; {_AGAIN.format(folder)}")
    else:
        write_object(folder / MANIFEST, content)
    return PseudoLabelFiles(folder, domain)


def open_folder(folder: str | os.PathLike, domain: Domain, ids: Sequence[str] | None = None) -> PseudoLabelFiles:
    """Open a folder of pseudo-labels of these images, None for any, with any settings.

    Raises:
      InputError: if the manifest is unreadable, or of other images, classes or sizes.
    """
    folder = pathlib.Path(folder)
    _check_content(folder, _content(domain, ids))
    return PseudoLabelFiles(folder, domain)


def read_manifest(folder: str | os.PathLike) -> dict[str, Any]:
    """Read {"domain", "classes", "size": [h, w], "images": their hash, "settings"} of a folder.

    Raises:
      InputError: if the manifest is absent or damaged.
    """
    path = pathlib.Path(folder) / MANIFEST
    try:
        found = read_object(path)
        if not isinstance(found.get("settings"), dict):
            raise ValueError("it has no settings")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({reason(error)}); give the folder of a labelling pass, or {_AGAIN.format(folder)}"
        ) from error
    return found


def check_ids(ids: Iterable[str]):
    """Raise InputError for an id that is not a path below a folder, or not its shortest form.

    >>> check_ids(["ulm/ulm_000001", "../secret"])
    Traceback (most recent call last):
    ...
    usss_jax.errors.InputError: id '../secret' names no file below the folder of pseudo-labels; rename the image
    """
    for key in ids:
        path = pathlib.PurePath(key)
        if path.anchor or ".." in path.parts or path.as_posix() != key or "\0" in key:
            raise InputError(f"id {key!r} names no file below the folder of pseudo-labels; rename the image")


def _content(domain: Domain, ids: Sequence[str] | None) -> dict[str, Any]:
    """The manifest without the settings, and without the images for None."""
    images = {} if ids is None else {"images": hash_of(ids)}
    return {"domain": domain.name, "classes": list(domain.class_names), "size": list(domain.size), **images}


def _check_content(folder: pathlib.Path, now: Mapping[str, Any]):
    """Raise InputError, saying what differs, unless the manifest agrees in all keys of `now`."""
    flat = [_flat({key: content.get(key) for key in now}) for content in (read_manifest(folder), now)]
    keys = [key for key in {**flat[0], **flat[1]} if flat[0].get(key) != flat[1].get(key)]
    if keys:
        told = (f"{key} was {_shown(flat[0].get(key))}, is now {_shown(flat[1].get(key))}" for key in keys)
        raise InputError(f"{folder} has other pseudo-labels: {'; '.join(told)}; {_AGAIN.format(folder)}")


def _flat(content):
    """The manifest with a key for each setting."""
    settings = {f"settings.{key}": value for key, value in content.get("settings", {}).items()}
    return {**{key: value for key, value in content.items() if key != "settings"}, **settings}


def _shown(value):
    return "absent" if value is None else textwrap.shorten(json.dumps(value), 80, placeholder=" ...")


def _unknown_classes(label: np.ndarray, domain: Domain) -> list[int]:
    unknown = (label >= domain.num_classes) & (label != IGNORE)
    return np.unique(label[unknown]).tolist()
