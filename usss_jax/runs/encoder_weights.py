"""Initial weights of an encoder, from a weight file or a finished job."""

import pathlib

import numpy as np
import safetensors
from jax.sharding import Mesh

from usss_jax import packages
from usss_jax.errors import InputError
from usss_jax.models import pretrained
from usss_jax.models.universal import UniversalModel
from usss_jax.runs.finished import open_job
from usss_jax.runs.networks import abstract_variables

PRETRAINED = "encoder.safetensors"  # the result of ImageNet pretraining, in its workdir


def load(path: str, encoder: str, model: UniversalModel, mesh: Mesh) -> dict[str, np.ndarray]:
    """Load a state dict from a weight file (models/pretrained.py) or from a finished job's best checkpoint.

    Args:
      path: "imagenet" (packages.py), a .safetensors, .npz, .pth or .params file, or the folder of a job, such as
        runs/cs_idd/basic.
      encoder: name of the encoder.
      model: model with the encoder to initialise.
      mesh: devices to restore a checkpoint on.

    Raises:
      InputError: if the weights are not found or cannot be read, if they do not fit the encoder, or if they are known
        to be trained with another `normalize`.
    """
    normalize: str | None
    if path == packages.IMAGENET:
        weights, normalize = pretrained.load_file(str(packages.find(encoder))), "encoder"
    elif (place := pathlib.Path(path).expanduser()).is_dir():
        weights, normalize = _of_job(place, mesh)
    else:
        weights, normalize = pretrained.load_file(path), _normalize_of(place)
    names = model.encoder.tensor_names
    try:
        pretrained.from_state_dict(weights, abstract_variables(model, mesh), encoder_only=True, names=names)
    except InputError as e:
        raise InputError(f"model.pretrained={path} does not fit {encoder}: {e}") from e
    if normalize and model.clone(normalize=normalize).normalization != model.normalization:
        raise InputError(
            f"model.pretrained={path} was trained with data.normalize={normalize}, here it is {model.normalize}; give "
            f"the same, or other weights"
        )
    return weights


def _of_job(folder: pathlib.Path, mesh: Mesh) -> tuple[dict[str, np.ndarray], str]:
    if (file := folder / PRETRAINED).is_file():
        raise InputError(f"model.pretrained: {folder} is a run of configs/imagenet.py; give its file {file}")
    try:
        job = open_job(folder)
        theirs, variables, _ = job.restore(mesh)
    except InputError as e:
        raise InputError(f"model.pretrained: {e}") from e
    return pretrained.to_state_dict(variables, names=theirs.encoder.tensor_names), theirs.normalize


def _normalize_of(file: pathlib.Path) -> str | None:
    """`normalize` from the metadata that ImageNet pretraining writes; None for other files."""
    if file.suffix != ".safetensors":
        return None
    with safetensors.safe_open(file, "np") as content:
        return (content.metadata() or {}).get("normalize")
