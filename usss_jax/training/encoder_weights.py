"""Weights that an encoder starts from: a file of others, or a stage that was trained here."""

import pathlib

import numpy as np
from jax.sharding import Mesh

from usss_jax.errors import InputError
from usss_jax.models import pretrained
from usss_jax.training.finished import open_stage


def load(path: str, mesh: Mesh) -> dict[str, np.ndarray]:
    """State dict by the reference's names, of a file (models/pretrained.py) or of a finished stage's best checkpoint.

    Args:
      path: a .safetensors, .npz or .pth file, or the folder of a stage, such as runs/cs_idd/basic.
      mesh: devices on which a checkpoint is read.

    Raises:
      InputError: if there is neither.
    """
    folder = pathlib.Path(path).expanduser()
    if not folder.is_dir():
        return pretrained.load_file(path)
    try:
        _, variables, _ = open_stage(folder).restore(mesh)
    except InputError as e:
        raise InputError(f"pretrained: {e}") from e
    return pretrained.to_state_dict(variables)
