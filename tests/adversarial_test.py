"""Hung et al. (2018): losses against numbers made by hand, the step against its losses written out in float64."""

import functools
import json
import math
import os
import pathlib
import subprocess
import sys
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from usss_jax.methods.hung.state import Adversarial, create_adversarial_state
from usss_jax.methods.hung.step import NO_AUGMENT, gradients, jit_adversarial_step, train_step

from usss_jax.engine.state import create_state
from usss_jax.models.layers import Convolution, GroupedBatchNorm
from usss_jax.models.universal import UniversalModel
from usss_jax.objectives import adversarial as losses
from usss_jax.parallel import sharding
from usss_jax.runs.checkpoint import Checkpoints

LN = math.log
LOGIT = {p: LN(p / (1 - p)) for p in (0.1, 0.19, 0.21, 0.25, 0.5, 0.75, 0.8, 0.9)}  # of a confidence


def pixels(*values):
    """One image of one row."""
    return jnp.asarray([[list(values)]])


# ---- Losses ----


def test_discriminator_loss_is_the_binary_cross_entropy_of_both_kinds():
    """Predictions judged 0.25 and 0.9, truth judged 0.8 and 0.5: -ln of 0.75, 0.1, 0.8 and 0.5, two by two."""
    of_predictions, of_truth = pixels(LOGIT[0.25], LOGIT[0.9]), pixels(LOGIT[0.8], LOGIT[0.5])
    value = losses.discriminator_loss(of_predictions, of_truth, pixels(True, True))
    assert float(value) == pytest.approx(-(LN(0.75) + LN(0.1) + LN(0.8) + LN(0.5)) / 2, rel=1e-5)
    value = losses.discriminator_loss(of_predictions, of_truth, pixels(True, False))
    assert float(value) == pytest.approx(-LN(0.75) - LN(0.8), rel=1e-5)


def test_discriminator_accuracy_counts_both_kinds():
    """Of 3 labeled pixels predictions are called false in 1, truth true in 2; undecided (0.5) is wrong."""
    of_predictions = pixels(LOGIT[0.25], LOGIT[0.9], LOGIT[0.8], LOGIT[0.1])
    of_truth = pixels(LOGIT[0.8], LOGIT[0.75], LOGIT[0.5], LOGIT[0.9])
    value = losses.discriminator_accuracy(of_predictions, of_truth, pixels(True, True, True, False))
    assert float(value) == pytest.approx(3 / 6)


def test_adversarial_loss_is_the_confidence_missing():
    judged = pixels(LOGIT[0.25], LOGIT[0.8])
    assert float(losses.adversarial_loss(judged)) == pytest.approx(-(LN(0.25) + LN(0.8)) / 2, rel=1e-5)
    counted = losses.adversarial_loss(judged, pixels(False, True))
    assert float(counted) == pytest.approx(-LN(0.8), rel=1e-5)


def test_without_a_labeled_pixel_the_losses_are_zero():
    none = pixels(False, False)
    judged = pixels(1.0, 2.0)
    assert float(losses.discriminator_loss(judged, judged, none)) == 0
    assert float(losses.adversarial_loss(judged, none)) == 0


def test_maps_are_zero_where_there_is_no_label():
    labels = jnp.asarray([[[1, 255]]], jnp.uint8)
    np.testing.assert_array_equal(losses.truth_map(labels, 3), [[[[0, 1, 0], [0, 0, 0]]]])
    many = losses.truth_map(labels, 256)  # 255 stays ignored where it would be a class
    assert float(many.sum()) == 1
    logits = jnp.log(jnp.asarray([[[[0.2, 0.5, 0.3], [0.7, 0.2, 0.1]]]]))
    np.testing.assert_allclose(losses.prediction_map(logits), jnp.exp(logits), rtol=1e-6)
    got = losses.prediction_map(logits, labels != 255)
    np.testing.assert_allclose(got, [[[[0.2, 0.5, 0.3], [0, 0, 0]]]], rtol=1e-6)


def test_self_taught_loss_takes_the_pixels_that_the_discriminator_trusts():
    """Confidences 0.19, 0.21, 0.9 and 0.1 at threshold 0.2: the second and the third; a mean over all four."""
    p = [[0.9, 0.1], [0.4, 0.6], [0.8, 0.2], [0.5, 0.5]]
    judged = pixels(*(LOGIT[c] for c in (0.19, 0.21, 0.9, 0.1)))
    value, share = losses.self_taught_loss(jnp.log(jnp.asarray([[p]])), judged, 0.2)
    assert float(value) == pytest.approx(-(LN(0.6) + LN(0.8)) / 4, rel=1e-5)
    assert float(share) == 0.5


def test_self_taught_loss_has_constant_targets_and_choice():
    """Its gradient is softmax minus one-hot of the arg max over 2 pixels where trusted, and none reaches D."""
    logits, judged = jnp.log(jnp.asarray([[[[0.3, 0.7], [0.6, 0.4]]]])), pixels(LOGIT[0.9], LOGIT[0.1])
    grads = jax.grad(lambda x, d: losses.self_taught_loss(x, d, 0.2)[0], argnums=(0, 1))(logits, judged)
    np.testing.assert_allclose(grads[0], [[[[0.15, -0.15], [0, 0]]]], atol=1e-6)
    np.testing.assert_array_equal(grads[1], np.zeros((1, 1, 2)))


@pytest.mark.parametrize(("share", "first"), [(0.25, 5), (0.0, 0), (1.0, 20), (0.1, 2)])
def test_the_self_taught_term_begins_after_its_share_of_the_steps(share, first):
    """At share 1 never: the last step sees 19 finished ones."""
    objective = Adversarial(semi=0.3, semi_start=share)
    weights = [float(objective.semi_weight(jnp.asarray(step), 20)) for step in range(20)]
    assert weights == pytest.approx([0] * first + [0.3] * (20 - first))


# ---- The step, written out ----

CLASSES = {"city": 3}
SIZE = (19, 37)  # no multiple of 8 or 32
STEPS = 8
OBJECTIVE = Adversarial(0.7, 0.4, 0.9, 0.5, semi_start=0.5, lr=0.01, width=1 / 32)


class OneLayer(nn.Module):
    """Stands in for the encoder, since it compiles quickly."""

    stride = 8

    @nn.compact
    def __call__(self, x, train, groups):
        return nn.relu(GroupedBatchNorm(groups, name="bn")(Convolution(6, 3, 8, name="conv")(x), train))


MODEL = UniversalModel(OneLayer(), CLASSES)
MESH = sharding.create_mesh(jax.devices()[:1])
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
compute = functools.cache(
    lambda objective, unroll: quick_jit(
        partial(gradients, model=MODEL, objective=objective, steps=STEPS, augment=NO_AUGMENT, seed=0, unroll=unroll)
    )
)


def create(tx=None, step=0, dtype=np.float64):
    """State whose D has weights large enough to judge pixels differently, about as often true as false."""
    tx = tx or optax.sgd(0.1)
    state, _ = create_adversarial_state(MODEL, tx, 0, MESH, objective=OBJECTIVE, steps=STEPS)
    r = np.random.default_rng(3)
    strong = jax.tree.map(lambda a: r.standard_normal(a.shape) * (0.3 if a.ndim == 4 else 0.1), state.discriminator)
    maps = probabilities(state.params, state, random_batch()["unlabeled"]["city"]["image"].reshape(-1, *SIZE, 3))
    strong["conv5"]["bias"] -= float(jnp.median(OBJECTIVE.discriminator.apply({"params": strong}, maps)))
    state = state.replace(step=jnp.asarray(step, jnp.int32), discriminator=strong)
    cast = lambda a: jnp.asarray(a, dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a  # noqa: E731
    return jax.tree.map(cast, state)


def random_batch(passes=2, examples=2, seed=1):
    r = np.random.default_rng(seed)
    labels = r.integers(0, 3, (examples, *SIZE))
    labels[r.random(labels.shape) < 0.2] = 255
    return {
        "labeled": {"city": {"image": jnp.asarray(r.random((examples, *SIZE, 3))), "label": jnp.asarray(labels)}},
        "unlabeled": {"city": {"image": jnp.asarray(r.random((passes, examples, *SIZE, 3)))}},
    }


def enlarge(x):
    """Half-pixel bilinear x8 with the edge repeated, cropped."""
    for axis, side in ((1, SIZE[0]), (2, SIZE[1])):
        at = np.clip((np.arange(side) + 0.5) / 8 - 0.5, 0, x.shape[axis] - 1)
        low = at.astype(int)
        weight = (at - low).reshape([-1 if a == axis else 1 for a in range(4)])
        high = np.minimum(low + 1, x.shape[axis] - 1)
        x = jnp.take(x, low, axis) * (1 - weight) + jnp.take(x, high, axis) * weight
    return x


def encode(params, stats, images):
    variables = {"params": params, "batch_stats": stats}
    features, new = MODEL.apply(variables, images, train=True, method="encode", mutable=["batch_stats"])
    return features, new["batch_stats"]


def probabilities(params, state, images):
    """Softmax at image size; training normalises by the batch, so the running statistics do not matter."""
    head = params["decoder_city"]
    logits = enlarge(encode(params, state.batch_stats, images)[0]) @ head["kernel"][0, 0] + head["bias"]
    return jnp.exp(logits) / jnp.exp(logits).sum(-1, keepdims=True)


def confidence(discriminator, maps):
    return 1 / (1 + jnp.exp(-OBJECTIVE.discriminator.apply({"params": discriminator}, maps)))


def plain_losses(params, discriminator, state, batch, semi_weight):
    """Total loss of the segmentation network, L_D and every term, by the paper's equations."""
    image, label = (np.asarray(batch["labeled"]["city"][k]) for k in ("image", "label"))
    counts = label != 255
    truth = np.eye(4)[np.where(counts, label, 3)][..., :3]
    p = probabilities(params, state, image)
    seen = p * counts[..., None]
    d_prediction, d_truth = confidence(discriminator, seen), confidence(discriminator, truth)
    terms = {
        "supervised/city": -jnp.log((p * truth).sum(-1)[counts]).mean(),
        "adversarial/city": -jnp.log(d_prediction[counts]).mean(),
        "discriminator/city": -(jnp.log(1 - d_prediction[counts]) + jnp.log(d_truth[counts])).mean(),
        "adversarial_unlabeled/city": 0.0,
        "semi/city": 0.0,
        "semi_share/city": 0.0,
    }
    passes = batch["unlabeled"]["city"]["image"]
    for images in passes:
        p = probabilities(params, state, images)
        d = confidence(discriminator, p)
        trusted = jax.lax.stop_gradient(d) > OBJECTIVE.threshold
        terms["adversarial_unlabeled/city"] += -jnp.log(d).mean() / len(passes)
        terms["semi/city"] += -jnp.where(trusted, jnp.log(p.max(-1)), 0).mean() / len(passes)
        terms["semi_share/city"] += trusted.astype(p.dtype).mean() / len(passes)
    total = terms["supervised/city"] + 0.7 * terms["adversarial/city"]
    return total + 0.4 * terms["adversarial_unlabeled/city"] + semi_weight * terms["semi/city"], terms


def assert_trees_close(got, want, tolerance=1e-10):
    got, want = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (got, want))
    assert got.keys() == want.keys()
    for path, value in want.items():
        np.testing.assert_allclose(got[path], value, atol=tolerance, rtol=0, err_msg=jax.tree_util.keystr(path))


def largest(tree):
    return max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(("step", "semi_weight"), [(3, 0.0), (4, 0.9)])
def test_each_network_gets_the_gradient_of_its_own_loss_with_the_other_fixed(step, semi_weight):
    """At the last step before the self-taught term begins and at its first one."""
    with jax.enable_x64(True):
        state, batch = create(step=step), random_batch()

        def segmentation(params):
            return plain_losses(params, state.discriminator, state, batch, semi_weight)

        def judging(discriminator):
            return plain_losses(state.params, discriminator, state, batch, 0.0)[1]["discriminator/city"]

        (total, terms), want = quick_jit(jax.value_and_grad(segmentation, has_aux=True))(state.params)
        want_of_discriminator = quick_jit(jax.grad(judging))(state.discriminator)
        assert 0.05 < terms["semi_share/city"] < 0.95
        for unroll in (False, True):
            grads, of_discriminator, _, scalars = compute(OBJECTIVE, unroll)(state, batch)
            assert_trees_close(grads, want)
            assert_trees_close(of_discriminator, want_of_discriminator)
            assert float(scalars["loss"]) == pytest.approx(float(total), rel=1e-12)
            for name, value in terms.items():
                assert float(scalars[name]) == pytest.approx(float(value), rel=1e-10), name
            assert set(scalars) == {*terms, "loss", "discriminator_accuracy/city"}
        assert min(largest(v) for v in jax.tree.leaves(want)) > 1e-6
        assert min(largest(v) for v in jax.tree.leaves(want_of_discriminator)) > 1e-6


def test_with_all_weights_zero_it_is_supervised_training_and_the_discriminator_learns_the_same():
    with jax.enable_x64(True):
        state, batch = create(step=4), random_batch()
        off = Adversarial(0, 0, 0, semi_start=0, lr=0.01, width=1 / 32)
        grads, of_discriminator, _, scalars = compute(off, False)(state, batch)

        def supervised(params):
            return plain_losses(params, state.discriminator, state, batch, 0.0)[1]["supervised/city"]

        want = quick_jit(jax.grad(supervised))(state.params)
        assert_trees_close(grads, want)
        assert float(scalars["loss"]) == pytest.approx(float(scalars["supervised/city"]))
        _, of_other, _, _ = compute(OBJECTIVE, False)(state, batch)
        assert_trees_close(of_discriminator, of_other, 1e-14)


def test_ignored_pixels_teach_neither_network():
    """What the decoder says at pixels without a label changes no loss of the labeled batch."""
    r = np.random.default_rng(0)
    labels = r.integers(0, 3, (1, 40, 40))
    labels[:, 10:30, 10:30] = 255
    counts = jnp.asarray(labels != 255)
    logits = jnp.asarray(r.standard_normal((1, 40, 40, 3)))
    module = OBJECTIVE.discriminator
    params = jax.tree.map(
        lambda a: jnp.asarray(r.standard_normal(a.shape), jnp.float32),
        module.init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32)),
    )
    truth = module.apply(params, losses.truth_map(jnp.asarray(labels), 3))

    def values(logits):
        judged = module.apply(params, losses.prediction_map(logits, counts))
        return float(losses.discriminator_loss(judged, truth, counts)), float(losses.adversarial_loss(judged, counts))

    def noise(where):
        return jnp.where(where[..., None], 5 * jnp.asarray(r.standard_normal(logits.shape)), 0)

    assert values(logits + noise(~counts)) == values(logits)
    assert values(logits + noise(counts)) != values(logits)


@pytest.mark.parametrize("unroll", [False, True], ids=["scan", "unrolled"])
def test_every_batch_updates_the_running_statistics_the_labeled_one_first(unroll):
    with jax.enable_x64(True):
        state, batch = create(), random_batch()
        _, _, stats, _ = compute(OBJECTIVE, unroll)(state, batch)
        order = [batch["labeled"]["city"]["image"], *batch["unlabeled"]["city"]["image"]]
        want, wrong = state.batch_stats, state.batch_stats
        for images, other in zip(order, reversed(order), strict=True):
            want, wrong = encode(state.params, want, images)[1], encode(state.params, wrong, other)[1]
        assert_trees_close(stats, want)
        assert largest(jax.tree.map(jnp.subtract, stats, wrong)) > 1e-4  # the order can be told


def test_repeating_a_micro_batch_changes_no_gradient():
    with jax.enable_x64(True):
        state, once = create(step=4), random_batch(passes=1)
        thrice = {**once, "unlabeled": jax.tree.map(lambda x: jnp.tile(x, (3, 1, 1, 1, 1)), once["unlabeled"])}
        one, three = (compute(OBJECTIVE, False)(state, batch) for batch in (once, thrice))
        assert_trees_close((one[0], one[1], one[3]), (three[0], three[1], three[3]))


def test_a_step_applies_both_optimisers():
    """SGD 0.1 to the segmentation network; Adam's first update is lr times the sign of D's gradient."""
    tx = optax.sgd(0.1)
    with jax.enable_x64(True):
        state, batch = create(tx), random_batch()
        grads, of_discriminator, stats, scalars = compute(OBJECTIVE, True)(state, batch)
        norm = math.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(grads)))
        want = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads)
        judge = jax.tree.map(lambda p, g: p - 0.01 * g / (jnp.abs(g) + 1e-8), state.discriminator, of_discriminator)
        setting = {"model": MODEL, "objective": OBJECTIVE, "steps": STEPS, "augment": NO_AUGMENT, "seed": 0}
        new, told = quick_jit(partial(train_step, tx=tx, unroll=True, **setting))(state, batch)
        assert_trees_close(new.params, want, 1e-12)
        assert_trees_close(new.discriminator, judge, 1e-9)  # the schedule is float32
        assert_trees_close(new.batch_stats, stats, 1e-12)
        assert int(new.step) == 1 and new.step.dtype == jnp.int32
        assert float(told["grad_norm"]) == pytest.approx(norm) and set(told) == {*scalars, "grad_norm"}


def test_the_discriminators_learning_rate_falls_to_zero_by_the_poly_schedule():
    """Under a constant gradient Adam moves by the learning rate: 0.01 (1 - t / 4) ** 0.9."""
    tx = OBJECTIVE.discriminator_optimizer(4)
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
    state, _ = create_adversarial_state(MODEL, tx, 5, MESH, objective=OBJECTIVE, steps=STEPS)
    plain, _ = create_state(MODEL, tx, 5, MESH)
    assert_trees_close(state.variables, plain.variables, 0)
    other, _ = create_adversarial_state(MODEL, tx, 6, MESH, objective=OBJECTIVE, steps=STEPS)
    assert largest(jax.tree.map(jnp.subtract, state.discriminator, other.discriminator)) > 1e-3


def test_a_model_of_two_domains_is_refused():
    model = UniversalModel(OneLayer(), {"city": 3, "camvid": 2})
    with pytest.raises(ValueError, match="one domain, not of city, camvid"):
        create_adversarial_state(model, optax.sgd(0.1), 0, MESH, objective=OBJECTIVE, steps=STEPS)
    with pytest.raises(ValueError, match="one domain"):
        jit_adversarial_step(MESH, model=model, tx=optax.sgd(0.1), objective=OBJECTIVE, steps=STEPS)


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


def test_a_tiny_set_is_learned_and_going_on_from_a_checkpoint_is_exact(tmp_path):
    steps, objective = 40, Adversarial(lr=0.01, width=1 / 8)
    tx = optax.sgd(0.3, momentum=0.9)
    state, _ = create_adversarial_state(MODEL, tx, 0, MESH, objective=objective, steps=steps)
    step = jit_adversarial_step(MESH, model=MODEL, tx=tx, objective=objective, steps=steps)
    batch = sharding.put(blocks(), sharding.step_batch_shardings(MESH))
    seen = []
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        for i in range(steps):
            if i == 38:
                checkpoints.save(i, {"state": state}, {"step": i})
                like, _ = create_adversarial_state(MODEL, tx, 1, MESH, objective=objective, steps=steps)
            state, scalars = step(state, batch)
            seen.append(jax.device_get(scalars))
        again = checkpoints.restore(38, state=like)["state"]
    assert int(again.step) == 38
    for _ in range(2):
        again, scalars = step(again, batch)
    assert_trees_close(again, state, 0)
    assert seen[-1]["supervised/city"] < 0.3 * seen[0]["supervised/city"]
    assert all(np.isfinite(v) for scalars in seen for v in scalars.values())
    assert all(0 <= s["discriminator_accuracy/city"] <= 1 for s in seen)
    assert max(s["discriminator_accuracy/city"] for s in seen) > 0.7  # at first predictions are easily told
    assert min(s["discriminator/city"] for s in seen) < 2 * LN(2)  # better than not knowing
    changed = jax.tree.map(lambda a, b: a - b, state.discriminator, like.discriminator)
    assert largest(changed) > 0


@pytest.fixture(scope="module")
def eight_devices():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    script = pathlib.Path(__file__).parent / "adversarial_eight_devices.py"
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    numbers = json.loads(result.stdout.splitlines()[-1])
    assert numbers["devices"] == 8
    return numbers


@pytest.mark.slow
def test_eight_devices_equal_one_in_float64(eight_devices):
    for quantity in ("scalars", "params", "discriminator", "batch_stats", "second_step"):
        assert eight_devices[quantity] < 1e-10, (quantity, eight_devices)
    assert 0.01 < eight_devices["semi_share"] < 0.99
