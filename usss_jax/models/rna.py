"""RNA-A1, also called ResNet-38: a wide residual network of pre-activation units, at stride 8.

The published classifier has stride 32. Here its last two strides are dilations, as in its networks for segmentation.

Source: Wu, Shen, van den Hengel, "Wider or Deeper: Revisiting the ResNet Model for Visual Recognition", 2016.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
from jax import lax
from jax.typing import DTypeLike

from usss_jax.models.encoder import Encoder
from usss_jax.models.layers import Convolution, GroupedBatchNorm, apply_levels, scaled
from usss_jax.models.rna_names import NAMES

STEM = 64  # channels of level 0, a 3x3 convolution, before `width`
EPSILON = 1.001e-5  # of the batch norms


class Level(NamedTuple):
    """Level of residual units, of which the first projects its input.

    Attributes:
      units: number of units.
      channels: output channels of the convolutions of a unit, before `width`.
      stride, first_dilation: of the first convolution of the first unit.
      dilation: of the other convolutions.
      dropout: share of the values that dropout sets to 0 before the last convolution of a unit.
    """

    units: int
    channels: tuple[int, ...]
    stride: int
    first_dilation: int
    dilation: int
    dropout: float


LEVELS = (  # 1 to 6; in the paper and in weight files they and level 0 count from 1
    Level(3, (128, 128), 2, 1, 1, 0.0),
    Level(3, (256, 256), 2, 1, 1, 0.0),
    Level(6, (512, 512), 2, 1, 1, 0.0),
    Level(3, (512, 1024), 1, 1, 2, 0.0),
    Level(1, (512, 1024, 2048), 1, 2, 4, 0.3),
    Level(1, (1024, 2048, 4096), 1, 4, 4, 0.5),
)


class Unit(nn.Module):
    """Residual unit of two 3x3 convolutions, or of a 1x1, a 3x3 and a 1x1; batch norm and ReLU precede each of them.

    Attributes:
      channels: output channels of its convolutions.
      projection: whether a 1x1 convolution of the first ReLU's output is the shortcut, instead of the input.
      stride, first_dilation: of the first convolution; the stride is also that of the projection.
      dilation: of the other convolutions.
      dropout: share of the values that are set to 0 before the last convolution, where `RNA` drops any.
      groups: batches that are interleaved on the first axis.
      dtype, precision: of the convolutions.
    """

    channels: Sequence[int]
    projection: bool
    stride: int = 1
    first_dilation: int = 1
    dilation: int = 1
    dropout: float = 0.0
    groups: int = 1
    dtype: DTypeLike | None = None
    precision: lax.Precision | None = None

    @nn.compact
    def __call__(self, x, train: bool):
        """Map `x` [B, H, W, C] to [B, ceil(H / stride), ceil(W / stride), channels[-1]]."""
        layer = partial(Convolution, dtype=self.dtype, precision=self.precision)
        count = len(self.channels)
        kernels = (3, 3) if count == 2 else (1, 3, 1)
        shortcut = y = x
        for i, (features, kernel) in enumerate(zip(self.channels, kernels, strict=True), start=1):
            y = nn.relu(GroupedBatchNorm(self.groups, epsilon=EPSILON, name=f"bn{i}")(y, train))
            stride, dilation = (self.stride, self.first_dilation) if i == 1 else (1, self.dilation)
            if i == 1 and self.projection:
                shortcut = layer(self.channels[-1], 1, stride, name="shortcut_conv")(y)
            if i == count:
                y = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(y)
            y = layer(features, kernel, stride, dilation, name=f"conv{i}")(y)
        return shortcut + y


class RNA(Encoder):
    """Encoder: image -> features after the last batch norm and ReLU, at one eighth of its size.

    Dropout acts wherever `apply` gets a key named "dropout", whatever `train` is, but not in frozen levels.
    """

    levels = 1 + len(LEVELS)
    tensor_names = NAMES

    @property
    def out_channels(self) -> int:
        """Channels of the features."""
        return scaled(LEVELS[-1].channels[-1], self.width)

    @nn.compact
    def __call__(self, x, train: bool = False, groups: int = 1):
        """Map images [B, H, W, 3] to features [B, ceil(H / 8), ceil(W / 8), out_channels].

        In training, `groups` batches are interleaved on the first axis (see `GroupedBatchNorm`).
        """
        numerics: dict[str, Any] = {"dtype": self.dtype, "precision": self.precision}

        def run(module, x, level, train):
            """One level; `module` is self, or its stand-in where the level is recomputed (`apply_levels`)."""
            if level == 0:
                return Convolution(scaled(STEM, self.width), 3, name="level0_conv", parent=module, **numerics)(x)
            own = LEVELS[level - 1]
            for i in range(own.units):
                unit = Unit(
                    [scaled(channels, self.width) for channels in own.channels],
                    projection=i == 0,
                    stride=own.stride if i == 0 else 1,
                    first_dilation=own.first_dilation if i == 0 else own.dilation,
                    dilation=own.dilation,
                    dropout=own.dropout if level >= self.frozen else 0.0,
                    groups=groups,
                    name=f"level{level}_block{i}",
                    parent=module,
                    **numerics,
                )
                x = unit(x, train)
            return x

        x = apply_levels(self, run, x, train)[-1]
        return nn.relu(GroupedBatchNorm(groups, epsilon=EPSILON, name="norm")(x, train))


ENCODERS = {"rna_a1": RNA}
