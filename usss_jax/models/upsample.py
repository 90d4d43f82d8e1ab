"""The fixed linear upsampling from cells to pixels that decoders and entropy module share.

Upsampling is linear and acts on each channel separately, so it commutes with any 1x1 map: up(E) . c == up(E . c). The
project therefore computes scores first and upsamples them afterwards, without 128-channel maps at image size.
Upsampling is also separable: two products with small matrices, which every backend compiles quickly (a transposed
convolution with stride 8 compiles very slowly on some).
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

MODES = ("bilinear", "drn")


def upsample_matrix(size: int, stride: int, mode: str = "bilinear") -> np.ndarray:
    """Upsampling weights along one axis, from cells to pixels: float64 [size, ceil(size / stride)].

    "drn" is the transposed convolution of the DRN code (where the stride s is 8): kernel 2 s, padding s / 2, weights
    1 - |k / s - (2 s - 1) / (2 s)|. It fades to zero at the border. "bilinear" differs at the border only: half-pixel
    bilinear with the edge repeated. If the size is not a multiple of the stride, the last pixels are cropped.

    Raises:
      ValueError: if the mode is unknown.

    >>> upsample_matrix(4, stride=2).tolist()
    [[1.0, 0.0], [0.75, 0.25], [0.25, 0.75], [0.0, 1.0]]
    """
    return _weights(size, -(-size // stride), stride, mode)


def _weights(size: int, cells: int, stride: int, mode: str):
    """`upsample_matrix` [size, cells]; traced and float32 for the symbols of an exported network (jax.export)."""
    if mode not in MODES:
        raise ValueError(f"upsample={mode!r} is not one of {', '.join(MODES)}")
    distance = _twice_the_distance(size, cells, stride) / (2 * stride)
    weights = (1 - distance).clip(0)
    if mode == "bilinear":  # the weight of a neighbour outside goes to the edge cell
        weights = weights / weights.sum(1, keepdims=True)
    return weights


def upsample(x, size: tuple[int, int], stride: int, mode: str = "bilinear"):
    """Upsample `x` [B, ceil(H / stride), ceil(W / stride), C] to [B, H, W, C], (H, W) = `size`, in the dtype of `x`.

    >>> upsample(jnp.array([[[[0.0], [4.0]]]]), size=(1, 4), stride=2).ravel().tolist()
    [0.0, 1.0, 3.0, 4.0]
    """
    return _enlarged(x, *(_weights(n, cells, stride, mode) for n, cells in zip(size, x.shape[1:3], strict=True)))


def bicubic_matrix(size: int, stride: int) -> np.ndarray:
    """Weights of PIL's bicubic enlargement along one axis, from cells to pixels: float64 [size, ceil(size / stride)].

    This is the cubic convolution of Keys (1981) with a = -0.5 at half-pixel centres. Where the border cuts off some of
    a pixel's four cells, the weights of the others are divided by their sum. If the size is not a multiple of the
    stride, the last pixels are cropped.

    >>> (bicubic_matrix(8, stride=2)[3] * 128).tolist()
    [-9.0, 111.0, 29.0, -3.0]
    """
    distance = _twice_the_distance(size, -(-size // stride), stride) / (2 * stride)
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((2.5 - 0.5 * distance) * distance - 4) * distance + 2
    weights = np.select([distance < 1, distance < 2], [near, far])
    return weights / weights.sum(1, keepdims=True)


def upsample_bicubic(x, size: tuple[int, int], stride: int):
    """Like `upsample`, with the weights of `bicubic_matrix`; values can exceed the range of `x`.

    >>> upsample_bicubic(jnp.array([[[[0.0], [102.0]]]]), size=(1, 4), stride=2).round().ravel().tolist()
    [-9.0, 21.0, 81.0, 111.0]
    """
    return _enlarged(x, *(bicubic_matrix(n, stride) for n in size))


def resize_matrix(size: int, given: int) -> np.ndarray:
    """Weights of linear interpolation along one axis at half-pixel centres, with the edge repeated: [size, given].

    >>> resize_matrix(2, given=4).tolist()
    [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
    """
    at = np.clip((np.arange(size) + 0.5) * given / size - 0.5, 0, given - 1)
    return np.maximum(1 - np.abs(at[:, None] - np.arange(given)), 0.0)


def _twice_the_distance(size: int, cells: int, stride: int) -> np.ndarray:
    """Twice the distance between the centres of pixel and cell, in pixels: integer [size, cells]."""
    xp = np if isinstance(size, int) else jnp
    return abs(2 * xp.arange(size)[:, None] + 1 - stride * (2 * xp.arange(cells)[None, :] + 1))


def _enlarged(x, rows, columns):
    """Upsample `x` [B, h, w, C] by the weights of both axes, [H, h] and [W, w]."""
    rows, columns = jnp.asarray(rows, x.dtype), jnp.asarray(columns, x.dtype)
    # Full precision: on GPUs the default would round the interpolated values to TF32.
    x = jnp.einsum("Ww,bhwc->bhWc", columns, x, precision=lax.Precision.HIGHEST)
    return jnp.einsum("Hh,bhWc->bHWc", rows, x, precision=lax.Precision.HIGHEST)


def upsample_at(x, places, rows, columns):
    """Values of the upsampled `x` at some pixels.

    Args:
      x: [B, h, w, C].
      places: int [M, 3], each (image, row, column).
      rows, columns: `upsample_matrix` of both axes, [H, h] and [W, w].

    Returns:
      [M, C].

    >>> import jax
    >>> rows, columns = upsample_matrix(1, stride=2), upsample_matrix(4, stride=2)
    >>> jax.jit(upsample_at)(np.array([[[[0.0], [4.0]]]]), np.array([[0, 0, 2]]), rows, columns).tolist()
    [[3.0]]
    """
    rows, columns = jnp.asarray(rows, x.dtype), jnp.asarray(columns, x.dtype)
    image, row, column = places.T
    out = 0.0
    # A pixel mixes at most two rows and two columns of cells.
    first_row, first_column = _first_cell(rows)[row], _first_cell(columns)[column]
    for dy in (0, 1):
        for dx in (0, 1):
            i = jnp.minimum(first_row + dy, rows.shape[1] - 1)
            j = jnp.minimum(first_column + dx, columns.shape[1] - 1)
            inside = (first_row + dy < rows.shape[1]) & (first_column + dx < columns.shape[1])
            weight = jnp.where(inside, rows[row, i] * columns[column, j], 0)
            out = out + weight[:, None] * x[image, i, j]
    return out


def _first_cell(weights):
    """Index of the first cell of each pixel: [H, h] -> int [H]."""
    return jnp.argmax(weights > 0, axis=1)
