"""Heads: features [B, h, w, C] -> scores.

A head is a linen module that is called with the features only; the field `head` of `UniversalModel` creates it from
the number of outputs, and its field `image_head` those of the whole image's scores. Heads that see a neighbourhood or
the whole image have the same interface.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
from jax import lax
from jax.typing import DTypeLike

from usss_jax.models.layers import Conv, Dense, scaled

HEADS = ("linear", "dilated")  # decoders by their names in the config
IMAGE_HEADS = ("none", "every_relu", "first_relu")  # image-level heads: none, or where `ImageScores` has its ReLUs
HIDDEN = 512  # channels inside the dilated head, and of the last hidden layer of the image head; before `width`
IMAGE_CHANNELS = 2048  # of the convolutions of the image head, before `width`
DILATION = 12

_init = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def linear(outputs: int, bias: bool = True) -> Conv:
    """1x1 convolution in at least float32: the decoders of the paper and the map of its entropy module."""
    return Conv(outputs, (1, 1), use_bias=bias, precision=lax.Precision.HIGHEST)


@functools.cache  # models with equal fields stay equal: two partials are not
def decoder(
    name: str, width: float = 1.0, dtype: DTypeLike | None = None, precision: lax.Precision | None = None
) -> Callable[[int], nn.Module]:
    """Return the field `head` of `UniversalModel` by its name, one of HEADS; the rest are fields of `Dilated`.

    >>> type(decoder("dilated", width=0.5)(19)).__name__
    'Dilated'
    """
    return linear if name == "linear" else functools.partial(Dilated, width=width, dtype=dtype, precision=precision)


@functools.cache  # as for `decoder`
def image_head(
    name: str, width: float = 1.0, dtype: DTypeLike | None = None, precision: lax.Precision | None = None
) -> Callable[[int], nn.Module] | None:
    """Return the field `image_head` of `UniversalModel` by its name, one of IMAGE_HEADS; None for "none".

    The rest are fields of `ImageScores`.

    >>> image_head("first_relu", width=0.5)(19).every_relu, image_head("none")
    (False, None)
    """
    if name == "none":
        return None
    every_relu = name == "every_relu"
    return functools.partial(ImageScores, width=width, every_relu=every_relu, dtype=dtype, precision=precision)


class Dilated(nn.Module):
    """Decoder of RNA-A1: a 3x3 convolution of dilation 12 and a ReLU, then another one to the scores.

    A score sees 49 x 49 cells. The convolutions have biases and pad with zeros. The second one computes in at least
    float32.

    Attributes:
      outputs: number of scores.
      width: factor on the hidden channels.
      dtype, precision: of the first convolution.
    """

    outputs: int
    width: float = 1.0
    dtype: DTypeLike | None = None
    precision: lax.Precision | None = None

    @nn.compact
    def __call__(self, features):
        """Map features [B, h, w, C] to scores [B, h, w, outputs]."""
        layer = functools.partial(
            Conv, kernel_size=(3, 3), padding=[(DILATION,) * 2] * 2, kernel_dilation=DILATION, kernel_init=_init
        )
        hidden = scaled(HIDDEN, self.width)
        x = nn.relu(layer(hidden, dtype=self.dtype, precision=self.precision, name="hidden")(features))
        return layer(self.outputs, precision=lax.Precision.HIGHEST, name="scores")(x)


class ImageScores(nn.Module):
    """Head of the classes that an image contains: 1x1 and 3x3 convolution, mean over the image, two dense layers.

    Source: Iqbal and Ali, "MLSL: Multi-Level Self-Supervised Learning for Domain Adaptation with Spatially Independent
    and Semantically Consistent Labeling", 2020, section 4.1.2.

    Attributes:
      outputs: number of scores.
      width: factor on the hidden channels.
      every_relu: whether a ReLU follows each layer but the last, as in the paper, or the first alone, as in its code.
      dtype, precision: of the convolutions; the dense layers compute in at least float32.
    """

    outputs: int
    width: float = 1.0
    every_relu: bool = True
    dtype: DTypeLike | None = None
    precision: lax.Precision | None = None

    @nn.compact
    def __call__(self, features):
        """Map features [B, h, w, C] to scores [B, outputs], to which the sigmoid is not applied."""
        channels, later = scaled(IMAGE_CHANNELS, self.width), nn.relu if self.every_relu else lambda x: x
        layer = functools.partial(Conv, channels, kernel_init=_init, dtype=self.dtype, precision=self.precision)
        x = nn.relu(layer((1, 1), name="conv1")(features))
        x = later(layer((3, 3), padding=[(1, 1)] * 2, name="conv2")(x))
        x = x.astype(features.dtype).mean((1, 2))
        layer = functools.partial(Dense, kernel_init=_init, precision=lax.Precision.HIGHEST)
        x = later(layer(scaled(HIDDEN, self.width), name="hidden")(x))
        return layer(self.outputs, name="scores")(x)
