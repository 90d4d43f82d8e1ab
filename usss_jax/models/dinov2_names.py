"""Names of DINOv2's tensors: the original's, which timm shares (also used for writing), and Hugging Face's."""

import re
from collections.abc import Mapping

import numpy as np

from usss_jax.models.encoder import TensorNames

# Substitutions that give the original's names.
_HUGGING_FACE = (
    (r"^(dinov2|backbone)\.", ""),
    (r"^embeddings\.(cls_token|mask_token)$", r"\1"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
)
# Hugging Face's query, key and value, in files and, since its version 5, in memory
_THIRD = re.compile(r"(.+)\.attention\.(?:attention\.(query|key|value)|([qkv])_proj)\.(weight|bias)")
# The token that replaced masked patches in training, and classifiers
_UNUSED = re.compile(r"mask_token|(head|fc|classifier|linear_head)\.(weight|bias)")
_TOKENS = {"cls_token": "class_token", "pos_embed": "positions"}  # theirs to ours
_LAYERS = {  # of a block: theirs to ours
    "norm1": "norm1",
    "attn.qkv": "qkv",
    "attn.proj": "project",
    "norm2": "norm2",
    "mlp.fc1": "expand",
    "mlp.fc2": "reduce",
}


def our_path(name: str) -> str | None:
    """Path of a tensor in our variables; None for the mask token and classifiers.

    >>> our_path("blocks.2.attn.qkv.weight"), our_path("encoder.layer.11.layer_scale1.lambda1")
    ('params/encoder/block2/qkv/kernel', 'params/encoder/block11/scale1')
    """
    for pattern, replacement in _HUGGING_FACE:
        name = re.sub(pattern, replacement, name)
    if _UNUSED.fullmatch(name):
        return None
    return f"params/encoder/{_our_module_and_leaf(name) or name}"  # an unknown name matches no variable


def _our_module_and_leaf(name: str) -> str | None:
    if name in _TOKENS:
        return _TOKENS[name]
    if found := re.fullmatch(r"patch_embed\.proj\.(weight|bias)", name):
        return f"patch/{_our_leaf(found[1], False)}"
    if found := re.fullmatch(r"norm\.(weight|bias)", name):
        return f"norm/{_our_leaf(found[1], True)}"
    if found := re.fullmatch(r"blocks\.(\d+)\.ls([12])\.gamma", name):
        return f"block{found[1]}/scale{found[2]}"
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name)
    if found and found[2] in _LAYERS:
        return f"block{found[1]}/{_LAYERS[found[2]]}/{_our_leaf(found[3], found[2].startswith('norm'))}"
    return None


def _our_leaf(leaf: str, is_norm: bool) -> str:
    return ("scale" if is_norm else "kernel") if leaf == "weight" else leaf


def their_name(path: str) -> str:
    """Name of one of our variables in the original: the inverse of `our_path`.

    >>> their_name("params/encoder/block2/qkv/kernel")
    'blocks.2.attn.qkv.weight'
    """
    _, _, module, *rest = path.split("/")
    if not rest:
        return {ours: theirs for theirs, ours in _TOKENS.items()}[module]
    leaf = {"kernel": "weight", "scale": "weight"}.get(rest[-1], rest[-1])
    if module == "patch":
        return f"patch_embed.proj.{leaf}"
    if module == "norm":
        return f"norm.{leaf}"
    block = f"blocks.{module.removeprefix('block')}"
    if len(rest) == 1:
        return f"{block}.ls{rest[0].removeprefix('scale')}.gamma"
    return f"{block}.{ {ours: theirs for theirs, ours in _LAYERS.items()}[rest[0]] }.{leaf}"


def join_attention(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Join Hugging Face's query, key and value [C, C] and [C] to the original's [3 C, C] and [3 C]; keep the others.

    >>> name = "encoder.layer.0.attention.attention.{}.bias"
    >>> joined = join_attention({name.format(part): np.array([i]) for i, part in enumerate(("query", "key", "value"))})
    >>> {name: tensor.tolist() for name, tensor in joined.items()}
    {'encoder.layer.0.attn.qkv.bias': [0, 1, 2]}
    """
    joined: dict[str, np.ndarray] = {}
    thirds: dict[str, dict[str, str]] = {}  # name of the joined tensor -> q, k or v -> name in the file
    for name, tensor in tensors.items():
        if found := _THIRD.fullmatch(name):
            part = (found[2] or found[3])[0]
            thirds.setdefault(f"{found[1]}.attn.qkv.{found[4]}", {})[part] = name
        else:
            joined[name] = tensor
    for name, parts in thirds.items():
        if len(parts) == 3 and len({tensors[part].shape for part in parts.values()}) == 1:
            joined[name] = np.concatenate([tensors[parts[part]] for part in "qkv"])
        else:  # they keep their names, which have no place in the model
            joined.update({part: tensors[part] for part in parts.values()})
    return joined


NAMES = TensorNames(our_path, their_name, join_attention)
