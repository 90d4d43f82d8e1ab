"""The loop itself: what goes between host and devices, and what is compiled when."""

import logging

import jax
import numpy as np
import pytest

from usss_jax.training import loop, sharding, stages
from usss_jax.training.compiling import compiled

QUICK = {
    "domains": "city_street",
    "variants": "basic",
    "width": 0.0625,
    "image_size": "16x24",
    "batch_size": 2,
    "eval_batch_size": 2,
    "labeled_per_domain": 2,
    "log_every": 1,
}


def config(steps):
    from configs.demo import get_config

    c = get_config()
    for field, value in {**QUICK, "steps": steps, "single_steps": steps, "eval_every": steps}.items():
        c[field] = value
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
