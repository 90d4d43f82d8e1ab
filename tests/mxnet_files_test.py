"""MXNet's weight files: the three encodings of an array, damaged files, and files made to fill the memory."""

import struct
import tracemalloc

import numpy as np
import pytest
import small_files
from mxnet_writer import DTYPES, ENCODINGS, array_bytes, mxnet_bytes, mxnet_file

from usss_jax.errors import InputError
from usss_jax.models.mxnet_files import read_params
from usss_jax.models.pretrained import load_file

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3) / 4
EMPTY = struct.pack("<IiI", 0xF993FAC9, 0, 0)


@pytest.fixture
def read(tmp_path):
    return small_files.reader(read_params, tmp_path / "weights.params")


def test_a_file_written_out_byte_by_byte(read):
    """One array of two float16 in the oldest encoding: its number of axes comes first."""
    data = (
        b"\x12\x01\0\0\0\0\0\0" + b"\0" * 8 + b"\x01\0\0\0\0\0\0\0"  # magic, reserved, one array
        b"\x01\0\0\0\x02\0\0\0" + b"\x01\0\0\0\0\0\0\0" + b"\x02\0\0\0" + b"\x00\x3c\x00\xc1"  # axes, CPU 0, dtype
        b"\x01\0\0\0\0\0\0\0" + b"\x05\0\0\0\0\0\0\0" + b"aux:a"
    )
    got = read(data)
    assert got["a"].dtype == np.float16 and {name: a.tolist() for name, a in got.items()} == {"a": [1.0, -2.5]}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_and_dtype_is_read(read, encoding):
    tensors = {dtype: np.array([[0, 1, 100], [3, 1, 0]], dtype) for dtype in DTYPES}
    tensors |= {"moving_mean": WEIGHT[0], "none": np.zeros((0, 3), np.float32)}
    got = read(mxnet_file(tensors, encoding))
    assert list(got) == list(tensors)
    for name, array in tensors.items():
        np.testing.assert_array_equal(got[name], array, strict=True)
        assert got[name].flags.c_contiguous and got[name].flags.writeable


@pytest.mark.parametrize("empty", [EMPTY, struct.pack("<2I", 0xF993FAC8, 0), struct.pack("<I", 0)])
def test_nothing_follows_an_array_without_axes(read, empty):
    got = read(mxnet_bytes([empty, array_bytes(WEIGHT)], ["arg:none", "arg:w"]))
    assert got["none"].size == 0
    np.testing.assert_array_equal(got["w"], WEIGHT)


def test_a_file_that_ends_too_early_is_refused_wherever_it_ends(read):
    data = mxnet_file({"w": WEIGHT, "moving_mean": WEIGHT[0]})
    for end in range(len(data)):
        with pytest.raises(InputError, match=r"it ends after|magic number"):
            read(data[:end])


def v2(*, storage=0, axes=2, shape=(2, 3), kind=0):
    head = struct.pack(f"<IiI{len(shape)}q3i", 0xF993FAC9, storage, axes, *shape, 1, 0, kind)
    return head + WEIGHT.tobytes()


@pytest.mark.parametrize(
    "arrays,names,complaint",
    [
        ([v2(storage=1)], ["arg:w"], "not dense but of storage type 1"),
        ([v2(kind=7)], ["arg:w"], "unknown dtype 7"),
        ([v2(kind=-1)], ["arg:w"], "unknown dtype -1"),
        ([v2(shape=(2, -3))], ["arg:w"], r"the shape \(2, -3\)"),
        ([v2(axes=33)], ["arg:w"], "33 axes"),
        ([struct.pack("<I", 0xF993FACA) + v2()[4:]], ["arg:w"], "unknown encoding"),
        ([v2(), v2()], ["arg:w", "aux:w"], "'w' is given twice"),
        ([v2()], ["w"], "'w' does not begin with arg: or aux:"),
        ([v2()], [], "1 arrays but 0 names"),
        ([v2()], ["arg:w", "arg:v"], "1 arrays but 2 names"),
    ],
)
def test_what_is_no_list_of_named_dense_arrays_is_told(read, arrays, names, complaint):
    with pytest.raises(InputError, match=f"damaged, or not as MXNet writes it.*{complaint}.*restore"):
        read(mxnet_bytes(arrays, names))


@pytest.mark.parametrize(
    "data,complaint",
    [
        (b"", "magic number"),
        (b"PK\x03\x04" * 9, "magic number"),
        (struct.pack("<3Q", 0x112, 1, 0), "magic number"),
        (mxnet_file({"w": WEIGHT}) + b"\0", "does not end with its last name"),
        (mxnet_bytes([v2()], ["arg:w"])[:-1] + b"\xff", "utf-8"),
    ],
)
def test_other_files_are_refused(read, data, complaint):
    with pytest.raises(InputError, match=complaint):
        read(data)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<3Q", 0x112, 0, 2**64 - 1),
        mxnet_bytes([v2(shape=(2**20, 2**20))], ["arg:w"]),
        mxnet_bytes([v2(shape=(2**63 - 1, 2**63 - 1))], ["arg:w"]),
        mxnet_bytes([v2()], ["arg:w"])[:-13] + struct.pack("<Q", 2**62) + b"arg:w",
        struct.pack("<5Q", 0x112, 0, 0, 1, 2**64 - 1),
    ],
)
def test_declared_sizes_are_compared_with_the_file_before_memory_is_taken(read, data):
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            read(data)
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


def test_the_loader_of_pretrained_weights_knows_the_format(tmp_path):
    path = tmp_path / "weights.params"
    path.write_bytes(mxnet_file({"conv1a_weight": WEIGHT}))
    assert load_file(str(path)).keys() == {"conv1a_weight"}
    path.write_bytes(b"<html>")
    with pytest.raises(InputError, match=rf"^model\.pretrained={path}: damaged.*magic number.*; restore this file$"):
        load_file(str(path))
