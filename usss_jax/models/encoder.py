"""What an encoder is to the rest of the project; docs/encoders.md says how to bring one's own."""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import jax


@dataclasses.dataclass(frozen=True)
class TensorNames:
    """How files of others name the tensors of an encoder, and we its variables.

    A variable's name is its path: "params/encoder/stem_conv/kernel", "batch_stats/encoder/level0_bn/mean".

    Attributes:
      ours: name in a file -> path; None for a tensor that the encoder has no use for, such as the ImageNet head. Of a
        name that it does not understand it may make any path that no variable has.
      theirs: path of a variable of the encoder -> its name in the files that we write.
    """

    ours: Callable[[str], str | None]
    theirs: Callable[[str], str]


class Encoder(Protocol):
    """Encoder F of the paper: a linen module that `create_model` makes with width, dtype and precision (models/drn.py).

    It has a field `remat`: which of its levels keep their input alone for the backward pass and are computed again.
    Parameters are float32 whatever `dtype` the layers compute in; batch statistics, if there are any, are in the
    collection "batch_stats".
    """

    @property
    def levels(self) -> int:
        """Number of levels that `remat` chooses from."""

    @property
    def out_channels(self) -> int:
        """Channels C of the features."""

    @property
    def stride(self) -> int:
        """Pixels per cell and axis."""

    @property
    def tensor_names(self) -> TensorNames:
        """Needed only to read and write files of weights."""

    def __call__(self, images, /, train: bool = False, groups: int = 1) -> jax.Array:
        """Map images [B, H, W, 3], floating point, to features [B, ceil(H / stride), ceil(W / stride), C], any H and W.

        In training, `groups` batches are interleaved on the first axis, example i of batch i % groups; an encoder whose
        examples do not see each other ignores it. One that keeps statistics must keep the batches apart
        (`GroupedBatchNorm` in models/layers.py).
        """
