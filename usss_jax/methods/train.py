"""Training what a config asks for, by its method."""

import pathlib
from typing import Any

from ml_collections import ConfigDict

from usss_jax.config import checked
from usss_jax.methods.imagenet import plan as imagenet
from usss_jax.methods.usss import plan as usss

METHODS = {"usss": usss.run, "imagenet": imagenet.run}


def train(config: ConfigDict, workdir: pathlib.Path, devices=None) -> dict[str, dict[str, Any]]:
    """Train what a config asks for, or resume; return the summaries by job.

    Args:
      config: with all fields of its method; see docs/config.md.
      workdir: folder for everything that the run leaves.
      devices: to train on; None: all.

    Raises:
      InputError: for whatever is wrong with config, data or workdir; nothing already computed is lost.
    """
    config = checked(config)
    return METHODS[config.method](config, workdir, devices)
