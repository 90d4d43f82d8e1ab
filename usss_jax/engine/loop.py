"""The training loop of one stage, top to bottom: a single-domain network or one universal variant."""

import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from jax.sharding import Mesh
from ml_collections import ConfigDict

from usss_jax import signals
from usss_jax.data import streams
from usss_jax.data.augment_device import DeviceAugment
from usss_jax.data.cache import Budget
from usss_jax.data.pools import Pools, with_labels
from usss_jax.data.splits import split_hash
from usss_jax.engine import optim
from usss_jax.engine.compiling import compiled
from usss_jax.engine.meter import Meter
from usss_jax.engine.state import create_state
from usss_jax.errors import InputError
from usss_jax.evaluation import metrics
from usss_jax.evaluation.evaluate import create_evaluator
from usss_jax.methods.hung.state import Adversarial, create_adversarial_state
from usss_jax.methods.hung.step import jit_adversarial_step
from usss_jax.methods.usss.step import Objective, jit_train_step
from usss_jax.models.universal import UniversalModel
from usss_jax.parallel import hosts, sharding
from usss_jax.runs import logs
from usss_jax.runs.checkpoint import Checkpoints
from usss_jax.runs.logs import say


@dataclasses.dataclass(frozen=True)
class Stage:
    """What one run of the loop trains.

    Attributes:
      name: of the stage's folder in the workdir.
      pools: images of the domains that take part.
      steps: number of optimiser steps.
      objective: weights of the entropy terms, both 0 for supervised training; or those of adversarial training.
      label_embeddings: per domain [n, d]; empty for supervised training.
      unlabeled_batches: U_k per domain; empty for supervised training.
      label_classes: per domain the train id of each label embedding.
      trained: domains whose images are trained on; empty: all of `pools`. The others are only evaluated. A domain
        without labels is trained on only if it has `unlabeled_batches`.
      initial: variables of a finished network that the stage begins from; None: random, or pretrained, weights.
    """

    name: str
    pools: Mapping[str, Pools]
    steps: int
    objective: Objective | Adversarial
    label_embeddings: Mapping[str, np.ndarray]
    unlabeled_batches: Mapping[str, int]
    label_classes: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)
    trained: tuple[str, ...] = ()
    initial: Mapping[str, Any] | None = None

    @property
    def trained_pools(self) -> dict[str, Pools]:
        """Images of the domains that are trained on."""
        return {domain: pool for domain, pool in self.pools.items() if domain in (self.trained or self.pools)}

    def scored_pools(self, use: str) -> dict[str, Pools]:
        """Domains with images of a use ("val" or "test") and a decoder that can be scored on them."""
        return {d: p for d, p in self.pools.items() if len(getattr(p, use)) and (len(p.labeled) or p.scored_by)}

    def trains(self, part: str) -> bool:
        """Whether a part of the model (encoder, decoder_DOMAIN, embedding) changes."""
        if part == "encoder":
            return not getattr(self.objective, "frozen_encoder", False)
        return part == "embedding" or part.removeprefix("decoder_") in self.trained_pools


def train_and_evaluate(
    config: ConfigDict,
    stage: Stage,
    model: UniversalModel,
    workdir: pathlib.Path,
    mesh: Mesh,
    weights: Mapping | None,
) -> dict[str, Any]:
    """Train one stage, or resume from its last checkpoint; leave config.json, metrics.jsonl, summary.json, checkpoints.

    Args:
      config: see config.py.
      stage: what is trained.
      model: with the decoders of the stage's domains.
      workdir: of the whole run; the stage writes to its own folder there.
      mesh: devices.
      weights: pretrained encoder (state dict) or None.

    Returns:
      The content of summary.json.

    Raises:
      InputError: if the loss is no longer finite, or a checkpoint that is needed is damaged.
      OSError: if something cannot be written (disk full); it names the file.
      Ended: if the process was told to end, after a checkpoint.
    """
    folder = workdir / stage.name
    began = time.monotonic()

    # ---- State: fresh, or from the last checkpoint ----
    lr, about_lr = optim.learning_rate(config.optim.lr, config.optim.lr_rule, config.train.batch_size)
    tx = optim.create_optimizer(
        lr,
        stage.steps,
        momentum=config.optim.momentum,
        weight_decay=config.optim.weight_decay,
        power=config.optim.poly_power,
        embedding_lr_scale=config.usss.embedding_lr_scale,
        trained=stage.trains if stage.initial is not None else None,
    )
    create: Callable = create_state
    make_step: Callable
    if isinstance(stage.objective, Adversarial):
        setting: dict[str, Any] = {"objective": stage.objective, "steps": stage.steps}
        create = partial(create_adversarial_state, **setting)
        make_step = partial(jit_adversarial_step, **setting)
    else:
        make_step = partial(
            jit_train_step,
            objective=stage.objective,
            has_unlabeled=bool(stage.unlabeled_batches),
            label_classes=stage.label_classes,
        )
    split = config.train.shard_parameters
    state, report = create(
        model, tx, config.train.seed, mesh, stage.label_embeddings, weights, stage.initial, split=split
    )
    last = Checkpoints(folder / "checkpoints")
    best = Checkpoints(folder / "best")
    progress: dict[str, Any] = {"seconds": 0.0, "train_seconds": 0.0, "wait_seconds": 0.0, "images": 0, "best": None}
    if found := last.resume(partial(say, stage.name), state=state):
        trees, written = found
        check_same_data(stage, written)
        state, progress = trees["state"], written["progress"]
        say(stage.name, f"resumes from step {int(state.step)}")
    else:
        millions = parameter_overview.count_parameters(state.params) / 1e6
        say(
            stage.name,
            f"{stage.steps} steps, {millions:.2f} M parameters" + (f"; weights: {report}" if report else ""),
        )
    say(stage.name, about_lr)
    logs.write_json(folder / "config.json", {"stage": stage.name, **config.to_dict()})
    start = int(state.step)
    writer = logs.MetricWriter(folder, start)

    # ---- Step, data, evaluation ----
    train_step: jax.stages.Wrapped = make_step(
        mesh, model=model, tx=tx, augment=device_augment(config), seed=config.train.seed, like=state
    )
    batches = streams.step_batches(
        stage.trained_pools,
        batch_size=config.train.batch_size,
        unlabeled_batch_size=config.train.unlabeled_batch_size,
        unlabeled_batches=stage.unlabeled_batches,
        seed=config.train.seed,
        share=hosts.share(),
    )
    batch_shardings = sharding.step_batch_shardings(mesh)
    evaluators = create_evaluators(stage, model, mesh)

    def evaluate(variables, use: str) -> dict[str, np.ndarray]:
        """Confusion matrix per domain on the sources of one use ("val" or "test")."""
        variables = sharding.whole(variables, mesh)
        pools = stage.scored_pools(use)
        return {d: evaluators[d](variables, getattr(p, use), config.train.eval_batch_size) for d, p in pools.items()}

    seconds_before = progress["seconds"]

    def meta() -> dict[str, Any]:
        progress["seconds"] = seconds_before + time.monotonic() - began
        return {"progress": progress, "config": config.to_dict(), **describe_data(stage)}

    # ---- Loop ----
    images_per_step = len(with_labels(stage.trained_pools)) * config.train.batch_size
    images_per_step += sum(stage.unlabeled_batches.values()) * config.train.unlabeled_batch_size
    meter = Meter(stage.name, stage.steps, images_per_step, progress)
    iterator = streams.iterate(batches, start, config.data.loader_threads)
    told = signals.Told(stage.name)

    def next_batch(running=None) -> dict:
        with meter.waiting(running):
            return sharding.put(next(iterator), batch_shardings)

    try:
        if start < stage.steps:
            batch = next_batch()
            program = compiled(train_step, state, batch, stage.name)
        if jax.process_count() == 1:
            told.listen()
        for step in range(start + 1, stage.steps + 1):
            with jax.transfer_guard("disallow"):  # nothing goes to the devices or comes from them unasked
                state, scalars = program(state, batch)
                if step < stage.steps:
                    batch = next_batch(scalars["loss"])  # gets there while the step runs
            evaluates = step % config.train.eval_every == 0 or step == stage.steps
            stops = hosts.PREEMPTED if hosts.preempted(step) else told.code
            saves = step % config.train.checkpoint_every == 0 or step == stage.steps or stops
            # Before evaluation and saving too: they wait for the step anyway, and must not keep a loss that is NaN.
            if step == start + 1 or step % config.train.log_every == 0 or evaluates or saves:
                meter.log(step, jax.device_get(scalars), writer)
            if evaluates:
                with meter.paused():
                    confusions = evaluate(state.variables, "val")
                    scores = {d: metrics.mean_iou(c) for d, c in confusions.items()}
                    if absent := [d for d, value in scores.items() if value is None]:
                        raise InputError(f"{absent[0]}: its val split has no labeled pixel; check the masks there")
                    scores["average"] = average(scores[d] for d in with_labels(stage.trained_pools))
                    writer.write(step, {f"val_miou/{d}": value for d, value in scores.items()})
                    say(
                        stage.name,
                        f"step {step}  val mIoU % " + "  ".join(f"{d} {percent(v)}" for d, v in scores.items()),
                    )
                    if progress["best"] is None or scores["average"] > progress["best"]["average"]:
                        progress["best"] = {"step": step, "average": scores.pop("average"), "domains": scores}
                        best.save(step, {"variables": state.variables}, meta())
                        saves = True  # so that a resumed run finds `best` as it is told
                stops = stops or told.code
            if saves or stops:
                with meter.paused():
                    last.save(step, {"state": state}, meta())
            if stops := stops or (told.code if step == stage.steps else 0):
                text = f"{stage.name}: told to end; the same command resumes from step {step}, now saved"
                raise signals.Ended(text, stops)
    finally:
        iterator.close()
        writer.close()
        told.close()
    budget = shared_budget(stage)
    say(
        stage.name,
        f"{budget.used / 1e9:.2f} GB of decoded images are in memory, data.cache_gb allows {budget.max_bytes / 1e9:g}",
    )

    # ---- Scores of the last and the best checkpoint on the test split ----
    result = {"last": evaluate(state.variables, "test")}
    if progress["best"]["step"] == stage.steps:
        result["best"] = result["last"]
    else:
        chosen = best.restore(progress["best"]["step"], variables=state.variables)["variables"]
        result["best"] = evaluate(chosen, "test")
    summary = summarize(config, stage, result, meta()["progress"])
    logs.write_json(folder / "summary.json", summary)
    last.close()
    best.close()
    return summary


def create_evaluators(stage: Stage, model: UniversalModel, mesh: Mesh) -> dict[str, Callable]:
    """`create_evaluator` per domain; of one without labels for the decoder that scores it, by names of classes."""
    evaluators = {}
    for name, pool in stage.pools.items():
        classes = None
        if pool.scored_by:
            theirs = stage.pools[pool.scored_by].domain.class_names
            classes = [theirs.index(c) for c in pool.domain.class_names]
        decoder, count = pool.scored_by or name, pool.domain.num_classes
        evaluators[name] = create_evaluator(mesh, decoder, count, model=model, classes=classes)
    return evaluators


def device_augment(config: ConfigDict) -> DeviceAugment:
    """Augmentation inside the step, by the config's fields; InputError for one out of range."""
    return DeviceAugment(config.data.color_jitter, config.data.grey, config.data.blur, config.data.mix)


def summarize(config: ConfigDict, stage: Stage, result: Mapping, progress: Mapping) -> dict[str, Any]:
    """Content of summary.json from the confusion matrices of the last and the best checkpoint."""
    domains: dict[str, dict[str, Any]] = {}
    without_labels: dict[str, dict[str, Any]] = {}
    for name, pool in stage.pools.items():
        scores: dict[str, Any] = {}
        if name in result["best"]:
            ious = {which: metrics.iou(result[which][name]) for which in ("last", "best")}
            scores = {
                "miou_last": metrics.mean_iou(result["last"][name]),
                "miou_best": metrics.mean_iou(result["best"][name]),
                "iou": dict(zip(pool.domain.class_names, ious["best"], strict=True)),
                "iou_last": dict(zip(pool.domain.class_names, ious["last"], strict=True)),
                "split": pool.domain.test_split,
                "val_split": pool.domain.val_split,
            }
        if not len(pool.labeled):
            scores["scored_by"] = pool.scored_by
        (domains if len(pool.labeled) else without_labels)[name] = {
            **scores,
            "val_miou_best": progress["best"]["domains"].get(name),
            "image_size": list((pool.test if len(pool.test) else pool.unlabeled)[0]["image"].shape[:2]),
            "images": {
                "labeled": len(pool.labeled),
                "unlabeled": len(pool.unlabeled),
                "test": len(pool.test),
            },
            "skipped": [dataclasses.asdict(example) for example in pool.skipped],
        }
    train_seconds = progress["train_seconds"]
    budget = shared_budget(stage)
    return {
        "stage": stage.name,
        "domains": domains,
        "without_labels": without_labels,
        "average_last": average(d["miou_last"] for d in domains.values()),
        "average_best": average(d["miou_best"] for d in domains.values()),
        "val_average_best": progress["best"]["average"],
        "best_step": progress["best"]["step"],
        "steps": stage.steps,
        "split_hash": describe_data(stage)["split_hash"],
        "unlabeled_hash": describe_data(stage)["unlabeled_hash"],
        "seconds": progress["seconds"],
        "images_per_second": progress["images"] / train_seconds if train_seconds else None,
        "data_wait_share": progress["wait_seconds"] / train_seconds if train_seconds else None,
        "cache_gb": budget.used / 1e9,
        "config": config.to_dict(),
        "unlabeled_batches": dict(stage.unlabeled_batches),
        "convention": metrics.CONVENTION,
        **logs.environment(),
    }


def shared_budget(stage: Stage) -> Budget:
    """Memory for decoded images, which all domains share."""
    return next(iter(stage.pools.values())).budget


def describe_data(stage: Stage) -> dict[str, Any]:
    """Label spaces of the decoders and labeled images, as every checkpoint states them."""
    unlabeled = {name: stage.pools[name].unlabeled.ids for name in stage.unlabeled_batches}
    return {
        "classes": {name: list(pool.domain.class_names) for name, pool in with_labels(stage.pools).items()},
        "split_hash": split_hash({n: pool.labeled_ids for n, pool in with_labels(stage.trained_pools).items()}),
        "unlabeled_hash": split_hash(unlabeled) if unlabeled else None,
    }


def check_same_data(stage: Stage, written: Mapping[str, Any]):
    """Raise InputError if what was written earlier has other classes or other images than the stage now."""
    for what, now in describe_data(stage).items():
        before = written.get(what, now)
        if before != now:
            raise InputError(
                f"{stage.name}: its checkpoints were made with other {what} ({before}) than the data has now ({now}); "
                "give another --workdir, or restore the data"
            )


def average(values) -> float | None:
    """Mean of the values that are present."""
    present = [v for v in values if v is not None]
    return sum(present) / len(present) if present else None


def percent(value: float | None) -> str:
    """Format a share as per cent; a dash if absent."""
    return "-" if value is None else f"{100 * value:.2f}"
