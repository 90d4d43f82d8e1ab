"""Training what a config asks for, by its method."""

import importlib
import pathlib
from typing import Any

from ml_collections import ConfigDict

from usss_jax.config import checked
from usss_jax.config.files import read_named
from usss_jax.local_files import local_path


def train(config: ConfigDict | str, workdir: pathlib.Path | str, devices=None) -> dict[str, dict[str, Any]]:
    """Train what a config asks for, or resume; return the summaries by job.

    Args:
      config: with all fields of its method (docs/config.md), or a config file, as --config takes it.
      workdir: folder for everything that the run leaves.
      devices: to train on; None: all.

    Raises:
      InputError: for whatever is wrong with config, data or workdir; nothing already computed is lost.

    >>> import usss_jax
    >>> summaries = usss_jax.train("configs/demo.py:tiny", "runs/demo")
    model.pretrained is empty...
    >>> list(summaries)
    ['single_city_street', 'single_town_street', 'basic', 'full']
    """
    config = checked(read_named(config) if isinstance(config, str) else config)
    plan = importlib.import_module(f"usss_jax.methods.{config.method}.plan")
    return plan.run(config, local_path(str(workdir), "workdir"), devices)
