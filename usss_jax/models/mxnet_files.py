"""MXNet's weight files (.params), read without MXNet.

All numbers are little-endian. A file is a header, a list of arrays and the list of their names. Sizes are checked
against the file before an array is made of it.
"""

import math
import pathlib
import struct

import numpy as np

from usss_jax.errors import InputError
from usss_jax.local_files import reason

_MAGIC = 0x112
_V1, _V2 = 0xF993FAC8, 0xF993FAC9  # begin an array; in the oldest encoding the number of its axes does
_MAX_AXES = 32
_DTYPES = ("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8")
_PREFIXES = ("arg:", "aux:")  # of parameters and of running statistics


def read_params(file: pathlib.Path) -> dict[str, np.ndarray]:
    """Read the arrays of a .params file by their names, without "arg:" and "aux:".

    Returns:
      Contiguous arrays in the shapes and dtypes of the file; an array without axes is empty.

    Raises:
      InputError: if the file is damaged, of another kind, or has arrays that are not dense or of an unknown dtype.
      OSError: if the file cannot be read.

    >>> size = pathlib.Path("weights.params").write_bytes(b"not a list of arrays")
    >>> read_params(pathlib.Path("weights.params"))
    Traceback (most recent call last):
    usss_jax.errors.InputError: weights.params: damaged, or not as MXNet writes it (it does not begin with ...
    """
    stream = _Stream(file.read_bytes())
    try:
        return _read(stream)
    except ValueError as e:
        raise InputError(f"{file}: damaged, or not as MXNet writes it ({reason(e):.200}); restore this file") from e


class _Stream:
    """Bytes that are read from front to back; every read raises ValueError beyond their end."""

    def __init__(self, data: bytes):
        self.data, self.position = data, 0

    def take(self, count: int) -> memoryview:
        start, end = self.position, self.position + count
        if end > len(self.data):
            raise ValueError(f"it ends after {len(self.data)} bytes, but declares {end} or more")
        self.position = end
        return memoryview(self.data)[start:end]

    def integers(self, code: str) -> tuple[int, ...]:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))

    def integer(self, code: str) -> int:
        return self.integers(code)[0]


def _read(stream: _Stream) -> dict[str, np.ndarray]:
    if stream.data[:16] != struct.pack("<QQ", _MAGIC, 0):
        raise ValueError("it does not begin with the magic number of a list of arrays")
    stream.take(16)
    # A loop, which stops at the end of the file whatever number of arrays it declares.
    arrays = [_read_array(stream) for _ in range(stream.integer("Q"))]
    if (count := stream.integer("Q")) != len(arrays):
        raise ValueError(f"it has {len(arrays)} arrays but {count} names")
    named = {}
    for array in arrays:
        name = bytes(stream.take(stream.integer("Q"))).decode()
        if not name.startswith(_PREFIXES):
            raise ValueError(f"the name {name!r:.80} does not begin with arg: or aux:")
        name = name[len(_PREFIXES[0]) :]
        if name in named:
            raise ValueError(f"the name {name!r:.80} is given twice")
        named[name] = array
    if stream.position != len(stream.data):
        raise ValueError("it does not end with its last name")
    return named


def _read_array(stream: _Stream) -> np.ndarray:
    magic = stream.integer("I")
    if magic == _V2 and (storage := stream.integer("i")) != 0:
        raise ValueError(f"an array is not dense but of storage type {storage}")
    axes, code = (stream.integer("I"), "q") if magic in (_V1, _V2) else (magic, "I")
    if axes > _MAX_AXES:
        raise ValueError(f"an array has {axes} axes, or an unknown encoding")
    if axes == 0:
        return np.zeros(0, np.float32)  # nothing follows, not even a dtype
    shape = stream.integers(f"{axes}{code}")
    if min(shape) < 0:
        raise ValueError(f"an array has the shape {shape}")
    _, _, kind = stream.integers("3i")  # type and number of the device that it was saved from, dtype
    if not 0 <= kind < len(_DTYPES):
        raise ValueError(f"an array has the unknown dtype {kind}")
    dtype = np.dtype(_DTYPES[kind])
    data = stream.take(math.prod(shape) * dtype.itemsize)
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))
