"""Functions of the upsampled scores of every pixel, computed in strips of rows.

Logits at image size [B, H, W, C] would be the largest arrays of a training step, but losses need only a sum over the
pixels, and predictions one class per pixel. Here the fixed upsampling and the function after it are computed a few rows
at a time, and the gradient of the sum in the same pass, so that temporaries have the size of one strip and stay in the
processor's cache.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from usss_jax.models.upsample import upsample_matrix

STRIP_BYTES = 2**20  # approximate size of the scores of a strip; measured on CPU (docs/speed.md)


def mean_over_pixels(function: Callable, scores, *pixels, size: tuple[int, int], stride: int, mode: str = "bilinear"):
    """Mean over all pixels of `function`; see `sum_over_pixels`.

    >>> scores = jnp.array([[[[0.0], [4.0]]]])  # upsampled: 0, 1, 3, 4
    >>> float(mean_over_pixels(lambda scores: scores[..., 0], scores, size=(1, 4), stride=2))
    2.0
    """
    total = sum_over_pixels(function, scores, *pixels, size=size, stride=stride, mode=mode)
    return total / (scores.shape[0] * size[0] * size[1])


def sum_over_pixels(function: Callable, scores, *pixels, size: tuple[int, int], stride: int, mode: str = "bilinear"):
    """Sum over all pixels of function(upsample(scores, size, stride, mode), *pixels), differentiable in `scores`.

    Equal to the plain expression up to the order of the sum. The reverse-mode gradient is linear in the cotangent of
    the sum, so it is computed together with the value: nothing is computed twice, and no activations are kept.

    Args:
      function: maps scores [B, S, W, C] of some rows, and the same rows of `pixels`, to values [B, S, W]. It must treat
        pixels independently, and may close over constants but not over traced arrays.
      scores: [B, ceil(H / stride), ceil(W / stride), C].
      *pixels: arrays [B, H, W] such as labels; constants in the gradient.
      size: (H, W).
      stride, mode: see `upsample`.

    Returns:
      Scalar of the dtype of `scores`.
    """
    return _sum(function, size, stride, mode, scores, pixels)


def map_pixels(function: Callable, scores, *, size: tuple[int, int], stride: int, mode: str = "bilinear"):
    """Compute function(upsample(scores, size, stride, mode)) for all pixels, [B, H, W].

    `function` maps scores [B, S, W, C] of some rows to values [B, S, W], or to a tree of them.

    >>> scores = jnp.array([[[[0.0], [4.0]]]])
    >>> map_pixels(lambda scores: scores[..., 0], scores, size=(1, 4), stride=2).tolist()
    [[[0.0, 1.0, 3.0, 4.0]]]
    """
    strips = _Strips(scores, (), size, stride, mode)
    values = lax.map(lambda index: function(strips.upsample(strips.cells(index), index)), jnp.arange(strips.count))
    return jax.tree.map(lambda v: jnp.moveaxis(v, 0, 1).reshape(scores.shape[0], -1, size[1])[:, : size[0]], values)


class _Strips:
    """Scores and pixels, cut into `count` strips of `rows` rows of cells, that is stride * `rows` rows of pixels."""

    def __init__(self, scores, pixels: tuple, size: tuple[int, int], stride: int, mode: str):
        batch, height, _, channels = scores.shape
        row_bytes = batch * stride * size[1] * channels * scores.dtype.itemsize
        self.rows = min(height, max(1, round(STRIP_BYTES / row_bytes)))
        self.count = -(-height // self.rows)
        filled = self.count * self.rows  # the last strip may reach below the image
        below = filled * stride - size[0]
        matrix = np.zeros((filled * stride, filled + 2))
        matrix[: size[0], 1 : height + 1] = upsample_matrix(size[0], stride, mode)
        steps = range(0, filled, self.rows)
        # A pixel depends on its own row of cells and the neighbouring rows: a strip needs one more row at each end.
        down = np.stack([matrix[i * stride : (i + self.rows) * stride, i : i + self.rows + 2] for i in steps])
        self._down = jnp.asarray(down, scores.dtype)
        self._along = jnp.asarray(upsample_matrix(size[1], stride, mode), scores.dtype)
        self._inside = jnp.asarray(np.arange(filled * stride).reshape(self.count, -1) < size[0])
        self.scores = jnp.pad(scores, ((0, 0), (1, filled - height + 1), (0, 0), (0, 0)))
        self._pixels = [jnp.pad(p, ((0, 0), (0, below), (0, 0))) for p in pixels]

    def cells(self, index):
        """Scores [B, rows + 2, w, C] on which a strip depends."""
        return lax.dynamic_slice_in_dim(self.scores, index * self.rows, self.rows + 2, axis=1)

    def upsample(self, cells, index):
        """Scores of the strip's pixels, [B, stride * rows, W, C]."""
        # Full precision: see models/upsample.py.
        cells = jnp.einsum("Ww,brwc->brWc", self._along, cells, precision=lax.Precision.HIGHEST)
        return jnp.einsum("Sr,brWc->bSWc", self._down[index], cells, precision=lax.Precision.HIGHEST)

    def sums(self, function, cells, index):
        """Sum of the function over the strip's pixels inside the image, per image: [B]."""
        length = self._inside.shape[1]
        pixels = [lax.dynamic_slice_in_dim(p, index * length, length, axis=1) for p in self._pixels]
        values = function(self.upsample(cells, index), *pixels)
        return jnp.where(self._inside[index][:, None], values, 0).sum((1, 2))

    def add(self, gradient, cells_gradient, index):
        """Add the gradient of a strip's cells to the gradient of all cells, [B, count * rows + 2, w, C]."""
        start = index * self.rows
        before = lax.dynamic_slice_in_dim(gradient, start, self.rows + 2, axis=1)
        return lax.dynamic_update_slice_in_dim(gradient, before + cells_gradient, start, axis=1)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _sum(function, size, stride, mode, scores, pixels):
    strips = _Strips(scores, pixels, size, stride, mode)

    def add_strip(sums, index):
        return sums + strips.sums(function, strips.cells(index), index), None

    # Sums per image until the end, so that devices exchange nothing inside the loop.
    return lax.scan(add_strip, jnp.zeros(scores.shape[0], scores.dtype), jnp.arange(strips.count))[0].sum()


def _sum_with_gradient(function, size, stride, mode, scores, pixels):
    strips = _Strips(scores, pixels, size, stride, mode)

    def add_strip(carry, index):
        sums, gradient = carry
        strip_sums, pull_back = jax.vjp(partial(strips.sums, function, index=index), strips.cells(index))
        (cells_gradient,) = pull_back(jnp.ones_like(strip_sums))
        return (sums + strip_sums, strips.add(gradient, cells_gradient, index)), None

    start = (jnp.zeros(scores.shape[0], scores.dtype), jnp.zeros_like(strips.scores))
    (sums, gradient), _ = lax.scan(add_strip, start, jnp.arange(strips.count))
    return sums.sum(), gradient[:, 1 : scores.shape[1] + 1]


def _pull_back(function, size, stride, mode, gradient, cotangent):
    return cotangent * gradient, None


_sum.defvjp(_sum_with_gradient, _pull_back)
