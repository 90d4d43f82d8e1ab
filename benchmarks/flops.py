"""FLOPs of the convolutions of a step, counted from shapes: 2 per multiply-add, products with padding included."""

import math
import re
from collections.abc import Mapping

import flax.linen as nn
import jax

from benchmarks.compiled_step import CLASSES, Setting
from usss_jax.models.convolution import Convolution

PARTS = ("forward", "of_input", "of_kernel")


def convolution_flops(images: int, output: tuple[int, int], kernel: tuple[int, ...]) -> int:
    """FLOPs of one convolution: 2 * images * H * W * k * k * C * K for an output H x W and a kernel [k, k, C, K]."""
    return 2 * images * math.prod(output) * math.prod(kernel)


def model_flops(setting: Setting, images: int) -> dict[str, dict[str, int]]:
    """Forward and both gradients of so many images, by level of the encoder and head.

    A gradient costs what the forward pass does; nobody asks for that in the images. Every image goes through its own
    decoder and the embedding, that is through both: what a step does not need of them (below 1 %) is counted too.
    """
    found: dict[str, dict[str, int]] = {}

    def count(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if isinstance(context.module, Convolution | nn.Conv) and context.method_name == "__call__":
            kernel = context.module.variables["params"]["kernel"].shape
            flops = convolution_flops(images, out.shape[1:3], kernel)
            own = found.setdefault(part_of("/".join(context.module.path)), dict.fromkeys(PARTS, 0))
            of_images = args[0].shape[-1] == 3
            for part in PARTS:
                own[part] += 0 if of_images and part == "of_input" else flops
        return out

    model = setting.model()
    with nn.intercept_methods(count):
        jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *setting.size, 3), "float32"))
    return dict(sorted(found.items()))


def part_of(path: str) -> str:
    """Level of the encoder, such as "level3", or "heads"."""
    level = re.search(r"encoder/(level\d+)", path)
    return level.group(1) if level else "heads"


def step_flops(setting: Setting) -> dict[str, dict[str, int]]:
    """`model_flops` of all images of a step: labeled and unlabeled ones of every domain."""
    return model_flops(setting, len(CLASSES) * (setting.batch + setting.passes * setting.micro_batch))


def total(flops: Mapping[str, Mapping[str, int]]) -> int:
    """Sum over levels and parts."""
    return sum(sum(parts.values()) for parts in flops.values())
