"""MXNet's weight files, written by the description of their format."""

import struct

import numpy as np

DTYPES = ("float32", "float64", "float16", "uint8", "int32", "int8", "int64")
ENCODINGS = ("legacy", "V1", "V2")


def array_bytes(array, encoding="V2"):
    """One array, saved from GPU 1."""
    array = np.asarray(array)
    axes, code = array.ndim, "I" if encoding == "legacy" else "q"
    magic = {"legacy": b"", "V1": struct.pack("<I", 0xF993FAC8), "V2": struct.pack("<Ii", 0xF993FAC9, 0)}[encoding]
    head = magic + struct.pack(f"<I{axes}{code}", axes, *array.shape)
    return head + struct.pack("<3i", 2, 1, DTYPES.index(str(array.dtype))) + array.tobytes()


def mxnet_bytes(arrays, names):
    """A file of encoded arrays and their full names."""
    encoded = [name.encode() for name in names]
    strings = b"".join(struct.pack("<Q", len(name)) + name for name in encoded)
    return struct.pack("<3Q", 0x112, 0, len(arrays)) + b"".join(arrays) + struct.pack("<Q", len(names)) + strings


def mxnet_file(tensors, encoding="V2"):
    """A file of {name: array}, with running statistics as auxiliary states."""
    names = [("aux:" if "moving" in name else "arg:") + name for name in tensors]
    return mxnet_bytes([array_bytes(a, encoding) for a in tensors.values()], names)
