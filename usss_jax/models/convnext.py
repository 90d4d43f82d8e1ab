"""ConvNeXt (Liu et al., "A ConvNet for the 2020s", 2022) with output stride 8 instead of 32.

The stem (stride 4) and the downsampling before stage 1 (stride 2) are as published; stages are counted from 0, as in
weight files. The downsamplings before stages 2 and 3 have stride 1, and the layers after them are dilated, so that the
taps of every kernel stay as far apart in the image as in training:

  stage  2x2 downsampling before it             its 7x7 convolutions
  2      stride 1, dilation 1, zeros (0, 1)     dilation 2
  3      stride 1, dilation 2, zeros (1, 1)     dilation 4

For image sides that are multiples of 32, the features [1::4, 1::4] are exactly those of the network of stride 32; the
others are those of shifted images. A 2x2 kernel has no centre: the padding (0, 1) shifts what a cell sees by half a
cell (4 pixels) to the lower right, and (1, 1) adds no shift. timm's ConvNeXt with output_stride=8 does the same.

Where a side is not a multiple of a stride, the layer pads with zeros at the lower or right border. The last LayerNorm
normalises every cell, while the published classifier applies it to the mean over the image. Stochastic depth is not
implemented.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
from jax import lax
from jax.typing import DTypeLike

from usss_jax.models.convnext_names import NAMES
from usss_jax.models.encoder import Encoder
from usss_jax.models.layers import Conv, Dense, apply_levels, layer_norm, scaled

STAGES = (  # stride, dilation and padding of the downsampling (None: as the size needs), dilation of the blocks
    (4, 1, None, 1),  # kernel 4x4: the stem
    (2, 1, None, 1),
    (1, 1, (0, 1), 2),
    (1, 2, (1, 1), 4),
)
LAYER_SCALE = 1e-6  # initial value
INIT = nn.initializers.normal(0.02)  # the original truncates at 2, a hundred standard deviations away


class Block(nn.Module):
    """Depthwise 7x7 convolution, LayerNorm, 1x1 to 4x channels, GELU, 1x1 back, times the layer scale, plus the input.

    The sum is at least float32: bfloat16 would lose branches that the layer scale starts at a millionth of their size.
    """

    dilation: int = 1
    dtype: DTypeLike | None = None
    precision: lax.Precision | None = None

    @nn.compact
    def __call__(self, x):
        """Map `x` [B, H, W, C] to the same shape."""
        channels = x.shape[-1]
        numerics = {"kernel_init": INIT, "dtype": self.dtype, "precision": self.precision}
        y = Conv(
            channels,
            (7, 7),
            padding=[(3 * self.dilation,) * 2] * 2,
            kernel_dilation=self.dilation,
            feature_group_count=channels,
            name="conv",
            **numerics,
        )(x)
        y = layer_norm(name="norm")(y)
        y = nn.gelu(Dense(4 * channels, name="expand", **numerics)(y), approximate=False)
        y = Dense(channels, name="reduce", **numerics)(y)
        return x + y * self.param("scale", nn.initializers.constant(LAYER_SCALE), (channels,))


class ConvNeXt(Encoder):
    """Encoder: image -> features at one eighth of its size.

    Attributes:
      blocks: number of blocks of stages 0 to 3.
      channels: channels of stages 0 to 3, before `width`.
    """

    blocks: Sequence[int]
    channels: Sequence[int]

    levels = len(STAGES)
    tensor_names = NAMES  # of timm, torchvision, the original and Hugging Face

    @property
    def out_channels(self) -> int:
        """Channels of the features."""
        return scaled(self.channels[-1], self.width)

    @nn.compact
    def __call__(self, x, train: bool = False, groups: int = 1):
        """Map images [B, H, W, 3] to features [B, ceil(H / 8), ceil(W / 8), out_channels].

        `train` and `groups` change nothing, since the encoder has no batch statistics.
        """
        numerics: dict[str, Any] = {"dtype": self.dtype, "precision": self.precision}

        def run(module, x, stage, _):
            """One stage; `module` is self, or its stand-in where the stage is recomputed (`apply_levels`)."""
            stride, dilation, zeros, block_dilation = STAGES[stage]
            norm = layer_norm(name=f"stage{stage}_norm", parent=module)
            downsampling = Conv(
                scaled(self.channels[stage], self.width),
                (4, 4) if stage == 0 else (2, 2),
                strides=stride,
                padding=[zeros or (0, stride - 1)] * 2,
                kernel_dilation=dilation,
                kernel_init=INIT,
                name=f"stage{stage}_conv",
                parent=module,
                **numerics,
            )
            x = norm(downsampling(x)) if stage == 0 else downsampling(norm(x))
            for i in range(self.blocks[stage]):
                x = Block(block_dilation, name=f"stage{stage}_block{i}", parent=module, **numerics)(x)
            return x

        x = apply_levels(self, run, x, train)[-1]
        return layer_norm(name="norm")(x)


ENCODERS = {
    "convnext_tiny": partial(ConvNeXt, blocks=(3, 3, 9, 3), channels=(96, 192, 384, 768)),
    "convnext_small": partial(ConvNeXt, blocks=(3, 3, 27, 3), channels=(96, 192, 384, 768)),
    "convnext_base": partial(ConvNeXt, blocks=(3, 3, 27, 3), channels=(128, 256, 512, 1024)),
}
