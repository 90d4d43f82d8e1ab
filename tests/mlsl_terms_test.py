"""Losses of MLSL and its baselines against NumPy and by hand, in float64, with the small encoder of tiny_models.py."""

import functools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_models import OneLayer, assert_trees_close, encode, enlarge, largest

from usss_jax.data.augment_device import DeviceAugment
from usss_jax.engine.state import create_state
from usss_jax.engine.step import Computed
from usss_jax.methods.discriminator import Opponent
from usss_jax.methods.mlsl import adversarial, terms
from usss_jax.methods.mlsl.terms import Supervision
from usss_jax.models.heads import ImageScores
from usss_jax.models.universal import UniversalModel
from usss_jax.parallel import sharding

SIZE = (24, 40)  # 3 x 5 cells
CLASSES = 3
LAMBDA = 0.025
PLAIN = Supervision()
LOG3 = math.log(3)
MODEL = UniversalModel(OneLayer(), {"town": CLASSES}, image_head=partial(ImageScores, width=1 / 256))
MESH = sharding.create_mesh(jax.devices()[:1])
SETTING = {"model": MODEL, "augment": DeviceAugment(), "seed": 0}
OPPONENT = Opponent(lr=0.001, power=0.9, steps=8, width=1 / 32, precision="float32")


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def create():
    """Float64 state with a discriminator, whose weights are large enough to judge pixels differently."""
    extra = OPPONENT.create(MODEL, mesh=MESH, seed=0)
    state, r = create_state(MODEL, optax.sgd(0.1), 0, MESH, extra)[0], np.random.default_rng(3)
    strong = jax.tree.map(lambda a: r.standard_normal(a.shape) * 0.3, state.extra["discriminator"])
    state = state.replace(extra={**state.extra, "discriminator": strong})
    return jax.tree.map(lambda a: jnp.asarray(a, float) if jnp.issubdtype(a.dtype, jnp.floating) else a, state)


def labeled(seed=0, count=2, size=SIZE, ignored=0.3):
    """Images, labels and image-level labels."""
    r = np.random.default_rng(seed)
    label = r.integers(0, CLASSES, (count, *size))
    label[r.random(label.shape) < ignored] = 255
    classes = r.integers(0, 2, (count, CLASSES)).astype(float)
    return {"image": jnp.asarray(r.random((count, *size, 3))), "label": jnp.asarray(label), "classes": classes}


def images(seed=9, count=2, size=SIZE):
    return jnp.asarray(np.random.default_rng(seed).random((count, *size, 3)))


def compiled(compute, state, step, **arguments):
    """`Computed` of one jitted call."""

    def parts(state, step):
        found = compute(state, step, **arguments, **SETTING)
        return found.gradients, found.batch_stats, found.scalars, found.extra

    return Computed(*jax.jit(parts)(state, step))


def total(params=None, target=None, *, supervision=PLAIN, on_target=None, **batches):
    """(loss, scalars) of labeled batches by name."""
    state = create()
    loss, (_, scalars, _) = terms.total_loss(
        state.params if params is None else params,
        state.batch_stats,
        {"labeled": batches, "target": {} if target is None else {"town": target}},
        model=MODEL,
        supervision=supervision,
        on_target=on_target,
    )
    return loss, scalars


def cells(image):
    """Logits of the cells of a batch alone, in NumPy."""
    state = create()
    head = state.params["decoder_town"]
    return np.asarray(encode(MODEL, state.params, state.batch_stats, image)[0] @ head["kernel"][0, 0] + head["bias"])


def plain_cross_entropy(logits, label):
    """Mean over the labeled places, one by one."""
    values = [
        math.log(np.exp(logits[place]).sum()) - logits[place][label[place]]
        for place in np.ndindex(label.shape)
        if label[place] != 255
    ]
    return sum(values) / len(values)


def probabilities(logits):
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


# ---- Where the loss is ----


def test_the_loss_at_cells_has_the_labels_of_their_middle_pixels():
    """Of rows and columns 4, 12, 20, ...; the ignored ones do not count."""
    batch = labeled()
    middle = np.asarray(batch["label"])[:, 4::8, 4::8]
    assert middle.shape == (2, 3, 5) and 0 < (middle == 255).sum() < 30
    loss, scalars = total(town=batch, supervision=Supervision(at="cells"))
    assert float(loss) == pytest.approx(plain_cross_entropy(cells(batch["image"]), middle), rel=1e-12)
    assert float(scalars["supervised/town"]) == float(loss)
    others = np.full((2, *SIZE), 255)
    others[:, 4::8, 4::8] = middle
    assert total(town={**batch, "label": others}, supervision=Supervision(at="cells"))[0] == loss


def test_the_loss_at_pixels_is_of_the_enlarged_logits():
    batch = labeled()
    want = plain_cross_entropy(np.asarray(enlarge(cells(batch["image"]), SIZE)), np.asarray(batch["label"]))
    assert float(total(town=batch)[0]) == pytest.approx(want, rel=1e-10)


@pytest.mark.parametrize("at", ["pixels", "cells"])
def test_hard_examples_are_those_whose_label_is_improbable(at):
    """Of more than 256 places, those with a probability of at most 0.6."""
    batch = labeled(count=20)
    logits, label = cells(batch["image"]), np.asarray(batch["label"])[:, 4::8, 4::8]
    if at == "pixels":
        logits, label = np.asarray(enlarge(logits, SIZE)), np.asarray(batch["label"])
    p = np.take_along_axis(probabilities(logits), np.where(label == 255, 0, label)[..., None], -1)[..., 0]
    values = np.sort(p[label != 255])
    kept = values[values <= max(0.6, values[min(255, len(values) - 1)])]
    loss = total(town=batch, supervision=Supervision("ohem", at))[0]
    assert float(loss) == pytest.approx(-np.log(kept).mean(), rel=1e-10)


def test_cells_beyond_the_border_have_the_last_pixel():
    label = np.arange(10 * 19).reshape(1, 10, 19)
    np.testing.assert_array_equal(terms.cell_labels(label, 8), label[:, [4, 9]][:, :, [4, 12, 18]])


@pytest.mark.parametrize("loss", ["ce", "ohem"])
@pytest.mark.parametrize("at", ["pixels", "cells"])
def test_a_batch_without_a_labeled_pixel_has_no_loss_and_finite_gradients(loss, at):
    batch = {**labeled(), "label": np.full((2, *SIZE), 255)}
    value, gradient = jax.value_and_grad(lambda p: total(p, town=batch, supervision=Supervision(loss, at))[0])(
        create().params
    )
    assert float(value) == 0 and largest(gradient) == 0


# ---- Eq. 6 and 7 ----


def test_the_image_level_loss_is_added_with_its_weight():
    batch = labeled()
    plain, (both, scalars) = total(town=batch)[0], total(town=batch, supervision=Supervision(image_weight=LAMBDA))
    state = create()
    features = encode(MODEL, state.params, state.batch_stats, batch["image"])[0]
    scores = np.asarray(MODEL.apply({"params": state.params}, features, "town", method="image_scores"))
    f, c = 1 / (1 + np.exp(-scores)), batch["classes"]
    want = -(c * np.log(f) + (1 - c) * np.log(1 - f)).mean()  # Eq. 5, a mean over classes and images
    assert float(scalars["image_level/town"]) == pytest.approx(want, rel=1e-10)
    assert float(both) == pytest.approx(float(plain) + LAMBDA * want, rel=1e-12)


@pytest.mark.slow
def test_its_gradient_at_the_logits_is_lambda_over_c_times_sigmoid_minus_label():
    """Of one image, at the bias of the last layer, which is that of the logits; it reaches the encoder."""
    batch = labeled(count=1)
    state = create()

    def loss(params, weight):
        return total(params, town=batch, supervision=Supervision(image_weight=weight))[0]

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    with_it, without = (gradient(state.params, weight) for weight in (LAMBDA, 0.0))
    features = encode(MODEL, state.params, state.batch_stats, batch["image"])[0]
    scores = np.asarray(MODEL.apply({"params": state.params}, features, "town", method="image_scores"))
    want = LAMBDA / CLASSES * (1 / (1 + np.exp(-scores)) - batch["classes"])[0]
    np.testing.assert_allclose(with_it["image_town"]["scores"]["bias"], want, rtol=1e-10)
    assert largest(without["image_town"]) == 0
    assert_trees_close(with_it["decoder_town"], without["decoder_town"])
    moved = jax.tree.map(lambda a, b: a - b, with_it["encoder"], without["encoder"])
    assert largest(moved) > 1e-8


@pytest.mark.parametrize("size", [SIZE, (16, 24)])
def test_losses_of_source_and_target_are_summed(size):
    """Eq. 7, for rounds.pairing=summed, whether or not their batches share a forward pass."""
    source, target = labeled(0), labeled(1, size=size)
    supervision = Supervision(image_weight=LAMBDA)
    together, scalars = total(city=source, town=target, supervision=supervision)
    alone = [total(town=batch, supervision=supervision) for batch in (source, target)]
    assert float(together) == pytest.approx(sum(float(loss) for loss, _ in alone), rel=1e-12)
    for name, (_, found) in zip(("city", "town"), alone, strict=True):
        for term in ("supervised", "image_level"):
            assert float(scalars[f"{term}/{name}"]) == pytest.approx(float(found[f"{term}/town"]), rel=1e-12)


# ---- MinEnt ----


def test_the_entropy_by_hand():
    """p = (3/4, 1/4) and (1/2, 1/2): the entropies in bits, which is ln C for two classes."""
    logits = jnp.array([[[[LOG3, 0.0], [0.0, 0.0]]]])
    bits = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    loss, scalars = terms.entropy_term(logits, weight=0.1)
    assert float(scalars["entropy"]) == pytest.approx((bits + 1) / 2) and set(scalars) == {"entropy"}
    assert float(loss) == pytest.approx(0.1 * (bits + 1) / 2)


def test_the_class_ratios_by_hand():
    """The mean prediction is (5/8, 3/8); ratios (0.2, 0.8) with mu = 1 lack 0.8 - 3/8 = 0.425; mu = 0.25 nothing."""
    logits = jnp.array([[[[LOG3, 0.0], [0.0, 0.0]]]])
    plain = float(terms.entropy_term(logits, weight=0.1)[0])
    loss, scalars = terms.entropy_term(logits, weight=0.1, ratios=(0.2, 0.8), ratio_weight=2.0, mu=1.0)
    assert float(scalars["class_ratio"]) == pytest.approx(0.425)
    assert float(loss) == pytest.approx(plain + 2 * 0.425)
    loss, scalars = terms.entropy_term(logits, weight=0.1, ratios=(0.2, 0.8), ratio_weight=2.0, mu=0.25)
    assert float(scalars["class_ratio"]) == 0 and float(loss) == pytest.approx(plain)


def test_the_term_on_the_target_is_of_its_enlarged_logits():
    batch, target = labeled(), images()
    term = partial(terms.entropy_term, weight=0.7)
    loss, scalars = total(target=target, city=batch, on_target=term)
    p = probabilities(np.asarray(enlarge(cells(target), SIZE)))
    entropy = -(p * np.log(p)).sum(-1).mean() / LOG3
    assert float(scalars["entropy/town"]) == pytest.approx(entropy, rel=1e-10)
    assert float(loss) == pytest.approx(float(total(town=batch)[0]) + 0.7 * entropy, rel=1e-10)


@pytest.mark.slow
def test_a_step_has_the_gradient_of_this_loss():
    batch, target, state = labeled(), images(), create()
    term = partial(terms.entropy_term, weight=0.7)
    step = {"labeled": {"city": batch}, "unlabeled": {"town": {"image": target[None]}}}
    found = compiled(terms.compute, state, step, supervision=Supervision(), on_target=term)
    want = jax.jit(jax.grad(lambda p: total(p, target, city=batch, on_target=term)[0]))(state.params)
    assert_trees_close(found.gradients, want)
    assert {"loss", "supervised/city", "entropy/town"} <= set(found.scalars)


# ---- Adversarial ----


def adversarial_step(batch, target, weight=0.4):
    step = {"labeled": {"city": batch}, "unlabeled": {"town": {"image": target[None]}}}
    arguments = {"supervision": Supervision(), "opponent": OPPONENT, "weight": weight, "sees": "probabilities"}
    return compiled(adversarial.compute, create(), step, **arguments)


@pytest.mark.slow
def test_the_update_of_the_discriminator_lowers_its_loss_on_the_same_maps():
    batch, target = labeled(), images()
    maps = {
        role: jnp.asarray(probabilities(np.asarray(enlarge(cells(x), SIZE))))
        for role, x in (("source", batch["image"]), ("target", target))
    }
    found, before = adversarial_step(batch, target), create().extra["discriminator"]
    losses = [
        float(adversarial.discriminator_loss(judge, maps, opponent=OPPONENT)[0])
        for judge in (before, found.extra["discriminator"])
    ]
    assert float(found.scalars["discriminator"]) == pytest.approx(losses[0], rel=1e-10)
    assert losses[1] < losses[0]
    judged = [OPPONENT(before, maps[role]) for role in ("source", "target")]
    want = np.log1p(np.exp(-np.asarray(judged[0]))).mean() + np.log1p(np.exp(np.asarray(judged[1]))).mean()
    assert losses[0] == pytest.approx(want, rel=1e-10)


@pytest.mark.slow
def test_the_source_teaches_the_network_as_without_a_discriminator():
    """D's part of the gradient is that of the target alone, whatever the source shows."""
    target, state = images(), create()

    def of_target(params):
        features = encode(MODEL, params, state.batch_stats, target)[0]
        maps = jax.nn.softmax(terms.pixel_logits(MODEL, params, features, "town", SIZE))
        judged = OPPONENT(state.extra["discriminator"], maps)
        return jax.nn.softplus(-judged).mean()

    want = jax.grad(of_target)(state.params)
    assert largest(want["encoder"]) > 1e-6
    for seed in (0, 1):
        batch = labeled(seed)
        supervised = jax.grad(lambda p, batch=batch: total(p, town=batch)[0])(state.params)
        without = adversarial_step(batch, target, weight=0.0)
        assert_trees_close(without.gradients, supervised)
        found = adversarial_step(batch, target)
        part = jax.tree.map(lambda a, b: (a - b) / 0.4, found.gradients, supervised)
        assert_trees_close(part, want)
        assert float(found.scalars["loss"]) == pytest.approx(
            float(total(town=batch)[0]) + 0.4 * float(of_target(state.params)), rel=1e-10
        )


@pytest.mark.slow
def test_the_weight_does_not_change_what_the_discriminator_learns():
    batch, target = labeled(), images()
    one, other = (adversarial_step(batch, target, weight=w).extra for w in (0.0, 5.0))
    assert_trees_close(one["discriminator"], other["discriminator"], 1e-14)


def test_the_discriminator_may_see_the_weighted_information():
    logits = 3 * np.random.default_rng(0).standard_normal((1, 4, 5, CLASSES))
    p = probabilities(logits)
    np.testing.assert_allclose(adversarial.seen_maps(jnp.asarray(logits), "information"), -p * np.log(p) / LOG3)
    np.testing.assert_allclose(adversarial.seen_maps(jnp.asarray(logits), "probabilities"), p)
