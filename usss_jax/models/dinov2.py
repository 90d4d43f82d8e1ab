"""DINOv2's vision transformers (Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", 2023).

Patches of 14x14 pixels and a class token pass through blocks of self-attention. The features are the patch tokens after
the last LayerNorm; the class token only takes part in the attention. Without registers and stochastic depth.

The position embedding holds a grid of 37x37 cells (images of 518x518 pixels). Other grids get it by bicubic
interpolation, as in Hugging Face's transformers. The original interpolates with a scale of (cells + 0.1) / 37, and timm
with antialiasing, which changes features slightly where the grid is not 37x37.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from usss_jax.models.dinov2_names import NAMES
from usss_jax.models.encoder import Encoder
from usss_jax.models.layers import Conv, Dense, apply_levels, layer_norm, scaled

PATCH = 14  # pixels along each side of a patch
GRID = 37  # cells along each side of the stored position embedding
HEAD_CHANNELS = 64
LAYER_SCALE = 1e-5  # initial value
INIT = nn.initializers.normal(0.02)


def cubic_matrix(size: int, cells: int) -> np.ndarray:
    """Weights of cubic interpolation along one axis from `cells` to `size` values: float64 [size, cells].

    Keys' kernel with a = -0.75, half-pixel centres, the edge repeated and no antialiasing, as in PyTorch's
    `interpolate(mode="bicubic", align_corners=False)`.

    >>> cubic_matrix(2, 4).tolist()
    [[0.5, 0.59375, -0.09375, 0.0], [0.0, -0.09375, 0.59375, 0.5]]
    """
    xp = np if isinstance(size, int) else jnp  # the size of an exported network is a symbol (jax.export)
    place = (xp.arange(size)[:, None] + 0.5) * (cells / size) - 0.5  # [size, 1]
    taps = xp.floor(place).astype(int) + xp.arange(-1, 3)  # [size, 4]
    x = abs(place - taps)
    weights = xp.where(x <= 1, (1.25 * x - 2.25) * x**2 + 1, ((-0.75 * x + 3.75) * x - 6) * x + 3)
    return (weights[:, :, None] * (taps.clip(0, cells - 1)[:, :, None] == xp.arange(cells))).sum(1)


def grid_positions(positions, size: tuple[int, int]):
    """Position embedding [1, 37 * 37, C], row by row, interpolated to [1, h * w, C] for a grid of (h, w) = `size`."""
    channels = positions.shape[-1]
    rows, columns = (jnp.asarray(cubic_matrix(n, GRID), positions.dtype) for n in size)
    grid = positions.reshape(1, GRID, GRID, channels)
    # Full precision: on GPUs the default would round the interpolated values to TF32.
    grid = jnp.einsum("Ww,bhwc->bhWc", columns, grid, precision=lax.Precision.HIGHEST)
    grid = jnp.einsum("Hh,bhWc->bHWc", rows, grid, precision=lax.Precision.HIGHEST)
    return grid.reshape(1, -1, channels)


def attend(query, key, value, precision: lax.Precision | None = None):
    """Softmax(q . k / sqrt(D)) . v of each head: three times [B, N, heads, D] -> [B, N, heads, D], in their dtype.

    The softmax is at least float32. `jax.nn.dot_product_attention` takes no precision.
    """
    wide = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.einsum("bnhd,bmhd->bhnm", query, key, precision=precision, preferred_element_type=wide)
    weights = jax.nn.softmax(scores * query.shape[-1] ** -0.5).astype(value.dtype)
    return jnp.einsum("bhnm,bmhd->bnhd", weights, value, precision=precision)


class Block(nn.Module):
    """Self-attention and two dense layers, each after a LayerNorm, times a layer scale, plus its input.

    The sums are at least float32: bfloat16 would lose branches that the layer scale starts far below their size.
    """

    heads: int
    dtype: DTypeLike | None = None
    precision: lax.Precision | None = None

    @nn.compact
    def __call__(self, x):
        """Map tokens [B, N, C] to the same shape."""
        b, n, channels = x.shape
        dense = partial(Dense, kernel_init=INIT, dtype=self.dtype, precision=self.precision)

        def layer_scale(name):
            return self.param(name, nn.initializers.constant(LAYER_SCALE), (channels,))

        y = dense(3 * channels, name="qkv")(layer_norm(name="norm1")(x))
        y = attend(*jnp.moveaxis(y.reshape(b, n, 3, self.heads, -1), 2, 0), self.precision)
        x = x + dense(channels, name="project")(y.reshape(b, n, channels)) * layer_scale("scale1")
        y = dense(4 * channels, name="expand")(layer_norm(name="norm2")(x))
        return x + dense(channels, name="reduce")(nn.gelu(y, approximate=False)) * layer_scale("scale2")


class DinoV2(Encoder, kw_only=True):
    """Encoder: image -> features, one cell per patch of 14x14 pixels.

    Attributes:
      channels: channels of the tokens, before `width`.
      blocks: number of blocks.
    """

    channels: int
    blocks: int = 12
    stride: int = PATCH

    strides = (PATCH,)
    tensor_names = NAMES  # of the original, timm and Hugging Face

    @property
    def levels(self) -> int:
        """Number of blocks."""
        return self.blocks

    @property
    def heads(self) -> int:
        """Heads of the attention, of about 64 channels each: 6 for ViT-S and 12 for ViT-B."""
        return max(1, scaled(self.channels, self.width) // HEAD_CHANNELS)

    @property
    def out_channels(self) -> int:
        """Channels of the features: a multiple of the heads."""
        return self.heads * round(scaled(self.channels, self.width) / self.heads)

    def level_of(self, name: str) -> int:
        """Level of a variable; patch and position embedding belong to block 0."""
        return 0 if name in ("patch", "class_token", "positions") else super().level_of(name)

    @nn.compact
    def __call__(self, x, train: bool = False, groups: int = 1):
        """Map images [B, H, W, 3] to features [B, ceil(H / 14), ceil(W / 14), out_channels].

        Zeros pad images at the lower and right border to multiples of 14. `train` and `groups` change nothing, since
        the encoder has no batch statistics.
        """
        c = self.out_channels
        numerics: dict[str, Any] = {"dtype": self.dtype, "precision": self.precision}
        embed = Conv(c, (PATCH, PATCH), PATCH, [(0, PATCH - 1)] * 2, kernel_init=INIT, name="patch", **numerics)
        x = embed(x)
        b, h, w, _ = x.shape
        class_token = self.param("class_token", INIT, (1, 1, c))
        positions = self.param("positions", INIT, (1, 1 + GRID * GRID, c))
        class_token = jnp.broadcast_to(class_token + positions[:, :1], (b, 1, c))
        x = x.reshape(b, h * w, c) + grid_positions(positions[:, 1:], (h, w))
        x = jnp.concatenate([class_token, x], axis=1)

        def run(module, x, level, _):
            """One block; `module` is self, or its stand-in where the block is recomputed (`apply_levels`)."""
            return Block(self.heads, name=f"block{level}", parent=module, **numerics)(x)

        x = apply_levels(self, run, x, train)[-1]
        return layer_norm(name="norm")(lax.slice_in_dim(x, 1, None, axis=1)).reshape(b, h, w, c)


ENCODERS = {
    "dinov2_vits14": partial(DinoV2, channels=384),
    "dinov2_vitb14": partial(DinoV2, channels=768),
}
