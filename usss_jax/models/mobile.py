"""Light encoders of inverted residual blocks: EfficientNet-Lite 0 to 2 and MobileNetV2, with stride 8, 16 or 32.

As published their stride is 32. For a smaller one, the last strided layers get stride 1, and the layers after them are
dilated, so that the taps of every kernel stay as far apart in the image as in training. For image sides that are
multiples of 32, every 2nd (stride 16) or 4th (stride 8) feature is exactly that of the network of stride 32.

EfficientNet-Lite pads strided layers as TensorFlow does for even sides: zeros (0, 1) for a 3x3 kernel, and without
stride (0, 2), which moves what a cell sees to the lower right as in training. For odd sides TensorFlow pads
symmetrically, which moves it back; here sides do not matter, so that a network that was trained on crops sees images of
any size alike. MobileNetV2 pads symmetrically. The last 1x1 convolution of both networks, to 1280 channels, is left
out: it belongs to the classifier.

Sources: Sandler et al., "MobileNetV2", 2018; Tan and Le, "EfficientNet", 2019, and its Lite variants of 2020 (ReLU6, no
squeeze-and-excitation).
"""

import itertools
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
from jax import lax
from jax.typing import DTypeLike

from usss_jax.models.encoder import Encoder, TensorNames
from usss_jax.models.layers import Conv, Convolution, GroupedBatchNorm, apply_levels, scaled
from usss_jax.models.mobile_names import lite_names, mobilenet_names

STEM = 32  # channels of level 0, a 3x3 convolution of stride 2
STRIDES = (2, 1, 2, 2, 2, 1, 2, 1)  # of levels 0 to 7
EXPANSION = 6  # of the channels inside a block; level 1 has none


class Layer(NamedTuple):
    """Stride and dilation of a level's first kernel, whether it was strided in training, and dilation of the others."""

    stride: int
    dilation: int
    strided: bool
    dilation_after: int


def plan(stride: int) -> list[Layer]:
    """Layer of every level, for an encoder of this stride.

    >>> plan(16)[6]
    Layer(stride=1, dilation=1, strided=True, dilation_after=2)
    """
    layers, total, dilation = [], 1, 1
    for step in STRIDES:
        kept = step if total * step <= stride else 1
        layers.append(Layer(kept, dilation, step > 1, dilation * step // kept))
        total, dilation = total * kept, layers[-1].dilation_after
    return layers


class Block(nn.Module):
    """Inverted residual block: 1x1 to more channels, depthwise kernel, 1x1 to `features` without activation."""

    features: int
    expansion: int
    kernel: int
    layer: Layer
    symmetric: bool
    norm: Callable[..., GroupedBatchNorm]
    dtype: DTypeLike | None = None
    precision: lax.Precision | None = None

    @nn.compact
    def __call__(self, x, train: bool):
        """Map `x` [B, H, W, C] to [B, ceil(H / stride), ceil(W / stride), features]."""
        numerics: dict[str, Any] = {"dtype": self.dtype, "precision": self.precision}
        y, channels = x, x.shape[-1] * self.expansion
        if self.expansion > 1:
            y = Convolution(channels, 1, name="expand_conv", **numerics)(y)
            y = nn.relu6(self.norm(name="expand_bn")(y, train))
        depthwise = Conv(
            channels,
            (self.kernel, self.kernel),
            strides=self.layer.stride,
            padding=padding(y.shape[1:3], self.kernel, self.layer, self.symmetric),
            kernel_dilation=self.layer.dilation,
            feature_group_count=channels,
            use_bias=False,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
            name="depthwise_conv",
            **numerics,
        )
        y = nn.relu6(self.norm(name="depthwise_bn")(depthwise(y), train))
        y = self.norm(name="project_bn")(Convolution(self.features, 1, name="project_conv", **numerics)(y), train)
        return x + y if not self.layer.strided and x.shape == y.shape else y


def padding(sides: Sequence[int], kernel: int, layer: Layer, symmetric: bool) -> list[tuple[int, int]]:
    """Zeros before and after each axis.

    >>> strided = Layer(2, 1, True, 1)
    >>> padding((8, 9), 3, strided, symmetric=False), padding((8, 9), 3, strided, symmetric=True)
    ([(0, 1), (0, 2)], [(1, 1), (1, 1)])
    """
    reach = (kernel - 1) * layer.dilation
    if symmetric or not layer.strided:
        return [(reach // 2, reach // 2)] * len(sides)
    before = (kernel - 2) // 2 * layer.dilation
    totals = (max((-(-n // layer.stride) - 1) * layer.stride + reach + 1 - n, 0) for n in sides)
    return [(before, total - before) for total in totals]


class Mobile(Encoder, kw_only=True):
    """Encoder: image -> features of the last block, at 1/8, 1/16 or 1/32 of its size.

    Attributes:
      channels: output channels of levels 1 to 7, before `width`.
      repeats: number of their blocks.
      kernels: side of their kernels.
      symmetric: whether strided layers are padded symmetrically, or as in TensorFlow.
      momentum, epsilon: of the batch norms.
    """

    channels: Sequence[int]
    repeats: Sequence[int]
    stride: int = 16

    levels = len(STRIDES)
    strides = (8, 16, 32)
    finer_strides = (4, 8, 16)
    kernels: ClassVar[tuple[int, ...]]
    symmetric: ClassVar[bool]
    momentum: ClassVar[float]
    epsilon: ClassVar[float]

    @property
    def out_channels(self) -> int:
        """Channels of the features."""
        return scaled(self.channels[-1], self.width)

    @nn.compact
    def __call__(self, x, train: bool = False, groups: int = 1):
        """Map images [B, H, W, 3] to features [B, ceil(H / stride), ceil(W / stride), out_channels].

        With `finer`, also to those of an earlier level.

        In training, `groups` batches are interleaved on the first axis (see `GroupedBatchNorm`).
        """
        numerics: dict[str, Any] = {"dtype": self.dtype, "precision": self.precision}
        norm = partial(GroupedBatchNorm, groups, self.momentum, self.epsilon)
        layers = plan(self.stride)

        def run(module, x, level):
            """One level; `module` is self, or its stand-in where the level is recomputed (`apply_levels`)."""
            layer, train_level = layers[level], train and level >= self.frozen
            if level == 0:
                zeros = padding(x.shape[1:3], 3, layer, self.symmetric)
                init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
                stem = Conv(
                    scaled(STEM, self.width),
                    (3, 3),
                    strides=layer.stride,
                    padding=zeros,
                    use_bias=False,
                    kernel_init=init,
                    name="level0_conv",
                    parent=module,
                    **numerics,
                )
                x = norm(name="level0_bn", parent=module)(stem(x), train_level)
                return nn.relu6(x)
            for i in range(self.repeats[level - 1]):
                block = Block(
                    scaled(self.channels[level - 1], self.width),
                    1 if level == 1 else EXPANSION,
                    self.kernels[level - 1],
                    layer if i == 0 else Layer(1, layer.dilation_after, False, layer.dilation_after),
                    self.symmetric,
                    norm,
                    name=f"level{level}_block{i}",
                    parent=module,
                    **numerics,
                )
                x = block(x, train_level)
            return x

        outputs = apply_levels(self, run, x)
        if not self.finer:
            return outputs[-1]
        totals = itertools.accumulate((layer.stride for layer in layers), operator.mul)
        last = max(level for level, total in enumerate(totals) if total <= self.finer)
        return outputs[-1], outputs[last]


class EfficientNetLite(Mobile):
    """EfficientNet-Lite, whose images are (x - 127) / 128 for x from 0 to 255."""

    kernels = (3, 3, 5, 3, 5, 5, 3)
    symmetric = False
    momentum, epsilon = 0.9, 1e-3  # its training took a momentum of 0.99, which is too slow for a short one
    normalization = ((127 / 255,) * 3, (128 / 255,) * 3)

    @property
    def tensor_names(self) -> TensorNames:
        """Names in weight files."""
        return lite_names(self.repeats)


class MobileNetV2(Mobile):
    """MobileNetV2 as in PyTorch."""

    kernels = (3,) * 7
    symmetric = True
    momentum, epsilon = 0.9, 1e-5

    @property
    def tensor_names(self) -> TensorNames:
        """Names in weight files."""
        return mobilenet_names(self.repeats)


_NARROW, _WIDE = (16, 24, 40, 80, 112, 192, 320), (16, 24, 48, 88, 120, 208, 352)
_SHORT, _LONG = (1, 2, 2, 3, 3, 4, 1), (1, 3, 3, 4, 4, 5, 1)

ENCODERS: dict[str, Callable[..., Mobile]] = {
    "efficientnet_lite0": partial(EfficientNetLite, channels=_NARROW, repeats=_SHORT),
    "efficientnet_lite1": partial(EfficientNetLite, channels=_NARROW, repeats=_LONG),
    "efficientnet_lite2": partial(EfficientNetLite, channels=_WIDE, repeats=_LONG),
    "mobilenet_v2": partial(MobileNetV2, channels=(16, 24, 32, 64, 96, 160, 320), repeats=(1, 2, 3, 4, 3, 3, 1)),
}
