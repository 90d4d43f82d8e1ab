"""Heads: features [B, h, w, C] -> scores.

A head is a linen module that is called with the features alone; what makes one, from the number of outputs, is the
field `head` of `UniversalModel`. Heads that look at a neighbourhood or at the whole image have the same interface.
"""

from jax import lax

from usss_jax.models.layers import Conv


def linear(outputs: int, bias: bool = True) -> Conv:
    """1x1 convolution, in float32 at least: the decoders of the paper, and the map of its entropy module."""
    return Conv(outputs, (1, 1), use_bias=bias, precision=lax.Precision.HIGHEST)
