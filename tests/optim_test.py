"""SGD and AdamW against PyTorch's updates written out, factors of parts, and schedules by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from usss_jax.config import checked, default_config
from usss_jax.engine.optim import create_optimizer, create_schedule
from usss_jax.errors import InputError
from usss_jax.methods.optimizer import make_optimizer


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
        tx = create_optimizer(create_schedule(lr, total, power=power), momentum=momentum, weight_decay=decay)
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
    tx = create_optimizer(create_schedule(0.5, 10, power=0.0), momentum=0.5, weight_decay=0.1)
    first, second = train(tx, jnp.array(2.0), lambda p, step: jnp.array(1.0), 2)
    assert first == pytest.approx(1.4, rel=1e-6) and second == pytest.approx(0.53, rel=1e-6)


def test_defaults_are_those_of_the_paper():
    """Momentum 0.9, weight decay 1e-4, power 0.9: from 2 with gradient 1 and lr 1 over 2 steps.

    g = 1.0002, p = 0.9998; g = 1.00009998, v = 1.90027998, lr 0.5**0.9 = 0.535887, p = -0.018535...
    """
    first, second = train(create_optimizer(create_schedule(1.0, 2)), jnp.array(2.0), lambda p, step: jnp.array(1.0), 2)
    assert first == pytest.approx(0.9998, rel=1e-6)
    assert second == pytest.approx(0.9998 - 0.5**0.9 * 1.90027998, abs=1e-6)


def test_poly_schedule_by_hand():
    """0.001 times 1, 0.5**0.9 and 0.1**0.9 at the start, halfway and after nine tenths; 0 at the end and after it."""
    schedule = create_schedule(1e-3, 100)
    got = [float(schedule(step)) for step in (0, 50, 90, 100, 150)]
    assert got == pytest.approx([1e-3, 5.35886731e-4, 1.25892541e-4, 0, 0], rel=1e-5)


def test_the_last_step_still_learns():
    tx = create_optimizer(create_schedule(1.0, 3), weight_decay=0.0)
    history = train(tx, jnp.array(0.0), lambda p, step: jnp.array(1.0), 3)
    assert history[2] < history[1]


def test_the_entropy_module_may_have_a_learning_rate_of_its_own():
    """Its update is scaled, momentum and decay included; the others stay as they are."""
    params = {"encoder": {"w": jnp.ones(2)}, "embedding": {"kernel": jnp.ones(3)}}
    grads = jax.tree.map(lambda p: 2 * p, params)
    updates = []
    for scale in (1.0, 0.1):
        tx = create_optimizer(create_schedule(0.5, 10), lr_scales={"embedding": scale})
        updates.append(tx.update(grads, tx.init(params), params)[0])
    np.testing.assert_array_equal(updates[0]["encoder"]["w"], updates[1]["encoder"]["w"])
    np.testing.assert_allclose(updates[1]["embedding"]["kernel"], 0.1 * updates[0]["embedding"]["kernel"], rtol=1e-6)


def test_parts_that_are_not_trained_stay_and_do_not_decay():
    params = {"encoder": {"w": jnp.ones(2)}, "decoder_camvid": {"kernel": jnp.ones(3)}}
    schedule = create_schedule(0.5, 10)
    tx = create_optimizer(schedule, weight_decay=0.1, trainable=lambda name: name == "decoder_camvid/kernel")
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    assert (updates["encoder"]["w"] == 0).all()
    everything = create_optimizer(create_schedule(0.5, 10), weight_decay=0.1)
    reference, _ = everything.update(jax.tree.map(jnp.ones_like, params), everything.init(params), params)
    np.testing.assert_array_equal(updates["decoder_camvid"]["kernel"], reference["decoder_camvid"]["kernel"])


def test_defaults_are_the_plain_chain_of_optax():
    """Updates bit by bit, and the state's structure, which checkpoints have."""
    params = network()
    plain = optax.chain(
        optax.add_decayed_weights(1e-4), optax.sgd(optax.polynomial_schedule(0.3, 0.0, 0.9, 5), momentum=0.9)
    )
    ours = create_optimizer(create_schedule(0.3, 5), lr_scales={"embedding": 1.0}, decay_scales={"heads": 1})
    assert jax.tree.structure(ours.init(params)) == jax.tree.structure(plain.init(params))
    histories = [train(tx, params, lambda p, step: jax.tree.map(jnp.cos, p), 3) for tx in (ours, plain)]
    jax.tree.map(np.testing.assert_array_equal, *histories)


# ---- Parts ----


def network(dtype=np.float32):
    """Parameters as of a model: kernels, and a vector in every part."""
    r = np.random.default_rng(1)

    def layer(vector):
        return {"kernel": r.standard_normal((1, 1, 2, 3)).astype(dtype), vector: r.standard_normal(3).astype(dtype)}

    return {
        "encoder": {"conv": layer("bias"), "bn": {"scale": r.standard_normal(2).astype(dtype)}},
        "decoder_a": layer("bias"),
        "decoder_b": layer("bias"),
        "embedding": layer("bias"),
    }


def written_out_adamw(start, gradient_of, steps, *, lr, decay, lr_scales, decay_scales, momentum=0.9):
    """PyTorch's AdamW with one parameter group per part, and one without decay for vectors; float64."""
    flat = dict(jax.tree_util.tree_leaves_with_path(start))
    mean, square = (dict.fromkeys(flat, 0.0) for _ in range(2))
    for step in range(1, steps + 1):
        for path, p in flat.items():
            part = path[0].key if not path[0].key.startswith("decoder_") else "heads"
            rate = lr * lr_scales.get(part, 1)
            g = gradient_of(p)
            mean[path] = momentum * mean[path] + (1 - momentum) * g
            square[path] = 0.999 * square[path] + 0.001 * g**2
            p = p - rate * (decay * decay_scales.get(part, 1) * p if p.ndim > 1 else 0)
            corrected = mean[path] / (1 - momentum**step), square[path] / (1 - 0.999**step)
            flat[path] = p - rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
    return flat


@pytest.mark.parametrize(
    ("lr_scales", "decay_scales"),
    [({}, {}), ({"encoder": 0.1, "heads": 2.0}, {}), ({"embedding": 0.5}, {"encoder": 0.0, "heads": 3.0})],
)
def test_adamw_equals_pytorchs_with_a_group_per_part(lr_scales, decay_scales):
    start = network(np.float64)
    with jax.enable_x64(True):
        tx = create_optimizer(
            create_schedule(0.01, 10, power=0.0),
            name="adamw",
            weight_decay=0.3,
            lr_scales=lr_scales,
            decay_scales=decay_scales,
        )
        got = train(tx, jax.tree.map(jnp.asarray, start), lambda p, step: jax.tree.map(jnp.cos, p), 4)[-1]
    scales = {"lr_scales": lr_scales, "decay_scales": decay_scales}
    want = written_out_adamw(start, np.cos, 4, lr=0.01, decay=0.3, **scales)
    for path, value in jax.tree_util.tree_leaves_with_path(got):
        np.testing.assert_allclose(value, want[path], atol=1e-8, err_msg=jax.tree_util.keystr(path))


def test_adamw_by_hand():
    """lr 0.5, decay 0.1, gradient 1 from 2: Adam's first step is the learning rate, 2 - 0.5 - 0.5 * 0.1 * 2 = 1.4.

    The bias, of one axis, loses 0.5 alone; a decoder of twice the rate and half the decay 2 * (0.5 + 0.5 * 0.05 * 2).
    """
    params = {
        "encoder": {"kernel": jnp.full((1, 1), 2.0), "bias": jnp.full(1, 2.0)},
        "decoder_a": jnp.full((1, 1), 2.0),
    }
    tx = create_optimizer(
        create_schedule(0.5, 10),
        name="adamw",
        weight_decay=0.1,
        lr_scales={"heads": 2.0},
        decay_scales={"heads": 0.5},
    )
    (after,) = train(tx, params, lambda p, step: jax.tree.map(jnp.ones_like, p), 1)
    assert after["encoder"]["kernel"] == pytest.approx(1.4, rel=1e-5)
    assert after["encoder"]["bias"] == pytest.approx(1.5, rel=1e-5)
    assert after["decoder_a"] == pytest.approx(0.9, rel=1e-5)


def test_sgd_decays_every_part_by_its_own_factor_before_the_momentum():
    """Gradient 0, decay 0.1: an update is -lr 0.1 p times both factors, of norms and biases too."""
    params = network()
    tx = create_optimizer(
        create_schedule(0.5, 10),
        weight_decay=0.1,
        lr_scales={"heads": 10.0},
        decay_scales={"encoder": 2.0, "heads": 0.0},
    )
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    for part, factor in (("encoder", 2.0), ("decoder_a", 0.0), ("decoder_b", 0.0), ("embedding", 1.0)):
        jax.tree.map(
            lambda u, p, f=factor: np.testing.assert_allclose(u, -0.05 * f * p, rtol=1e-6), updates[part], params[part]
        )
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    np.testing.assert_allclose(updates["decoder_b"]["bias"], -5.0, rtol=1e-6)


# ---- Biases ----


def twice_without_decay(**options):
    """The rule "alex" of RNA-A1's code."""
    return create_optimizer(
        create_schedule(0.5, 4), weight_decay=0.1, bias_lr_scale=2.0, bias_decay_scale=0.0, **options
    )


def test_a_bias_moves_twice_as_far_as_a_weight_without_decay():
    """Exactly, since 2 is a power of two, at any depth; the weight itself and the norm's scale keep rate and decay."""
    layer = {"kernel": np.float32([2, -3]), "bias": np.float32([2, -3]), "scale": np.float32([2, -3])}
    params = {"encoder": {"level1_block0": {"bn1": layer}, "bias_conv": layer}, "decoder_a": layer}
    noise = np.random.default_rng(5).standard_normal((3, 2)).astype(np.float32)

    def gradient_of(params, step):
        return jax.tree.map(lambda p: noise[step], params)

    def updates_of(tx, params):
        state, found = tx.init(params), []
        for step in range(3):
            updates, state = tx.update(gradient_of(params, step), state, params)
            found.append(jax.tree.map(np.asarray, updates))
        return found

    got = updates_of(twice_without_decay(), params)
    free, decayed = (
        updates_of(create_optimizer(create_schedule(0.5, 4), weight_decay=d), layer["kernel"]) for d in (0, 0.1)
    )
    for step, tree in enumerate(got):
        for layer in (tree["encoder"]["level1_block0"]["bn1"], tree["encoder"]["bias_conv"], tree["decoder_a"]):
            np.testing.assert_array_equal(layer["bias"], 2 * free[step])
            np.testing.assert_array_equal(layer["kernel"], decayed[step])
            np.testing.assert_array_equal(layer["scale"], decayed[step])


def test_factors_of_biases_and_of_parts_multiply():
    """Gradient 1 and decay 0.1 from 2, lr 0.5: -0.5 f (1 + 0.2 d), with f and d of the part times those of the bias."""
    params = {part: {"kernel": jnp.array(2.0), "bias": jnp.array(2.0)} for part in ("encoder", "decoder_a", "lateral")}
    tx = create_optimizer(
        create_schedule(0.5, 10),
        weight_decay=0.1,
        lr_scales={"heads": 10.0},
        decay_scales={"encoder": 3.0, "heads": 0.5},
        bias_lr_scale=2.0,
        bias_decay_scale=2.0,  # 1 in the heads, as that of weights in no part
    )
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    assert updates["encoder"] == {"kernel": pytest.approx(-0.8), "bias": pytest.approx(-2.2)}
    for part in ("decoder_a", "lateral"):
        assert updates[part] == {"kernel": pytest.approx(-5.5), "bias": pytest.approx(-12.0)}


def test_adamw_scales_the_rate_of_biases_and_decays_none():
    """Its first step is the rate, 0.5: a kernel also loses 0.5 * 0.1 * 2, a bias 2 * 0.5."""
    params = {"encoder": {"kernel": jnp.full((1, 1), 2.0), "bias": jnp.full(1, 2.0)}}
    tx = create_optimizer(
        create_schedule(0.5, 10), name="adamw", weight_decay=0.1, bias_lr_scale=2.0, bias_decay_scale=3.0
    )
    (after,) = train(tx, params, lambda p, step: jax.tree.map(jnp.ones_like, p), 1)
    assert after["encoder"] == {"kernel": pytest.approx(1.4, rel=1e-5), "bias": pytest.approx(1.0, rel=1e-5)}


def test_biases_that_are_not_trained_stay():
    params = network()
    tx = twice_without_decay(trainable=lambda name: name == "decoder_b/bias")
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    np.testing.assert_array_equal(updates["decoder_b"].pop("bias"), -1.0)
    assert not any(leaf.any() for leaf in jax.tree.leaves(updates))


def test_without_factors_the_updates_and_the_state_are_as_before_there_were_any():
    """One decay of all parameters, or one per factor of a part; the state has no entry for biases."""
    params = network()
    scales = {"lr_scales": {"heads": 2.0}, "decay_scales": {"encoder": 3.0}}

    def mask(parts):
        return jax.tree_util.tree_map_with_path(lambda path, _: path[0].key in parts, params)

    rest, heads = ("decoder_a", "decoder_b", "embedding"), ("decoder_a", "decoder_b")
    plain = optax.chain(
        optax.chain(
            optax.add_decayed_weights(0.1, mask(rest)),
            optax.add_decayed_weights(0.1 * 3, mask(["encoder"])),
            optax.sgd(optax.polynomial_schedule(0.5, 0.0, 0.9, 10), momentum=0.9),
        ),
        optax.masked(optax.scale(2.0), mask(heads)),
    )
    ours = create_optimizer(create_schedule(0.5, 10), weight_decay=0.1, **scales)
    assert jax.tree.structure(ours.init(params)) == jax.tree.structure(plain.init(params))
    histories = [train(tx, params, lambda p, step: jax.tree.map(jnp.cos, p), 3) for tx in (ours, plain)]
    jax.tree.map(np.testing.assert_array_equal, *histories)


def test_the_config_has_the_factors_of_biases():
    """lr 0.5, momentum 0, decay 0.1, gradient 1 from 2: -0.5 * 1.2, and of the bias -0.5 * 2."""
    config = default_config()
    fields = {"momentum": 0.0, "weight_decay": 0.1, "schedule": "constant"}
    config.optim.update({**fields, "bias_lr_scale": 2.0, "bias_decay_scale": 0.0})
    tx = make_optimizer(checked(config), 0.5, 10, entropy_module=True, trainable=None)
    params = {
        part: {"kernel": jnp.array(2.0), "bias": jnp.array(2.0)} for part in ("encoder", "decoder_a", "embedding")
    }
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    for part in params:
        assert updates[part] == {"kernel": pytest.approx(-0.6), "bias": pytest.approx(-1.0)}


def test_image_level_heads_and_the_lateral_connection_are_heads():
    """Gradient 1 and decay 0.1 from 2, lr 0.5: -0.5 * 10 * (1 + 0.1 * 3 * 2)."""
    params = {part: {"kernel": jnp.array(2.0)} for part in ("encoder", "decoder_a", "image_a", "lateral")}
    tx = create_optimizer(
        create_schedule(0.5, 10), weight_decay=0.1, lr_scales={"heads": 10.0}, decay_scales={"heads": 3.0}
    )
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    got = {part: float(tree["kernel"]) for part, tree in updates.items()}
    assert got == pytest.approx({"encoder": -0.6, "decoder_a": -8, "image_a": -8, "lateral": -8})


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_with_factors_parts_that_are_not_trained_stay(name):
    params = network()
    scales = {"lr_scales": {"encoder": 0.1, "heads": 2.0}, "decay_scales": {"encoder": 3.0}}
    tx = create_optimizer(
        create_schedule(0.5, 10), name=name, **scales, trainable=lambda name: name.startswith("decoder_b/")
    )
    after = train(tx, params, lambda p, step: jax.tree.map(jnp.ones_like, p), 2)[-1]
    for part in params:
        same = jax.tree.map(lambda a, b: bool((a == b).all()), after[part], params[part])
        assert set(jax.tree.leaves(same)) == {part != "decoder_b"}


def test_an_unknown_name_of_optimiser_schedule_or_part_is_an_error_with_the_known_ones():
    with pytest.raises(InputError, match="'lamb' is not one of sgd, adamw"):
        create_optimizer(create_schedule(0.5, 10), name="lamb")
    with pytest.raises(InputError, match="'step' is not one of poly, cosine, constant"):
        create_schedule(0.5, 10, kind="step")
    with pytest.raises(ValueError, match="decoder_a; there are encoder, heads, embedding"):
        create_optimizer(create_schedule(0.5, 10), lr_scales={"decoder_a": 2.0})


# ---- Schedules ----


def rates(schedule, steps):
    return [float(schedule(step)) for step in steps]


def test_cosine_schedule_by_hand():
    """Half of 1 + cos: whole at the start, (1 + 1/sqrt(2)) / 2 after a quarter, half halfway, then 0."""
    schedule = create_schedule(2.0, 8, kind="cosine")
    assert rates(schedule, (0, 2, 4, 8, 20)) == pytest.approx([2, 1 + 0.5**0.5, 1, 0, 0], abs=1e-6)


def test_constant_schedule_stays_after_the_warm_up_and_after_the_last_step():
    """0.5 from the first step on; with a warm-up of 4 steps a quarter, a half and three quarters of it before."""
    assert rates(create_schedule(0.5, 3, kind="constant"), (0, 2, 3, 100)) == [0.5] * 4
    warm = create_schedule(0.5, 3, kind="constant", warmup_steps=4)
    assert rates(warm, (0, 1, 2, 3, 4, 100)) == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5, 0.5], rel=1e-6)


@pytest.mark.parametrize(("warmup_steps", "moves"), [(0, [-0.5, -0.5, -0.5]), (2, [-0.25, -0.5, -0.5])])
def test_a_constant_rate_has_the_state_of_the_other_schedules(warmup_steps, moves):
    poly, constant = (
        create_optimizer(create_schedule(0.5, 3, kind=kind, warmup_steps=warmup_steps), momentum=0.0, weight_decay=0.0)
        for kind in ("poly", "constant")
    )
    params = jnp.array(0.0)
    assert jax.tree.structure(constant.init(params)) == jax.tree.structure(poly.init(params))
    history = train(constant, params, lambda p, step: jnp.array(1.0), 3)
    assert history == pytest.approx(np.cumsum(moves).tolist(), rel=1e-6)


def test_warmup_rises_in_equal_steps_to_the_schedule():
    """A quarter, a half, three quarters, then the schedule itself, which falls from the first step on."""
    constant = create_schedule(1.0, 10, power=0.0, warmup_steps=4)
    assert rates(constant, range(6)) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1], rel=1e-6)
    for kind in ("poly", "cosine"):
        plain, warm = (rates(create_schedule(0.3, 10, kind=kind, warmup_steps=n), range(10)) for n in (0, 4))
        assert warm == pytest.approx([p * f for p, f in zip(plain, (0.25, 0.5, 0.75, *[1] * 7), strict=True)], rel=1e-6)


def test_warmup_runs_in_a_compiled_step():
    tx = create_optimizer(create_schedule(1.0, 10, power=0.0, warmup_steps=2), momentum=0.0, weight_decay=0.0)
    params = jnp.array(0.0)
    state, moves = tx.init(params), []
    for _ in range(3):
        updates, state = jax.jit(tx.update)(jnp.array(1.0), state, params)
        moves.append(float(updates))
    assert moves == pytest.approx([-0.5, -1, -1])
