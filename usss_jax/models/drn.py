"""Dilated residual networks (Yu, Koltun, Funkhouser, 2017), family D, output stride 8."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
from jax import lax
from jax.typing import DTypeLike

from usss_jax.models.drn_names import NAMES
from usss_jax.models.encoder import Encoder
from usss_jax.models.layers import Convolution, GroupedBatchNorm, apply_levels, scaled

CHANNELS = (16, 16, 32, 64, 128, 256, 512, 512, 512)  # before `width` and the bottlenecks' factor 4
LEVELS = (  # kind, kernel, stride, dilation
    ("plain", 7, 1, 1),
    ("plain", 3, 1, 1),
    ("plain", 3, 2, 1),
    ("blocks", 3, 2, 1),
    ("blocks", 3, 2, 1),
    ("blocks", 3, 1, 2),
    ("blocks", 3, 1, 4),
    ("plain", 3, 1, 2),
    ("plain", 3, 1, 1),
)


class ResidualBlock(nn.Module):
    """Basic (3x3, 3x3) or bottleneck (1x1, 3x3, 1x1 to 4x channels) block; the last ReLU follows the sum."""

    features: int
    bottleneck: bool
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    dtype: DTypeLike | None = None
    precision: lax.Precision | None = None

    @nn.compact
    def __call__(self, x, train: bool):
        """Map `x` [B, H, W, C] to [B, ceil(H / stride), ceil(W / stride), features (* 4)]."""
        layer = partial(Convolution, dtype=self.dtype, precision=self.precision)
        out_features = self.features * (4 if self.bottleneck else 1)
        if self.bottleneck:
            plan = [
                (self.features, 1, 1, 1),
                (self.features, 3, self.stride, self.dilation),
                (out_features, 1, 1, 1),
            ]
        else:
            plan = [(self.features, 3, self.stride, self.dilation), (out_features, 3, 1, self.dilation)]

        y = x
        for i, (features, kernel, stride, dilation) in enumerate(plan, start=1):
            y = layer(features, kernel, stride, dilation, name=f"conv{i}")(y)
            y = GroupedBatchNorm(self.groups, name=f"bn{i}")(y, train)
            if i < len(plan):
                y = nn.relu(y)
        if self.stride != 1 or x.shape[-1] != out_features:
            x = layer(out_features, 1, self.stride, name="shortcut_conv")(x)
            x = GroupedBatchNorm(self.groups, name="shortcut_bn")(x, train)
        return nn.relu(y + x)


class DRN(Encoder):
    """Encoder F of the paper: image -> features at one eighth of its size.

    Attributes:
      blocks: number of residual blocks of levels 3 to 6.
      bottleneck: whether the blocks are bottlenecks.
    """

    blocks: Sequence[int]
    bottleneck: bool = False

    levels = len(LEVELS)
    tensor_names = NAMES  # of the reference implementation and of the DRN release

    @property
    def out_channels(self) -> int:
        """Channels of the features."""
        return scaled(CHANNELS[-1], self.width)

    @nn.compact
    def __call__(self, x, train: bool = False, groups: int = 1):
        """Map images [B, H, W, 3] to features [B, ceil(H / 8), ceil(W / 8), out_channels].

        In training, `groups` batches are interleaved on the first axis (see `GroupedBatchNorm`).
        """
        numerics: dict[str, Any] = {"dtype": self.dtype, "precision": self.precision}

        def run(module, x, level, train):
            """One level; `module` is self, or its stand-in where the level is recomputed (`apply_levels`)."""
            kind, kernel, stride, dilation = LEVELS[level]
            channels = scaled(CHANNELS[level], self.width)
            if kind == "plain":
                layer = Convolution(
                    channels, kernel, stride, dilation, name=f"level{level}_conv", parent=module, **numerics
                )
                return nn.relu(GroupedBatchNorm(groups, name=f"level{level}_bn", parent=module)(layer(x), train))
            for i in range(self.blocks[level - 3]):
                block = ResidualBlock(
                    channels,
                    self.bottleneck,
                    stride if i == 0 else 1,
                    dilation,
                    groups,
                    name=f"level{level}_block{i}",
                    parent=module,
                    **numerics,
                )
                x = block(x, train)
            return x

        return apply_levels(self, run, x, train)[-1]


ENCODERS = {  # by their names in the DRN release
    "drn_d_22": partial(DRN, blocks=(2, 2, 2, 2), bottleneck=False),
    "drn_d_38": partial(DRN, blocks=(3, 4, 6, 3), bottleneck=False),
    "drn_d_54": partial(DRN, blocks=(3, 4, 6, 3), bottleneck=True),
    "drn_d_105": partial(DRN, blocks=(3, 4, 23, 3), bottleneck=True),
}
PAPER_NAMES = {  # of the same networks
    "resnet18": "drn_d_22",
    "resnet34": "drn_d_38",
    "resnet50": "drn_d_54",
    "resnet101": "drn_d_105",
}
