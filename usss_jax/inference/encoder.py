"""An encoder on its own: features of images."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from usss_jax.errors import InputError
from usss_jax.models import pretrained as pretrained_lib
from usss_jax.models.universal import UniversalModel, create_model
from usss_jax.models.variables import abstract_variables, random_variables, seed_bits
from usss_jax.parallel import sharding
from usss_jax.runs import encoder_weights


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureExtractor:
    """Function from images to features; create it with `encoder`.

    Attributes:
      model: network without decoders.
      variables: {"params", "batch_stats"} of the network.
    """

    model: UniversalModel
    variables: Mapping[str, Any] = dataclasses.field(repr=False)

    @property
    def stride(self) -> int:
        """Pixels per cell along each axis."""
        return self.model.stride

    @functools.cached_property
    def _program(self) -> Callable:
        return jax.jit(functools.partial(self.model.apply, method="encode"))

    def __call__(self, images) -> jax.Array:
        """Return the features of the encoder's last block.

        Args:
          images: RGB [B, H, W, 3], B at least 1, uint8, or floating point from 0 to 1.

        Returns:
          Features [B, ceil(H / stride), ceil(W / stride), C], float32.

        Raises:
          InputError: for images of another shape, smaller than one cell, or above 1 in floating point.
        """
        if np.ndim(images) != 4 or np.shape(images)[-1] != 3 or not len(images):
            raise InputError(f"images: {list(np.shape(images))}; give RGB images [B, H, W, 3]")
        if isinstance(images, np.ndarray) and images.dtype != np.uint8 and images.max() > 1:
            raise InputError(f"images: {images.dtype} up to {images.max():g}; give uint8, or floats from 0 to 1")
        if min(np.shape(images)[1:3]) < self.stride:
            height, width = np.shape(images)[1:3]
            raise InputError(f"images: {height}x{width} is smaller than one cell of the encoder, {self.stride} pixels")
        return self._program(self.variables, images)


def encoder(
    name: str,
    *,
    pretrained: str = "",
    stride: int = 0,
    width: float = 1.0,
    precision: str = "float32",
    normalize: str = "encoder",
) -> FeatureExtractor:
    """Create an encoder as a function from images to the features of its last block, on one device.

    Args:
      name: name of the encoder (docs/encoders.md).
      pretrained: "imagenet" for the weights of an installed package, a file of weights, or the folder of a finished
        job; empty: random weights.
      stride: output stride; 0: the encoder's default.
      width: factor on the channels; 1 is the published network.
      precision: "float32", "tf32" or "bfloat16".
      normalize: how images are normalised: "encoder" (as its published weights expect), "imagenet" or "none".

    Raises:
      InputError: for an unknown name, a stride that the encoder does not have, or weights that are missing, damaged or
        of another network.

    >>> import numpy as np, usss_jax
    >>> features = usss_jax.encoder("efficientnet_lite0", stride=32)
    >>> features(np.zeros((1, 64, 96, 3), np.uint8)).shape
    (1, 2, 3, 320)
    """
    if not isinstance(pretrained, str):
        raise InputError(f'pretrained={pretrained!r}: give "imagenet", a file of weights or a folder, or "" for none')
    model = create_model(name, {}, stride=stride, width=width, precision=precision, normalize=normalize)
    if pretrained:
        weights = encoder_weights.load(pretrained, name, model, sharding.create_mesh(jax.local_devices()[:1]))
        variables, _ = pretrained_lib.from_state_dict(
            weights, abstract_variables(model), encoder_only=True, names=model.encoder.tensor_names
        )
    else:
        variables = jax.jit(lambda bits: random_variables(model, bits))(seed_bits(0))
    return FeatureExtractor(model, variables)
