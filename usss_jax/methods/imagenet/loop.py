"""The training loop of a classifier, top to bottom, and what it leaves in its workdir."""

import json
import pathlib
import time
from functools import partial
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from usss_jax import signals
from usss_jax.config import checked, fields, flat, same_on_hosts
from usss_jax.data import streams
from usss_jax.data.augment_device import DeviceAugment
from usss_jax.engine.compiling import compiled
from usss_jax.engine.meter import Meter
from usss_jax.engine.state import abstract_variables, create_state
from usss_jax.errors import InputError
from usss_jax.evaluation.evaluate import one_behind
from usss_jax.local_files import read_object, reason
from usss_jax.methods.imagenet import classify
from usss_jax.methods.imagenet.batches import CenterCrop, RandomResizedCrop, eval_batches, train_batches
from usss_jax.methods.imagenet.images import ClassImages, DataSet, open_data
from usss_jax.models import pretrained
from usss_jax.models.universal import UniversalModel, create_model
from usss_jax.parallel import hosts, sharding
from usss_jax.runs import logs
from usss_jax.runs.checkpoint import Checkpoints
from usss_jax.runs.logs import say
from usss_jax.runs.workdir import alone_in

STAGE = "pretrain"  # before the lines on the console
WEIGHTS = "encoder.safetensors"


def run(config: ConfigDict, workdir: pathlib.Path, devices=None) -> dict[str, Any]:
    """Train, or resume, or return the summary of a finished run; leave WEIGHTS, of the best checkpoint, in the workdir.

    Raises:
      InputError: for whatever is wrong with config, data or workdir; nothing already computed is lost.
    """
    config = checked(config)
    build_model(config, 1)  # a wrong name is seen before data is read
    data = hosts.together(open_images, config)
    same = {**same_on_hosts(config), "set of images": data.fingerprint}
    hosts.check_same(same, "give every host the same flags and the same images")
    if len(data.train) < config.train.batch_size:
        raise InputError(
            f"train.batch_size={config.train.batch_size} is more than the {len(data.train)} training images; lower it"
        )
    claim_workdir(config, data, workdir)
    finished = workdir / "summary.json"
    if summary := hosts.from_writer(read_summary, finished):
        say(STAGE, "finished earlier")
        return summary
    mesh = sharding.widest_mesh(devices or jax.devices(), config.train.batch_size)
    say(STAGE, f"{len(data.classes)} classes, {len(data.train)} images, {len(data.val)} to evaluate")
    with alone_in(workdir):
        return train_and_evaluate(config, data, build_model(config, len(data.classes)), workdir, mesh)


def read_summary(path: pathlib.Path) -> dict[str, Any] | None:
    """Read the summary of a finished run; None if there is none, or a damaged one, which is made again."""
    if not path.exists():
        return None
    try:
        summary = read_object(path)
    except (OSError, ValueError) as e:
        say(STAGE, f"{path} is damaged ({reason(e)}): it is made again from the last checkpoint")
        return None
    return summary or None


def open_images(config: ConfigDict) -> DataSet:
    """Open the images, without the damaged ones if the config says so."""
    data = open_data(config.data.root)
    return data.without_bad(config.data.loader_threads) if config.data.on_bad_example == "skip" else data


def build_model(config: ConfigDict, num_classes: int) -> UniversalModel:
    """Model by the config's fields."""
    return create_model(
        config.model.encoder,
        {classify.HEAD: num_classes},
        width=config.model.width,
        precision=config.model.precision,
        normalize=config.data.normalize,
    )


def claim_workdir(config: ConfigDict, data: DataSet, workdir: pathlib.Path):
    """Write config and fingerprint of the data into a fresh workdir; InputError if it belongs to others."""
    hosts.from_writer(_claim, config, data, workdir)
    hosts.check_shared(workdir)


def _claim(config: ConfigDict, data: DataSet, workdir: pathlib.Path):
    path = workdir / "config.json"
    mine = {**json.loads(json.dumps(config.to_dict())), "fingerprint": data.fingerprint}
    try:
        theirs = read_object(path) if path.exists() else None
        logs.write_json(path, theirs or mine)
    except (OSError, ValueError) as e:
        raise InputError(f"workdir {workdir}: {path} cannot be used ({e}); give another --workdir") from e
    if theirs:
        now, before = flat(mine), flat(theirs)
        free = [name for name, field in fields("imagenet").items() if field.is_free]
        changed = [f for f in now if f not in free and before.get(f) != now[f]]
        if changed:
            text = ", ".join(f"{f} was {before.get(f)!r}, is now {now[f]!r}" for f in changed)
            raise InputError(
                f"workdir {workdir} belongs to another config or other images: {text}; give another --workdir"
            )


def schedule(config: ConfigDict, images: int) -> tuple[int, list[int], int]:
    """Number of steps, the steps at which the learning rate falls, and the steps between evaluations."""
    per_epoch = images / config.train.batch_size
    steps = max(1, round(config.imagenet.epochs * per_epoch))
    falls = range(1, 1 + int(config.imagenet.epochs / config.imagenet.decay_epochs))
    decay_steps = sorted(
        {step for k in falls if 0 < (step := round(k * config.imagenet.decay_epochs * per_epoch)) < steps}
    )
    return steps, decay_steps, max(1, round(config.imagenet.eval_epochs * per_epoch))


def train_and_evaluate(
    config: ConfigDict, data: DataSet, model: UniversalModel, workdir: pathlib.Path, mesh: Mesh
) -> dict[str, Any]:
    """Train from scratch or from the last checkpoint; leave metrics.jsonl, checkpoints, WEIGHTS, summary.json.

    Returns the content of summary.json. Raises as the loop of a stage does (engine/loop.py).
    """
    began = time.monotonic()

    # ---- State: fresh, or from the last checkpoint ----
    steps, decay_steps, eval_every = schedule(config, len(data.train))
    tx = classify.create_optimizer_with_steps(
        config.optim.lr,
        config.imagenet.decay,
        decay_steps,
        momentum=config.optim.momentum,
        weight_decay=config.optim.weight_decay,
    )
    state, _ = create_state(model, tx, config.train.seed, mesh)
    last, best = Checkpoints(workdir / "checkpoints"), Checkpoints(workdir / "best")
    progress: dict[str, Any] = {"seconds": 0.0, "train_seconds": 0.0, "wait_seconds": 0.0, "images": 0}
    progress |= {"last": None, "best": None}
    if found := last.resume(partial(say, STAGE), state=state):
        state, progress = found[0]["state"], found[1]["progress"]
        say(STAGE, f"resumes from step {int(state.step)}")
    start, seconds_before = int(state.step), progress["seconds"]

    # ---- Step, data, evaluation ----
    train_step = classify.jit_train_step(
        mesh, model=model, tx=tx, colors=DeviceAugment(color_jitter=config.data.color_jitter), seed=config.train.seed
    )
    count_hits = classify.jit_count_hits(mesh, model=model)
    crop = RandomResizedCrop(config.imagenet.crop, config.imagenet.min_scale, config.data.flip)
    batches = train_batches(data.train, crop, config.train.batch_size, config.train.seed, hosts.share())

    def meta() -> dict[str, Any]:
        progress["seconds"] = seconds_before + time.monotonic() - began
        return {"progress": progress, "config": config.to_dict(), "classes": list(data.classes)}

    # ---- Loop ----
    meter = Meter(STAGE, steps, config.train.batch_size, progress)
    writer = logs.MetricWriter(workdir, start)
    iterator = streams.iterate(batches, start, config.data.loader_threads)
    told = signals.Told(STAGE)

    def next_batch(running=None) -> dict:
        with meter.waiting(running):
            return put(next(iterator), mesh)

    try:
        if start < steps:
            batch = next_batch()
            program = compiled(train_step, state, batch, STAGE)
        if jax.process_count() == 1:
            told.listen()
        for step in range(start + 1, steps + 1):
            with jax.transfer_guard("disallow"):  # nothing goes to the devices or comes from them unasked
                state, scalars = program(state, batch)
                if step < steps:
                    batch = next_batch(scalars["loss"])  # gets there while the step runs
            evaluates = step % eval_every == 0 or step == steps
            stops = hosts.PREEMPTED if hosts.preempted(step) else told.code
            saves = evaluates or step % config.train.checkpoint_every == 0 or stops
            if step == start + 1 or step % config.train.log_every == 0 or saves:
                meter.log(step, jax.device_get(scalars), writer)
            if evaluates:
                with meter.paused():
                    scores = evaluate(count_hits, state.variables, data.val, config, mesh)
                    writer.write(step, {f"val_{name}": value for name, value in scores.items()})
                    shown = "  ".join(f"{name} {100 * value:.2f}" for name, value in scores.items())
                    say(STAGE, f"step {step}  val % {shown}")
                    progress["last"] = {"step": step, **scores}
                    if progress["best"] is None or scores["top1"] > progress["best"]["top1"]:
                        progress["best"] = progress["last"]
                        best.save(step, {"variables": state.variables}, meta())
                stops = stops or told.code
            if saves or stops:
                with meter.paused():
                    last.save(step, {"state": state}, meta())
            if stops := stops or (told.code if step == steps else 0):
                raise signals.Ended(f"told to end; the same command resumes from step {step}, now saved", stops)
    finally:
        iterator.close()
        writer.close()
        told.close()

    # ---- Weights of the best checkpoint, and the summary ----
    chosen = best.restore(progress["best"]["step"], variables=abstract_variables(model, mesh))["variables"]
    tensors = classify.classifier_state_dict(jax.device_get(chosen), model.encoder.tensor_names)
    # runs/encoder_weights.py compares the metadata.
    if hosts.is_writer():
        pretrained.save_safetensors(str(workdir / WEIGHTS), tensors, {"normalize": config.data.normalize})
    summary = summarize(config, data, meta()["progress"], steps)
    logs.write_json(workdir / "summary.json", summary)
    last.close()
    best.close()
    say(STAGE, f"wrote {workdir / WEIGHTS}: start a segmentation with --config.model.pretrained={workdir / WEIGHTS}")
    return summary


def put(batch: dict, mesh: Mesh) -> dict:
    """Place a host batch on the mesh."""
    return sharding.put({"batch": batch}, {"batch": sharding.batch_sharding(mesh)})["batch"]


def evaluate(count_hits, variables, source: ClassImages, config: ConfigDict, mesh: Mesh) -> dict[str, float]:
    """Shares of all images of a source whose label is the best (top1) and among the five best (top5)."""
    batch_size = -(-config.train.eval_batch_size // mesh.size) * mesh.size  # the last batch is filled up anyway
    batches = eval_batches(
        source, CenterCrop(config.imagenet.eval_resize, config.imagenet.crop), batch_size, hosts.share()
    )
    hits = [0, 0]
    iterator = streams.iterate(batches, 0, config.data.loader_threads)
    try:
        for of_batch in one_behind(count_hits(variables, put(batch, mesh)) for batch in iterator):
            hits = [total + int(value) for total, value in zip(hits, jax.device_get(of_batch), strict=True)]
    finally:
        iterator.close()
    return {name: value / len(source) for name, value in zip(("top1", "top5"), hits, strict=True)}


def summarize(config: ConfigDict, data: DataSet, progress: dict[str, Any], steps: int) -> dict[str, Any]:
    """Content of summary.json."""
    train_seconds = progress["train_seconds"]
    return {
        "top1_best": progress["best"]["top1"],
        "top5_best": progress["best"]["top5"],
        "best_step": progress["best"]["step"],
        "top1_last": progress["last"]["top1"],
        "top5_last": progress["last"]["top5"],
        "steps": steps,
        "classes": len(data.classes),
        "images": {"train": len(data.train), "val": len(data.val)},
        "fingerprint": data.fingerprint,
        "seconds": progress["seconds"],
        "images_per_second": progress["images"] / train_seconds if train_seconds else None,
        "data_wait_share": progress["wait_seconds"] / train_seconds if train_seconds else None,
        "weights": WEIGHTS,
        "config": config.to_dict(),
        "convention": "top1 and top5: shares of all val images, one centre crop each; best is chosen on val too",
        **logs.environment(),
    }
