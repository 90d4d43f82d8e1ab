"""The fully convolutional discriminator of Hung et al. (2018), which tells predictions from ground truth per pixel."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

CHANNELS = (64, 128, 256, 512)  # before `width`; the fifth convolution has one output channel
STRIDE = 2 ** (len(CHANNELS) + 1)
SLOPE = 0.2  # of the leaky ReLU


class Discriminator(nn.Module):
    """D of section 3 of the paper: five 4x4 convolutions of stride 2 with bias, no normalisation, then upsampling.

    Every layer pads its input with one zero on each side, and with another one at the lower or right border if the
    height or width is odd. The upsampled logits are cropped to the image.

    Attributes:
      width: factor on the channels; 1 is the paper's.
      dtype: dtype of the convolutions; None follows the input.
      precision: precision of the convolutions (see `jax.lax.Precision`).
    """

    width: float = 1.0
    dtype: DTypeLike | None = None
    precision: lax.Precision | None = None

    @nn.compact
    def __call__(self, maps):
        """Map class probabilities or one-hot labels [B, H, W, C] to logits [B, H, W], at least float32.

        The sigmoid of a logit is D's confidence that the pixel is ground truth.
        """
        height, width = maps.shape[1:3]
        x = maps
        for i, channels in enumerate(CHANNELS, start=1):
            x = nn.leaky_relu(self._halve(x, max(1, round(channels * self.width)), f"conv{i}"), SLOPE)
        x = self._halve(x, 1, f"conv{len(CHANNELS) + 1}")
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        examples, rows, columns, _ = x.shape
        # Half-pixel bilinear: the receptive field of a cell is centred on its 32 x 32 pixels.
        x = jax.image.resize(x, (examples, rows * STRIDE, columns * STRIDE, 1), "bilinear")
        return x[:, :height, :width, 0]

    def _halve(self, x, channels: int, name: str):
        """4x4 convolution with stride 2: [B, H, W, C] -> [B, ceil(H / 2), ceil(W / 2), channels]."""
        padding = [(1, 1 + side % 2) for side in x.shape[1:3]]  # leaves at least one cell
        layer = nn.Conv(
            channels, (4, 4), strides=2, padding=padding, dtype=self.dtype, precision=self.precision, name=name
        )
        return layer(x)
