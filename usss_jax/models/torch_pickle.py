"""The pickles in PyTorch's weight files, interpreted without executing anything from them.

A pickle is a program. pickle.Unpickler sets attributes of any object, hashes keys of any depth and allocates what the
file demands, even if it finds no class. The interpreter here knows the opcodes that a state dict needs, calls only
functions of this file, and makes only plain values, `Storage` and `Tensor`, in time and memory linear in the pickle.
"""

import dataclasses
import io
import math
import pickletools
from typing import Any

import jax.numpy as jnp
import numpy as np

from usss_jax.errors import InputError

BFLOAT16 = np.dtype(jnp.bfloat16)
_MOST_OPCODES = 1_000_000  # about 40,000 tensors
_MOST_AXES = 32
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
_CONTAINERS = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
# Values that an opcode takes from the stack; None: all above the last mark.
_TAKES = {"TUPLE": None, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "APPENDS": None, "SETITEM": 2}
_TAKES |= {"SETITEMS": None, "STACK_GLOBAL": 2, "REDUCE": 2, "BUILD": 1, "BINPERSID": 1}


@dataclasses.dataclass(frozen=True)
class Storage:
    """Name, dtype and number of elements of a piece of memory in the file."""

    key: str
    dtype: np.dtype
    count: int

    @property
    def nbytes(self) -> int:
        """Its size."""
        return self.count * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A view that lies within its storage; offset and strides are in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Its size as a contiguous array, at most that of the storage."""
        return math.prod(self.shape) * self.storage.dtype.itemsize


def interpret(stream: io.BytesIO, storages: dict[str, Storage]) -> Any:
    """Interpret one pickle; the storages it mentions are added to `storages`.

    Returns:
      Its object, of numbers, strings, None, tuples, lists, dicts (keys are strings and integers) and `Tensor`.

    Raises:
      InputError: if it asks for anything else; the message names that.
      Exception: various ones if it is damaged.

    >>> import pickle
    >>> interpret(io.BytesIO(pickle.dumps({"epoch": 3, "lr": [0.5, None]})), {})
    {'epoch': 3, 'lr': [0.5, None]}
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    arg: Any
    for count, (opcode, arg, _) in enumerate(pickletools.genops(stream)):
        name = opcode.name
        if count == _MOST_OPCODES:
            raise refused(f"has a pickle of more than {_MOST_OPCODES} opcodes")
        if name in _TAKES:
            takes = _TAKES[name]
            start = marks.pop() if takes is None else len(stack) - takes
            if start < 0:
                raise ValueError("an opcode takes values that are not there")
            taken = stack[start:]
            del stack[start:]
            _apply(name, stack, taken, storages)
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if arg is None else arg] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            if arg not in memo:
                raise ValueError("it takes a value that it did not store")
            stack.append(memo[arg])
        elif name in _NUMBERS or name in ("BINUNICODE", "SHORT_BINUNICODE"):
            stack.append(arg)
        elif name in ("BINSTRING", "SHORT_BINSTRING"):  # of Python 2
            stack.append(arg.encode("latin-1").decode())
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _CONTAINERS:
            stack.append(_CONTAINERS[name]())
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "GLOBAL":
            stack.append(_find(arg))
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise refused(f"has the opcode {name}")
    if len(stack) != 1:
        raise ValueError("a pickle of it does not end with one value")
    return stack[0]


def refused(what: str) -> InputError:
    """The error for a file that is not only data."""
    return InputError(f"refused, nothing in it was executed: it {what}")


def _apply(name: str, stack: list[Any], taken: list[Any], storages: dict[str, Storage]):
    """Run an opcode on the values it took."""
    if name.startswith("TUPLE"):
        stack.append(tuple(taken))
    elif name.startswith("APPEND"):
        _expect(stack[-1], list).extend(taken)
    elif name.startswith("SETITEM"):
        _set_items(_expect(stack[-1], dict), taken)
    elif name == "BUILD":  # the `_metadata` of a state dict, versions of its layers, is not used
        _expect(stack[-1], dict)
    elif name == "STACK_GLOBAL":
        stack.append(_find(" ".join(taken)))
    elif name == "REDUCE":
        function, args = taken
        if not callable(function):
            raise refused("calls what is no function")
        stack.append(function(*_expect(args, tuple)))
    else:
        stack.append(_make_storage(_expect(taken[0], tuple), storages))


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise refused(f"has a {type(value).__name__} in place of a {kind.__name__}")
    return value


def _find(name: str) -> Any:
    if name not in _ALLOWED:
        raise refused(f"asks for {repr(name.replace(' ', '.'))[1:-1]:.80}")
    return _ALLOWED[name]


def _set_items(target: dict, items: list[Any]):
    for key, value in zip(items[::2], items[1::2], strict=True):
        # A nested tuple takes endless time to hash; chosen large integers have equal hashes.
        if not isinstance(key, str) and (not isinstance(key, int) or abs(key) >= 2**31):
            raise refused(f"has a {type(key).__name__} as a key")
        if key in target:
            raise ValueError(f"the key {key!r:.80} is there twice")
        target[key] = value


def _make_storage(given: tuple, storages: dict[str, Storage]) -> Storage:
    kind, dtype, key, _, count = given[:5] if len(given) >= 5 else (None,) * 5
    types = isinstance(dtype, np.dtype) and isinstance(key, str) and type(count) is int and count >= 0
    if not types or kind != "storage" or given[5:] not in ((), (None,)):
        raise refused("has a storage of unknown kind")
    storage = Storage(key, dtype, count)
    if storages.setdefault(key, storage) != storage:
        raise ValueError(f"storage {key:.80} has two sizes")
    return storage


def _make_tensor(storage, offset, shape, strides, requires_grad=False, hooks=None, metadata=None) -> Tensor:
    numbers = [offset, *shape[:_MOST_AXES], *strides[:_MOST_AXES]]
    if not isinstance(storage, Storage) or any(type(n) is not int or n < 0 for n in numbers) or metadata:
        raise refused("has a tensor of unknown kind")
    if len(shape) != len(strides) or len(shape) > _MOST_AXES:
        raise ValueError(f"a tensor has {len(shape)} axes and {len(strides)} strides")
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if 0 not in shape and (last >= storage.count or math.prod(shape) > storage.count):
        raise refused("has a tensor larger than its storage, as .expand makes (save it .contiguous())")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _make_parameter(tensor, requires_grad=False, hooks=None):
    return tensor


def _make_dict(pairs=()) -> dict:
    made: dict[Any, Any] = {}
    _set_items(made, [part for key, value in pairs for part in (key, value)])
    if pairs:
        pairs.clear()  # of one dict only: many dicts made of one long list would fill the memory
    return made


_TYPES = {"Float": "<f4", "Double": "<f8", "Half": "<f2", "Long": "<i8", "Int": "<i4", "Short": "<i2", "Char": "i1"}
_TYPES |= {"Byte": "u1", "Bool": "?"}
_ALLOWED: dict[str, Any] = {
    "torch._utils _rebuild_tensor": _make_tensor,  # before PyTorch 0.4
    "torch._utils _rebuild_tensor_v2": _make_tensor,
    "torch._utils _rebuild_parameter": _make_parameter,
    "collections OrderedDict": _make_dict,
    "torch BFloat16Storage": BFLOAT16,
    **{f"torch {name}Storage": np.dtype(code) for name, code in _TYPES.items()},
}
