"""Heads: features [B, h, w, C] -> scores.

A head is a linen module that is called with the features alone; what makes one, from the number of outputs, is the
field `head` of `UniversalModel`. Heads that look at a neighbourhood or at the whole image have the same interface.
"""

import flax.linen as nn
from jax import lax

from usss_jax.models.device_sums import apply_kernel


class Linear(nn.Module):
    """1x1 convolution, in float32 at least: the decoders of the paper, and the map of its entropy module.

    Attributes:
      outputs: number of scores.
      bias: whether one is added.
    """

    outputs: int
    bias: bool = True

    @nn.compact
    def __call__(self, features):
        """Map [B, h, w, C] to [B, h, w, outputs]."""
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (1, 1, features.shape[-1], self.outputs))
        bias = self.param("bias", nn.initializers.zeros, (self.outputs,)) if self.bias else None
        features, kernel, bias = nn.dtypes.promote_dtype(features, kernel, bias)

        def function(x, kernel):
            dimensions = ("NHWC", "HWIO", "NHWC")
            return lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=dimensions, precision=lax.Precision.HIGHEST
            )

        scores = apply_kernel(self, function, features, kernel)
        return scores if bias is None else scores + bias
