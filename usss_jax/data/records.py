"""Random access to one split of records prepared by data_prep, like access to the original folder.

The records are a tfds data set; their metadata.json lists the domain, the size, the ids and the files.
"""

import difflib
import functools
import json
import operator
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

import cv2
import numpy as np

from usss_jax.data.content import differences, label_space
from usss_jax.data.decode import check_same_size, decode_image, resize_image, resize_label
from usss_jax.data.domain import IGNORE, Domain, map_labels
from usss_jax.data.examples import pick
from usss_jax.data.files import NoMasksError, give_masks
from usss_jax.data.headers import read_header
from usss_jax.data.sizes import height_width
from usss_jax.errors import InputError

RECORDS = "tfds:"  # prefix of a folder of prepared records


def open_records(
    domain: Domain,
    root: str,
    split: str,
    *,
    size: tuple[int, int] | None = None,
    with_masks: bool = True,
    ids: Iterable[str] | None = None,
    skip: Callable[[str, str], None] | None = None,
) -> "RecordSource":
    """Open one split of prepared records, at `size` (h, w) or at domain.size.

    `root` is "tfds:DIR": the --data_dir of data_prep, or the folder of one version in it. Records of the given size
    are preferred to those of the original size. `ids`, `with_masks` and `skip` are those of open_source.

    Raises:
      InputError: if records are missing, truncated, of another domain, or only of another size: resizing twice would
        give other pixels than resizing the original files once.
    """
    import_tfds()
    size = domain.size if size is None else size
    folder, metadata = _find_folder(domain, pathlib.Path(root.removeprefix(RECORDS)).expanduser(), size)
    check_label_space(folder, metadata, domain.original)
    known = metadata["splits"]
    if split not in known:
        close = difflib.get_close_matches(split, known, n=1)
        hint = f", did you mean {close[0]!r}?" if close else ";"
        raise InputError(f"{folder}: has no split {split!r}{hint} it has {', '.join(known)}")
    check_files(folder, known[split]["shards"])
    where = f"split {split!r} of domain {domain.name!r} in {folder}"
    if with_masks and not known[split]["labeled"]:
        raise NoMasksError(f"{where}: it has no labels", give_masks(split), split)
    rows = {key: row for row, key in enumerate(known[split]["ids"])}
    if ids is not None:
        rows = pick(rows, ids, where)
    bare = set(known[split]["without_label"]) if with_masks else ()
    for key in [key for key in rows if key in bare]:
        message = (
            f"{where}: {key!r} has no mask; set data.on_bad_example=skip, or add the mask, delete this folder and "
            "prepare it again"
        )
        if skip is None:
            raise InputError(message)
        skip(key, message)
        del rows[key]
    return RecordSource(domain, _Reader(str(folder), split), rows, size, with_masks)


def check_label_space(folder: pathlib.Path, metadata: Mapping[str, Any], domain: Domain):
    """Raise InputError, listing the differences, if records were prepared for other classes, ids or file patterns."""
    if "label_space" not in metadata:
        raise InputError(f"{folder}: was prepared by an older version; delete this folder and prepare it again")
    if changed := differences(metadata["label_space"], label_space(domain)):
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise InputError(
            f"{folder}: {domain.name} has changed since it was prepared: {'; '.join(changed[:3])}{more}; delete this "
            "folder and prepare it again, or restore the domain"
        )


def import_tfds() -> ModuleType:
    """Import tensorflow_datasets only when needed, as it takes half a second; raise InputError if not installed."""
    try:
        import tensorflow_datasets as tfds
        from array_record.python import array_record_module  # noqa: F401  # tfds imports it when it opens a file
    except ImportError as error:
        raise InputError(
            f"records need packages that are not installed ({error}): pip install 'usss_jax[records]', or use the "
            "original folder (there is no array_record for Windows)"
        ) from error
    return tfds


class RecordSource:
    """Images, and masks if `with_masks`, of one split of records; `rows` maps ids to positions in the records."""

    def __init__(
        self, domain: Domain, reader: "_Reader", rows: Mapping[str, int], size: tuple[int, int], with_masks: bool
    ):
        self.ids = list(rows)
        self._domain, self._reader, self._rows = domain, reader, dict(rows)
        self._size, self._with_masks = size, with_masks

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        record, name = self._read(index)
        image = decode_image(record["image"], name)
        example = {"image": resize_image(image, self._size)}
        if self._with_masks:
            label = _decode_label(record["label"], name, self._domain)
            check_same_size(label, image, name, "in the same record")
            example["label"] = resize_label(label, self._size)
        return example

    def label(self, index) -> np.ndarray:
        """Decode only the label of an example."""
        record, name = self._read(index)
        return resize_label(_decode_label(record["label"], name, self._domain), self._size)

    def file_size(self, index) -> tuple[int, int]:
        """Return (h, w) of the image in the record."""
        record, name = self._read(index)
        return read_header(record["image"], name).size

    def _read(self, index):
        key = self.ids[operator.index(index)]
        return self._reader.read(
            key, self._rows[key]
        ), f"{self._reader.folder}: {key!r} of split {self._reader.split!r}"

    def select(self, ids: Iterable[str]) -> "RecordSource":
        """Restrict to the given ids, in their order; raise InputError for an unknown id."""
        rows = pick(self._rows, ids, f"this source of domain {self._domain.name!r}")
        return RecordSource(self._domain, self._reader, rows, self._size, self._with_masks)


class _Reader:
    """Encoded examples of one split; threads may share it, a copy in another process reopens the files."""

    def __init__(self, folder: str, split: str):
        self.folder, self.split = folder, split

    @functools.cached_property
    def _examples(self) -> Sequence[Mapping[str, Any]]:
        tfds = import_tfds()
        skip = tfds.decode.SkipDecoding()
        builder = tfds.builder_from_directory(self.folder)
        return builder.as_data_source(self.split, decoders={"image": skip, "label": skip})

    def read(self, key: str, row: int) -> Mapping[str, Any]:
        """Read the example at position `row`, whose id must be `key`."""
        try:
            example = self._examples[row]
            found = example["id"].decode()
        except (RuntimeError, OSError, ValueError, KeyError) as error:  # RuntimeError: a checksum is wrong
            raise InputError(
                f"{self.folder}: {key!r} of split {self.split!r} cannot be read ({str(error).partition(';')[0]}); "
                "delete this folder and prepare it again"
            ) from error
        if found != key:
            raise InputError(
                f"{self.folder}: split {self.split!r} has {found!r} in the place of {key!r}; delete this folder and "
                "prepare it again"
            )
        return example

    def __reduce__(self):
        return _Reader, (self.folder, self.split)


def _decode_label(data, name, domain):
    label = cv2.imdecode(np.frombuffer(data or b"", np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if label is None or label.ndim != 2 or label.dtype != np.uint8:
        raise InputError(f"{name}: the label is not an 8-bit grey PNG; delete this folder and prepare it again")
    num_classes = domain.original.num_classes
    if wrong := np.unique(label[(label >= num_classes) & (label != IGNORE)]).tolist():
        raise InputError(
            f"{name}: label {wrong[0]}, but {domain.name} has 0-{num_classes - 1}; delete this folder and "
            "prepare it again"
        )
    return map_labels(label, domain)


# ---- which folder --------------------------------------------------------------------------------------


def _find_folder(domain, root, size):
    """Return the folder below root that fits domain and size best, and its metadata."""
    found = {}
    for depth in range(4):  # DATA_DIR/data set/config/version
        for path in sorted(root.glob("*/" * depth + "metadata.json")):
            hidden = any(part.startswith(".") for part in path.relative_to(root).parts)  # unfinished
            metadata = None if hidden else _read_metadata(path)
            if metadata and metadata["domain"] == domain.name:
                found[path.parent] = metadata
    if not found:
        raise InputError(
            f"{root}: no records of domain {domain.name!r}; prepare them with a module of data_prep, or give its "
            "--data_dir"
        )
    for wanted in (list(size), None):
        fitting = [item for item in found.items() if item[1]["size"] == wanted]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            folders = ", ".join(str(folder) for folder, _ in fitting)
            raise InputError(
                f"{root}: several records of domain {domain.name!r} fit {height_width(size)} (height x width); give "
                f"one folder of {folders}"
            )
    sizes = sorted({tuple(metadata["size"]) for metadata in found.values()})
    prepared = " and ".join(map(height_width, sizes))
    instead = " or ".join(f"data.image_size={domain.name}={height_width(one)}" for one in sizes)
    raise InputError(
        f"{root}: the records of domain {domain.name!r} are {prepared} (height x width), not {height_width(size)}; "
        f"prepare them again with --size={height_width(size)}, or train with {instead}"
    )


def _read_metadata(path):
    """Read metadata.json; return None if data_prep did not write it."""
    try:
        metadata = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); delete its folder and prepare it again") from error
    return metadata if isinstance(metadata, dict) and metadata.get("usss_jax_records") == 1 else None


def check_files(folder: pathlib.Path, shards: Mapping[str, int]):
    """Raise InputError for a file of `shards` (name -> bytes) that is missing or has another length."""
    for name, size in shards.items():
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path}: is missing; restore it, or delete its folder and prepare it again")
        if path.stat().st_size != size:
            raise InputError(
                f"{path}: is truncated: {path.stat().st_size} of {size} bytes; delete its folder and prepare it again"
            )
