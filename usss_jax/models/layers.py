"""Layers that encoders share: convolutions, norms, and levels that can be recomputed."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from usss_jax.models.convolution import convolve, pointwise
from usss_jax.models.depthwise import depthwise
from usss_jax.models.device_sums import apply_kernel

# At least float32, whatever the other layers compute in: dtype=None promotes with the parameters.
layer_norm = partial(nn.LayerNorm, epsilon=1e-6, use_fast_variance=False)


def scaled(channels: int, width: float) -> int:
    """Number of channels times `width`, rounded, at least 1.

    >>> scaled(64, 0.25), scaled(16, 0.01)
    (16, 1)
    """
    return max(1, round(channels * width))


def apply_levels(module, run: Callable, x, train: bool) -> list:
    """Apply all levels of an encoder in order, and return the output of each; for its `nn.compact` method.

    Levels of the encoder's field `remat` are recomputed in the backward pass. The first levels, which its field
    `frozen` counts, run as in evaluation, and no gradient reaches them.

    Args:
      module: the encoder.
      run: (module, x, level, train) -> x. Its layers need `parent=module`: the encoder, or a stand-in for it where the
        level is recomputed. Names of variables do not depend on `remat`.
      x: input of level 0.
      train: whether levels that are not frozen run as in training.
    """
    outputs = []
    for level in range(module.levels):
        apply = nn.remat(run, static_argnums=(2, 3)) if level in module.remat else run
        x = apply(module, x, level, train and level >= module.frozen)
        x = lax.stop_gradient(x) if level < module.frozen else x
        outputs.append(x)
    return outputs


class Convolution(nn.Module):
    """Convolution without bias and with explicit symmetric padding, which differs from XLA's SAME for stride 2.

    Attributes:
      features: output channels.
      kernel: side of the kernel, odd.
      stride, dilation: along both axes.
      dtype: dtype of the convolution; None follows the input.
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
            if self.kernel == 1:
                seen = lax.slice(x, (0,) * 4, x.shape, (1, self.stride, self.stride, 1))
                return pointwise(seen, kernel[0, 0], self.precision)
            return convolve(x, kernel, self.stride, self.dilation, self.precision)

        return apply_kernel(self, function, x, kernel)


class Conv(nn.Module):
    """`flax.linen.Conv` for images, with its attributes; the gradient of the kernel may go to a `DeviceSums`.

    A depthwise convolution needs explicit padding.
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
            if self.kernel_size == (1, 1) and self.strides == self.feature_group_count == 1:
                return pointwise(x, kernel[0, 0], self.precision)
            if self.feature_group_count == self.features == x.shape[-1]:
                if isinstance(self.padding, str):
                    raise ValueError(f"padding={self.padding}: a depthwise convolution needs explicit padding")
                zeros = tuple(tuple(pair) for pair in self.padding)
                return depthwise(x, kernel, self.strides, self.kernel_dilation, zeros, self.precision)
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
    """`flax.linen.Dense` with its attributes; the gradient of the kernel may go to a `DeviceSums`."""

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
        y = apply_kernel(self, lambda x, kernel: pointwise(x, kernel, self.precision), x, kernel)
        return y + bias


class GroupedBatchNorm(nn.Module):
    """Batch normalisation of several batches in one forward pass, each with its own statistics.

    The first axis of the input holds `groups` interleaved batches: example i belongs to group i % groups. Each group
    is normalised with its own statistics, and the groups update the shared running statistics one after another, as
    separate forward passes would. The batches are interleaved because the first axis is sharded: every device then has
    a part of every group, and splitting the axis into [batch, groups] moves no data.

    Statistics are at least float32. The running variance averages the unbiased batch variance, as in PyTorch.
    """

    groups: int = 1
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x, train: bool):
        """Normalise `x` [B * groups, H, W, C] per group and channel; keeps shape and dtype."""
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
    """Normalise each group of `x` [B, G, H, W, C] by its own mean and variance, then apply scale and bias [C].

    Returns:
      (y of the shape and dtype of x, mean [G, C], biased variance [G, C]); only y is differentiated.

    >>> x = jnp.array([1.0, 5.0]).reshape(2, 1, 1, 1, 1)
    >>> y, mean, var = batch_normalize(x, jnp.ones(1), jnp.zeros(1), 0.0)
    >>> y.ravel().round(3).tolist(), mean.tolist(), var.tolist()
    ([-1.0, 1.0], [[3.0]], [[4.0]])
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    mean = wide.mean((0, 2, 3))
    var = jnp.square(wide - _per_pixel(mean)).mean((0, 2, 3))
    inverse = lax.rsqrt(var + epsilon)
    y = (wide - _per_pixel(mean)) * _per_pixel(inverse * scale) + bias
    return y.astype(x.dtype), mean, var


def _per_pixel(values):
    """[G, C] -> [G, 1, 1, C], to broadcast against [B, G, H, W, C]."""
    return values[:, None, None]


def _normalize_forward(x, scale, bias, epsilon):
    y, mean, var = batch_normalize(x, scale, bias, epsilon)
    return (y, mean, var), (x, scale, mean, var)


def _normalize_backward(epsilon, residuals, gradients):
    """Backward pass from the input in its own dtype, without a centred float32 copy kept by the forward pass."""
    x, scale, mean, var = residuals
    wide = mean.dtype
    gradient = gradients[0].astype(wide)
    inverse = lax.rsqrt(var + epsilon)
    normalized = (x.astype(wide) - _per_pixel(mean)) * _per_pixel(inverse)
    d_bias, d_scale = gradient.sum((0, 2, 3)), (gradient * normalized).sum((0, 2, 3))  # [G, C]
    count = x.size // (x.shape[1] * x.shape[-1])
    d_x = gradient - _per_pixel(d_bias / count) - normalized * _per_pixel(d_scale / count)
    d_x = d_x * _per_pixel(inverse * scale)
    return d_x.astype(x.dtype), d_scale.sum(0), d_bias.sum(0)


batch_normalize.defvjp(_normalize_forward, _normalize_backward)
