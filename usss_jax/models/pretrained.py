"""Weights of others into our parameter tree, with a report of what matched.

Understood are the tensor names of the reference implementation (`base.<level>`, `seg.<i>`, `en_map`) and of the DRN
release (`layer<level>`, `fc`), in PyTorch's layout. Files: .safetensors, .npz, and .pth with the extra `torch`
(`weights_only=True`: nothing in the file is executed).
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import flax.traverse_util
import numpy as np

from usss_jax.errors import InputError

_UNUSED = (
    "num_batches_tracked",
    "fc.weight",
    "fc.bias",
    "up.",
    "en_up.",
)  # ImageNet head, fixed upsampling, counters


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of the tensors: names in the file that were matched, those left unused, and ours left untouched."""

    matched: tuple[str, ...]
    unused: tuple[str, ...]
    missing: tuple[str, ...]

    def __str__(self):
        """Give the numbers in one line."""
        return f"{len(self.matched)} tensors matched, {len(self.unused)} unused, {len(self.missing)} of ours not given"


def load_file(path: str) -> dict[str, np.ndarray]:
    """Read a state dict from a .safetensors, .npz or .pth file; "module." (of DataParallel) goes from the names.

    Raises:
      InputError: if the file is missing, of another kind or unreadable, or torch is needed and not installed.
    """
    file = pathlib.Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"pretrained={path}: no such file; leave it empty to train from scratch")
    readers = {".safetensors": _load_safetensors, ".npz": _load_npz, ".pth": _load_torch, ".pt": _load_torch}
    if file.suffix not in readers:
        raise InputError(f"pretrained={path}: unknown kind of file; give .safetensors, .npz or .pth")
    try:
        content = readers[file.suffix](file)
    except InputError:
        raise
    except Exception as e:  # every reader has its own exceptions for a damaged file
        raise InputError(f"pretrained={path}: cannot be read as {file.suffix} ({e})".replace("\n", " ")) from e
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def _load_safetensors(file: pathlib.Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file as load

    return load(str(file))


def _load_npz(file: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def _load_torch(file: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as e:
        raise InputError(f"pretrained={file}: reading .pth needs torch: pip install 'usss_jax[torch]'") from e
    content = torch.load(file, map_location="cpu", weights_only=True)
    content = content.get("state_dict", content)
    return {name: tensor.numpy() for name, tensor in content.items()}


def from_state_dict(state_dict: Mapping[str, np.ndarray], variables: Mapping, domains: Sequence[str] = ()):
    """Replace every variable that the state dict names; the others keep their values.

    Args:
      state_dict: tensors by the reference's names, PyTorch layout (convolutions OIHW).
      variables: {"params", "batch_stats"} of a `UniversalModel`, arrays or shapes; never changed in place.
      domains: which of our domains `seg.0`, `seg.1`, ... belong to; empty leaves the decoders alone.

    Returns:
      (variables with the given tensors in their own dtype, `Report`).

    Raises:
      InputError: if a tensor has no place in the model or another shape, or a part of the encoder is not given;
        names the first one.
    """
    flat = flax.traverse_util.flatten_dict(dict(variables), sep="/")
    matched, unused = [], []
    for name, tensor in state_dict.items():
        ours = None if name.startswith(_UNUSED) or name.endswith(_UNUSED) else _our_name(name, domains)
        if ours is None or (ours.startswith("params/embedding") and ours not in flat):
            unused.append(name)
            continue
        if ours not in flat:
            raise InputError(f"weights: {name} {tensor.shape} has no place in this encoder; is `encoder` another one?")
        tensor = np.asarray(tensor)
        tensor = tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor
        if tensor.shape != flat[ours].shape:
            raise InputError(f"weights: {name} is {tensor.shape}, the model's {ours} is {flat[ours].shape}")
        flat[ours] = tensor
        matched.append(name)
    given = {_our_name(name, domains) for name in matched}
    missing = tuple(name for name in flat if name not in given)
    if lacking := [name for name in missing if "/encoder/" in name]:
        raise InputError(f"weights: nothing given for {lacking[0]}; is `encoder` another one?")
    return flax.traverse_util.unflatten_dict(flat, sep="/"), Report(tuple(matched), tuple(unused), missing)


_LEAVES = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}


def _our_name(name: str, domains: Sequence[str]) -> str | None:
    """Path of a reference tensor in our variables, or None if it is a head that is not asked for.

    base.0.0.weight -> params/encoder/level0_conv/kernel; base.3.1.bn2.running_var ->
    batch_stats/encoder/level3_block1/bn2/var; seg.1.bias -> params/decoder_<domain 1>/bias.
    """
    part, _, rest = name.partition(".")
    if part in ("seg", "en_map"):
        index, _, leaf = rest.rpartition(".")
        leaf = {"weight": "kernel"}.get(leaf, leaf)
        if part == "en_map":
            return f"params/embedding/{leaf}"
        return f"params/decoder_{domains[int(index)]}/{leaf}" if index.isdigit() and int(index) < len(domains) else None
    level, _, rest = rest.partition(".") if part == "base" else (part.removeprefix("layer"), "", rest)
    *path, leaf = rest.split(".")
    if level in ("3", "4", "5", "6") and path:  # residual blocks: <block>.conv1 / bn1 / downsample.0 / downsample.1
        block, layer = path[0], ".".join(path[1:])
        layer = layer.replace("downsample.0", "shortcut_conv").replace("downsample.1", "shortcut_bn")
        module, is_conv = f"level{level}_block{block}/{layer}", "conv" in layer
    else:  # level 0 is one conv + norm; levels 1, 2, 7, 8 likewise (index 0 the conv, 1 the norm)
        is_conv = path == ["0"]
        module = f"level{level}_{'conv' if is_conv else 'bn'}"
    if is_conv:
        return f"params/encoder/{module}/kernel"
    collection, leaf = _LEAVES.get(leaf, ("params", leaf))
    return f"{collection}/encoder/{module}/{leaf}"
