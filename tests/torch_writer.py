"""PyTorch weight files made by hand: pickles, opcode by opcode, and both formats around them."""

import io
import struct
import zipfile

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
KINDS = {
    "f4": "Float",
    "f8": "Double",
    "f2": "Half",
    "i8": "Long",
    "i4": "Int",
    "i2": "Short",
    "i1": "Char",
    "u1": "Byte",
}
KINDS["b1"] = "Bool"


class Code(bytes):
    """Opcodes that push one value."""


def encode(value):
    """Opcodes that push a plain value; `Code` in it stays as it is."""
    if isinstance(value, Code):
        return value
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, dict):
        return b"}(" + b"".join(encode(k) + encode(v) for k, v in value.items()) + b"u"
    first, last = (b"(", b"t") if isinstance(value, tuple) else (b"](", b"e")
    return first + b"".join(encode(part) for part in value) + last


def pickled(value):
    return b"\x80\x02" + encode(value) + b"."


def found(module, name):
    return Code(f"c{module}\n{name}\n".encode())


def call(module, name, *args):
    return Code(found(module, name) + encode(args) + b"R")


def storage(key="0", count=6, kind="Float"):
    return Code(encode(("storage", found("torch", f"{kind}Storage"), key, "cpu", count, None)) + b"Q")


def tensor(of=None, offset=0, shape=(2, 3), strides=(3, 1), *more):
    of = storage() if of is None else of
    return call(
        "torch._utils",
        "_rebuild_tensor_v2",
        of,
        offset,
        shape,
        strides,
        False,
        call("collections", "OrderedDict"),
        *more,
    )


def legacy(content, storages, keys=None, magic=MAGIC, version=1001, system=None):
    """A file of the older format; `storages`: raw bytes and the number of elements by key."""
    heads = (magic, version, {"little_endian": True} if system is None else system)
    keys = list(storages) if keys is None else keys
    data = b"".join(struct.pack("<q", count) + raw for raw, count in storages.values())
    return b"".join(map(pickled, (*heads, content, keys))) + data


def archive(content, storages, extra=(), compression=zipfile.ZIP_STORED):
    """A file of the newer format; `extra`: pairs of a name in its folder and bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as file:
        entries = [("data.pkl", pickled(content)), *((f"data/{key}", raw) for key, (raw, _) in storages.items())]
        for name, raw in (*entries, ("version", b"3\n"), *extra):
            file.writestr(f"weights/{name}", raw)
    return out.getvalue()


FORMATS = {"legacy": legacy, "zip": archive}


def torch_file(content, form="zip", key=None):
    """A file of arrays by name, one storage each, under `key` if given beside an epoch."""
    content = {name: np.asarray(a) for name, a in content.items()}
    storages = {name: (a.tobytes(), a.size) for name, a in content.items()}
    named = {
        name: tensor(
            storage(name, a.size, KINDS[a.dtype.str[1:]]), 0, a.shape, tuple(s // a.itemsize for s in a.strides)
        )
        for name, a in content.items()
    }
    return FORMATS[form]({key: named, "epoch": 3} if key else named, storages)
