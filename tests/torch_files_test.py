"""PyTorch's weight files: both formats, files made to run code or to fill the memory, and damaged ones."""

import contextlib
import copy
import copyreg
import io
import os
import pathlib
import pickle
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
import small_files
from torch_writer import (
    FORMATS,
    KINDS,
    MAGIC,
    Code,
    archive,
    call,
    encode,
    found,
    legacy,
    pickled,
    storage,
    tensor,
    torch_file,
)

from usss_jax.errors import InputError
from usss_jax.models import torch_pickle
from usss_jax.models.torch_files import read_state_dict

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
VALUES = np.arange(6, dtype=np.float32) / 4
MEMORY = {"0": (VALUES.tobytes(), 6)}
BOTH = pytest.mark.parametrize("form", FORMATS)


@pytest.fixture
def read(tmp_path):
    return small_files.reader(read_state_dict, tmp_path / "weights.pth")


# ---- What is read ----


@pytest.mark.parametrize("name", ["torch_zip.pth", "torch_legacy.pth"])
def test_files_of_torch_give_their_values(name):
    got = read_state_dict(FIXTURES / name)
    matrix = VALUES.reshape(2, 3)
    wanted = {
        "matrix": matrix,
        "transposed": matrix.T,
        "column": matrix[:, 1],
        "short": np.array([1, -2.5], np.float32),
        "counter": np.array(7),
    }
    assert list(got) == list(wanted)
    for key, value in wanted.items():
        assert got[key].dtype == value.dtype and got[key].flags.c_contiguous and got[key].flags.writeable
        np.testing.assert_array_equal(got[key], value)


@BOTH
@pytest.mark.parametrize("code", KINDS)
def test_every_dtype_is_read(read, form, code):
    array = np.array([[0, 1, 100], [3, 1, 0]]).astype(code)
    got = read(torch_file({"a": array, "scalar": array[0, 2], "empty": array[:0]}, form))
    assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in got.items()} == {
        "a": (array.dtype, (2, 3), array.tobytes()),
        "scalar": (array.dtype, (), array[0, 2].tobytes()),
        "empty": (array.dtype, (0, 3), b""),
    }


@BOTH
def test_bfloat16_becomes_float32(read, form):
    values = np.array([1, -2.5, np.inf, -0.0, 3.140625], np.float32)
    halves = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    got = read(FORMATS[form]({"a": tensor(storage("0", 5, "BFloat16"), 0, (5,), (1,))}, {"0": (halves, 5)}))["a"]
    assert got.dtype == np.float32 and got.tobytes() == values.tobytes()


@BOTH
@pytest.mark.parametrize(
    "offset,shape,strides,wanted",
    [
        (0, (3, 2), (1, 3), VALUES.reshape(2, 3).T),
        (1, (2,), (3,), VALUES[1::3]),
        (5, (), (), VALUES[5]),
        (2, (1, 2), (10**30, 1), VALUES[None, 2:4]),  # as any stride of an axis of length 1
        (4, (2, 3), (1, 0), np.repeat(VALUES[4:, None], 3, axis=1)),
        (100, (0, 3), (3, 1), VALUES[:0].reshape(0, 3)),
    ],
)
def test_views_of_one_storage_are_read(read, form, offset, shape, strides, wanted):
    content = {"view": tensor(None, offset, shape, strides), "whole": tensor()}
    got = read(FORMATS[form](content, MEMORY))
    np.testing.assert_array_equal(got["view"], wanted, strict=True)
    got["view"][...] = 9
    np.testing.assert_array_equal(got["whole"], VALUES.reshape(2, 3))  # memory of its own


@BOTH
def test_parameters_dicts_with_metadata_and_older_names_are_read(read, form):
    no_hooks = call("collections", "OrderedDict")
    pairs = [["old", call("torch._utils", "_rebuild_tensor", storage(), 0, (6,), (1,))]]  # Python 2 writes such pairs
    old = call("collections", "OrderedDict", pairs)
    parameter = call("torch._utils", "_rebuild_parameter", tensor(), True, no_hooks)
    versions = encode({"_metadata": {"": {"version": 1}}}) + b"b"
    content = Code(old + b"(U\x01p" + parameter + b"u" + versions)
    got = read(FORMATS[form](content, MEMORY))
    assert {name: a.shape for name, a in got.items()} == {"old": (6,), "p": (2, 3)}


@BOTH
@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_plain_values_beside_a_state_dict_are_ignored(read, form, key):
    rest = {"epoch": 3, "lr": [0.5, None, (True, "step")], "optimizer": {"state": {0: {"step": 2**70}}}}
    got = read(FORMATS[form]({**rest, key: {"a": tensor()}}, MEMORY))
    np.testing.assert_array_equal(got["a"], VALUES.reshape(2, 3))


def test_pickles_of_protocol_4_are_read(read):
    def short(text):
        return b"\x8c" + bytes([len(text)]) + text.encode()

    made = short("collections") + short("OrderedDict") + b"\x93)R\x94" + encode({"a": tensor()})[1:]
    framed = b"\x80\x04\x95" + len(made).to_bytes(8, "little") + made + b"."
    data = legacy(None, MEMORY)
    assert read(data.replace(pickled(None), framed)).keys() == {"a"}


@BOTH
@pytest.mark.parametrize(
    "content,complaint",
    [
        ([tensor()], "no state dict"),
        ({}, "no state dict"),
        (3, "no state dict"),
        ({"epoch": 3, "a": tensor()}, "'epoch' is not a tensor"),
        ({1: tensor()}, "1 is not a tensor"),
        ({"a" * 1000: 1}, "'aaa.* is not a tensor"),
        ({"a": storage()}, "'a' is not a tensor"),
        ({"a": found("torch._utils", "_rebuild_tensor_v2")}, "'a' is not a tensor"),
        ({"state_dict": {"a": tensor(), "b": {"c": tensor()}}}, "'b' is not a tensor"),
    ],
)
def test_what_is_no_state_dict_is_named(read, form, content, complaint):
    with pytest.raises(InputError, match=f"{complaint}.*give a state dict"):
        read(FORMATS[form](content, MEMORY if b"Storage" in encode(content) else {}))


# ---- Files that would run code ----

TRAP = "executed"


def attack(kind):
    """Opcodes that make the folder TRAP when pickle runs them."""
    path = encode(TRAP)
    found_twice = b"\x8c\x09posixpath\x8c\x08os.mkdir\x93"
    return Code(
        {
            "reduce": found("os", "mkdir") + b"(" + path + b"tR",
            "eval": found("builtins", "eval") + b"(" + encode(f"__import__('os').mkdir('{TRAP}')") + b"tR",
            "dotted": found_twice + path + b"\x85R",
            "inst": b"(" + path + b"ios\nmkdir\n",
            "obj": b"(" + found("pathlib", "Path") + path + b"o" + b"0" + found("os", "mkdir") + path + b"\x85R",
            "ext": b"\x82\xf0" + path + b"\x85R",
            "setstate": found("functools", "partial")
            + encode((found("os", "mkdir"),))
            + b"R"
            + encode((found("os", "mkdir"), (TRAP,), {}, None))
            + b"b)R",
        }[kind]
    )


ATTACKS = ["reduce", "eval", "dotted", "inst", "obj", "ext", "setstate"]


@pytest.fixture
def extension(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    copyreg.add_extension("os", "mkdir", 240)
    yield
    copyreg.remove_extension("os", "mkdir", 240)


def placed(where, code):
    """The content of a file with an attack at a place."""
    identity = ("storage", found("torch", "FloatStorage"), "0", "cpu", 6)
    return {
        "value": {"a": tensor(), "b": code},
        "key": {"a": tensor(), code: 1},
        "alone": code,
        "identity": {"a": tensor(Code(encode(code) + b"Q"))},
        "in identity": {"a": tensor(Code(encode((*identity[:3], code, 6)) + b"Q"))},
        "argument": {"a": tensor(storage(), 0, code)},
        "metadata": Code(encode({"a": tensor()}) + encode({"_metadata": code}) + b"b"),
    }[where]


@BOTH
@pytest.mark.parametrize("kind", ATTACKS)
@pytest.mark.parametrize("where", ["value", "key", "alone", "identity", "in identity", "argument", "metadata"])
def test_code_is_refused_wherever_it_is(read, extension, form, kind, where):
    with pytest.raises(InputError, match=r"refused, nothing in it was executed.*give a state dict of tensors"):
        read(FORMATS[form](placed(where, attack(kind)), MEMORY))
    assert not os.path.exists(TRAP)


@pytest.mark.parametrize("kind", ATTACKS)
def test_the_attacks_do_work_on_pickle(extension, kind):
    pickle.loads(b"\x80\x04" + attack(kind) + b".")
    assert os.path.exists(TRAP)


@pytest.mark.parametrize("position", range(5))
def test_code_is_refused_in_every_pickle_of_a_file(read, extension, position):
    parts = [MAGIC, 1001, {"little_endian": True}, {"a": tensor()}, ["0"]]
    parts[position] = attack("reduce")
    with pytest.raises(InputError, match=r"refused.*os\.mkdir"):
        read(b"".join(map(pickled, parts)))
    assert not os.path.exists(TRAP)


REBUILD = found("torch._utils", "_rebuild_tensor_v2")
FLOATS = found("torch", "FloatStorage")


@BOTH
@pytest.mark.parametrize(
    "code,complaint",
    [
        (b"\x8c\x0ctorch._utils\x8c\x09os.system\x93", r"torch\._utils\.os\.system"),
        (found("torch._utils", "_rebuild_tensor_v2.__globals__"), "__globals__"),
        (found("torch", "load"), r"torch\.load"),
        (found("torch", "Storage"), r"torch\.Storage"),
        (found("builtins", "getattr"), r"builtins\.getattr"),
        (found("x" * 1000, "y"), "asks for xxx"),
        (found("\x1b[31mred", "y"), r"asks for \\x1b"),
        (FLOATS + encode((3, "<", None, None, None, -1, -1, 0)) + b"b", "DType"),  # numpy's own would change
        (FLOATS + b")R", "no function"),
        (encode("text") + b")R", "no function"),
        (tensor() + b")R", "no function"),
        (REBUILD + encode((None, {"__defaults__": (1,)})) + b"b", "function"),
        (tensor() + encode({"shape": (1,)}) + b"b", "Tensor"),
        (found("collections", "OrderedDict") + b")\x81", "NEWOBJ"),
        (found("collections", "OrderedDict") + b")}\x92", "NEWOBJ_EX"),
        (b"P0\n", "PERSID"),
        (b"\x97", "NEXT_BUFFER"),
        (b"\x8f", "EMPTY_SET"),
        (b"I3\n", "INT"),
        (encode(("module", REBUILD, "file", "source")) + b"Q", "storage"),
        (encode(("storage", "torch.FloatStorage", "0", "cpu", 6)) + b"Q", "storage"),
        (encode(("storage", REBUILD, "0", "cpu", 6)) + b"Q", "storage"),
        (encode(("storage", FLOATS, 0, "cpu", 6)) + b"Q", "storage"),
        (encode(("storage", FLOATS, "0", "cpu", -6)) + b"Q", "storage"),
        (encode(("storage", FLOATS, "0", "cpu", 6.0)) + b"Q", "storage"),
        (encode(("module", FLOATS, "0", "cpu", 6)) + b"Q", "storage"),
        (encode(("storage", FLOATS, "0", "cpu", 6, ("1", 0, 3))) + b"Q", "storage"),
        (tensor(None, 0, (2, 3), (3, 1), {"neg": True}), "tensor of unknown kind"),
        (tensor(None, 0, (True, 3)), "tensor of unknown kind"),
        (tensor(None, 0, (2.0, 3)), "tensor of unknown kind"),
        (call("torch._utils", "_rebuild_tensor_v2", "text", 0, (), ()), "tensor of unknown kind"),
        ({(1, 2): 1}, "tuple as a key"),
        ({None: 1}, "NoneType as a key"),
        ({tensor(): 1}, "Tensor as a key"),
        ({2**61 - 1: 1}, "int as a key"),
    ],
)
def test_nothing_but_plain_values_and_tensors_is_made(read, form, code, complaint):
    before = (torch_pickle._make_tensor.__defaults__, np.dtype("<f4"), np.zeros(1, "<f4").tobytes())
    with pytest.raises(InputError, match=f"refused, nothing in it was executed.*{complaint}"):
        read(FORMATS[form]({"a": tensor(), "b": code if isinstance(code, dict) else Code(code)}, MEMORY))
    assert before == (torch_pickle._make_tensor.__defaults__, np.dtype("<f4"), np.zeros(1, "<f4").tobytes())


def test_an_archive_of_code_is_refused(read):
    with pytest.raises(InputError, match=r"refused.*archive of code"):
        read(archive({"a": tensor()}, MEMORY, [("constants.pkl", b"")]))


# ---- Files that would fill memory or time ----


@contextlib.contextmanager
def little_memory(most):
    """Asserts that the block allocates at most so many bytes at a time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


@BOTH
@pytest.mark.parametrize(
    "value",
    [
        tensor(storage("0", 2**40), 0, (2**40,), (1,)),
        tensor(storage("0", 2**80), 0, (2**80,), (1,)),
        tensor(None, 0, (2**40,), (0,)),
        tensor(None, 0, (2**80, 0), (1, 1)),
        tensor(None, 0, (7,), (1,)),
        tensor(None, 0, (7,), (0,)),
        tensor(None, 0, (2, 3), (4, 1)),
        tensor(None, 2**70, (1,), (1,)),
        tensor(None, 1),
        tensor(None, -1),
        tensor(None, 5, (6,), (-1,)),
        tensor(None, 0, (-2, -3)),
        tensor(None, 0, "", {}),
        Code(b"\x8d" + b"\xff" * 7 + b"\x7f" + b"text"),
        Code(b"\x8e" + b"\x00" * 5 + b"\x01\x00\x00"),
        Code(b"\x96" + b"\x00" * 5 + b"\x01\x00\x00"),
        Code(b"X\xff\xff\xff\xff"),
        Code(b"\x8b\xff\xff\xff\x7f"),
        {Code(b")" + b"2\x86" * 1000): 1},
        {Code(b")" + b"\x85" * 100000): 1},
        {Code(b")q\x00" + b"h\x00h\x00\x86q\x00" * 1000): 1},
    ],
)
@pytest.mark.slow
def test_what_demands_more_than_the_file_is_refused_without_memory(read, form, value):
    data = FORMATS[form]({"a": value}, MEMORY)
    with little_memory(100 * len(data) + 2**20), pytest.raises(InputError):
        read(data)


@BOTH
@pytest.mark.parametrize("shape,strides", [((6,), (1, 1)), ((1, 6), (1,)), ((1,) * 33, (1,) * 33)])
def test_axes_are_few_and_as_many_as_strides(read, form, shape, strides):
    with pytest.raises(InputError, match=rf"damaged.*{len(shape)} axes and {len(strides)} strides"):
        read(FORMATS[form]({"a": tensor(None, 0, shape, strides)}, MEMORY))


@BOTH
def test_a_large_number_of_a_value_takes_no_memory(read, form):
    data = FORMATS[form](Code(encode({"a": tensor()}) + b"r\xff\xff\xff\xff"), MEMORY)
    with little_memory(2**20):
        assert read(data).keys() == {"a"}


@BOTH
def test_many_views_may_not_be_larger_than_the_file_allows(read, form):
    raw = bytes(4 * 100_000)
    one = encode(tensor(storage("0", 100_000), 0, (100_000,), (1,)))
    for views, fits in ((3, True), (20, False)):
        names = [encode(str(i)) + b"h\x00" for i in range(views)]
        content = Code(one + b"q\x000}(" + b"".join(names) + b"u")
        content = Code(encode([Code(one + b"q\x00")]) + b"}(" + b"".join(names) + b"u\x86")  # [view], {names: view}
        content = {"rest": Code(one + b"q\x00"), "model": Code(b"}(" + b"".join(names) + b"u")}
        data = FORMATS[form](content, {"0": (raw, 100_000)})
        if fits:
            assert len(read(data)) == views
            continue
        with pytest.raises(InputError, match="more than 4 times the bytes of the file"):
            read(data)


@BOTH
def test_a_pickle_of_very_many_opcodes_is_refused(read, form, monkeypatch):
    monkeypatch.setattr(torch_pickle, "_MOST_OPCODES", 1000)
    with pytest.raises(InputError, match="more than 1000 opcodes"):
        read(FORMATS[form]({"a": [None] * 1000}, {}))


def test_a_list_of_pairs_makes_one_dict_only():
    pairs = Code(encode([[str(i), None] for i in range(3)]) + b"q\x00")
    made = [call("collections", "OrderedDict", Code(b"h\x00")) for _ in range(3)]
    got = torch_pickle.interpret(io.BytesIO(pickled([pairs, *made])), {})
    assert [len(part) for part in got] == [0, 3, 0, 0]


def test_a_compressed_archive_is_refused(read):
    content = {"a": tensor(storage("0", 10**6), 0, (10**6,), (1,))}
    with pytest.raises(InputError, match=r"compressed|overlap"):
        read(archive(content, {"0": (bytes(4 * 10**6), 10**6)}, compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(InputError, match="compressed"):  # even if it is not smaller
        read(archive({"a": tensor()}, MEMORY, compression=zipfile.ZIP_LZMA))


def test_entries_that_overlap_are_refused(read):
    inner, out = archive({}, {"1": (bytes(4000), 1000)}), io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(inner)) as file:
        entry = copy.copy(file.getinfo("weights/data/1"))
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("weights/data.pkl", pickled({"a": tensor(storage("1", 1000), 0, (1000,), (1,))}))
        file.writestr("weights/data/0", inner)
        entry.header_offset += out.getvalue().index(inner)
        file.filelist.append(entry)
    with pytest.raises(InputError, match="overlap"):
        read(out.getvalue())


# ---- Damaged files ----


@BOTH
def test_a_file_that_ends_early_is_refused_wherever_it_ends(read, form):
    whole = torch_file({"a": VALUES.reshape(2, 3), "b": np.arange(4)}, form)
    assert read(whole).keys() == {"a", "b"}
    for end in range(len(whole)):
        with pytest.raises(InputError):
            read(whole[:end])


@pytest.mark.parametrize("name", ["torch_zip.pth", "torch_legacy.pth"])
def test_a_file_of_torch_that_ends_early_is_refused(read, name):
    whole = (FIXTURES / name).read_bytes()
    for end in range(0, len(whole), 7):
        with pytest.raises(InputError):
            read(whole[:end])


def test_a_changed_storage_of_an_archive_is_noticed(read):
    whole = torch_file({"a": VALUES})
    start = whole.index(VALUES.tobytes())
    for position in range(start, start + VALUES.nbytes):
        changed = bytearray(whole)
        changed[position] ^= 1
        with pytest.raises(InputError, match=r"damaged.*CRC"):
            read(bytes(changed))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK",
        b"version https://example.org\n",
        legacy({"a": tensor()}, MEMORY, magic=MAGIC + 1),
        legacy({"a": tensor()}, MEMORY, magic=None),
        legacy({"a": tensor()}, MEMORY, version=1002),
        legacy({"a": tensor()}, MEMORY, system={"little_endian": False}),
        legacy({"a": tensor()}, MEMORY, system={}),
        legacy({"a": tensor()}, MEMORY, system=3),
        legacy({"a": tensor()}, MEMORY, keys=[]),
        legacy({"a": tensor()}, MEMORY, keys=["1"]),
        legacy({"a": tensor()}, MEMORY, keys=["0", "0"]),
        legacy({"a": tensor()}, MEMORY, keys=[0]),
        legacy({"a": tensor()}, MEMORY, keys="0"),
        legacy({"a": tensor()}, MEMORY, keys=[Code(b")q\x00" + b"h\x00h\x00\x86q\x00" * 1000)]),
        legacy({"a": tensor()}, MEMORY, keys=[Code(b")q\x00" + b"h\x00h\x00\x86q\x00" * 60)] * 2),
        legacy(
            {"a": tensor(), "b": tensor(storage("1", 0), 0, (0,), (1,))},
            MEMORY | {"1": (b"", 0), "2": (b"", 0)},
            keys=["0", "1", "1"],
        ),
        legacy({"a": tensor()}, {"0": (VALUES.tobytes(), 5)}),
        legacy({"a": tensor()}, {"0": (VALUES.tobytes(), -1)}),
        legacy({"a": tensor()}, {"0": (VALUES.tobytes()[:-1], 6)}),
        legacy({"a": tensor()}, {"0": (VALUES.tobytes() + b"\0", 6)}),
        legacy({"a": tensor()}, MEMORY | {"1": (b"", 0)}),
        archive({"a": tensor()}, {}),
        archive({"a": tensor()}, {"0": (VALUES.tobytes()[:-1], 6)}),
        archive({"a": tensor()}, {"0": (VALUES.tobytes() + b"\0", 6)}),
        archive({"a": tensor()}, MEMORY, [("byteorder", b"big")]),
        archive({"a": tensor()}, MEMORY, [("other/data.pkl", b"N.")]),
        *(form({"a": tensor(), "b": tensor(storage("0", 6, "Int"))}, MEMORY) for form in FORMATS.values()),
        *(form({"a": tensor(), "b": tensor(storage("0", 7))}, MEMORY) for form in FORMATS.values()),
        *(
            form(Code(b"}(X\1\0\0\0a" + tensor() + b"X\1\0\0\0a" + tensor() + b"u"), MEMORY)
            for form in FORMATS.values()
        ),
        *(form(Code(code), {}) for form in FORMATS.values() for code in (b"0", b"h\x09", b"\x87", b"t", b"(", b"N}")),
        *(form(Code(code), {}) for form in FORMATS.values() for code in (b"}(Nu", b"q\x00", b"s", b"Ne", b"cN", b"b")),
    ],
)
def test_a_damaged_file_is_refused(read, data):
    with pytest.raises(InputError):
        read(data)


@pytest.mark.parametrize(
    "code,complaint",
    [
        (b"N\x87", "values that are not there"),
        (b"NR", "values that are not there"),
        (b"h\x09", "did not store"),
        (b"NN", "one value"),
        (b"", "one value"),
        (b"X\x02\x00\x00\x00a", "STOP"),
    ],
)
def test_a_damaged_pickle_gives_no_value(code, complaint):
    with pytest.raises(ValueError, match=complaint):
        torch_pickle.interpret(io.BytesIO(b"\x80\x02" + code + b"."), {})


def test_an_archive_with_a_name_twice_is_refused(read):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = archive({"a": tensor()}, MEMORY, [("data/0", bytes(24))])
    with pytest.raises(InputError, match="overlap"):
        read(data)


def test_a_file_that_cannot_be_read_is_an_error_of_the_system(tmp_path):
    with pytest.raises(OSError):
        read_state_dict(tmp_path / "none.pth")
