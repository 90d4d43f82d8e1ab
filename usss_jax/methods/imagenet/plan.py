"""The plan of ImageNet pretraining: train a classifier, then write the weights of its encoder to a file."""

import pathlib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from usss_jax import config as config_lib
from usss_jax.data import streams
from usss_jax.data.augment_device import DeviceAugment
from usss_jax.engine.job import Evaluation, Fit, Job, Pass
from usss_jax.engine.state import create_state
from usss_jax.engine.step import jit_step
from usss_jax.errors import InputError
from usss_jax.evaluation.evaluate import one_behind
from usss_jax.methods.imagenet import classify
from usss_jax.methods.imagenet.batches import CenterCrop, RandomResizedCrop, eval_batches, train_batches
from usss_jax.methods.imagenet.images import ClassImages, DataSet, open_data
from usss_jax.methods.run import run_plan
from usss_jax.models import pretrained
from usss_jax.parallel import hosts, sharding
from usss_jax.runs.logs import say
from usss_jax.runs.networks import build_network, describe_network, load_best
from usss_jax.runs.workdir import alone_in, claim_workdir

JOB = "classifier"
WEIGHTS = "encoder.safetensors"


def run(config: ConfigDict, workdir: pathlib.Path, devices=None) -> dict[str, dict[str, Any]]:
    """Train the classifier, or resume; write the encoder of the best checkpoint to WEIGHTS in the workdir.

    Args:
      config: a checked config.
      workdir: of the run.
      devices: to train on; None: all.

    Raises:
      InputError: if config, data or workdir cannot be used; finished work is kept.
    """
    build_network(describe_network(config, {classify.HEAD: ["any"]}))  # raises for a wrong name before data is read
    data = hosts.together(open_images, config)
    what = {**config_lib.same_on_hosts(config), "set of images": data.fingerprint}
    hosts.check_same(what, "give every host the same flags and the same images")
    if len(data.train) < config.train.batch_size:
        raise InputError(
            f"train.batch_size={config.train.batch_size} exceeds the {len(data.train)} training images; lower it"
        )
    claim_workdir(config, workdir, {"imagenet": {"images": data.fingerprint, "classes": list(data.classes)}})
    mesh = sharding.widest_mesh(devices or jax.devices(), config.train.batch_size)
    say(JOB, f"{len(data.classes)} classes, {len(data.train)} training and {len(data.val)} val images")
    with alone_in(workdir):
        return run_plan(plan(config, data, workdir, mesh))


def plan(config: ConfigDict, data: DataSet, workdir: pathlib.Path, mesh: Mesh) -> Iterator[Job]:
    """Yield the training of the classifier, and the pass that writes the encoder's weights."""
    yield fit(config, data, workdir, mesh)
    yield Pass(workdir / WEIGHTS, partial(write_weights, workdir, mesh))


def fit(config: ConfigDict, data: DataSet, workdir: pathlib.Path, mesh: Mesh) -> Fit:
    """Describe the training of the classifier."""
    network = describe_network(config, {classify.HEAD: data.classes})
    model = build_network(network)
    steps, decay_steps, eval_every = schedule(config, len(data.train))
    tx = classify.create_optimizer_with_steps(
        config.optim.lr,
        config.imagenet.decay,
        decay_steps,
        momentum=config.optim.momentum,
        weight_decay=config.optim.weight_decay,
    )
    batch_size, seed = config.train.batch_size, config.train.seed
    compute = partial(
        classify.compute,
        model=model,
        colors=DeviceAugment(color_jitter=config.data.color_jitter),
        seed=seed,
        mesh=mesh,
    )
    count_hits = classify.jit_count_hits(mesh, model=model)
    crop = RandomResizedCrop(config.imagenet.crop, config.imagenet.min_scale, config.data.flip)
    shardings = batch_shardings(mesh)
    return Fit(
        folder=workdir / JOB,
        steps=steps,
        create_state=lambda: (create_state(model, tx, seed, mesh)[0], ""),
        make_step=partial(
            jit_step,
            mesh,
            compute=compute,
            tx=tx,
            batch_shardings=shardings,
            quick_compile=config.train.quick_compile,
        ),
        make_batches=lambda: train_batches(data.train, crop, batch_size, seed, hosts.share()),
        batch_shardings=shardings,
        images_per_step=batch_size,
        evaluate=lambda state: evaluation(evaluate(count_hits, state.variables, data.val, config, mesh)),
        data={"fingerprint": data.fingerprint},
        network=network,
        config=config.to_dict(),
        eval_every=eval_every,
        checkpoint_every=config.train.checkpoint_every,
        log_every=config.train.log_every,
        loader_threads=config.data.loader_threads,
        summarize=partial(summarize, data),
    )


def open_images(config: ConfigDict) -> DataSet:
    """Open the images; with `data.on_bad_example=skip` leave out damaged ones."""
    data = open_data(config.data.root)
    return data.without_bad(config.data.loader_threads) if config.data.on_bad_example == "skip" else data


def schedule(config: ConfigDict, images: int) -> tuple[int, list[int], int]:
    """Number of steps, the steps at which the learning rate falls, and the steps between evaluations.

    >>> config = config_lib.default_config("imagenet")  # 120 epochs, batch size 256
    >>> schedule(config, images=2560)
    (1200, [300, 600, 900], 10)
    """
    own, per_epoch = config.imagenet, images / config.train.batch_size
    steps = max(1, round(own.epochs * per_epoch))
    falls = range(1, 1 + int(own.epochs / own.decay_epochs))
    decay_steps = sorted({step for k in falls if 0 < (step := round(k * own.decay_epochs * per_epoch)) < steps})
    return steps, decay_steps, max(1, round(own.eval_epochs * per_epoch))


def batch_shardings(mesh: Mesh) -> dict[str, Any]:
    """Shardings of a batch of images and labels."""
    return dict.fromkeys(("image", "label"), sharding.batch_sharding(mesh))


def evaluate(count_hits, variables, source: ClassImages, config: ConfigDict, mesh: Mesh) -> dict[str, float]:
    """Share of the images of a source whose label has the highest score (top1), or one of the five highest (top5)."""
    batch_size = -(-config.train.eval_batch_size // mesh.size) * mesh.size  # a multiple of the devices
    crop = CenterCrop(config.imagenet.eval_resize, config.imagenet.crop)
    batches = eval_batches(source, crop, batch_size, hosts.share())
    shardings = batch_shardings(mesh)
    hits = [0, 0]
    iterator = streams.iterate(batches, 0, config.data.loader_threads)
    try:
        for of_batch in one_behind(count_hits(variables, sharding.put(batch, shardings)) for batch in iterator):
            hits = [total + int(value) for total, value in zip(hits, jax.device_get(of_batch), strict=True)]
    finally:
        iterator.close()
    return {name: value / len(source) for name, value in zip(("top1", "top5"), hits, strict=True)}


def evaluation(scores: Mapping[str, float]) -> Evaluation:
    """Scores on val; top1 selects the best checkpoint.

    >>> evaluation({"top1": 0.5, "top5": 0.75}).text
    'val % top1 50.00  top5 75.00'
    """
    shown = "  ".join(f"{name} {100 * value:.2f}" for name, value in scores.items())
    return Evaluation(scores["top1"], {f"val_{name}": value for name, value in scores.items()}, f"val % {shown}")


def summarize(data: DataSet, tests: Mapping, progress: Mapping[str, Any]) -> dict[str, Any]:
    """Scores for summary.json, from those at the last and the best checkpoint."""
    scores = {
        f"{name}_{which}": progress[which]["scalars"][f"val_{name}"]
        for name in ("top1", "top5")
        for which in ("best", "last")
    }
    return {
        **scores,
        "classes": len(data.classes),
        "images": {"train": len(data.train), "val": len(data.val)},
        "convention": "top1 and top5: shares of all val images, one centre crop each; best is selected on val, too",
    }


def write_weights(workdir: pathlib.Path, mesh: Mesh):
    """Write the encoder of the best checkpoint to WEIGHTS, and print how to use it."""
    model, variables, _, _ = load_best(workdir / JOB, mesh)
    tensors = classify.classifier_state_dict(jax.device_get(variables), model.encoder.tensor_names)
    path = workdir / WEIGHTS
    if hosts.is_writer():
        pretrained.save_safetensors(str(path), tensors, {"normalize": model.normalize})  # for encoder_weights.load
    say(JOB, f"wrote {path}; use it with --config.model.pretrained={path}")
