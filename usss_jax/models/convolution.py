"""Convolution of the encoders: XLA's own, and on CPU, where XLA's is slow for some shapes, two exact rewritings.

- 3x3 with stride 1 and many channels: Winograd's minimal filtering F(2x2, 3x3) (Lavin and Gray, 2016), with 16 products
  instead of 36 for four pixels, for any dilation (each phase of a dilated grid is an ordinary grid).
- Stride 1 to few channels (the levels at full resolution): several neighbouring pixels of a row at once, as additional
  output channels of a wider kernel. A matrix product with 16 columns leaves most of the processor idle.

Both give the same result up to rounding (about 1e-6 of the largest value in float32; the tests compare in float64).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

WINOGRAD_CHANNELS = 256  # input and output channels from which on the products outweigh the transforms
COLUMNS = 64  # minimal number of output channels that keeps a matrix product efficient


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def convolve(x, kernel, stride: int = 1, dilation: int = 1, precision: lax.Precision | None = None):
    """Cross-correlate `x` [B, H, W, C] with `kernel` [k, k, C, K], k odd, padded with dilation * (k - 1) / 2 zeros.

    Returns [B, ceil(H / stride), ceil(W / stride), K]. Reverse-mode differentiable in both.

    >>> convolve(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)))[0, :, :, 0].tolist()
    [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]
    """
    by_xla = partial(plain, stride=stride, dilation=dilation, precision=precision)
    rewritten = _rewriting(x, kernel, stride, dilation, precision)
    if rewritten is None:
        return by_xla(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=rewritten, default=by_xla)


def _forward(x, kernel, stride, dilation, precision):
    return convolve(x, kernel, stride, dilation, precision), (x, kernel)


def _backward(stride, dilation, precision, residuals, gradient):
    x, kernel = residuals
    by_xla = partial(plain, stride=stride, dilation=dilation, precision=precision)
    rewritten = _rewriting(x, kernel, stride, dilation, precision)
    if rewritten is not None:  # or XLA would keep the tiles of the forward pass, four times x, and rotated kernels
        x, kernel = (
            lax.platform_dependent(gradient, value, cpu=known_after, default=lambda _, value: value)
            for value in (x, kernel)
        )
    if stride == 1:  # the adjoint in x is a convolution, too: with the kernel rotated and its channels swapped
        x_gradient = convolve(gradient, kernel[::-1, ::-1].swapaxes(2, 3), 1, dilation, precision)
    else:
        x_gradient = jax.vjp(lambda x: by_xla(x, kernel), x)[1](gradient)[0]

    def kernel_gradient(function):
        return lambda x, kernel, gradient: jax.vjp(lambda kernel: function(x, kernel), kernel)[1](gradient)[0]

    operands = (x, kernel, gradient)
    if rewritten is None:
        return x_gradient, kernel_gradient(by_xla)(*operands)
    return x_gradient, lax.platform_dependent(
        *operands, cpu=kernel_gradient(rewritten), default=kernel_gradient(by_xla)
    )


convolve.defvjp(_forward, _backward)


def plain(x, kernel, *, stride: int, dilation: int, precision: lax.Precision | None):
    """XLA's own convolution; arguments and result as for `convolve`."""
    padding = dilation * (kernel.shape[0] - 1) // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


def _rewriting(x, kernel, stride: int, dilation: int, precision):
    """Function of (x, kernel) that is faster on CPU, or None."""
    side, _, inputs, outputs = kernel.shape
    if stride != 1 or x.dtype not in (jnp.float32, jnp.float64):
        return None
    if side == 3 and min(inputs, outputs) >= WINOGRAD_CHANNELS:
        return partial(winograd, dilation=dilation, precision=precision)
    neighbours = min(4, COLUMNS // outputs)
    if side > 1 and dilation == 1 and neighbours > 1 and x.shape[2] % neighbours == 0:
        return partial(several_columns, neighbours=neighbours, precision=precision)
    return None


def pointwise(x, kernel, precision: lax.Precision | None = None):
    """Matrix product along channels, for 1x1 convolutions and dense layers: x [..., C], kernel [C, K] -> [..., K].

    One product over all pixels: XLA's CPU backend takes several times as long for a convolution, or for a product with
    several leading axes, most of it for the gradient of the kernel.

    >>> pointwise(jnp.ones((1, 2, 2, 3)), jnp.ones((3, 4))).shape
    (1, 2, 2, 4)
    """
    return jnp.dot(x.reshape(-1, x.shape[-1]), kernel, precision=precision).reshape(*x.shape[:-1], -1)


def several_columns(x, kernel, *, neighbours: int, precision=None):
    """Convolution with stride 1 that computes `neighbours` pixels of a row at once, by a wider kernel.

    x [B, H, W, C], W a multiple of `neighbours`, kernel [k, k, C, K] -> [B, H, W, K].

    >>> several_columns(jnp.ones((1, 1, 4, 1)), jnp.ones((3, 3, 1, 1)), neighbours=2).ravel().tolist()
    [2.0, 3.0, 3.0, 2.0]
    """
    padding = (kernel.shape[0] - 1) // 2
    wide = [jnp.pad(kernel, ((0, 0), (j, neighbours - 1 - j), (0, 0), (0, 0))) for j in range(neighbours)]
    y = lax.conv_general_dilated(
        x,
        jnp.concatenate(wide, axis=-1),
        (1, neighbours),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )
    return y.reshape(*x.shape[:3], -1)


# F(2x2, 3x3): y = A (G k ⊙ B x) along one axis, for tiles x of 4 inputs and y of 2 outputs. Here for both axes at once.
_B = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
_A = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
_B, _G, _A = (np.kron(matrix, matrix) for matrix in (_B, _G, _A))


def winograd(x, kernel, *, dilation: int = 1, precision=None):
    """3x3 convolution with stride 1 by F(2x2, 3x3): x [B, H, W, C], kernel [3, 3, C, K] -> [B, H, W, K].

    >>> jax.jit(winograd)(jnp.ones((1, 1, 4, 1)), jnp.ones((3, 3, 1, 1))).ravel().tolist()
    [2.0, 3.0, 3.0, 2.0]
    """
    batch, height, width, inputs = x.shape
    outputs = kernel.shape[-1]
    d, n, m = dilation, -(-height // (2 * dilation)), -(-width // (2 * dilation))
    below, right = 2 * d * (n + 1) - height - d, 2 * d * (m + 1) - width - d
    # Without it, XLA would transform the filters of all layers at the start and keep them.
    filter_transform = known_after(x, jnp.asarray(_G, x.dtype))
    x = jnp.pad(x, ((0, 0), (d, below), (d, right), (0, 0)))
    # The 4 rows of a tile are `dilation` apart: its own pair and the next pair.
    pairs = x.reshape(batch, n + 1, 2, d, m + 1, 2, d, inputs).transpose(2, 5, 0, 1, 3, 4, 6, 7)
    tiles = jnp.concatenate([pairs[:, :, :, :n], pairs[:, :, :, 1:]], axis=0)
    tiles = jnp.concatenate([tiles[..., :m, :, :], tiles[..., 1:, :, :]], axis=1)
    tiles = _transform(_B, tiles).reshape(16, -1, inputs)
    filters = _transform(filter_transform, kernel).reshape(16, inputs, outputs)
    products = jnp.einsum("tpc,tck->tpk", tiles, filters, precision=precision)
    y = _transform(_A, products.reshape(4, 4, batch, n, d, m, d, outputs)).reshape(2, 2, batch, n, d, m, d, outputs)
    y = y.transpose(2, 3, 0, 4, 5, 1, 6, 7).reshape(batch, 2 * d * n, 2 * d * m, outputs)
    return y[:, :height, :width]


def known_after(array, value):
    """Return `value` unchanged with a data dependency on `array`, so that XLA schedules its users after
    `array`, and does not share them with earlier ones.

    For CPU only, where XLA ignores `optimization_barrier`. The result is 0 if the first element of `array` is not
    finite.
    """
    return jnp.where(jnp.isfinite(array[(0,) * array.ndim]), value, 0)


def _transform(matrix, x):
    """Apply a matrix [i * i, j * j] to the first axes of `x`, [j, j, ...] or [j * j, ...] -> [i * i, ...flat]."""
    x = x.reshape(matrix.shape[1], -1)
    return jnp.dot(jnp.asarray(matrix, x.dtype), x, precision=lax.Precision.HIGHEST)
