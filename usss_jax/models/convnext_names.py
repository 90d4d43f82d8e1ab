"""Names of ConvNeXt's tensors: timm's (also used for writing), torchvision's, the original's and Hugging Face's."""

import re
from collections.abc import Sequence

from usss_jax.models.encoder import TensorNames

# Substitutions that give timm's names. torchvision counts stem, stage 0, downsampling, stage 1, ... in one list.
_ORIGINAL = (
    (r"downsample_layers\.0\.", "stem."),
    (r"downsample_layers\.(\d+)\.", r"stages.\1.downsample."),
    (r"stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.pwconv([12])\.", r".mlp.fc\1."),
    (r"^norm\.", "head.norm."),
)
_HUGGING_FACE = (
    (r"^convnext\.", ""),
    (r"^embeddings\.patch_embeddings\.", "downsample_layers.0.0."),
    (r"^embeddings\.layernorm\.", "downsample_layers.0.1."),
    (r"^encoder\.stages\.(\d+)\.downsampling_layer\.", r"downsample_layers.\1."),
    (r"^encoder\.stages\.(\d+)\.layers\.", r"stages.\1."),
    (r"\.layernorm\.", ".norm."),
    (r"^layernorm\.", "norm."),
    (r"\.layer_scale_parameter$", ".gamma"),
)
_TORCHVISION = (
    (r"\.block\.0\.", ".conv_dw."),
    (r"\.block\.2\.", ".norm."),
    (r"\.block\.3\.", ".mlp.fc1."),
    (r"\.block\.5\.", ".mlp.fc2."),
    (r"\.layer_scale$", ".gamma"),
    (r"^features\.0\.", "stem."),
    *((rf"^features\.{2 * i + 1}\.", f"stages.{i}.blocks.") for i in range(4)),
    *((rf"^features\.{2 * i}\.", f"stages.{i}.downsample.") for i in range(1, 4)),
    (r"^classifier\.0\.", "head.norm."),
)
_HEAD = re.compile(r"(head|fc|head\.fc|classifier|classifier\.2)\.(weight|bias)")  # the ImageNet classifier
_LAYERS = {"conv_dw": "conv", "norm": "norm", "mlp.fc1": "expand", "mlp.fc2": "reduce"}  # of a block: theirs to ours


def our_path(name: str) -> str | None:
    """Path of a tensor in our variables; None for the classifier.

    >>> our_path("stem.0.weight"), our_path("stages.2.blocks.8.gamma")
    ('params/encoder/stage0_conv/kernel', 'params/encoder/stage2_block8/scale')
    """
    if _HEAD.fullmatch(name):
        return None
    path = _our_module_and_leaf(_in_timm(name))
    return f"params/encoder/{path or name}"  # an unknown name matches no variable


def _in_timm(name: str) -> str:
    for layout in (_HUGGING_FACE, _ORIGINAL, _TORCHVISION):
        name = _replace(name, layout)
    return name


def _replace(name: str, layout: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in layout:
        name = re.sub(pattern, replacement, name)
    return name


def _our_module_and_leaf(name: str) -> str | None:
    if found := re.fullmatch(r"stages\.(\d+)\.blocks\.(\d+)\.gamma", name):
        return f"stage{found[1]}_block{found[2]}/scale"
    if found := re.fullmatch(r"stages\.(\d+)\.blocks\.(\d+)\.(conv_dw|norm|mlp\.fc1|mlp\.fc2)\.(weight|bias)", name):
        layer = _LAYERS[found[3]]
        return f"stage{found[1]}_block{found[2]}/{layer}/{_our_leaf(found[4], layer == 'norm')}"
    if found := re.fullmatch(r"head\.norm\.(weight|bias)", name):
        return f"norm/{_our_leaf(found[1], True)}"
    if found := re.fullmatch(r"(?:stem|stages\.(\d+)\.downsample)\.([01])\.(weight|bias)", name):
        is_norm = (found[2] == "0") == (found[1] is not None)  # the stem's norm follows its convolution
        return f"stage{found[1] or 0}_{'norm' if is_norm else 'conv'}/{_our_leaf(found[3], is_norm)}"
    return None


def _our_leaf(leaf: str, is_norm: bool) -> str:
    return ("scale" if is_norm else "kernel") if leaf == "weight" else leaf


def their_name(path: str) -> str:
    """Name of one of our variables in timm: the inverse of `our_path`.

    >>> their_name("params/encoder/stage2_block8/scale")
    'stages.2.blocks.8.gamma'
    """
    _, _, module, *rest = path.split("/")
    leaf = {"kernel": "weight", "scale": "weight"}.get(rest[-1], rest[-1])
    if module == "norm":
        return f"head.norm.{leaf}"
    stage, _, part = module.removeprefix("stage").partition("_")
    if part.startswith("block"):
        block = f"stages.{stage}.blocks.{part.removeprefix('block')}"
        if rest == ["scale"]:
            return f"{block}.gamma"
        return f"{block}.{ {ours: theirs for theirs, ours in _LAYERS.items()}[rest[0]] }.{leaf}"
    if stage == "0":
        return f"stem.{0 if part == 'conv' else 1}.{leaf}"
    return f"stages.{stage}.downsample.{1 if part == 'conv' else 0}.{leaf}"


NAMES = TensorNames(our_path, their_name)
