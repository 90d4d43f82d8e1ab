"""Depthwise convolution: XLA's own, and on CPU, where that is many times slower, an exact sum of shifted products.

All three parts are sums over the k * k taps of the kernel:

- forward: y += x[tap] * kernel[tap], where x[tap] is the (strided) part of the padded images that the tap sees;
- gradient of the images: the same with the kernel rotated; for stride s, each of the s * s phases of the fine grid
  sees the taps of its own phase alone, so that no zeros are multiplied;
- gradient of the kernel: all k * k sums over an image in one variadic reduction, which reads image and gradient once.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

Padding = tuple[tuple[int, int], tuple[int, int]]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def depthwise(x, kernel, stride: int, dilation: int, padding: Padding, precision: lax.Precision | None = None):
    """Cross-correlate every channel of `x` [B, H, W, C] with its own `kernel` [k, k, 1, C].

    Returns [B, h, w, C]. Reverse-mode differentiable in both.

    Args:
      x, kernel: images and kernel of equal dtype.
      stride, dilation: along both axes.
      padding: zeros ((above, below), (left, right)).
      precision: of XLA's own convolution.

    >>> depthwise(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)), 1, 1, ((1, 1), (1, 1)))[0, :, :, 0].tolist()
    [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]
    """
    by_xla = partial(plain, stride=stride, dilation=dilation, padding=padding, precision=precision)
    by_shifts = partial(shifted, stride=stride, dilation=dilation, padding=padding)
    return lax.platform_dependent(x, kernel, cpu=by_shifts, default=by_xla)


def _forward(x, kernel, stride, dilation, padding, precision):
    return depthwise(x, kernel, stride, dilation, padding, precision), (x, kernel)


def _backward(stride, dilation, padding, precision, residuals, gradient):
    by_xla = partial(plain, stride=stride, dilation=dilation, padding=padding, precision=precision)
    by_shifts = partial(shifted_gradients, stride=stride, dilation=dilation, padding=padding)
    return lax.platform_dependent(
        *residuals, gradient, cpu=by_shifts, default=lambda x, kernel, gradient: jax.vjp(by_xla, x, kernel)[1](gradient)
    )


depthwise.defvjp(_forward, _backward)


def plain(x, kernel, *, stride: int, dilation: int, padding: Padding, precision: lax.Precision | None):
    """XLA's own grouped convolution; arguments and result as for `depthwise`."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
        precision=precision,
    )


def shifted(x, kernel, *, stride: int, dilation: int, padding: Padding):
    """Sum of shifted products; arguments and result as for `depthwise`."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    parts = _seen(x, kernel, stride, dilation, padding).items()
    return sum(part.astype(wide) * kernel[i, j, 0].astype(wide) for (i, j), part in parts).astype(x.dtype)


def shifted_gradients(x, kernel, gradient, *, stride: int, dilation: int, padding: Padding):
    """Gradients in `x` and `kernel`, for the gradient [B, h, w, C] of the result of `depthwise`."""
    seen = _seen(x, kernel, stride, dilation, padding)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    products = [part.astype(wide) * gradient.astype(wide) for part in seen.values()]
    zeros = [jnp.zeros((), wide)] * len(products)
    # Over rows and columns only: threads share the work by image.
    sums = lax.reduce(products, zeros, lambda a, b: [s + t for s, t in zip(a, b, strict=True)], (1, 2))
    return (
        _image_gradient(x.shape, kernel, gradient, stride, dilation, padding),
        jnp.stack([s.sum(0) for s in sums]).reshape(kernel.shape).astype(kernel.dtype),
    )


def _seen(x, kernel, stride: int, dilation: int, padding: Padding):
    """{tap (i, j): part of the padded images that it sees, [B, h, w, C]}."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    reach = dilation * (kernel.shape[0] - 1)
    height, width = ((side - reach - 1) // stride * stride + 1 for side in x.shape[1:3])  # from first to last cell
    taps = ((i, j) for i in range(kernel.shape[0]) for j in range(kernel.shape[1]))
    return {
        (i, j): x[:, i * dilation : i * dilation + height : stride, j * dilation : j * dilation + width : stride]
        for i, j in taps
    }


def _image_gradient(shape, kernel, gradient, stride: int, dilation: int, padding: Padding):
    """Gradient in images [B, H, W, C]: one sum of shifted products for each phase of their padded grid.

    Pixel s * p + a of a padded axis is seen by tap i of cell p - (i * dilation - a) / s, where that is a whole number:
    for k = 3 and s = 2, even pixels by taps 0 and 2, odd ones by tap 1.
    """
    side, taps = kernel.shape[0], range(kernel.shape[0])
    reach = dilation * (side - 1) // stride  # cells that the tap furthest from the first reaches back
    rows, columns = (-(-(n + sum(zeros)) // stride) for n, zeros in zip(shape[1:3], padding, strict=True))
    ends = ((reach, max(0, n - cells)) for n, cells in zip((rows, columns), gradient.shape[1:3], strict=True))
    dtype, wide = gradient.dtype, jnp.promote_types(gradient.dtype, jnp.float32)
    gradient, kernel = jnp.pad(gradient, ((0, 0), *ends, (0, 0))).astype(wide), kernel.astype(wide)

    def phase(a: int, b: int):
        parts = [
            gradient[:, reach - i * dilation // stride :, reach - j * dilation // stride :][:, :rows, :columns]
            * kernel[i, j, 0]
            for i in taps
            for j in taps
            if (i * dilation % stride, j * dilation % stride) == (a, b)
        ]
        return sum(parts) if parts else jnp.zeros((shape[0], rows, columns, shape[3]), wide)

    phases = jnp.stack([jnp.stack([phase(a, b) for b in range(stride)], 3) for a in range(stride)], 2)
    fine = phases.reshape(shape[0], rows * stride, columns * stride, shape[3])
    (above, _), (left, _) = padding
    return fine[:, above : above + shape[1], left : left + shape[2]].astype(dtype)
