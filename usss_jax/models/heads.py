"""Heads: features [B, h, w, C] -> scores.

A head is a linen module that is called with the features only; the field `head` of `UniversalModel` creates it from
the number of outputs. Heads that see a neighbourhood or the whole image have the same interface.
"""

from jax import lax

from usss_jax.models.layers import Conv


def linear(outputs: int, bias: bool = True) -> Conv:
    """1x1 convolution in at least float32: the decoders of the paper and the map of its entropy module."""
    return Conv(outputs, (1, 1), use_bias=bias, precision=lax.Precision.HIGHEST)
