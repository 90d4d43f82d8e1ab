"""Names of RNA-A1's tensors in its files, which are MXNet's (models/mxnet_files.py).

Level i is their level i + 1, whose units are called a, b1, b2, ...; the branches of a unit are 1 (its shortcut) and 2a,
2b1, 2b2 (its convolutions).
"""

import re
from collections.abc import Mapping

import numpy as np

from usss_jax.models.encoder import TensorNames

# The ImageNet classifier, also that of `configs/imagenet.py`, and the head of image-level scores.
_UNUSED = re.compile(r"(fc\.|linear\d+_|conv61a_|logistic\d+_|bCls[01]_)(weight|bias)")
_LEAVES = {
    "gamma": ("params", "scale"),
    "beta": ("params", "bias"),
    "moving_mean": ("batch_stats", "mean"),
    "moving_var": ("batch_stats", "var"),
}
_BRANCHES = ("2a", "2b1", "2b2")  # of convolutions 1 to 3, and of the batch norms before them
_LAST_LEVEL = 7  # in files; its number is also that of the last batch norm


def our_path(name: str) -> str | None:
    """Path of a tensor in our variables; None for heads.

    >>> our_path("res4b2_branch2b1_weight"), our_path("bn2a_branch2a_moving_var")
    ('params/encoder/level3_block2/conv2/kernel', 'batch_stats/encoder/level1_block0/bn1/var')
    """
    if _UNUSED.fullmatch(name):
        return None
    if name == "conv1a_weight":
        return "params/encoder/level0_conv/kernel"
    if found := re.fullmatch(rf"bn{_LAST_LEVEL}_({'|'.join(_LEAVES)})", name):
        collection, leaf = _LEAVES[found[1]]
        return f"{collection}/encoder/norm/{leaf}"
    if found := re.fullmatch(rf"(res|bn)(\d)(?:a|b(\d+))_branch(1|{'|'.join(_BRANCHES)})_(\w+)", name):
        kind, level, unit, branch, leaf = found.groups()
        block = f"level{int(level) - 1}_block{unit or 0}"
        number = _BRANCHES.index(branch) + 1 if branch in _BRANCHES else 0
        if kind == "res" and leaf == "weight":
            return f"params/encoder/{block}/{f'conv{number}' if number else 'shortcut_conv'}/kernel"
        if kind == "bn" and number and leaf in _LEAVES:
            collection, leaf = _LEAVES[leaf]
            return f"{collection}/encoder/{block}/bn{number}/{leaf}"
    return f"params/encoder/{name}"  # matches no variable


def their_name(path: str) -> str:
    """Name of one of our variables in files: the inverse of `our_path`.

    >>> their_name("params/encoder/level3_block2/conv2/kernel")
    'res4b2_branch2b1_weight'
    """
    collection, _, module, *layer, leaf = path.split("/")
    leaf = "weight" if leaf == "kernel" else {v: k for k, v in _LEAVES.items()}[collection, leaf]
    if module == "level0_conv":
        return f"conv1a_{leaf}"
    if module == "norm":
        return f"bn{_LAST_LEVEL}_{leaf}"
    level, _, block = module.removeprefix("level").partition("_block")
    unit = f"{int(level) + 1}{f'b{block}' if int(block) else 'a'}"
    if layer == ["shortcut_conv"]:
        return f"res{unit}_branch1_{leaf}"
    kind, number = layer[0][:-1], int(layer[0][-1])  # conv2 or bn2
    return f"{'res' if kind == 'conv' else 'bn'}{unit}_branch{_BRANCHES[number - 1]}_{leaf}"


def _name_decoder(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Give the head of a segmentation network, which has a layer "conv6a", the names of decoder 0."""
    if "conv6a_weight" not in tensors:
        return tensors
    layers = ((r"conv6a_", "seg.0.hidden."), (r"linear\d+_", "seg.0.scores."))
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, layer in layers:
            name = re.sub(rf"^{pattern}", layer, name)
        renamed[name] = tensor
    return renamed


NAMES = TensorNames(our_path, their_name, _name_decoder)
