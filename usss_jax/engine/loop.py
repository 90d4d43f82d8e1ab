"""The training loop: runs or resumes one Fit of any method, and writes metrics, checkpoints and a summary."""

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
from clu import parameter_overview

from usss_jax import signals
from usss_jax.data import streams
from usss_jax.engine.compiling import compiled
from usss_jax.engine.job import Fit
from usss_jax.engine.meter import Meter
from usss_jax.engine.state import TrainState
from usss_jax.errors import Diverged, InputError
from usss_jax.parallel import hosts, sharding
from usss_jax.runs import divergence, logs
from usss_jax.runs.checkpoint import Checkpoints, all_finite
from usss_jax.runs.logs import say
from usss_jax.runs.workdir import read_summary


def fit(job: Fit) -> dict[str, Any]:
    """Train, or resume from the last checkpoint; write config.json, metrics.jsonl, checkpoints, test.npz, summary.json.

    Returns:
      The content of summary.json.

    Raises:
      Diverged: if the loss, the gradient or the state is not finite, or if the job would only diverge again.
      InputError: if all checkpoints are damaged, or were made with other data.
      OSError: if a file cannot be written (disk full); the error names the file.
      Ended: if the process was interrupted, after a checkpoint was saved.
    """
    began = time.monotonic()
    divergence.check(job.folder, job.config)
    state, about = job.create_state()
    progress: dict[str, Any] = {"seconds": 0.0, "train_seconds": 0.0, "wait_seconds": 0.0, "images": 0}
    progress |= {"last": None, "best": None}
    last, best = Checkpoints(job.folder / "checkpoints"), Checkpoints(job.folder / "best")
    if found := last.resume(partial(say, job.name), partial(_other_job, job), state=state):
        state, progress = found[0]["state"], found[1]["progress"]
        check_same_data(job, found[1]["data"])
        say(job.name, f"resumes from step {int(state.step)}")
    else:
        millions = parameter_overview.count_parameters(state.params) / 1e6
        say(job.name, f"{job.steps} steps, {millions:.2f} M parameters")
    if about:
        say(job.name, about)
    logs.write_json(job.folder / "config.json", {"job": job.name, **job.config})
    seconds_before = progress["seconds"]

    def meta() -> dict[str, Any]:
        progress["seconds"] = seconds_before + time.monotonic() - began
        about = {"config": job.config, "data": job.data, "network": job.network}
        return {"job": job.name, "progress": progress, **about}

    _check_best(job, state, progress, best, meta)
    try:
        state = _train(job, state, progress, last, best, meta)
    except Diverged as e:
        raise Diverged(divergence.record(job.folder, job.config, str(e), last)) from e
    final = chosen = job.variables(state)
    if progress["best"]["step"] != job.steps:
        chosen = best.restore(progress["best"]["step"], variables=final)["variables"]
    return _finish(job, final, chosen, meta()["progress"])


def _other_job(job: Fit, meta: Mapping[str, Any]) -> str:
    """Say of which other job a checkpoint is; empty if it is of this one, or does not say (older versions)."""
    theirs = meta.get("job", job.name)
    return "" if theirs == job.name else f"it is of job {theirs}"


def _check_best(job: Fit, state: TrainState, progress: dict, best: Checkpoints, meta):
    """If the best checkpoint so far is damaged, say so and choose among the scores from this step on."""
    if not progress["best"] or not (why := best.damage(progress["best"]["step"])):
        return
    step = progress["best"]["step"]
    progress["best"] = progress["last"] if progress["last"]["step"] == int(state.step) else None
    if progress["best"]:
        best.save(int(state.step), {"variables": job.variables(state)}, meta())
    say(job.name, f"{job.folder / 'best' / str(step)} is damaged ({why}): the best is chosen from this step on")


def _train(job: Fit, state: TrainState, progress: dict, last: Checkpoints, best: Checkpoints, meta) -> TrainState:
    """Run the remaining steps; updates `progress`, and stores `meta()` in checkpoints."""
    start = int(state.step)
    writer = logs.MetricWriter(job.folder, start)
    train_step = job.make_step(state)
    meter = Meter(job.name, job.steps, job.images_per_step, progress, job.warnings)
    iterator = streams.iterate(job.make_batches(), start, job.loader_threads)
    interrupt = signals.Interrupt(job.name)

    def next_batch(running=None) -> dict:
        with meter.waiting(running):
            return sharding.put(next(iterator), job.batch_shardings)

    try:
        if start < job.steps:
            batch = next_batch()
            program = compiled(train_step, state, batch, job.name)
        if jax.process_count() == 1:
            interrupt.listen()
        for step in range(start + 1, job.steps + 1):
            with jax.transfer_guard("disallow"):  # no implicit transfers to or from the devices
                state, scalars = program(state, batch)
                if step < job.steps:
                    batch = next_batch(scalars["loss"])  # is transferred while the step runs
            evaluates = step % job.eval_every == 0 or step == job.steps
            stops = hosts.PREEMPTED if hosts.preempted(step) else interrupt.code
            saves = step % job.checkpoint_every == 0 or step == job.steps or stops
            # Also before evaluation and saving: they wait for the step anyway, and a NaN must not be saved.
            if step == start + 1 or step % job.log_every == 0 or evaluates or saves:
                meter.log(step, jax.device_get(scalars), writer)
            if (evaluates or saves) and not all_finite(state):
                raise Diverged(f"the state is not finite after step {step}")
            with meter.paused():
                if evaluates and _is_best(job, step, state, progress, writer):
                    best.save(step, {"variables": job.variables(state)}, meta())
                    saves = True  # so that progress["best"] of the last checkpoint agrees with best/
                stops = stops or interrupt.code
                if saves or stops:
                    last.save(step, {"state": state}, meta())
            if stops := stops or (interrupt.code if step == job.steps else 0):
                text = f"{job.name}: interrupted; the same command resumes from step {step}, now saved"
                raise signals.Ended(text, stops)
    finally:
        iterator.close()
        writer.close()
        interrupt.close()
    return state


def _is_best(job: Fit, step: int, state: TrainState, progress: dict, writer: logs.MetricWriter) -> bool:
    """Evaluate, log the scores, and return whether they are the best so far."""
    found = job.evaluate(state)
    writer.write(step, found.scalars)
    say(job.name, f"step {step}  {found.text}")
    progress["last"] = {"step": step, "value": found.value, "scalars": dict(found.scalars)}
    if progress["best"] is not None and found.value <= progress["best"]["value"]:
        return False
    progress["best"] = progress["last"]
    return True


def _finish(job: Fit, last: Mapping, best: Mapping, progress: Mapping[str, Any]) -> dict[str, Any]:
    """Test the last and the best variables; write test.npz and summary.json."""
    tests = {"last": job.test(last)}
    tests["best"] = tests["last"] if best is last else job.test(best)
    logs.write_arrays(job.folder / "test.npz", {f"{w}/{name}": a for w, of in tests.items() for name, a in of.items()})
    train_seconds = progress["train_seconds"]
    summary = {
        "job": job.name,
        **job.data,
        "steps": job.steps,
        "best_step": progress["best"]["step"],
        "val": {which: progress[which]["scalars"] for which in ("last", "best")},
        "seconds": progress["seconds"],
        "images_per_second": progress["images"] / train_seconds if train_seconds else None,
        "data_wait_share": progress["wait_seconds"] / train_seconds if train_seconds else None,
        **job.summarize(tests, progress),
        **divergence.summary(job.folder),
        "config": job.config,
        **logs.environment(),
    }
    logs.write_json(job.folder / "summary.json", summary)
    return summary


def finished(job: Fit) -> dict[str, Any] | None:
    """Summary of a job, or None if it is not finished.

    Raises:
      InputError: if it was trained on other data, or its best checkpoint is missing or damaged.
    """
    summary = hosts.from_writer(read_summary, job.folder / "summary.json")
    if summary is None:
        return None
    check_same_data(job, summary)
    Checkpoints(job.folder / "best").verify(summary["best_step"])
    return summary


def check_same_data(job: Fit, written: Mapping[str, Any]):
    """Raise InputError if a checkpoint or summary was made with other data than the job has now."""
    for what, now in job.data.items():
        before = written.get(what, now)
        if before != now:
            raise InputError(
                f"{job.name}: its checkpoints were made with other {what} ({before}) than the data has now ({now}); "
                "give another --workdir, or restore the data"
            )
