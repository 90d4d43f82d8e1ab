"""The training of a segmentation network as a job, for any loss."""

import pathlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import grain
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from usss_jax.data import streams
from usss_jax.data.augment_device import DeviceAugment
from usss_jax.data.options import unlabeled_sizes
from usss_jax.data.pools import Pools, with_labels, without_labels
from usss_jax.data.splits import split_hash
from usss_jax.engine import optim
from usss_jax.engine.job import Fit
from usss_jax.engine.state import TrainState, create_state
from usss_jax.engine.step import jit_step
from usss_jax.methods.optimizer import is_trained, make_optimizer
from usss_jax.methods.scoring import VAL, create_scorer, evaluate, student, summarize
from usss_jax.methods.training import Images, Network, Recipe, Run, Start
from usss_jax.models.universal import UniversalModel
from usss_jax.parallel import hosts, sharding
from usss_jax.runs.networks import build_network, describe_network, training_arguments


def fit(
    run: Run,
    name: str,
    compute: Callable,
    *,
    images: Images = Images(),
    recipe: Recipe = Recipe(),
    network: Network = Network(),
    start: Start = Start(),
    workdir: pathlib.Path | None = None,
    teacher: Callable[[TrainState], Mapping[str, Any]] | None = None,
    export: str = "student",
    warnings: Callable[[Mapping[str, float]], Mapping[str, str]] = lambda scalars: {},
    about_data: Mapping[str, Any] | None = None,
) -> Fit:
    """Describe the training of a segmentation network.

    Args:
      run: the run that the job belongs to.
      name: name of the job.
      compute: (state, batch, *, model, augment, seed, mesh) -> `engine.step.Computed`. The batch is one of
        `data.streams.step_batches`; `mesh` is for `accumulate`.
      images, recipe, network, start: what differs from supervised training of all domains by the config.
      workdir: parent of the job's folder; None: that of the run.
      teacher: returns the variables of a second network in a state, which is evaluated beside the first; None: none.
      export: "student" or "teacher", the network whose scores select the best checkpoint, which has its variables.
      warnings: see `Fit`.
      about_data: more about the data, as JSON; if it changes, the job does not resume.
    """
    config, mesh, train = run.config, run.mesh, run.config.train
    images, recipe = images.of(run), recipe.by(config)
    seed = train.seed if recipe.seed is None else recipe.seed
    described = describe(config, network, images.pools)
    model = build_network(described, **training_arguments(config))
    lr, lr_line = optim.learning_rate(recipe.lr, config.optim.lr_rule, recipe.batch_size)
    tx = make_optimizer(config, lr, recipe.steps, network.entropy_module, is_trained(model, recipe.trainable))
    compute = partial(compute, model=model, augment=device_augment(config), seed=seed, mesh=mesh)
    shardings = batch_shardings(mesh, images)
    score = create_scorer(images.pools, model, mesh, train.eval_batch_size)
    per_step = images_per_step(run, images, recipe.batch_size)
    networks = {"student": student} | ({"teacher": teacher} if teacher else {})
    return Fit(
        folder=(workdir or run.workdir) / name,
        steps=recipe.steps,
        create_state=partial(create, run, model, tx, start, lr_line),
        make_step=partial(
            jit_step, mesh, compute=compute, tx=tx, batch_shardings=shardings, quick_compile=train.quick_compile
        ),
        make_batches=partial(batches, run, images, recipe.batch_size, seed),
        batch_shardings=shardings,
        images_per_step=sum(per_step.values()),
        evaluate=partial(evaluate, score=score, selected_by=images.selected_by, networks=networks, export=export),
        variables=networks[export],
        test=partial(score, split="test"),
        data={**describe_data(images), **(about_data or {})},
        network=described,
        config=config.to_dict(),
        eval_every=recipe.eval_every,
        checkpoint_every=train.checkpoint_every,
        log_every=train.log_every,
        loader_threads=config.data.loader_threads,
        summarize=partial(
            summarize, name, images, lr, VAL[export], {what: n * recipe.steps for what, n in per_step.items()}
        ),
        warnings=warnings,
    )


def describe(config: ConfigDict, network: Network, pools: Mapping[str, Pools]) -> dict[str, Any]:
    """Describe a network as JSON (`describe_network`); `pools` are the domains that a training is evaluated on."""
    decoders = network.decoders
    if decoders is None:
        decoders = {d: pool.domain for d, pool in with_labels(pools).items()}
    usss = config.usss if network.entropy_module else None
    head = {"embed_dim": usss.embed_dim, "embed_bias": usss.embedding_bias} if usss else {}
    return describe_network(config, decoders, **head, **network.image_head)


def create(
    run: Run, model: UniversalModel, tx: optax.GradientTransformation, start: Start, lr_line: str
) -> tuple[TrainState, str]:
    """Create the state before the first step, and a line on the learning rate and the pretrained weights."""
    train = run.config.train
    weights, initial = (None, start.initial()) if start.initial else (run.weights, None)
    extra = start.make_extra(model)
    state, match = create_state(model, tx, train.seed, run.mesh, extra, weights, initial, split=train.shard_parameters)
    return start.begin(state), f"{lr_line}; weights: {match}" if match else lr_line


def batch_shardings(mesh: Mesh, images: Images) -> dict[str, Any]:
    """Shardings of the batches of a training, which have an unlabeled part only if a domain has such batches."""
    shardings = sharding.step_batch_shardings(mesh)
    return shardings if images.unlabeled_batches else {"labeled": shardings["labeled"]}


def batches(run: Run, images: Images, batch_size: int, seed: int) -> grain.MapDataset:
    """Open the stream of a training; item s is the batch of step s."""
    others = [d for d in images.unlabeled_batches if d not in images.train_on]
    return streams.step_batches(
        {**images.train_on, **{d: without_labels(images.pools[d]) for d in others}},
        batch_size=batch_size,
        unlabeled_batch_size=unlabeled_sizes(run.config, list(run.pools)),
        unlabeled_batches=images.unlabeled_batches,
        validity=images.validity,
        seed=seed,
        share=hosts.share(),
    )


def images_per_step(run: Run, images: Images, batch_size: int) -> dict[str, int]:
    """Images in the batches of a step, by the name of a labeled batch or as "unlabeled DOMAIN"."""
    sizes = unlabeled_sizes(run.config, list(run.pools))
    unlabeled = {f"unlabeled {d}": count * sizes[d] for d, count in images.unlabeled_batches.items()}
    return {**dict.fromkeys(with_labels(images.train_on), batch_size), **unlabeled}


def device_augment(config: ConfigDict) -> DeviceAugment:
    """Augmentation inside the step, by the config's `data` section; raises InputError for a value out of range.

    >>> from usss_jax.config import default_config
    >>> device_augment(default_config()).changes_colors
    False
    """
    return DeviceAugment(config.data.color_jitter, config.data.grey, config.data.blur, config.data.mix)


def describe_data(images: Images) -> dict[str, Any]:
    """Classes of every decoder, and hashes of the labeled and unlabeled images that are trained on."""
    unlabeled = {name: images.pools[name].unlabeled.ids for name in images.unlabeled_batches}
    return {
        "classes": {name: list(pool.domain.class_names) for name, pool in with_labels(images.pools).items()},
        "split_hash": split_hash({n: pool.labeled_ids for n, pool in with_labels(images.train_on).items()}),
        "unlabeled_hash": split_hash(unlabeled) if unlabeled else None,
    }
