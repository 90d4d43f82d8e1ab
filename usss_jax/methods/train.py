"""Training by a config, whatever its method."""

import importlib
import pathlib
from typing import Any

from ml_collections import ConfigDict

from usss_jax.config import checked
from usss_jax.config.files import read_named
from usss_jax.local_files import local_path


def train(config: ConfigDict | str, workdir: pathlib.Path | str, devices=None) -> dict[str, dict[str, Any]]:
    """Train by a config, or resume; return the summaries by job.

    Args:
      config: a config with all fields of its method (docs/config.md), or a config file as for --config.
      workdir: folder for all results.
      devices: to train on; None: all.

    Raises:
      InputError: if config, data or workdir cannot be used; finished work is kept.

    >>> import usss_jax
    >>> summaries = usss_jax.train("configs/demo.py:tiny", "runs/demo")
    model.pretrained is empty...
    >>> list(summaries)
    ['single_city_street', 'single_town_street', 'basic', 'full']
    """
    config = checked(read_named(config) if isinstance(config, str) else config)
    plan = importlib.import_module(f"usss_jax.methods.{config.method}.plan")
    return plan.run(config, local_path(str(workdir), "workdir"), devices)
