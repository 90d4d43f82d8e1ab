"""Light encoders of inverted residual blocks: EfficientNet-Lite 0 to 2 and MobileNetV2, with stride 8, 16 or 32.

As published their stride is 32. For a smaller one, the last strided layers get stride 1, and the layers after them are
dilated, so that the taps of every kernel stay as far apart in the image as in training. For image sides that are
multiples of 32, every 2nd (stride 16) or 4th (stride 8) feature is exactly that of the network of stride 32.

EfficientNet-Lite pads as TensorFlow does: the odd zero of a strided layer is at the lower and right border of even
sides, and odd sides are padded symmetrically. Here it is always at the lower and right border, so that features do not
shift with the parity of a side, and a network trained on crops sees images of any size alike. A layer that has lost its
stride keeps that shift. MobileNetV2 pads symmetrically. The last 1x1 convolution of both networks, to 1280 channels, is
left out: it belongs to the classifier.

Sources: Sandler et al., "MobileNetV2", 2018; Tan and Le, "EfficientNet", 2019, and its Lite variants of 2020 (ReLU6, no
squeeze-and-excitation).
"""

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


class Sampling(NamedTuple):
    """How a level samples its input.

    Attributes:
      stride, dilation: of its first kernel.
      strided: whether that kernel is strided in the published network.
      dilation_after: of its other kernels.
      total: stride of its output.
    """

    stride: int
    dilation: int
    strided: bool
    dilation_after: int
    total: int


def samplings(stride: int) -> list[Sampling]:
    """Sampling of every level, for an encoder of this stride.

    >>> samplings(16)[6]
    Sampling(stride=1, dilation=1, strided=True, dilation_after=2, total=16)
    """
    levels, total, dilation = [], 1, 1
    for published in STRIDES:
        kept = published if total * published <= stride else 1
        total *= kept
        levels.append(Sampling(kept, dilation, published > 1, dilation * published // kept, total))
        dilation = levels[-1].dilation_after
    return levels


class Block(nn.Module):
    """Inverted residual block: 1x1 to more channels, depthwise kernel, 1x1 to `features` without activation.

    Attributes:
      features: output channels.
      expansion: factor on the input channels, inside the block.
      kernel, sampling, symmetric: of the depthwise convolution; see `padding`.
      norm: makes a batch norm.
      dtype, precision: of the convolutions.
    """

    features: int
    expansion: int
    kernel: int
    sampling: Sampling
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
            strides=self.sampling.stride,
            padding=padding(self.kernel, self.sampling, self.symmetric),
            kernel_dilation=self.sampling.dilation,
            feature_group_count=channels,
            use_bias=False,
            kernel_init=nn.initializers.variance_scaling(2.0, "fan_in", "normal"),
            name="depthwise_conv",
            **numerics,
        )
        y = nn.relu6(self.norm(name="depthwise_bn")(depthwise(y), train))
        y = self.norm(name="project_bn")(Convolution(self.features, 1, name="project_conv", **numerics)(y), train)
        return x + y if not self.sampling.strided and x.shape == y.shape else y


def padding(kernel: int, sampling: Sampling, symmetric: bool) -> list[tuple[int, int]]:
    """Zeros before and after each axis; of those after it, an even side at stride 2 leaves the last ones unseen.

    >>> strided = Sampling(2, 1, True, 1, 2)
    >>> padding(3, strided, symmetric=False), padding(3, strided, symmetric=True)
    ([(0, 2), (0, 2)], [(1, 1), (1, 1)])
    """
    reach = (kernel - 1) * sampling.dilation
    before = reach // 2
    if sampling.strided and not symmetric:
        before = (kernel - 2) // 2 * sampling.dilation  # as TensorFlow pads an even side at stride 2
    return [(before, reach - before)] * 2


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

        With `finer`, returns a pair of these and the features of the last level of that stride.

        In training, `groups` batches are interleaved on the first axis (see `GroupedBatchNorm`).
        """
        numerics: dict[str, Any] = {"dtype": self.dtype, "precision": self.precision}
        norm = partial(GroupedBatchNorm, groups, self.momentum, self.epsilon)
        sampling = samplings(self.stride)

        def run(module, x, level, train):
            """One level; `module` is self, or its stand-in where the level is recomputed (`apply_levels`)."""
            own = sampling[level]
            if level == 0:
                zeros = padding(3, own, self.symmetric)
                init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
                stem = Conv(
                    scaled(STEM, self.width),
                    (3, 3),
                    strides=own.stride,
                    padding=zeros,
                    use_bias=False,
                    kernel_init=init,
                    name="level0_conv",
                    parent=module,
                    **numerics,
                )
                x = norm(name="level0_bn", parent=module)(stem(x), train)
                return nn.relu6(x)
            for i in range(self.repeats[level - 1]):
                block = Block(
                    scaled(self.channels[level - 1], self.width),
                    1 if level == 1 else EXPANSION,
                    self.kernels[level - 1],
                    own if i == 0 else Sampling(1, own.dilation_after, False, own.dilation_after, own.total),
                    self.symmetric,
                    norm,
                    name=f"level{level}_block{i}",
                    parent=module,
                    **numerics,
                )
                x = block(x, train)
            return x

        outputs = apply_levels(self, run, x, train)
        if not self.finer:
            return outputs[-1]
        return outputs[-1], outputs[max(level for level, own in enumerate(sampling) if own.total == self.finer)]


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
