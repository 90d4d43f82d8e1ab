"""An encoder of two convolutions, `model.encoder="toy"`, and configs with it: whole runs that compile in seconds."""

from collections.abc import Sequence

import flax.linen as nn

from configs import demo
from usss_jax.config import checked
from usss_jax.models import universal
from usss_jax.models.encoder import TensorNames
from usss_jax.models.layers import Convolution, GroupedBatchNorm, apply_levels, scaled


class Toy(nn.Module):
    """Two strided convolutions with batch norm: features of 32 channels at stride 8."""

    width: float = 1.0
    dtype: object = None
    precision: object = None
    remat: Sequence[int] = ()

    levels = 2
    stride = 8
    tensor_names = TensorNames(
        lambda name: None if name.startswith("fc.") else name.replace(".", "/"),
        lambda path: path.replace("/", "."),
    )

    @property
    def out_channels(self):
        return scaled(32, self.width)

    @nn.compact
    def __call__(self, x, train=False, groups=1):
        def run(module, x, level):
            numerics = {"dtype": self.dtype, "precision": self.precision}
            kernel, stride = ((5, 4), (3, 2))[level]
            conv = Convolution(self.out_channels, kernel, stride, name=f"conv{level}", parent=module, **numerics)
            return nn.relu(GroupedBatchNorm(groups, name=f"bn{level}", parent=module)(conv(x), train))

        return apply_levels(self, run, x, self.levels, self.remat)


def register():
    """Make the encoder known by its name, in this process."""
    universal.ENCODERS["toy"] = Toy


def config(**fields):
    """Checked config of a run of all jobs on two drawn domains, two steps each; `fields` by their dotted names."""
    c = demo.get_config("tiny")
    c.model.encoder, c.model.width, c.data.image_size, c.data.crop_size = "toy", 0.5, "16x24", ""
    c.train.steps = c.usss.single_steps = c.train.eval_every = c.train.checkpoint_every = 2
    c.train.eval_batch_size = 60
    c.update_from_flattened_dict(fields)
    return checked(c)
