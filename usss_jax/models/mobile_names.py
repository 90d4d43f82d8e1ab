"""Names of the tensors of EfficientNet-Lite (the names of `efficientnet_lite_pytorch`) and of MobileNetV2."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from usss_jax.models.encoder import TensorNames

_LEAVES = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}


def lite_names(repeats: Sequence[int]) -> TensorNames:
    """Names of an EfficientNet-Lite with `repeats` blocks in levels 1 to 7.

    >>> lite_names((1, 2, 2, 3, 3, 4, 1)).ours("_blocks.1._expand_conv.weight")
    'params/encoder/level2_block0/expand_conv/kernel'
    """
    modules = {"_conv_stem": "level0_conv", "_bn0": "level0_bn"}
    for n, block in enumerate(_blocks(repeats)):
        for i, part in enumerate(("expand", "depthwise", "project")):
            modules[f"_blocks.{n}._{part}_conv"] = f"{block}/{part}_conv"
            modules[f"_blocks.{n}._bn{i}"] = f"{block}/{part}_bn"
    return _names(modules, unused=("_conv_head.", "_bn1.", "_fc.", "fc."))


def mobilenet_names(repeats: Sequence[int]) -> TensorNames:
    """Names of a MobileNetV2, features.N.conv.I with I counting convolutions, norms and activations of a block.

    Those of torchvision, which nests them, are renamed first.

    >>> mobilenet_names((1, 2, 3, 4, 3, 3, 1)).ours("features.1.conv.3.weight")
    'params/encoder/level1_block0/project_conv/kernel'
    """
    modules = {"features.0.0": "level0_conv", "features.0.1": "level0_bn"}
    for n, block in enumerate(_blocks(repeats), start=1):
        parts = ("expand", "depthwise", "project")[n == 1 :]  # the first block does not expand
        for i, part in enumerate(parts):
            modules[f"features.{n}.conv.{3 * i}"] = f"{block}/{part}_conv"
            modules[f"features.{n}.conv.{3 * i + 1}"] = f"{block}/{part}_bn"
    return dataclasses.replace(
        _names(modules, unused=("features.18.", "classifier.", "fc.")), prepare=_from_torchvision
    )


def _from_torchvision(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Rename torchvision's tensors, in which convolution, norm and activation are a group within the block."""
    if "features.1.conv.0.0.weight" not in tensors:
        return tensors

    def rename(name: str) -> str:
        found = re.fullmatch(r"features\.(\d+)\.conv\.(\d)(?:\.(\d))?\.(\w+)", name)
        if not found:
            return name
        n, place, inside, leaf = found.groups()
        groups = 1 if n == "1" else 2  # of convolution, norm and activation; then the last convolution and its norm
        index = 3 * int(place) + int(inside) if inside else 2 * groups + int(place)
        return f"features.{n}.conv.{index}.{leaf}"

    return {rename(name): tensor for name, tensor in tensors.items()}


def _blocks(repeats: Sequence[int]) -> list[str]:
    return [f"level{level}_block{i}" for level, count in enumerate(repeats, start=1) for i in range(count)]


def _names(modules: Mapping[str, str], unused: tuple[str, ...]) -> TensorNames:
    """Names from {name of a layer in files: its path below the encoder}; `unused` starts names of the classifier."""
    paths = {}
    for name, module in modules.items():
        if module.endswith("_conv"):
            paths[f"{name}.weight"] = f"params/encoder/{module}/kernel"
            continue
        for leaf, (collection, our_leaf) in _LEAVES.items():
            paths[f"{name}.{leaf}"] = f"{collection}/encoder/{module}/{our_leaf}"

    def our_path(name: str) -> str | None:
        if name.startswith(unused) or name.endswith(".num_batches_tracked"):
            return None
        return paths.get(name, f"params/encoder/{name}")  # the latter matches no variable

    return TensorNames(our_path, {path: name for name, path in paths.items()}.__getitem__)
