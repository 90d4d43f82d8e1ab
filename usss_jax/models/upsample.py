"""The fixed linear x8 upsampling of decoder and entropy module, and its adjoint.

Upsampling is linear and acts on every channel alone, so it commutes with any 1x1 map: up(E) . c == up(E . c). The
project therefore scores first and upsamples afterwards; 128-channel maps at image size never exist. It is separable
too: two products with small matrices, which every backend compiles quickly (a transposed convolution with stride 8
compiles very slowly on some).
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

FACTOR = 8
MODES = ("bilinear", "drn")


def upsample_matrix(size: int, mode: str = "bilinear") -> np.ndarray:
    """Weights of the upsampling along one axis, float64 [size, ceil(size / 8)]: pixels from cells.

    "drn" is the transposed convolution of the DRN code (kernel 16, stride 8, padding 4, weights 1 - |k/8 - 15/16|),
    which fades towards zero at the border. "bilinear" differs at the border alone: half-pixel bilinear with the edge
    repeated. Sizes that are no multiple of 8 are cropped after the upsampling.

    Raises:
      ValueError: if the mode is unknown.
    """
    if mode not in MODES:
        raise ValueError(f"upsample={mode!r} is not one of {', '.join(MODES)}")
    cells = -(-size // FACTOR)
    tap = np.arange(cells * FACTOR)[:, None] + FACTOR // 2 - FACTOR * np.arange(cells)[None, :]
    inside = (tap >= 0) & (tap < 2 * FACTOR)
    weights = np.where(inside, 1 - np.abs(tap / FACTOR - (2 * FACTOR - 1) / (2 * FACTOR)), 0.0)
    if mode == "bilinear":  # the weight of a neighbour outside goes to the edge cell: rows sum to one
        weights = weights / weights.sum(1, keepdims=True)
    return weights[:size]


def upsample(x, size: tuple[int, int], mode: str = "bilinear"):
    """Upsample `x` [B, ceil(H/8), ceil(W/8), C] to [B, H, W, C] with (H, W) = `size`; dtype of `x`."""
    rows = jnp.asarray(upsample_matrix(size[0], mode), x.dtype)
    columns = jnp.asarray(upsample_matrix(size[1], mode), x.dtype)
    # Full precision: on GPUs the default would round the interpolated values to TF32.
    x = jnp.einsum("Ww,bhwc->bhWc", columns, x, precision=lax.Precision.HIGHEST)
    return jnp.einsum("Hh,bhWc->bHWc", rows, x, precision=lax.Precision.HIGHEST)


def upsample_adjoint(y, mode: str = "bilinear"):
    """Apply the transpose of `upsample`: pixels `y` [B, H, W, C] to cells [B, ceil(H/8), ceil(W/8), C]."""
    rows = jnp.asarray(upsample_matrix(y.shape[1], mode), y.dtype)
    columns = jnp.asarray(upsample_matrix(y.shape[2], mode), y.dtype)
    y = jnp.einsum("Hh,bHWc->bhWc", rows, y, precision=lax.Precision.HIGHEST)
    return jnp.einsum("Ww,bhWc->bhwc", columns, y, precision=lax.Precision.HIGHEST)
