"""Layers that encoders share: convolution, grouped batch norm, and levels that are computed again."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from usss_jax.models.convolution import convolve
from usss_jax.models.device_sums import apply_kernel


def scaled(channels: int, width: float) -> int:
    """Number of channels times `width`, rounded, at least 1."""
    return max(1, round(channels * width))


def apply_levels(module: nn.Module, run: Callable, x, count: int, remat: Sequence[int]):
    """Apply levels 0 to count - 1 of an encoder one after the other, to be called inside its `nn.compact` method.

    Args:
      module: the encoder.
      run: (module, x, level) -> x. Layers made in it need `parent=module`, which is the encoder, or what stands for it
        where the level is computed again; they are named as without `remat`.
      x: input of level 0.
      count: number of levels.
      remat: levels that keep their input alone for the backward pass and are computed again there.
    """
    for level in range(count):
        x = (nn.remat(run, static_argnums=2) if level in remat else run)(module, x, level)
    return x


class Convolution(nn.Module):
    """Convolution without bias and with explicit symmetric padding; XLA's SAME differs from it for stride 2.

    Attributes:
      features: output channels.
      kernel: side of the kernel, odd.
      stride, dilation: of both axes.
      dtype: of images and kernel in the convolution; None follows the input.
      precision: see `jax.lax.Precision`.
    """

    features: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    dtype: DTypeLike | None = None
    precision: lax.Precision | None = None

    @nn.compact
    def __call__(self, x):
        """Map [B, H, W, C] to [B, ceil(H / stride), ceil(W / stride), features]."""
        init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
        kernel = self.param("kernel", init, (self.kernel, self.kernel, x.shape[-1], self.features))
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)

        def function(x, kernel):
            return convolve(x, kernel, self.stride, self.dilation, self.precision)

        return apply_kernel(self, function, x, kernel)


class Conv(nn.Module):
    """What `flax.linen.Conv` computes of images, with a kernel whose gradient may go to a `DeviceSums`.

    The attributes are those of `flax.linen.Conv`.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: int = 1
    padding: Any = "SAME"
    kernel_dilation: int = 1
    feature_group_count: int = 1
    use_bias: bool = True
    kernel_init: Callable = nn.initializers.lecun_normal()
    dtype: DTypeLike | None = None
    precision: lax.Precision | None = None

    @nn.compact
    def __call__(self, x):
        """Map [B, H, W, C] to [B, h, w, features]."""
        shape = (*self.kernel_size, x.shape[-1] // self.feature_group_count, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32) if self.use_bias else None
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)

        def function(x, kernel):
            return lax.conv_general_dilated(
                x,
                kernel,
                (self.strides,) * 2,
                self.padding,
                rhs_dilation=(self.kernel_dilation,) * 2,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=self.feature_group_count,
                precision=self.precision,
            )

        y = apply_kernel(self, function, x, kernel)
        return y if bias is None else y + bias


class Dense(nn.Module):
    """What `flax.linen.Dense` computes, with a kernel whose gradient may go to a `DeviceSums`.

    The attributes are those of `flax.linen.Dense`.
    """

    features: int
    kernel_init: Callable = nn.initializers.lecun_normal()
    dtype: DTypeLike | None = None
    precision: lax.Precision | None = None

    @nn.compact
    def __call__(self, x):
        """Map [B, ..., C] to [B, ..., features]."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = apply_kernel(self, lambda x, kernel: jnp.dot(x, kernel, precision=self.precision), x, kernel)
        return y + bias


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
