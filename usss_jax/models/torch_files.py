"""PyTorch's weight files (.pth, .pt), read without PyTorch and without executing anything from them.

Sizes are checked against the file before an array is made of it.
"""

import functools
import io
import pathlib
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from usss_jax.errors import InputError
from usss_jax.local_files import reason
from usss_jax.models.torch_pickle import BFLOAT16, Storage, Tensor, interpret, refused

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_MAX_EXPANSION = 4  # bytes of all tensors per byte of the file; above 1 if tensors share memory


def read_state_dict(file: pathlib.Path) -> dict[str, np.ndarray]:
    """Read a state dict, also one under "state_dict" or "model", from a file of torch.save in either of its formats.

    Returns:
      Contiguous arrays by name, in the shapes and dtypes of the file; bfloat16 becomes float32.

    Raises:
      InputError: if the file is damaged, asks for anything but tensors and plain values, or has no state dict.
      OSError: if the file cannot be read.

    >>> import pickle
    >>> size = pathlib.Path("weights.pth").write_bytes(pickle.dumps(print))
    >>> read_state_dict(pathlib.Path("weights.pth"))
    Traceback (most recent call last):
    usss_jax.errors.InputError: weights.pth: refused, nothing in it was executed: it asks for builtins.print; give ...
    """
    data = file.read_bytes()
    try:
        content, buffer_of = (_read_zip if data.startswith(b"PK") else _read_legacy)(data)
        state_dict = _find_state_dict(content)
        if sum(tensor.nbytes for tensor in state_dict.values()) > _MAX_EXPANSION * len(data):
            raise ValueError(f"its tensors need more than {_MAX_EXPANSION} times the bytes of the file")
        return {name: _to_array(tensor, buffer_of(tensor.storage.key)) for name, tensor in state_dict.items()}
    except InputError as e:
        raise InputError(f"{file}: {e}; give a state dict of tensors") from e
    except Exception as e:  # zipfile and pickletools raise various exceptions for a damaged file
        text = f"{file}: damaged, or not as torch.save writes it ({reason(e):.200}); restore it, or save it anew"
        raise InputError(text) from e


def _find_state_dict(content: Any) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content:
        raise InputError("no state dict, which is a mapping of names to tensors")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise InputError(f"{name!r:.80} is not a tensor")
    return content


def _to_array(tensor: Tensor, buffer) -> np.ndarray:
    dtype = tensor.storage.dtype
    wanted = np.dtype(np.float32) if dtype == BFLOAT16 else dtype  # float32 represents all its values
    if tensor.nbytes == 0:
        return np.zeros(tensor.shape, wanted)
    # The stride of an axis of length 1 may be any number.
    strides = [s * dtype.itemsize if n > 1 else 0 for n, s in zip(tensor.shape, tensor.strides, strict=True)]
    return np.ndarray(tensor.shape, dtype, buffer, tensor.offset * dtype.itemsize, strides).astype(wanted, order="C")


def _read_legacy(data: bytes) -> tuple[Any, Callable[[str], Any]]:
    """Pickles of magic number, version, system, object and keys of storages; then count and bytes of each storage."""
    stream, storages = io.BytesIO(data), dict[str, Storage]()
    if interpret(stream, storages) != _MAGIC or interpret(stream, storages) != _PROTOCOL:
        raise ValueError("it does not begin with the magic number of torch.save")
    system = interpret(stream, storages)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("its numbers are not little-endian")
    content, keys = interpret(stream, storages), interpret(stream, storages)
    if not isinstance(keys, list) or any(not isinstance(key, str) for key in keys) or sorted(keys) != sorted(storages):
        raise ValueError("its list of storages is not that of its tensors")
    places = {}
    for key in keys:
        if stream.read(8) != storages[key].count.to_bytes(8, "little"):
            raise ValueError(f"storage {key} has another size than its tensors declare")
        start = stream.tell()
        end = stream.seek(start + storages[key].nbytes)
        places[key] = memoryview(data)[start:end]
    if stream.tell() != len(data):
        raise ValueError("it does not end with its last storage")
    return content, places.__getitem__


def _read_zip(data: bytes) -> tuple[Any, Callable[[str], Any]]:
    """An archive of NAME/data.pkl (the object), NAME/data/KEY (a storage) and NAME/byteorder, not compressed."""
    archive, storages = zipfile.ZipFile(io.BytesIO(data)), dict[str, Storage]()
    entries = {entry.filename: entry for entry in archive.infolist()}
    pickles = [name for name in entries if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"its archive has {len(pickles)} files data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in entries:
        raise refused("is an archive of code (TorchScript)")
    if len(entries) != len(archive.infolist()) or sum(entry.file_size for entry in entries.values()) > len(data):
        raise ValueError("entries of its archive overlap")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
        raise ValueError("it is compressed")
    if f"{folder}byteorder" in entries and archive.read(f"{folder}byteorder") != b"little":
        raise ValueError("its numbers are not little-endian")
    content = interpret(io.BytesIO(archive.read(pickles[0])), storages)
    for key, storage in storages.items():
        entry = entries.get(f"{folder}data/{key}")
        if entry is None or entry.file_size != storage.nbytes:
            raise ValueError(f"storage {key} has another size than its tensors declare")
    return content, functools.cache(lambda key: archive.read(f"{folder}data/{key}"))
