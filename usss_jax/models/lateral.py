"""Lateral connection: features of an encoder, combined with those of an earlier and finer level."""

import flax.linen as nn
import jax
from jax import lax
from jax.typing import DTypeLike

from usss_jax.models.layers import Convolution, GroupedBatchNorm


class Lateral(nn.Module):
    """Add coarse features, upsampled bilinearly, to finer ones, each after a 1x1 convolution and batch norm; then ReLU.

    Attributes:
      features: output channels.
      factor: stride of the coarse features, divided by that of the fine ones.
      dtype, precision: of the convolutions.
    """

    features: int
    factor: int
    dtype: DTypeLike | None = None
    precision: lax.Precision | None = None

    @nn.compact
    def __call__(self, coarse, fine, train: bool, groups: int):
        """Map features [B, h, w, C] and [B, H, W, c], H and W up to `factor` times h and w, to [B, H, W, features]."""

        def project(x, name):
            x = Convolution(self.features, 1, dtype=self.dtype, precision=self.precision, name=f"{name}_conv")(x)
            return GroupedBatchNorm(groups, name=f"{name}_bn")(x, train)

        upsampled = project(coarse, "coarse")
        batch, height, width, channels = upsampled.shape
        shape = (batch, height * self.factor, width * self.factor, channels)
        upsampled = jax.image.resize(upsampled, shape, "bilinear")[:, : fine.shape[1], : fine.shape[2]]
        return nn.relu(upsampled + project(fine, "fine"))
