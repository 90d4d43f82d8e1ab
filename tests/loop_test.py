"""The loop itself: what goes between host and devices, and what is compiled when."""

import json
import logging
import os
import shutil
import signal

import jax
import numpy as np
import pytest

from usss_jax import signals
from usss_jax.engine import loop
from usss_jax.engine.compiling import compiled
from usss_jax.errors import InputError
from usss_jax.methods.usss import stages
from usss_jax.parallel import hosts, sharding

QUICK = {
    "data.domains": "city_street",
    "variants": "basic",
    "model.width": 0.0625,
    "data.image_size": "16x24",
    "train.batch_size": 2,
    "train.eval_batch_size": 2,
    "data.labeled_per_domain": 2,
    "train.log_every": 1,
}


def config(steps):
    from configs.demo import get_config

    c = get_config()
    of_steps = {"train.steps": steps, "usss.single_steps": steps, "train.eval_every": steps}
    c.update_from_flattened_dict({**QUICK, **of_steps})
    return c


def test_more_steps_compile_nothing_more(tmp_path, caplog):
    """Not after the second step, nor ever after the first."""
    counts = []
    for steps in (2, 6):
        caplog.clear()
        with jax.log_compiles(True), caplog.at_level(logging.WARNING, "jax"):
            jax.clear_caches()
            stages.run(config(steps), tmp_path / str(steps))
        messages = [record.getMessage() for record in caplog.records]
        counts.append(sum(message.startswith("Finished XLA compilation") for message in messages))
    assert counts[0] == counts[1] > 0


def test_batches_that_are_not_on_the_devices_are_refused_inside_the_loop(tmp_path, monkeypatch):
    """The guard works: a step that is handed host arrays would copy them at every step, unasked."""
    monkeypatch.setattr(sharding, "put", lambda tree, shardings: tree)
    monkeypatch.setattr(loop, "compiled", lambda step, *args: step)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        stages.run(config(2), tmp_path)


def test_the_program_of_a_step_takes_its_shapes_alone(capsys):
    step = jax.jit(lambda state, batch: (state + batch.sum(), batch), donate_argnums=0)
    program = compiled(step, jax.numpy.zeros(3), jax.numpy.ones(4), "stage")
    assert "[stage] step compiled in 0 s, needs 0.00 GB on each device" in capsys.readouterr().out
    np.testing.assert_array_equal(program(jax.numpy.zeros(3), jax.numpy.ones(4))[0], [4, 4, 4])
    with pytest.raises(TypeError):
        program(jax.numpy.zeros(3), jax.numpy.ones(5))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Workdir of an uninterrupted run of four steps."""
    workdir = tmp_path_factory.mktemp("finished")
    stages.run(of_four_steps(), workdir)
    return workdir


def of_four_steps():
    c = config(4)
    c.train.checkpoint_every = 1
    return c


def scores_and_losses(workdir):
    lines = [json.loads(line) for line in (workdir / "basic" / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((workdir / "basic" / "summary.json").read_text())
    return [(line["step"], line["loss"]) for line in lines if "loss" in line], summary["domains"]


def test_told_to_end_and_resumed_from_an_older_checkpoint_a_run_ends_bit_identical(
    finished, tmp_path, monkeypatch, capsys
):
    """Ctrl-C in the second step; then, as a power loss leaves it: a cut checkpoint and an empty summary."""

    def interrupt(step):
        if step == 2:
            signal.raise_signal(signal.SIGINT)
        return False

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(hosts, "preempted", interrupt)
        with pytest.raises(signals.Ended, match="basic: told to end; the same command resumes from step 2") as told:
            stages.run(of_four_steps(), tmp_path)
    assert told.value.code == 130 and signal.getsignal(signal.SIGINT) == before

    largest = max((tmp_path / "basic/checkpoints/2").rglob("*"), key=lambda path: path.is_file() * path.stat().st_size)
    os.truncate(largest, 10)
    (tmp_path / "basic/summary.json").write_text("")
    stages.run(of_four_steps(), tmp_path)
    out = capsys.readouterr().out
    assert "summary.json is damaged (it is empty): the stage counts as not finished" in out
    assert "checkpoints/2 is damaged" in out and "[basic] resumes from step 1\n" in out
    assert scores_and_losses(tmp_path) == scores_and_losses(finished)


def test_missing_best_checkpoint_is_told_at_once(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "w")
    shutil.rmtree(tmp_path / "w" / "basic" / "best")
    with pytest.raises(InputError, match=f"basic/best/4 is missing; .*move {tmp_path / 'w' / 'basic'} away"):
        stages.run(of_four_steps(), tmp_path / "w")


def test_what_is_no_summary_is_left_out_of_the_table_and_said(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "w")
    for name, text in (("old", ""), ("full", "{}"), ("cross", "[1]"), ("hung_city_street", '{"stage": "hung"')):
        (tmp_path / "w" / name).mkdir()
        (tmp_path / "w" / name / "summary.json").write_text(text)
    assert list(stages.run(of_four_steps(), tmp_path / "w")) == ["basic"]
    out = capsys.readouterr().out
    for name in ("old", "full", "cross", "hung_city_street"):
        assert f"{name}/summary.json is no summary of a stage" in out
