"""Training of a segmentation network as a job, whatever it minimises: data, evaluation and summary."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from usss_jax.data import streams
from usss_jax.data.augment_device import DeviceAugment
from usss_jax.data.pools import Pools, with_labels
from usss_jax.data.splits import split_hash
from usss_jax.engine import optim
from usss_jax.engine.job import Evaluation, Fit
from usss_jax.engine.state import create_state
from usss_jax.engine.step import jit_step
from usss_jax.errors import InputError
from usss_jax.evaluation import metrics
from usss_jax.evaluation.evaluate import create_evaluator
from usss_jax.models.universal import UniversalModel
from usss_jax.parallel import hosts, sharding
from usss_jax.runs.logs import say
from usss_jax.runs.networks import build_network, describe_network


@dataclasses.dataclass(frozen=True)
class Run:
    """What all jobs of a run share.

    Attributes:
      config: checked.
      workdir: every job has its folder in it.
      mesh: devices.
      pools: images of every domain.
      weights: state dict of a pretrained encoder, or None.
    """

    config: ConfigDict
    workdir: pathlib.Path
    mesh: Mesh
    pools: Mapping[str, Pools]
    weights: Mapping | None = None


def fit(
    run: Run,
    name: str,
    compute: Callable,
    *,
    pools: Mapping[str, Pools] | None = None,
    trained: Mapping[str, Pools] | None = None,
    steps: int | None = None,
    workdir: pathlib.Path | None = None,
    unlabeled_batches: Mapping[str, int] | None = None,
    embed_dim: int = 0,
    embed_bias: bool = True,
    embedding_lr_scale: float = 1.0,
    make_extra: Callable[[UniversalModel], Mapping[str, Any]] = lambda model: {},
    initial: Callable[[], Mapping[str, Any]] | None = None,
    changes: Callable[[str], bool] | None = None,
    warnings: Callable[[Mapping[str, float]], Mapping[str, str]] = lambda scalars: {},
) -> Fit:
    """Describe the training of one segmentation network.

    Args:
      run: what it shares with the run's other jobs.
      name: of the job.
      compute: (state, batch, *, model, augment, seed, mesh) -> `engine.step.Computed`. The batch is that of
        `data.streams.step_batches`; `mesh` is for `accumulate`.
      pools: domains that it is evaluated on, all of the run if None; those with labels get a decoder.
      trained: domains whose images are trained on, all of `pools` if None.
      steps: train.steps of the config if None.
      workdir: that of the run if None.
      unlabeled_batches: micro-batches per step for the domains whose unlabeled images are used.
      embed_dim: d of the entropy module, 0: none; embed_bias: whether it has a bias; embedding_lr_scale: factor on its
        learning rate.
      make_extra: makes state.extra.
      initial: loads the variables of a finished network to begin from; None: random, or pretrained, weights.
      changes: whether a part of the model (encoder, decoder_DOMAIN, embedding) is trained; None: all are.
      warnings: see `Fit`.
    """
    config, mesh = run.config, run.mesh
    pools = run.pools if pools is None else pools
    trained = pools if trained is None else trained
    steps = config.train.steps if steps is None else steps
    unlabeled_batches = dict(unlabeled_batches or {})
    decoders = {d: pool.domain for d, pool in with_labels(pools).items()}
    network = describe_network(config, decoders, embed_dim=embed_dim, embed_bias=embed_bias)
    model = build_network(network, config.model.remat)
    lr, about_lr = optim.learning_rate(config.optim.lr, config.optim.lr_rule, config.train.batch_size)
    tx = make_optimizer(config, lr, steps, embedding_lr_scale, changes)
    shardings = sharding.step_batch_shardings(mesh)
    if not unlabeled_batches:
        del shardings["unlabeled"]
    seed = config.train.seed
    setting = {"model": model, "augment": device_augment(config), "seed": seed, "mesh": mesh}

    def create():
        split = config.train.shard_parameters
        weights, start = (None, initial()) if initial else (run.weights, None)
        state, report = create_state(model, tx, seed, mesh, make_extra(model), weights, start, split=split)
        return state, f"{about_lr}; weights: {report}" if report else about_lr

    def make_batches():
        return streams.step_batches(
            trained,
            batch_size=config.train.batch_size,
            unlabeled_batch_size=config.train.unlabeled_batch_size,
            unlabeled_batches=unlabeled_batches,
            seed=seed,
            share=hosts.share(),
        )

    score = scorer(pools, model, mesh, config.train.eval_batch_size)
    images = len(with_labels(trained)) * config.train.batch_size
    return Fit(
        folder=(workdir or run.workdir) / name,
        steps=steps,
        create_state=create,
        make_step=partial(
            jit_step,
            mesh,
            compute=partial(compute, **setting),
            tx=tx,
            batch_shardings=shardings,
            quick_compile=config.train.quick_compile,
        ),
        make_batches=make_batches,
        batch_shardings=shardings,
        images_per_step=images + sum(unlabeled_batches.values()) * config.train.unlabeled_batch_size,
        evaluate=lambda variables: evaluation(score(variables, "val"), with_labels(trained)),
        test=lambda variables: score(variables, "test"),
        data=describe_data(pools, trained, unlabeled_batches),
        network=network,
        config=config.to_dict(),
        eval_every=config.train.eval_every,
        checkpoint_every=config.train.checkpoint_every,
        log_every=config.train.log_every,
        loader_threads=config.data.loader_threads,
        summarize=partial(summarize, name, pools, lr=lr, unlabeled_batches=unlabeled_batches),
        warnings=warnings,
    )


def make_optimizer(
    config: ConfigDict, lr: float, steps: int, embedding_lr_scale: float, trained: Callable[[str], bool] | None
) -> optax.GradientTransformation:
    """Optimiser by the config's fields for `steps` steps; for the rest see `optim.create_optimizer`."""
    fields = config.optim
    return optim.create_optimizer(
        optim.create_schedule(
            lr, steps, kind=fields.schedule, power=fields.poly_power, warmup_steps=fields.warmup_steps
        ),
        name=fields.name,
        momentum=fields.momentum,
        weight_decay=fields.weight_decay,
        lr_scales={
            "encoder": fields.encoder_lr_scale,
            "heads": fields.heads_lr_scale,
            "embedding": embedding_lr_scale,
        },
        decay_scales={"encoder": fields.encoder_decay_scale, "heads": fields.heads_decay_scale},
        trained=trained,
    )


def device_augment(config: ConfigDict) -> DeviceAugment:
    """Augmentation inside the step, by the config's fields; InputError for one out of range."""
    return DeviceAugment(config.data.color_jitter, config.data.grey, config.data.blur, config.data.mix)


def scorer(pools: Mapping[str, Pools], model: UniversalModel, mesh: Mesh, batch_size: int) -> Callable:
    """Return score(variables, "val" or "test") -> confusion matrix int64 [C, C] of each domain that can be scored.

    A domain without labels is scored by the decoder of another one, by the names of the classes.
    """
    evaluators = {}
    for name, pool in pools.items():
        if not len(pool.labeled) and not pool.scored_by:
            continue
        classes = None
        if pool.scored_by:
            theirs = pools[pool.scored_by].domain.class_names
            classes = [theirs.index(c) for c in pool.domain.class_names]
        decoder = pool.scored_by or name
        evaluators[name] = create_evaluator(mesh, decoder, model=model, classes=classes)

    def score(variables, split: str) -> dict[str, np.ndarray]:
        variables = sharding.whole(variables, mesh)
        sources = {d: getattr(pools[d], split) for d in evaluators}
        return {d: evaluators[d](variables, source, batch_size) for d, source in sources.items() if len(source)}

    return score


def evaluation(confusions: Mapping[str, np.ndarray], labeled: Mapping[str, Pools]) -> Evaluation:
    """Mean IoU of every domain on val; the average over the `labeled` ones chooses the best checkpoint."""
    scores = {d: metrics.mean_iou(c) for d, c in confusions.items()}
    if absent := [d for d, value in scores.items() if value is None]:
        raise InputError(f"{absent[0]}: its val split has no labeled pixel; check the masks there")
    scores["average"] = metrics.average(scores[d] for d in labeled)
    text = "val mIoU % " + "  ".join(f"{d} {metrics.percent(v)}" for d, v in scores.items())
    return Evaluation(scores["average"] or 0.0, {f"val_miou/{d}": value for d, value in scores.items()}, text)


def describe_data(
    pools: Mapping[str, Pools], trained: Mapping[str, Pools], unlabeled_batches: Mapping[str, int]
) -> dict[str, Any]:
    """Label spaces of the decoders, and hashes of the images that are trained on."""
    unlabeled = {name: pools[name].unlabeled.ids for name in unlabeled_batches}
    return {
        "classes": {name: list(pool.domain.class_names) for name, pool in with_labels(pools).items()},
        "split_hash": split_hash({n: pool.labeled_ids for n, pool in with_labels(trained).items()}),
        "unlabeled_hash": split_hash(unlabeled) if unlabeled else None,
    }


def summarize(
    name: str,
    pools: Mapping[str, Pools],
    tests: Mapping[str, Mapping[str, np.ndarray]],
    progress: Mapping[str, Any],
    *,
    lr: float,
    unlabeled_batches: Mapping[str, int],
) -> dict[str, Any]:
    """Scores of every domain for summary.json, from the confusion matrices of the last and the best checkpoint."""
    domains: dict[str, dict[str, Any]] = {}
    without_labels: dict[str, dict[str, Any]] = {}
    val = progress["best"]["scalars"]
    for domain, pool in pools.items():
        scores = domain_scores(pool, {w: tests[w][domain] for w in ("last", "best")}) if domain in tests["best"] else {}
        if not len(pool.labeled):
            scores["scored_by"] = pool.scored_by
        (domains if len(pool.labeled) else without_labels)[domain] = {
            **scores,
            "val_miou_best": val.get(f"val_miou/{domain}"),
            "image_size": list((pool.test if len(pool.test) else pool.unlabeled)[0]["image"].shape[:2]),
            "images": {"labeled": len(pool.labeled), "unlabeled": len(pool.unlabeled), "test": len(pool.test)},
            "skipped": [dataclasses.asdict(example) for example in pool.skipped],
        }
    budget = next(iter(pools.values())).budget  # which all domains share
    used, allowed = budget.used / 1e9, budget.max_bytes / 1e9
    say(name, f"{used:.2f} GB of decoded images are in memory, data.cache_gb allows {allowed:g}")
    return {
        "domains": domains,
        "without_labels": without_labels,
        "average_last": metrics.average(d["miou_last"] for d in domains.values()),
        "average_best": metrics.average(d["miou_best"] for d in domains.values()),
        "val_average_best": val["val_miou/average"],
        "lr": lr,
        "cache_gb": used,
        "unlabeled_batches": dict(unlabeled_batches),
        "convention": metrics.CONVENTION,
    }


def domain_scores(pool: Pools, confusions: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Scores of one domain from its confusion matrices of the "last" and the "best" checkpoint."""
    named = {w: dict(zip(pool.domain.class_names, metrics.iou(c), strict=True)) for w, c in confusions.items()}
    return {
        "miou_last": metrics.mean_iou(confusions["last"]),
        "miou_best": metrics.mean_iou(confusions["best"]),
        "iou": named["best"],
        "iou_last": named["last"],
        "split": pool.domain.test_split,
        "val_split": pool.domain.val_split,
    }
