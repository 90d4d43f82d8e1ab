"""Conversion between state dicts and our variables, with a report of what matched; reading of weight files.

The names of an encoder's tensors come from its `tensor_names` (models/encoder.py); heads have the names of the
reference implementation (`seg.<i>`, `en_map`). Tensors are in PyTorch's layout. Files are .safetensors, .npz, .pth
(models/torch_files.py) or .params (models/mxnet_files.py).
"""

import dataclasses
import hashlib
import pathlib
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence

import flax.traverse_util
import numpy as np
import safetensors.numpy

from usss_jax.errors import InputError
from usss_jax.local_files import reason, write_whole
from usss_jax.models.encoder import TensorNames
from usss_jax.models.mxnet_files import read_params
from usss_jax.models.torch_files import read_state_dict

_HEADS = ("seg.", "en_map.")
_FIXED = ("up.", "en_up.")  # the reference's upsampling kernels
# Axes of convolutions and linear layers in the other layout, by their number; others are equal in both layouts.
_OUR_AXES = {2: (1, 0), 4: (2, 3, 1, 0)}  # OIHW -> HWIO
_THEIR_AXES = {2: (1, 0), 4: (3, 2, 0, 1)}  # HWIO -> OIHW


@dataclasses.dataclass(frozen=True)
class Match:
    """Names of matched, unused and missing tensors.

    Attributes:
      matched: names in the file that were copied into the model.
      unused: names in the file that were not.
      missing: paths of our variables that the file does not give; they kept their values.
      reshaped: the part of `matched` whose axes were permuted (convolutions from OIHW to HWIO, linear layers) or
        dropped (trailing axes of length 1).
    """

    matched: tuple[str, ...]
    unused: tuple[str, ...]
    missing: tuple[str, ...]
    reshaped: tuple[str, ...]

    def __str__(self):
        """Numbers and first names, in one line."""
        parts = (
            ("tensors matched", self.matched),
            ("of them reshaped", self.reshaped),
            ("unused", self.unused),
            ("of ours not given", self.missing),
        )
        return ", ".join(f"{len(names)} {what}{_first(names)}" for what, names in parts)


def _first(names: Sequence[str], count: int = 2) -> str:
    more = ", ..." if len(names) > count else ""
    return f" ({', '.join(names[:count])}{more})" if names else ""


def load_file(path: str) -> dict[str, np.ndarray]:
    """Read a state dict from a file .safetensors, .npz, .pth or .params.

    The prefix "module." (of DataParallel) is removed.

    A .pth file may hold its state dict under "state_dict" or "model". If its name ends in "-" and 8 or more hex digits
    (drn_d_22-4bd2f8ea.pth), they must be the first digits of its SHA-256.

    Raises:
      InputError: if the file is missing, of an unknown type, unreadable or does not match the hash in its name, or if
        it holds anything but tensors.
    """
    file = pathlib.Path(path).expanduser()
    if not file.is_file():
        text = (
            f"model.pretrained={path}: no such file; correct the path, give imagenet, or leave it empty for no weights"
        )
        raise InputError(text)
    readers: dict[str, Callable[[pathlib.Path], dict[str, np.ndarray]]] = {
        ".safetensors": safetensors.numpy.load_file,
        ".npz": _load_npz,
        ".pth": _load_torch,
        ".pt": _load_torch,
        ".params": read_params,
    }
    if file.suffix not in readers:
        raise InputError(f"model.pretrained={path}: unknown file type; give .safetensors, .npz, .pth or .params")
    try:
        content = readers[file.suffix](file)
    except InputError as e:
        raise InputError(f"model.pretrained={e}") from e
    except Exception as e:  # readers raise various exceptions for a damaged file
        text = f"model.pretrained={path}: cannot be read as {file.suffix} ({reason(e)}); restore this file"
        raise InputError(text) from e
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def _load_npz(file: pathlib.Path) -> dict[str, np.ndarray]:
    if not zipfile.is_zipfile(file):  # NumPy's own message would suggest to load it unsafely
        raise ValueError("it is not an archive of arrays")
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def _load_torch(file: pathlib.Path) -> dict[str, np.ndarray]:
    _check_hash(file)
    return read_state_dict(file)


def _check_hash(file: pathlib.Path):
    """Compare the hex digits at the end of the file's name, if any, with its SHA-256."""
    digits = re.search(r"-([0-9a-fA-F]{8,64})$", file.stem)
    if digits is None:
        return
    expected = digits[1].lower()
    with file.open("rb") as f:
        found = hashlib.file_digest(f, "sha256").hexdigest()[: len(expected)]
    if found != expected:
        raise InputError(
            f"{file}: SHA-256 must begin with {expected} by the file's name, but begins with {found}; "
            "restore the file, or its name if that was changed"
        )


def save_safetensors(path: str, state_dict: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None):
    """Write a state dict and metadata to a .safetensors file.

    Raises:
      InputError: if the path does not end in .safetensors or cannot be written.

    >>> save_safetensors("weights.safetensors", {"a": np.array([1.0, 2.0])})
    >>> load_file("weights.safetensors")["a"].tolist()
    [1.0, 2.0]
    """
    file = pathlib.Path(path).expanduser()
    if file.suffix != ".safetensors":
        raise InputError(f"{path}: weights are written as .safetensors; give a name with this ending")
    # The format stores raw memory, so that a transposed view would come back scrambled.
    tensors = {name: np.asarray(tensor, order="C") for name, tensor in state_dict.items()}
    data = safetensors.numpy.save(tensors, metadata=dict(metadata or {}))
    try:
        write_whole(file, data)
    except OSError as e:
        raise InputError(f"{path}: cannot be written ({e.strerror})") from e


def from_state_dict(
    state_dict: Mapping[str, np.ndarray],
    variables: Mapping,
    domains: Sequence[str] = (),
    encoder_only: bool = False,
    *,
    names: TensorNames,
):
    """Replace the variables that a state dict gives; the others keep their values.

    Args:
      state_dict: tensors by their names in files, in PyTorch's layout (convolutions OIHW, linear layers [out, in]).
      variables: {"params", "batch_stats"} of a `UniversalModel`, arrays or shapes; not changed in place.
      domains: the domains of the decoders `seg.0`, `seg.1`, ...; empty: decoders are not replaced.
      encoder_only: replace no head, whatever `domains` is.
      names: `tensor_names` of the encoder.

    Returns:
      (variables with the given tensors in their own dtype, `Match`).

    Raises:
      InputError: if a tensor has no place in the model or the wrong shape, or if a variable of the encoder is missing.
        The message gives the first one with its shapes in file and model, both in PyTorch's layout.
    """
    state_dict = names.prepare(state_dict)
    flat = flax.traverse_util.flatten_dict(dict(variables), sep="/")
    matched, unused, reshaped, given = [], [], [], set()
    for full_name, tensor in state_dict.items():
        name = full_name.removeprefix("module.")
        skipped = _FIXED + (_HEADS if encoder_only else ())
        ours = None if name.startswith(skipped) else _our_path(name, domains, names)
        if ours is None or (ours.startswith("params/embedding") and ours not in flat):
            unused.append(name)
            continue
        tensor = np.asarray(tensor)
        if ours not in flat:
            raise InputError(
                f"weights: {name} is {tensor.shape} and has no place in this model, which has no {ours}; give the "
                "`encoder` of the weights"
            )
        if ours in given:
            raise InputError(f"weights: {name} is given under two names; remove one of them")
        wanted = _their_shape(flat[ours].shape)
        extra = tensor.shape[len(wanted) :]
        if tensor.shape != wanted + extra or set(extra) > {1}:
            raise InputError(
                f"weights: {name} is {tensor.shape}, the model's {ours} takes {wanted}; give the `encoder` and `width` "
                "of the weights"
            )
        if extra or len(wanted) in _OUR_AXES:
            tensor = _to_our_layout(tensor.reshape(wanted))
            reshaped.append(name)
        flat[ours] = tensor
        matched.append(name)
        given.add(ours)
    missing = tuple(name for name in flat if name not in given)
    if lacking := {names.theirs(name): name for name in missing if "/encoder/" in name}:
        theirs = min(lacking, key=_order)
        ours = lacking[theirs]
        raise InputError(
            f"weights: {theirs} is not given, the model's {ours} takes {_their_shape(flat[ours].shape)}; give the "
            "`encoder` of the weights"
        )
    report = Match(tuple(matched), tuple(unused), missing, tuple(reshaped))
    filled = flax.traverse_util.unflatten_dict(flat, sep="/")
    return {kind: filled.get(kind, {}) for kind in variables}, report  # keeps an empty "batch_stats"


def to_state_dict(variables: Mapping, domains: Sequence[str] = (), *, names: TensorNames) -> dict[str, np.ndarray]:
    """Convert our variables to a state dict in PyTorch's layout: the exact inverse of `from_state_dict`.

    The reference's fixed upsampling kernels (`up.<i>`, `en_up`) and counters (`num_batches_tracked`) have no
    counterpart in our variables and are left out.

    Args:
      variables: {"params", "batch_stats"} of a `UniversalModel`; without "batch_stats", no running statistics.
      domains: the domains whose decoders become `seg.0`, `seg.1`, ...; other decoders are left out.
      names: `tensor_names` of the encoder.

    Returns:
      Contiguous arrays by name: the encoder's sorted by name, then the heads.

    Raises:
      InputError: if a domain has no decoder in the variables.
    """
    flat = flax.traverse_util.flatten_dict(dict(variables), sep="/")
    for domain in domains:
        if not any(name.startswith(f"params/decoder_{domain}/") for name in flat):
            raise InputError(f"domains: {domain!r} has no decoder in these variables")
    named = {_their_name(ours, domains, names): value for ours, value in flat.items()}
    theirs = sorted(filter(None, named), key=_order)
    return {name: np.ascontiguousarray(_to_their_layout(np.asarray(named[name]))) for name in theirs}


def _our_path(name: str, domains: Sequence[str], names: TensorNames) -> str | None:
    """Path of a tensor in our variables; None for one that is not used.

    seg.1.bias -> params/decoder_<domain 1>/bias; en_map.weight -> params/embedding/kernel.
    """
    if not name.startswith(_HEADS):
        return names.ours(name)
    part, *layers, leaf = name.split(".")
    inside = "/".join([*layers, {"weight": "kernel"}.get(leaf, leaf)])
    if part == "en_map":
        return f"params/embedding/{inside}"
    index, _, inside = inside.partition("/")
    return f"params/decoder_{domains[int(index)]}/{inside}" if index.isdigit() and int(index) < len(domains) else None


def _their_name(ours: str, domains: Sequence[str], names: TensorNames) -> str | None:
    """Name of one of our variables in a file: the inverse of `_our_path`; None for other decoders and heads."""
    _, part, *layers, leaf = ours.split("/")
    if part == "encoder":
        return names.theirs(ours)
    inside = ".".join([*layers, {"kernel": "weight"}.get(leaf, leaf)])
    if part == "embedding":
        return f"en_map.{inside}"
    kind, _, domain = part.partition("_")
    return f"seg.{list(domains).index(domain)}.{inside}" if kind == "decoder" and domain in domains else None


def _their_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """HWIO -> OIHW and [in, out] -> [out, in]; other shapes are equal in both layouts."""
    return tuple(shape[axis] for axis in _THEIR_AXES.get(len(shape), range(len(shape))))


def _to_our_layout(tensor: np.ndarray) -> np.ndarray:
    return tensor.transpose(_OUR_AXES.get(tensor.ndim, range(tensor.ndim)))


def _to_their_layout(tensor: np.ndarray) -> np.ndarray:
    return tensor.transpose(_THEIR_AXES.get(tensor.ndim, range(tensor.ndim)))


def _order(name: str) -> tuple[bool, list[str]]:
    """Sort key for names in files: base.5.2 before base.5.10, heads last."""
    return name.startswith(_HEADS), [part.zfill(3) if part.isdigit() else part for part in name.split(".")]
