"""Networks by a config's fields, and those of finished stages."""

import pathlib
from collections.abc import Mapping

from jax.sharding import Mesh
from ml_collections import ConfigDict

from usss_jax.data.pools import Pools, with_labels
from usss_jax.local_files import read_object
from usss_jax.models.universal import UniversalModel, create_model
from usss_jax.parallel import hosts
from usss_jax.runs.checkpoint import Checkpoints
from usss_jax.engine.state import abstract_variables

WITHOUT_EMBEDDINGS = ("basic", "direct")  # variants without the entropy module


def create_model_of(config: ConfigDict, num_classes: Mapping[str, int], embed_dim: int) -> UniversalModel:
    """Model by the config's fields."""
    return create_model(
        config.model.encoder,
        num_classes,
        embed_dim=embed_dim,
        width=config.model.width,
        precision=config.model.precision,
        upsample=config.model.upsample,
        normalize=config.data.normalize,
        embed_bias=config.usss.embedding_bias,
        remat=config.model.remat,
    )


def stage_model(config: ConfigDict, pools: Mapping[str, Pools], embed_dim: int) -> UniversalModel:
    """Model with the decoders of those of the given domains that have labels."""
    return create_model_of(config, {d: p.domain.num_classes for d, p in with_labels(pools).items()}, embed_dim)


def best_variables(folder: pathlib.Path, model: UniversalModel, mesh: Mesh) -> tuple[dict, str]:
    """Variables of a finished stage's best checkpoint, and the checkpoint's name."""
    step = hosts.from_writer(lambda: read_object(folder / "summary.json")["best_step"])
    with Checkpoints(folder / "best") as checkpoints:
        variables = checkpoints.restore(step, variables=abstract_variables(model, mesh))["variables"]
    return variables, f"{folder.name}/best/{step}"
