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
from usss_jax.errors import InputError
from usss_jax.parallel import hosts, sharding
from usss_jax.runs import logs
from usss_jax.runs.checkpoint import Checkpoints
from usss_jax.runs.logs import say
from usss_jax.runs.workdir import read_summary


def fit(job: Fit) -> dict[str, Any]:
    """Train, or resume from the last checkpoint; write config.json, metrics.jsonl, checkpoints, test.npz, summary.json.

    Returns:
      The content of summary.json.

    Raises:
      InputError: if the loss is not finite, or if a checkpoint is damaged or was made with other data.
      OSError: if a file cannot be written (disk full); the error names the file.
      Ended: if the process was interrupted, after a checkpoint was saved.
    """
    began = time.monotonic()
    state, about = job.create_state()
    progress: dict[str, Any] = {"seconds": 0.0, "train_seconds": 0.0, "wait_seconds": 0.0, "images": 0}
    progress |= {"last": None, "best": None}
    with Checkpoints(job.folder / "checkpoints") as last, Checkpoints(job.folder / "best") as best:
        if found := last.resume(partial(say, job.name), state=state):
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
            return {"progress": progress, "config": job.config, "data": job.data, "network": job.network}

        state = _train(job, state, progress, last, best, meta)
        final = chosen = job.variables(state)
        if progress["best"]["step"] != job.steps:
            chosen = best.restore(progress["best"]["step"], variables=final)["variables"]
        return _finish(job, final, chosen, meta()["progress"])


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
        "config": job.config,
        **logs.environment(),
    }
    logs.write_json(job.folder / "summary.json", summary)
    return summary


def finished(job: Fit) -> dict[str, Any] | None:
    """Summary of a job, or None if it is not finished.

    Raises:
      InputError: if it was trained on other data, or its best checkpoint is missing.
    """
    summary = hosts.from_writer(read_summary, job.folder / "summary.json")
    if summary is None:
        return None
    check_same_data(job, summary)
    best = job.folder / "best" / str(summary.get("best_step"))
    if not hosts.from_writer(best.is_dir):
        raise InputError(f"{best} is missing; restore it, or move {job.folder} away to train the job again")
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
