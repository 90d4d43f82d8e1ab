"""Dilated residual networks (Yu, Koltun, Funkhouser, 2017), family D, output stride 8."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from usss_jax.models.convolution import Convolution
from usss_jax.models.drn_names import NAMES
from usss_jax.models.encoder import TensorNames

OUTPUT_STRIDE = 8
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


class GroupedBatchNorm(nn.Module):
    """Batch normalisation that keeps several batches apart although one forward pass computes them.

    The first axis of the input holds `groups` batches interleaved: example i belongs to group i % groups. Each group
    is normalised with its own statistics, and the groups update the shared running statistics one after another, as
    separate forward passes would. Interleaved, because the first axis is the sharded one: a device then holds a share
    of every group, and splitting the axis into [batch, groups] moves nothing.

    Statistics are float32 at least. The running variance is fed the unbiased batch variance, as PyTorch does.
    """

    groups: int = 1
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x, train: bool):
        """Normalise `x` [B * groups, H, W, C] over all axes but the last and the groups; same shape and dtype out."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        wide = jnp.promote_types(x.dtype, jnp.float32)
        if not train:
            mean, var = running_mean.value, running_var.value
            inverse = scale * lax.rsqrt(var + self.epsilon)
            return ((x.astype(wide) - mean) * inverse + bias).astype(x.dtype)

        grouped = x.reshape(-1, self.groups, *x.shape[1:])
        y, mean, var = batch_normalize(grouped, scale, bias, self.epsilon)
        if not self.is_initializing():
            count = grouped.size // (self.groups * channels)
            for g in range(self.groups):
                unbiased = var[g] * (count / max(count - 1, 1))
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean[g]
                running_var.value = self.momentum * running_var.value + (1 - self.momentum) * unbiased
        return y.reshape(x.shape)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def batch_normalize(x, scale, bias, epsilon: float):
    """Normalise the groups of `x` [B, G, H, W, C] by their own mean and variance, then scale and shift [C].

    Returns:
      (y of the shape and dtype of x, mean [G, C], biased variance [G, C]); the gradient is that of y alone.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = wide.mean((0, 2, 3))
    var = jnp.square(wide - _per_pixel(mean)).mean((0, 2, 3))
    inverse = lax.rsqrt(var + epsilon)
    y = (wide - _per_pixel(mean)) * _per_pixel(inverse * scale) + bias
    return y.astype(x.dtype), mean, var


def _per_pixel(values):
    """[G, C] -> [G, 1, 1, C], to meet [B, G, H, W, C]."""
    return values[:, None, None]


def _normalize_forward(x, scale, bias, epsilon):
    y, mean, var = batch_normalize(x, scale, bias, epsilon)
    return (y, mean, var), (x, scale, mean, var)


def _normalize_backward(epsilon, kept, gradients):
    """Of what the forward pass has, only its input is kept, in its own dtype: no centred float32 copy of every map."""
    x, scale, mean, var = kept
    wide = mean.dtype
    gradient = gradients[0].astype(wide)
    inverse = lax.rsqrt(var + epsilon)
    normalized = (x.astype(wide) - _per_pixel(mean)) * _per_pixel(inverse)
    of_bias, of_scale = gradient.sum((0, 2, 3)), (gradient * normalized).sum((0, 2, 3))  # [G, C]
    count = x.size // (x.shape[1] * x.shape[-1])
    of_x = gradient - _per_pixel(of_bias / count) - normalized * _per_pixel(of_scale / count)
    of_x = of_x * _per_pixel(inverse * scale)
    return of_x.astype(x.dtype), of_scale.sum(0), of_bias.sum(0)


batch_normalize.defvjp(_normalize_forward, _normalize_backward)


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


class DRN(nn.Module):
    """Encoder F of the paper: image -> features at one eighth of its size.

    Attributes:
      blocks: number of residual blocks of levels 3 to 6.
      bottleneck: which kind of block.
      width: factor on every channel count; 1 is the published network.
      dtype: of the convolutions; None follows the input.
      precision: of the convolutions (see `jax.lax.Precision`).
      remat: levels, 0 to 8, that keep their input alone for the backward pass and are computed again there.
    """

    blocks: Sequence[int]
    bottleneck: bool = False
    width: float = 1.0
    dtype: DTypeLike | None = None
    precision: lax.Precision | None = None
    remat: Sequence[int] = ()

    @property
    def levels(self) -> int:
        """Number of levels that `remat` chooses from."""
        return len(LEVELS)

    @property
    def out_channels(self) -> int:
        """Channels of the features."""
        return self._channels(8)

    @property
    def stride(self) -> int:
        """Pixels per cell of the features."""
        return OUTPUT_STRIDE

    @property
    def tensor_names(self) -> TensorNames:
        """Names of the reference implementation and of the DRN release."""
        return NAMES

    def _channels(self, level: int) -> int:
        return max(1, round(CHANNELS[level] * self.width))

    @nn.compact
    def __call__(self, x, train: bool = False, groups: int = 1):
        """Map images [B, H, W, 3] to features [B, ceil(H / 8), ceil(W / 8), out_channels].

        In training, `groups` batches are interleaved on the first axis (see `GroupedBatchNorm`).
        """
        numerics: dict[str, Any] = {"dtype": self.dtype, "precision": self.precision}

        def run(module, x, level):
            """One level; `module` is self, or what stands for it where the level is computed again."""
            kind, kernel, stride, dilation = LEVELS[level]
            channels = self._channels(level)
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

        for level in range(self.levels):
            x = (nn.remat(run, static_argnums=2) if level in self.remat else run)(self, x, level)
        return x


# The names of the paper (resnet18, ...) and of the DRN release (drn_d_22, ...) mean the same networks.
ENCODERS = {
    "drn_d_22": partial(DRN, blocks=(2, 2, 2, 2), bottleneck=False),
    "drn_d_38": partial(DRN, blocks=(3, 4, 6, 3), bottleneck=False),
    "drn_d_54": partial(DRN, blocks=(3, 4, 6, 3), bottleneck=True),
    "drn_d_105": partial(DRN, blocks=(3, 4, 23, 3), bottleneck=True),
}
PAPER_NAMES = {
    "resnet18": "drn_d_22",
    "resnet34": "drn_d_38",
    "resnet50": "drn_d_54",
    "resnet101": "drn_d_105",
}
