"""The interface of encoders; docs/encoders.md explains how to add one."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import jax
import numpy as np

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def _unchanged(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    return tensors


@dataclasses.dataclass(frozen=True)
class TensorNames:
    """Conversion between the names of an encoder's tensors in weight files and the paths of its variables.

    A path is such as "params/encoder/stem_conv/kernel" or "batch_stats/encoder/level0_bn/mean".

    Attributes:
      ours: name in a file -> path; None for a tensor that the encoder does not use, such as the ImageNet head. An
        unknown name may give any path that is not a variable's.
      theirs: path of a variable of the encoder -> its name in the files to write.
      prepare: state dict of a file -> the state dict with the tensors that `ours` names, for files that split or join
        tensors otherwise.
    """

    ours: Callable[[str], str | None]
    theirs: Callable[[str], str]
    prepare: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] = _unchanged


class Encoder(Protocol):
    """Encoder F of the paper: a linen module that `create_model` builds with width, dtype and precision.

    Its field `remat` holds the levels to recompute in the backward pass, for which only their input is kept. Parameters
    are float32 whatever `dtype` the layers compute in; batch statistics, if any, are in the collection "batch_stats".
    """

    @property
    def levels(self) -> int:
        """Number of levels that `remat` chooses from."""

    @property
    def out_channels(self) -> int:
        """Channels C of the features."""

    @property
    def stride(self) -> int:
        """Pixels per cell along each axis."""

    @property
    def strides(self) -> Sequence[int]:
        """The strides that the encoder can have."""

    @property
    def tensor_names(self) -> TensorNames:
        """Needed only to read and write weight files."""

    def __call__(self, images, /, train: bool = False, groups: int = 1) -> jax.Array:
        """Map images [B, H, W, 3], floating point, to features [B, ceil(H / stride), ceil(W / stride), C], any H and W.

        In training, `groups` batches are interleaved on the first axis: example i belongs to batch i % groups. An
        encoder with batch statistics must keep the batches apart (`GroupedBatchNorm` in models/layers.py); one that
        treats examples independently ignores `groups`.
        """
