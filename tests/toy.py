"""Whole runs that compile in seconds: the encoder of tiny_models.py, a lateral connection, joint batch statistics."""

from tiny_models import ThreeLayers

from usss_jax.config import checked
from usss_jax.config.files import read_named
from usss_jax.models import encoders


def register():
    """Make the encoder known by its name, in this process."""
    encoders.ENCODERS["toy"] = ThreeLayers


def config(**fields):
    """Checked config of a run of all jobs on two drawn domains, two steps each; `fields` by their dotted names."""
    c = read_named("configs/demo.py:tiny,drn_d_22")
    c.model.encoder, c.model.lateral, c.model.batch_norm = "toy", 4, "joint"
    c.data.image_size, c.data.crop_size = "16x24", ""
    c.train.steps = c.usss.single_steps = c.train.eval_every = c.train.checkpoint_every = 2
    c.train.eval_batch_size = 60
    c.update_from_flattened_dict(fields)
    return checked(c)
