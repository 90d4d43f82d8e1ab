"""Hung et al. (2018): the step against its losses written out in float64, and what it learns."""

import dataclasses
import functools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_models import OneLayer, assert_trees_close, difference, encode, enlarge, largest

from usss_jax.config import default_config
from usss_jax.data.augment_device import DeviceAugment
from usss_jax.engine.state import create_state
from usss_jax.engine.step import jit_step, train_step
from usss_jax.methods import hung, supervised
from usss_jax.models.universal import UniversalModel
from usss_jax.parallel import sharding
from usss_jax.runs.checkpoint import Checkpoints

SIZE = (19, 37)  # no multiple of 8 or 32
STEPS = 8
PAPER = hung.create_objective(default_config())
OBJECTIVE = dataclasses.replace(
    PAPER,
    adversarial=0.7,
    adversarial_unlabeled=0.4,
    semi=0.9,
    threshold=0.5,
    semi_start=0.5,
    opponent=dataclasses.replace(PAPER.opponent, steps=STEPS, lr=0.01, width=1 / 32),
)
MODEL = UniversalModel(OneLayer(), {"city": 3})
MESH = sharding.create_mesh(jax.devices()[:1])
SETTING = {"model": MODEL, "augment": DeviceAugment(), "seed": 0}


@pytest.mark.parametrize(("share", "first"), [(0.25, 5), (0.0, 0), (1.0, 20), (0.1, 2)])
def test_the_self_taught_term_begins_after_its_share_of_the_steps(share, first):
    """At share 1 never: the last step sees 19 finished ones."""
    opponent = dataclasses.replace(PAPER.opponent, steps=20)
    objective = dataclasses.replace(PAPER, semi=0.3, semi_start=share, opponent=opponent)
    weights = [float(objective.semi_weight(jnp.asarray(step))) for step in range(20)]
    assert weights == pytest.approx([0] * first + [0.3] * (20 - first))


# ---- The step, written out ----


def fresh(tx, seed=0, objective=OBJECTIVE):
    """State at the start of training."""
    extra = objective.opponent.create(MODEL, mesh=MESH, seed=seed)
    return create_state(MODEL, tx, seed, MESH, extra)[0]


@functools.cache
def create():
    """Float64 state whose D has weights large enough to judge pixels differently, about as often true as false."""
    state, r = fresh(optax.sgd(0.1)), np.random.default_rng(3)
    judge = state.extra["discriminator"]
    strong = jax.tree.map(lambda a: r.standard_normal(a.shape) * (0.3 if a.ndim == 4 else 0.1), judge)
    images = random_batch()["unlabeled"]["city"]["image"].reshape(-1, *SIZE, 3)
    maps = jax.jit(probabilities)(state.params, state.batch_stats, images)
    strong["conv5"]["bias"] -= float(jnp.median(OBJECTIVE.opponent(strong, maps)))
    state = state.replace(extra={**state.extra, "discriminator": strong})
    return jax.tree.map(lambda a: jnp.asarray(a, float) if jnp.issubdtype(a.dtype, jnp.floating) else a, state)


def at_step(step):
    return create().replace(step=jnp.asarray(step, jnp.int32))


def random_batch():
    r = np.random.default_rng(1)
    labels = r.integers(0, 3, (2, *SIZE))
    labels[r.random(labels.shape) < 0.2] = 255
    return {
        "labeled": {"city": {"image": jnp.asarray(r.random((2, *SIZE, 3))), "label": jnp.asarray(labels)}},
        "unlabeled": {"city": {"image": jnp.asarray(r.random((2, 2, *SIZE, 3)))}},
    }


def probabilities(params, stats, images):
    """Softmax at image size; training normalises by the batch, so the running statistics do not matter."""
    head = params["decoder_city"]
    logits = enlarge(encode(MODEL, params, stats, images)[0], SIZE) @ head["kernel"][0, 0] + head["bias"]
    return jnp.exp(logits) / jnp.exp(logits).sum(-1, keepdims=True)


def confidence(discriminator, maps):
    return 1 / (1 + jnp.exp(-OBJECTIVE.opponent(discriminator, maps)))


def plain_losses(params, discriminator, stats, batch, semi_weight):
    """Total loss of the segmentation network plus L_D, by the paper's equations, and every term.

    Each network is a constant in the other's loss.
    """
    fixed, judge = jax.lax.stop_gradient((params, discriminator))
    image, label = (batch["labeled"]["city"][k] for k in ("image", "label"))
    counts = label != 255
    truth = jnp.eye(4)[jnp.where(counts, label, 3)][..., :3]

    def mean(values):
        return jnp.where(counts, values, 0).sum() / counts.sum()

    p = probabilities(params, stats, image)
    seen = confidence(discriminator, probabilities(fixed, stats, image) * counts[..., None])
    terms = {
        "supervised/city": -mean(jnp.log(jnp.where(counts, (p * truth).sum(-1), 1))),
        "adversarial/city": -mean(jnp.log(confidence(judge, p * counts[..., None]))),
        "discriminator/city": -mean(jnp.log(1 - seen) + jnp.log(confidence(discriminator, truth))),
        "adversarial_unlabeled/city": 0.0,
        "semi/city": 0.0,
        "semi_share/city": 0.0,
    }
    passes = batch["unlabeled"]["city"]["image"]
    for images in passes:
        p = probabilities(params, stats, images)
        d = confidence(judge, p)
        trusted = jax.lax.stop_gradient(d) > OBJECTIVE.threshold
        terms["adversarial_unlabeled/city"] += -jnp.log(d).mean() / len(passes)
        terms["semi/city"] += -jnp.where(trusted, jnp.log(p.max(-1)), 0).mean() / len(passes)
        terms["semi_share/city"] += trusted.astype(p.dtype).mean() / len(passes)
    total = terms["supervised/city"] + 0.7 * terms["adversarial/city"]
    total = total + 0.4 * terms["adversarial_unlabeled/city"] + semi_weight * terms["semi/city"]
    return total + terms["discriminator/city"], terms


@functools.cache
def plain():
    return jax.jit(jax.value_and_grad(plain_losses, argnums=(0, 1), has_aux=True))


@functools.cache
def compiled(objective=OBJECTIVE):
    """(gradients, statistics, scalars, extra) of (state, batch)."""

    def parts(state, batch):
        found = hung.compute(state, batch, objective=objective, **SETTING)
        return found.gradients, found.batch_stats, found.scalars, found.extra

    return jax.jit(parts)


def gradient_of_discriminator(extra):
    """Adam's first moment after its first step is a tenth of the gradient."""
    return jax.tree.map(lambda moment: 10 * moment, extra["discriminator_opt_state"][0].mu)


@pytest.mark.slow
@pytest.mark.parametrize(("step", "semi_weight"), [(3, 0.0), (4, 0.9)])
def test_each_network_gets_the_gradient_of_its_own_loss_with_the_other_fixed(step, semi_weight):
    """At the last step before the self-taught term begins and at its first one."""
    with jax.enable_x64(True):
        state, batch = at_step(step), random_batch()
        (total, terms), (want, want_of_discriminator) = plain()(
            state.params, state.extra["discriminator"], state.batch_stats, batch, semi_weight
        )
        assert 0.05 < terms["semi_share/city"] < 0.95
        grads, _, scalars, extra = compiled()(state, batch)
        assert_trees_close(grads, want)
        assert_trees_close(gradient_of_discriminator(extra), want_of_discriminator)
        assert float(scalars["loss"] + scalars["discriminator/city"]) == pytest.approx(float(total), rel=1e-12)
        for name, value in terms.items():
            assert float(scalars[name]) == pytest.approx(float(value), rel=1e-10), name
        norms = {f"encoder_grad_norm/{term}" for term in ("labeled", "unlabeled")}
        assert set(scalars) == {*terms, "loss", "discriminator_accuracy/city", *norms}
        assert min(largest(v) for v in jax.tree.leaves((want, want_of_discriminator))) > 1e-6


@pytest.mark.slow
def test_with_all_weights_zero_it_is_supervised_training_and_the_discriminator_learns_the_same():
    with jax.enable_x64(True):
        state, batch = at_step(4), random_batch()
        off = dataclasses.replace(OBJECTIVE, adversarial=0, adversarial_unlabeled=0, semi=0, semi_start=0)
        grads, _, scalars, extra = compiled(off)(state, batch)
        want = jax.jit(lambda *args: supervised.compute(*args, **SETTING).gradients)(state, batch)
        assert_trees_close(grads, want)
        assert float(scalars["loss"]) == pytest.approx(float(scalars["supervised/city"]))
        assert_trees_close(extra["discriminator"], compiled()(state, batch)[3]["discriminator"], 1e-14)


@pytest.mark.slow
def test_every_batch_updates_the_running_statistics_the_labeled_one_first():
    with jax.enable_x64(True):
        state, batch, encode_alone = at_step(0), random_batch(), jax.jit(partial(encode, MODEL))
        stats = compiled()(state, batch)[1]
        order = [batch["labeled"]["city"]["image"], *batch["unlabeled"]["city"]["image"]]
        want, wrong = state.batch_stats, state.batch_stats
        for images, other in zip(order, reversed(order), strict=True):
            want, wrong = encode_alone(state.params, want, images)[1], encode_alone(state.params, wrong, other)[1]
        assert_trees_close(stats, want)
        assert difference(stats, wrong) > 1e-4  # the order can be told


@pytest.mark.slow
def test_a_step_applies_both_optimisers():
    """SGD 0.1 to the segmentation network; Adam's first update is lr times the sign of D's gradient."""
    tx = optax.sgd(0.1)
    with jax.enable_x64(True):
        state, batch = at_step(0), random_batch()
        grads, stats, scalars, extra = compiled()(state, batch)
        norm = math.sqrt(sum(float((np.asarray(g) ** 2).sum()) for g in jax.tree.leaves(grads)))
        want = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads)
        of_judge = gradient_of_discriminator(extra)
        judge = jax.tree.map(lambda p, g: p - 0.01 * g / (abs(g) + 1e-8), state.extra["discriminator"], of_judge)
        compute = partial(hung.compute, objective=OBJECTIVE, **SETTING)
        new, told = jax.jit(partial(train_step, compute=compute, tx=tx))(state, batch)
        assert_trees_close(new.params, want, 1e-12)
        assert_trees_close(new.extra["discriminator"], judge, 1e-9)  # the schedule is float32
        assert_trees_close(new.batch_stats, stats, 1e-12)
        assert int(new.step) == 1 and new.step.dtype == jnp.int32
        assert float(told["grad_norm"]) == pytest.approx(norm) and set(told) == {*scalars, "grad_norm"}


def test_the_discriminators_learning_rate_falls_to_zero_by_the_poly_schedule():
    """Under a constant gradient Adam moves by the learning rate: 0.01 (1 - t / 4) ** 0.9."""
    tx = dataclasses.replace(OBJECTIVE.opponent, steps=4).optimizer
    with jax.enable_x64(True):
        params = gradient = jnp.ones(())
        state, moves = tx.init(params), []
        for _ in range(5):
            update, state = tx.update(gradient, state, params)
            moves.append(-float(update))
    assert moves == pytest.approx([0.01 * (1 - t / 4) ** 0.9 for t in range(5)], rel=1e-6)


# ---- The state and the compiled step ----


def test_the_segmentation_network_starts_as_in_supervised_training():
    tx = optax.sgd(0.1, momentum=0.9)
    state, (plain, _) = fresh(tx, seed=5), create_state(MODEL, tx, 5, MESH)
    assert_trees_close(state.variables, plain.variables, 0)
    assert difference(state.extra["discriminator"], fresh(tx, seed=6).extra["discriminator"]) > 1e-3


def test_a_model_of_two_domains_is_refused():
    model = UniversalModel(OneLayer(), {"city": 3, "camvid": 2})
    with pytest.raises(ValueError, match="one domain, not of city, camvid"):
        OBJECTIVE.opponent.create(model, mesh=MESH, seed=0)


def blocks(examples=4, seed=0):
    """Bytes as they come from the streams: 8x8 blocks whose colour tells the class, some ignored."""
    r = np.random.default_rng(seed)
    labels = np.kron(r.integers(0, 3, (2 * examples, 4, 5)), np.ones((8, 8), int))[:, :27]
    images = np.asarray([[200, 40, 40], [40, 200, 40], [40, 40, 200]])[labels]
    images = np.clip(images + r.integers(-20, 20, images.shape), 0, 255).astype(np.uint8)
    labels[:, :4] = 255
    return {
        "labeled": {"city": {"image": images[:examples], "label": labels[:examples].astype(np.uint8)}},
        "unlabeled": {"city": {"image": images[None, examples:]}},
    }


@pytest.mark.slow
def test_a_tiny_set_is_learned_and_resuming_from_a_checkpoint_is_exact(tmp_path):
    steps = 40
    opponent = dataclasses.replace(PAPER.opponent, steps=steps, lr=0.01, width=1 / 8)
    objective = dataclasses.replace(PAPER, opponent=opponent)
    tx, shardings = optax.sgd(0.3, momentum=0.9), sharding.step_batch_shardings(MESH)
    state = fresh(tx, 0, objective)
    compute = partial(hung.compute, objective=objective, mesh=MESH, **SETTING)
    step = jit_step(MESH, compute=compute, tx=tx, batch_shardings=shardings)
    batch = sharding.put(blocks(), shardings)
    seen = []
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for i in range(steps):
        if i == 38:
            checkpoints.save(i, {"state": state}, {"step": i})
        state, scalars = step(state, batch)
        seen.append(jax.device_get(scalars))
    again = checkpoints.restore(38, state=fresh(tx, 1, objective))["state"]
    assert int(again.step) == 38
    for _ in range(2):
        again, scalars = step(again, batch)
    assert_trees_close(again, state, 0)
    assert seen[-1]["supervised/city"] < 0.3 * seen[0]["supervised/city"]
    assert all(np.isfinite(v) for scalars in seen for v in scalars.values())
    assert all(0 <= s["discriminator_accuracy/city"] <= 1 for s in seen)
    assert max(s["discriminator_accuracy/city"] for s in seen) > 0.7  # at first predictions are easily told
    assert min(s["discriminator/city"] for s in seen) < 2 * math.log(2)  # better than not knowing
    assert difference(state.extra["discriminator"], fresh(tx, 0, objective).extra["discriminator"]) > 0
