"""Names of DRN's tensors: the reference implementation's (`base.<level>`) and the DRN release's (`layer<level>`)."""

import re

from usss_jax.models.encoder import TensorNames

_UNUSED = ("num_batches_tracked", "fc.weight", "fc.bias")  # counters, ImageNet head
_LEAVES = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}


def our_path(name: str) -> str | None:
    """Path of a tensor in our variables; None for counters and the ImageNet head.

    >>> our_path("base.0.0.weight"), our_path("layer3.1.bn2.running_var")
    ('params/encoder/level0_conv/kernel', 'batch_stats/encoder/level3_block1/bn2/var')
    """
    if name.endswith(_UNUSED):
        return None
    found = re.fullmatch(r"(?:base\.|layer)([0-9]+)\.?(.*)", name)
    if found is None:
        return f"params/encoder/{name}"  # matches no variable
    level, rest = found.groups()
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


def their_name(path: str) -> str:
    """Name of one of our variables in the reference implementation: the inverse of `our_path`.

    >>> their_name("params/encoder/level0_conv/kernel")
    'base.0.0.weight'
    """
    collection, _, module, *layer, leaf = path.split("/")
    leaf = "weight" if leaf == "kernel" else {v: k for k, v in _LEAVES.items()}[collection, leaf]
    level, _, kind = module.removeprefix("level").partition("_")
    if kind in ("conv", "bn"):
        return f"base.{level}.{0 if kind == 'conv' else 1}.{leaf}"
    inner = layer[0].replace("shortcut_conv", "downsample.0").replace("shortcut_bn", "downsample.1")
    return f"base.{level}.{kind.removeprefix('block')}.{inner}.{leaf}"


NAMES = TensorNames(our_path, their_name)
