"""SGD with momentum, weight decay and the poly schedule, against PyTorch's update written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from usss_jax.engine.optim import create_optimizer, poly_schedule


def train(tx, params, gradient_of, steps):
    """Parameters after every step."""
    state, history = tx.init(params), []
    for step in range(steps):
        updates, state = tx.update(gradient_of(params, step), state, params)
        params = optax.apply_updates(params, updates)
        history.append(jax.tree.map(np.asarray, params))
    return history


def test_several_steps_equal_pytorchs_sgd():
    """g += wd p; v = momentum v + g; p -= lr v, with v = g at first, on every parameter alike."""
    lr, momentum, decay, power, total = 0.1, 0.9, 0.05, 0.9, 8
    r = np.random.default_rng(0)
    start = {"conv": {"kernel": r.standard_normal((3, 2))}, "bn": {"scale": r.random(4), "bias": r.random(4)}}
    noise = [jax.tree.map(lambda p: r.standard_normal(p.shape), start) for _ in range(6)]

    def gradient_of(params, step):
        return jax.tree.map(lambda p, n: 0.3 * p + n, params, noise[step])

    with jax.enable_x64(True):
        tx = create_optimizer(lr, total, momentum=momentum, weight_decay=decay, power=power)
        got = train(tx, jax.tree.map(jnp.asarray, start), gradient_of, 6)

    p = {name: value.copy() for name, value in (("kernel", start["conv"]["kernel"]), *start["bn"].items())}
    v = {}
    for step in range(6):
        rate = lr * (1 - step / total) ** power
        for name in p:
            g = 0.3 * p[name] + noise[step]["conv" if name == "kernel" else "bn"][name]
            g = g + decay * p[name]
            v[name] = g if step == 0 else momentum * v[name] + g
            p[name] = p[name] - rate * v[name]
        for name, value in p.items():
            np.testing.assert_allclose(
                got[step]["conv" if name == "kernel" else "bn"][name], value, atol=1e-7
            )  # the rate is float32


def test_two_steps_by_hand():
    """lr 0.5, no decay of the schedule (power 0), momentum 0.5, weight decay 0.1, gradient 1, from 2.

    g = 1.2, v = 1.2, p = 1.4; g = 1.14, v = 1.74, p = 0.53.
    """
    tx = create_optimizer(0.5, 10, momentum=0.5, weight_decay=0.1, power=0.0)
    first, second = train(tx, jnp.array(2.0), lambda p, step: jnp.array(1.0), 2)
    assert first == pytest.approx(1.4, rel=1e-6) and second == pytest.approx(0.53, rel=1e-6)


def test_defaults_are_those_of_the_paper():
    """Momentum 0.9, weight decay 1e-4, power 0.9: from 2 with gradient 1 and lr 1 over 2 steps.

    g = 1.0002, p = 0.9998; g = 1.00009998, v = 1.90027998, lr 0.5**0.9 = 0.535887, p = -0.018535...
    """
    first, second = train(create_optimizer(1.0, 2), jnp.array(2.0), lambda p, step: jnp.array(1.0), 2)
    assert first == pytest.approx(0.9998, rel=1e-6)
    assert second == pytest.approx(0.9998 - 0.5**0.9 * 1.90027998, abs=1e-6)


def test_poly_schedule_by_hand():
    """0.001 times 1, 0.5**0.9 and 0.1**0.9 at the start, halfway and after nine tenths; 0 at the end and after it."""
    schedule = poly_schedule(1e-3, 100)
    got = [float(schedule(step)) for step in (0, 50, 90, 100, 150)]
    assert got == pytest.approx([1e-3, 5.35886731e-4, 1.25892541e-4, 0, 0], rel=1e-5)


def test_the_last_step_still_learns():
    tx = create_optimizer(1.0, 3, weight_decay=0.0)
    history = train(tx, jnp.array(0.0), lambda p, step: jnp.array(1.0), 3)
    assert history[2] < history[1]


def test_the_entropy_module_may_have_a_learning_rate_of_its_own():
    """Its update is scaled, momentum and decay included; the others stay as they are."""
    params = {"encoder": {"w": jnp.ones(2)}, "embedding": {"kernel": jnp.ones(3)}}
    grads = jax.tree.map(lambda p: 2 * p, params)
    updates = []
    for scale in (1.0, 0.1):
        tx = create_optimizer(0.5, 10, embedding_lr_scale=scale)
        updates.append(tx.update(grads, tx.init(params), params)[0])
    np.testing.assert_array_equal(updates[0]["encoder"]["w"], updates[1]["encoder"]["w"])
    np.testing.assert_allclose(updates[1]["embedding"]["kernel"], 0.1 * updates[0]["embedding"]["kernel"], rtol=1e-6)


def test_parts_that_are_not_trained_stay_and_do_not_decay():
    params = {"encoder": {"w": jnp.ones(2)}, "decoder_camvid": {"kernel": jnp.ones(3)}}
    tx = create_optimizer(0.5, 10, weight_decay=0.1, trained=lambda part: part == "decoder_camvid")
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    assert (updates["encoder"]["w"] == 0).all()
    everything = create_optimizer(0.5, 10, weight_decay=0.1)
    reference, _ = everything.update(jax.tree.map(jnp.ones_like, params), everything.init(params), params)
    np.testing.assert_array_equal(updates["decoder_camvid"]["kernel"], reference["decoder_camvid"]["kernel"])
