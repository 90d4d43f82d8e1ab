"""A network as a folder for a model hub: safetensors and JSON, without pickle, read back bit by bit."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import safetensors.numpy
from jax.sharding import Mesh

from usss_jax.errors import InputError
from usss_jax.local_files import read_object, reason, write_whole
from usss_jax.models.universal import UniversalModel
from usss_jax.parallel.sharding import replicated
from usss_jax.runs.networks import abstract_variables, build_network

WEIGHTS, CONFIG = "model.safetensors", "config.json"
LIBRARY = "usss_jax"


def is_hub(folder: pathlib.Path) -> bool:
    """Whether a folder is such a folder, and not a run or a job."""
    return (folder / WEIGHTS).is_file()


def write_hub(folder: pathlib.Path, variables: Mapping, network: Mapping[str, Any], about: Mapping[str, Any]):
    """Write a network.

    Args:
      folder: is created if needed.
      variables: {"params", "batch_stats"}.
      network: description of the network (runs/networks.py).
      about: what else config.json tells readers; not used to load it.
    """
    flat = flax.traverse_util.flatten_dict(jax.device_get(dict(variables)), sep="/")
    tensors = {name: np.asarray(value, order="C") for name, value in flat.items()}
    write_whole(folder / WEIGHTS, safetensors.numpy.save(tensors, metadata={"format": LIBRARY}))
    content = {"library": LIBRARY, "network": dict(network), **about}
    write_whole(folder / CONFIG, json.dumps(content, indent=2) + "\n")


def read_hub(folder: pathlib.Path, mesh: Mesh) -> tuple[UniversalModel, dict, dict[str, Any], str]:
    """Read a network; arguments and result as for `load_best` (runs/networks.py).

    Raises:
      InputError: if a file is missing or damaged, or the two do not fit together.
    """
    model, network = _read_config(folder / CONFIG)
    try:
        tensors = safetensors.numpy.load_file(folder / WEIGHTS)
    except (OSError, safetensors.SafetensorError) as e:
        raise InputError(f"{folder / WEIGHTS}: cannot be read ({reason(e)}); download it again") from e
    shapes = flax.traverse_util.flatten_dict(abstract_variables(model, mesh), sep="/", keep_empty_nodes=True)
    shapes, empty = {k: v for k, v in shapes.items() if hasattr(v, "shape")}, [k for k in shapes if k == "batch_stats"]
    for name in [*shapes, *tensors]:
        wanted, given = (_text(of.get(name)) for of in (shapes, tensors))
        if wanted != given:
            raise InputError(
                f"{folder}: {name} is {given} in {WEIGHTS}, but {wanted} by {CONFIG}; restore both files of one export"
            )
    variables = flax.traverse_util.unflatten_dict(
        {name: jax.device_put(value, replicated(mesh)) for name, value in tensors.items()}, sep="/"
    )
    return model, {**{kind: {} for kind in empty}, **variables}, network, f"{folder.name}/{WEIGHTS}"


def _text(of) -> str:
    return "missing" if of is None else f"{of.dtype} {list(of.shape)}"


def _read_config(path: pathlib.Path) -> tuple[UniversalModel, dict[str, Any]]:
    try:
        network = read_object(path)["network"]
        for decoder in network["decoders"].values():
            count = len(decoder["classes"])
            np.asarray(decoder["colors"], np.uint8).reshape(count, 3)
            height, width = decoder["size"]
            if not all(isinstance(value, str) for value in decoder["classes"]) or min(height, width) < 1:
                raise ValueError("a decoder without names or size")
        return build_network(network), network
    except InputError as e:
        raise InputError(f"{path}: {e}") from e
    except KeyError as e:
        raise InputError(f"{path}: {e} is missing; restore the file of the export") from e
    except (OSError, ValueError, TypeError, AttributeError, OverflowError) as e:
        raise InputError(f"{path}: cannot be used ({reason(e)}); restore the file of the export") from e
