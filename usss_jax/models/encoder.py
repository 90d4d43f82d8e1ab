"""The base class of encoders; docs/encoders.md explains how to add one."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import flax.linen as nn
import numpy as np
from jax import lax
from jax.typing import DTypeLike

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Mean and standard deviation of every channel, for images in [0, 1].
Normalization = tuple[tuple[float, float, float], tuple[float, float, float]]


def _unchanged(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    return tensors


@dataclasses.dataclass(frozen=True)
class TensorNames:
    """Conversion between the names of an encoder's tensors in weight files and the paths of its variables.

    A path is such as "params/encoder/level0_conv/kernel" or "batch_stats/encoder/level0_bn/mean".

    Attributes:
      ours: name in a file -> path; None for a tensor that the encoder does not use, such as the ImageNet head. For an
        unknown name, any path that no variable has, so that loading reports it.
      theirs: path of a variable of the encoder -> its name in the files to write.
      prepare: rewrites a state dict before `ours` sees its names, where files split or join tensors otherwise.
    """

    ours: Callable[[str], str | None]
    theirs: Callable[[str], str]
    prepare: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] = _unchanged


class Encoder(nn.Module, kw_only=True):
    """Encoder F of the paper: maps images to features.

    A subclass defines `levels`, `out_channels` and `__call__`, and whatever differs from the defaults here. Parameters
    are float32 whatever `dtype` the layers compute in; batch statistics, if any, are in the collection "batch_stats".

    Attributes:
      width: factor on every channel count; 1 is the published network.
      dtype: dtype of the layers; None follows the input.
      precision: precision of the layers (see `jax.lax.Precision`).
      remat: levels to recompute in the backward pass, for which only their input is kept.
      frozen: number of first levels that are not trained: they get no gradient and use the running statistics.
      stride: pixels per cell along each axis, one of `strides`.
      finer: stride of an earlier level whose features are returned, too, one of `finer_strides`; 0: none.
      strides: strides that the encoder can have.
      finer_strides: strides of earlier levels whose features it can return.
      normalization: of the images that its published weights were trained with.
    """

    width: float = 1.0
    dtype: DTypeLike | None = None
    precision: lax.Precision | None = None
    remat: Sequence[int] = ()
    frozen: int = 0
    stride: int = 8
    finer: int = 0

    strides: ClassVar[tuple[int, ...]] = (8,)
    finer_strides: ClassVar[tuple[int, ...]] = ()
    normalization: ClassVar[Normalization] = (IMAGENET_MEAN, IMAGENET_STD)

    @property
    def levels(self) -> int:
        """Number of levels that `remat` and `frozen` choose from."""
        raise NotImplementedError

    @property
    def out_channels(self) -> int:
        """Channels C of the features."""
        raise NotImplementedError

    @property
    def tensor_names(self) -> TensorNames:
        """Names in weight files; needed only to read and write those."""
        raise NotImplementedError

    def level_of(self, name: str) -> int:
        """Level of a part of the encoder, by its name: 3 for level3_conv, stage3_norm and block3.

        A name that does not start with letters and a number belongs to what follows the last level.
        """
        found = re.match(r"[a-z]+(\d+)", name)
        return int(found[1]) if found else self.levels

    def __call__(self, images, /, train: bool = False, groups: int = 1):
        """Map images [B, H, W, 3], floating point, to features [B, ceil(H / stride), ceil(W / stride), C], any H and W.

        With `finer`, the result is a pair of these and features [B, ceil(H / finer), ceil(W / finer), channels].

        In training, `groups` batches are interleaved on the first axis: example i belongs to batch i % groups. An
        encoder with batch statistics must keep the batches apart (`GroupedBatchNorm` in models/layers.py); one that
        treats examples independently ignores `groups`.
        """
        raise NotImplementedError
