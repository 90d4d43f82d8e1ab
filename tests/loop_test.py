"""The loop on a job of two numbers: what goes between host and devices, what is compiled when, how it resumes."""

import dataclasses
import json
import logging
import os
import shutil
import signal

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from usss_jax import signals
from usss_jax.engine import loop
from usss_jax.engine.compiling import compiled
from usss_jax.engine.job import Evaluation, Fit
from usss_jax.engine.state import TrainState
from usss_jax.engine.step import Computed, jit_step
from usss_jax.errors import Diverged, InputError
from usss_jax.local_files import read_object
from usss_jax.methods.run import run_plan
from usss_jax.parallel import hosts, sharding
from usss_jax.runs.checkpoint import Checkpoints
from usss_jax.runs.workdir import written_summaries

MESH = sharding.create_mesh(jax.devices()[:1])
TX = optax.sgd(0.1, momentum=0.9)
SHARDINGS = {"x": sharding.batch_sharding(MESH)}


def compute(state, batch):
    """The mean squared distance of w from the batch's numbers."""
    loss, gradients = jax.value_and_grad(lambda p: ((p["w"] - batch["x"]) ** 2).mean())(state.params)
    return Computed(gradients, {}, {"loss": loss}, state.extra)


def create_state():
    params = {"w": jnp.asarray([5.0, -3.0])}
    state = TrainState(jnp.zeros((), jnp.int32), params, {}, TX.init(params), {})
    return jax.device_put(state, sharding.replicated(MESH)), "two numbers"


def job_of(folder, steps=4, scores=(1.0, 1.0, 3.0, 2.0), **changed):
    """A job evaluated after every step, with the given scores."""
    left = list(scores)

    def evaluate(state):
        value = left[evaluate.calls % len(left)]
        evaluate.calls += 1
        return Evaluation(value, {"val_score": value}, f"score {value}")

    evaluate.calls = 0
    numbers = grain.MapDataset.range(1000).map(lambda i: {"x": np.random.default_rng(i).random((4, 2), np.float32)})
    job = Fit(
        folder=folder,
        steps=steps,
        create_state=create_state,
        make_step=lambda like: jit_step(MESH, compute=compute, tx=TX, batch_shardings=SHARDINGS, like=like),
        make_batches=lambda: numbers,
        batch_shardings=SHARDINGS,
        images_per_step=4,
        evaluate=evaluate,
        data={"fingerprint": "these numbers"},
        network={"layers": 0},
        config={"lr": 0.1},
        eval_every=1,
        checkpoint_every=1,
        log_every=1,
        loader_threads=2,
        test=lambda variables: {"w": np.asarray(variables["params"]["w"])},
        summarize=lambda tests, progress: {"mean": {which: float(of["w"].mean()) for which, of in tests.items()}},
    )
    return dataclasses.replace(job, **changed)


def metrics(job):
    return [json.loads(line) for line in (job.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A job that was run without interruption, and its summary."""
    job = job_of(tmp_path_factory.mktemp("finished") / "toy")
    return job, loop.fit(job)


# ---- What it leaves ----


def test_it_trains_as_the_optimiser_written_out_does(finished):
    job, _ = finished
    w, momentum, losses = np.asarray([5.0, -3.0]), 0.0, []
    for step in range(4):
        x = job.make_batches()[step]["x"]
        losses.append(((w - x) ** 2).mean())
        momentum = 0.9 * momentum + (w - x).mean(0)
        w = w - 0.1 * momentum
    assert [line["loss"] for line in metrics(job) if "loss" in line] == pytest.approx(losses, rel=1e-5)
    with np.load(job.folder / "test.npz") as kept:
        np.testing.assert_allclose(kept["last/w"], w, rtol=1e-5)


def test_the_checkpoint_of_the_best_score_is_kept_and_tested(finished):
    """Of equal scores the earlier one."""
    job, summary = finished
    assert summary["best_step"] == 3 and summary["val"] == {"last": {"val_score": 2.0}, "best": {"val_score": 3.0}}
    best = Checkpoints(job.folder / "best")
    assert best.steps() == [1, 3] and best.meta(3)["network"] == {"layers": 0}
    like = {"params": create_state()[0].params, "batch_stats": {}}
    w = np.asarray(best.restore(3, variables=like)["variables"]["params"]["w"])
    with np.load(job.folder / "test.npz") as kept:
        np.testing.assert_array_equal(kept["best/w"], w)
        assert summary["mean"] == {"best": float(w.mean()), "last": float(kept["last/w"].mean())}
        assert not np.array_equal(kept["best/w"], kept["last/w"])


def test_the_summary_tells_job_data_config_and_speed(finished, capsys):
    job, summary = finished
    assert read_object(job.folder / "summary.json") == summary
    wanted = {"job": "toy", "fingerprint": "these numbers", "steps": 4, "config": {"lr": 0.1}}
    assert {name: summary[name] for name in wanted} == wanted
    assert {"seconds", "images_per_second", "data_wait_share", "device", "versions", "commit"} <= set(summary)
    assert read_object(job.folder / "config.json") == {"job": "toy", "lr": 0.1}
    assert loop.finished(job) == summary


def test_a_finished_job_is_not_run_again(finished, capsys):
    job, summary = finished
    assert run_plan([job]) == {"toy": summary}
    assert capsys.readouterr().out == "[toy] finished earlier\n"


def test_warnings_of_the_method_are_said_once(tmp_path, capsys):
    loop.fit(job_of(tmp_path / "toy", warnings=lambda scalars: {"large": "it is large"} if "loss" in scalars else {}))
    assert capsys.readouterr().out.count("[toy] warning: step 1: it is large") == 1


def diverging(folder, at, **changed):
    """A job of 9 steps whose numbers of step `at`, counted from 0, are NaN."""
    numbers = grain.MapDataset.range(9).map(lambda i: {"x": np.full((4, 2), np.nan if i == at else 1, np.float32)})
    return job_of(folder, 9, make_batches=lambda: numbers, **changed)


def test_a_loss_that_is_not_finite_ends_it_before_a_checkpoint(tmp_path):
    with pytest.raises(Diverged, match=r"toy diverged: the loss is nan at step 4; .* it resumes from step 3") as told:
        loop.fit(diverging(tmp_path / "toy", 3))
    assert told.value.code == 3 and Checkpoints(tmp_path / "toy" / "checkpoints").steps() == [2, 3]


def test_a_lower_learning_rate_is_the_remedy_of_divergence(tmp_path, capsys):
    """The same one is refused at once; a checkpoint from which training diverges twice is no longer used."""

    def tries(lr, at=3):
        return loop.fit(diverging(tmp_path / "toy", at, config={"optim": {"lr": lr}}))

    def told(lr, at=3):
        with pytest.raises(Diverged) as caught:
            tries(lr, at)
        return str(caught.value)

    assert told(0.1).endswith("with a lower learning rate (optim.lr was 0.1), and it resumes from step 3")
    assert f"or remove {tmp_path}/toy/diverged.json to try the same again" in told(0.1, at=99)
    assert told(0.05).endswith("resumes from step 2")
    assert "checkpoints/3 is unusable (training diverged from it twice): renamed" in capsys.readouterr().out
    summary = tries(0.01, at=99)
    assert "resumes from step 2\n" in capsys.readouterr().out
    assert [event["fields"] for event in summary["diverged"]] == [{"optim.lr": 0.1}, {"optim.lr": 0.05}]


def test_a_state_that_is_not_finite_is_not_saved(tmp_path):
    """As after too large a step, whose own loss and gradient are still finite."""
    large = optax.sgd(3e38, momentum=0.9)

    def make_step(like):
        return jit_step(MESH, compute=compute, tx=large, batch_shardings=SHARDINGS, like=like)

    with pytest.raises(Diverged, match=r"toy diverged: the state is not finite after step 1; .*, and it starts again"):
        loop.fit(job_of(tmp_path / "toy", make_step=make_step))
    assert not Checkpoints(tmp_path / "toy" / "checkpoints").steps()


# ---- Compiling and transfers ----


@pytest.mark.slow
def test_more_steps_compile_nothing_more(tmp_path, caplog):
    """Not after the second step, nor ever after the first."""
    counts = []
    for steps in (2, 6):
        caplog.clear()
        with jax.log_compiles(True), caplog.at_level(logging.WARNING, "jax"):
            jax.clear_caches()
            loop.fit(job_of(tmp_path / str(steps), steps))
        messages = [record.getMessage() for record in caplog.records]
        counts.append(sum(message.startswith("Finished XLA compilation") for message in messages))
    assert counts[0] == counts[1] > 0


def test_batches_that_are_not_on_the_devices_are_refused(tmp_path, monkeypatch):
    """The guard works: a step that is handed host arrays would copy them at every step, unasked."""
    monkeypatch.setattr(sharding, "put", lambda tree, shardings: tree)
    monkeypatch.setattr(loop, "compiled", lambda step, *args: step)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        loop.fit(job_of(tmp_path / "toy"))


def test_the_program_of_a_step_takes_its_shapes_alone(capsys):
    step = jax.jit(lambda state, batch: (state + batch.sum(), batch), donate_argnums=0)
    program = compiled(step, jnp.zeros(3), jnp.ones(4), "toy")
    assert "[toy] step compiled in 0 s, needs 0.00 GB on each device" in capsys.readouterr().out
    np.testing.assert_array_equal(program(jnp.zeros(3), jnp.ones(4))[0], [4, 4, 4])
    with pytest.raises(TypeError):
        program(jnp.zeros(3), jnp.ones(5))


# ---- Resuming ----


@pytest.mark.slow
def test_told_to_end_and_resumed_from_an_older_checkpoint_a_run_ends_bit_identical(
    finished, tmp_path, monkeypatch, capsys
):
    """Ctrl-C in the third step; then, as a power loss leaves it: a cut checkpoint and an empty summary."""

    def interrupt(step):
        if step == 3:
            signal.raise_signal(signal.SIGINT)
        return False

    started_with = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started us with &
    try:
        with monkeypatch.context() as patch:
            patch.setattr(hosts, "preempted", interrupt)
            with pytest.raises(signals.Ended, match="toy: interrupted; the same command resumes from step 3") as told:
                loop.fit(job_of(tmp_path / "toy"))
        assert told.value.code == 130 and signal.getsignal(signal.SIGINT) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, started_with)

    largest = max((tmp_path / "toy/checkpoints/3").rglob("*"), key=lambda path: path.is_file() * path.stat().st_size)
    os.truncate(largest, 10)
    (tmp_path / "toy/summary.json").write_text("")
    again = job_of(tmp_path / "toy", scores=(3.0, 2.0))
    summary = run_plan([again])["toy"]
    out = capsys.readouterr().out
    assert "summary.json is damaged (it is empty): the job counts as not finished" in out
    assert "checkpoints/3 is unusable" in out and "[toy] resumes from step 2\n" in out
    job, unbroken = finished
    told_of = ("step", "loss", "val_score", "grad_norm")
    rows = [[{k: row[k] for k in told_of if k in row} for row in metrics(of)] for of in (again, job)]
    assert rows[0] == rows[1] and len(rows[0]) == 8
    with np.load(tmp_path / "toy/test.npz") as mine, np.load(job.folder / "test.npz") as theirs:
        assert all(np.array_equal(mine[name], theirs[name]) for name in theirs.files)
    assert [summary[k] for k in ("best_step", "val", "mean")] == [unbroken[k] for k in ("best_step", "val", "mean")]


def test_other_data_than_that_of_the_checkpoints_is_refused(finished, tmp_path):
    """Whether the job is finished, or only begun."""
    job, _ = finished
    shutil.copytree(job.folder, tmp_path / "toy")
    other = job_of(tmp_path / "toy", data={"fingerprint": "others"})
    told = r"toy: its checkpoints were made with other fingerprint \(these numbers\) than the data has now \(others\)"
    with pytest.raises(InputError, match=told):
        loop.finished(other)
    with pytest.raises(InputError, match=told):
        loop.fit(other)


def test_missing_best_checkpoint_is_told_at_once(finished, tmp_path):
    shutil.copytree(finished[0].folder, tmp_path / "toy")
    shutil.rmtree(tmp_path / "toy" / "best")
    with pytest.raises(InputError, match=f"toy/best/3 is unusable: it is missing; .*move {tmp_path / 'toy'} away"):
        loop.finished(job_of(tmp_path / "toy"))


def test_damaged_best_checkpoint_is_told_and_the_best_is_chosen_from_there_on(finished, tmp_path, capsys):
    """Of a job that goes on; of one that is finished it is refused."""
    shutil.copytree(finished[0].folder, tmp_path / "toy")
    largest = max((tmp_path / "toy/best/3").rglob("*"), key=lambda path: path.is_file() * path.stat().st_size)
    os.truncate(largest, 10)
    with pytest.raises(InputError, match="toy/best/3 is unusable: the checksum of"):
        loop.finished(job_of(tmp_path / "toy"))
    (tmp_path / "toy/summary.json").unlink()
    assert loop.fit(job_of(tmp_path / "toy"))["best_step"] == 4
    assert "toy/best/3 is damaged (the checksum of" in capsys.readouterr().out
    assert Checkpoints(tmp_path / "toy/best").meta(4)["progress"]["best"]["step"] == 4


def test_what_is_no_summary_is_left_out_of_the_table_and_said(finished, tmp_path, capsys):
    shutil.copytree(finished[0].folder, tmp_path / "toy")
    for name, text in (("old", ""), ("full", "{}"), ("cross", "[1]"), ("hung_city_street", '{"job": "hung"')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(text)
    assert list(written_summaries(tmp_path)) == ["toy"]
    out = capsys.readouterr().out
    for name in ("old", "full", "cross", "hung_city_street"):
        assert f"{name}/summary.json is not a summary of a job" in out
