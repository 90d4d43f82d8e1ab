"""Descriptions of networks in checkpoints, and networks built from them."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from usss_jax.data.domain import Domain
from usss_jax.local_files import read_object
from usss_jax.models import variables as variables_lib
from usss_jax.models.universal import UniversalModel, create_model
from usss_jax.parallel import hosts
from usss_jax.parallel.sharding import replicated
from usss_jax.runs.checkpoint import Checkpoints


def describe_network(
    config: ConfigDict,
    decoders: Mapping[str, Domain | Sequence[str]],
    *,
    embed_dim: int = 0,
    embed_bias: bool = True,
    image_head: str = "none",
    image_head_width: float = 1.0,
) -> dict[str, Any]:
    """Describe a segmentation network as JSON: everything but the variables that a predictor needs.

    Args:
      config: config of the run.
      decoders: {name of the decoder: its domain, or the names of its classes if there is no domain}.
      embed_dim: d of the entropy module; 0: none.
      embed_bias: whether the entropy module has a bias.
      image_head: the head of every domain that scores whole images, one of `models.heads.IMAGE_HEADS`.
      image_head_width: factor on its hidden channels.
    """
    return {
        **{field: config.model[field] for field in ("encoder", "width", "precision")},
        "stride": config.model.stride or create_model(config.model.encoder, {}).encoder.stride,
        "lateral": config.model.get("lateral", 0),
        "head": config.model.get("head", "linear"),
        "upsample": config.model.get("upsample", "bilinear"),
        "normalize": config.data.normalize,
        "embed_dim": embed_dim,
        "embed_bias": embed_bias,
        "image_head": image_head,
        "image_head_width": image_head_width,
        "decoders": {name: _describe_decoder(of) for name, of in decoders.items()},
    }


def _describe_decoder(of: Domain | Sequence[str]) -> dict[str, Any]:
    if not isinstance(of, Domain):
        return {"classes": list(of)}
    colors = [list(c.color) for c in of.classes]
    return {"classes": list(of.class_names), "colors": colors, "size": list(of.size)}


def build_network(network: Mapping[str, Any], **training: Any) -> UniversalModel:
    """Build a model from the description of `describe_network`, and arguments of `create_model` only for training."""
    return create_model(
        network["encoder"],
        {name: len(decoder["classes"]) for name, decoder in network["decoders"].items()},
        embed_dim=network["embed_dim"],
        stride=network.get("stride", 0),
        lateral=network.get("lateral", 0),
        width=network["width"],
        precision=network["precision"],
        head=network.get("head", "linear"),
        image_head=network.get("image_head", "none"),
        image_head_width=network.get("image_head_width", 1.0),
        upsample=network["upsample"],
        normalize=network["normalize"],
        embed_bias=network["embed_bias"],
        **training,
    )


def abstract_variables(model: UniversalModel, mesh: Mesh) -> dict:
    """Shapes, dtypes and sharding of {"params", "batch_stats"}, to restore a checkpoint."""
    shapes = variables_lib.abstract_variables(model)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=replicated(mesh)), shapes)


def training_arguments(config: ConfigDict) -> dict[str, Any]:
    """Arguments of `create_model` that only training needs, from a config."""
    return {field: config.model[field] for field in ("remat", "frozen_levels", "batch_norm")}


def read_network(folder: pathlib.Path, step: int) -> dict[str, Any]:
    """Read the network's description in a job's best checkpoint, that of `step`; raises InputError if it is damaged."""
    return Checkpoints(folder / "best").meta(step)["network"]


def best_name(folder: pathlib.Path) -> str:
    """Name of the best checkpoint of a finished job: JOB/best/STEP."""
    return f"{folder.name}/best/{read_object(folder / 'summary.json')['best_step']}"


def load_best(folder: pathlib.Path, mesh: Mesh) -> tuple[UniversalModel, dict, dict[str, Any], str]:
    """Load the best checkpoint of a finished job.

    Args:
      folder: folder of the job, such as runs/cs_cvd/full; it must have a summary.json.
      mesh: devices over which the variables are replicated.

    Returns:
      (model, variables, description of `describe_network`, name of the checkpoint JOB/best/STEP).

    Raises:
      InputError: if the checkpoint is missing or damaged.
    """
    step = hosts.from_writer(lambda: read_object(folder / "summary.json")["best_step"])
    best = Checkpoints(folder / "best")
    network = best.meta(step)["network"]
    model = build_network(network)
    variables = best.restore(step, variables=abstract_variables(model, mesh))["variables"]
    return model, variables, network, f"{folder.name}/best/{step}"
