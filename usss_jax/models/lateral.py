"""Lateral connection: features of an encoder, combined with those of an earlier and finer level."""

import flax.linen as nn
from jax import lax
from jax.typing import DTypeLike

from usss_jax.models.layers import Convolution, GroupedBatchNorm
from usss_jax.models.upsample import upsample


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

        upsampled = upsample(project(coarse, "coarse"), fine.shape[1:3], self.factor)
        return nn.relu(upsampled + project(fine, "fine"))
