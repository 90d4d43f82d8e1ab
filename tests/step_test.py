"""The training step against Eq. 5 written out plainly: every batch encoded alone, no scan, no groups, in float64."""

import dataclasses
import functools
import math
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_models import OneLayer, assert_trees_close, difference, encode, enlarge, largest

from usss_jax.config import default_config
from usss_jax.data.augment_device import DeviceAugment, augment
from usss_jax.engine.accumulate import accumulate
from usss_jax.engine.state import TrainState
from usss_jax.engine.step import jit_step, train_step
from usss_jax.methods import supervised
from usss_jax.methods.usss import terms
from usss_jax.models.drn import DRN
from usss_jax.models.universal import UniversalModel
from usss_jax.parallel.sharding import create_mesh, step_batch_shardings

CLASSES = {"camvid": 3, "city": 5, "sun": 4}
DIM = 4
PAPER = terms.create_objective(default_config().usss)
OBJECTIVE = dataclasses.replace(PAPER, alpha=0.7, beta=0.4, similarity_scale=1.5)
MODEL = UniversalModel(OneLayer(), CLASSES, DIM)
SETTING = {"model": MODEL, "augment": DeviceAugment(), "seed": 0}
USSS = {**SETTING, "objective": OBJECTIVE, "label_classes": {}}


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def create(model, seed=0):
    """State with values drawn by NumPy in the shapes that the model asks for."""
    r = np.random.default_rng(seed)

    def draw(path, a):
        if path[-1].key == "kernel":
            return jnp.asarray(r.standard_normal(a.shape) * math.sqrt(2 / math.prod(a.shape[:3])))
        positive = path[-1].key in ("scale", "var")
        return jnp.asarray(r.uniform(0.5, 1.5, a.shape) if positive else 0.2 * r.standard_normal(a.shape))

    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    embeddings = {d: r.standard_normal((n, DIM)) for d, n in model.num_classes.items()}
    embeddings = {d: jnp.asarray(e / np.linalg.norm(e, axis=1, keepdims=True)) for d, e in embeddings.items()}
    return TrainState(
        step=jnp.asarray(3, jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=(),
        extra={"label_embeddings": embeddings},
    )


def with_rows(state, rows):
    """The state with as many label embeddings per domain as `rows` has entries."""
    embeddings = state.extra["label_embeddings"]
    return state.replace(extra={"label_embeddings": {d: embeddings[d][: len(of)] for d, of in rows.items()}})


def random_batch(labeled, unlabeled, seed=1):
    """Float images; `labeled` maps domain -> (B, H, W), `unlabeled` domain -> (U, B, H, W)."""
    r = np.random.default_rng(seed)
    out = {"labeled": {}, "unlabeled": {}}
    for i, (domain, shape) in enumerate(labeled.items()):
        labels = r.integers(0, CLASSES[domain], shape)
        labels[r.random(shape) < 0.2] = 255
        out["labeled"][domain] = {"image": jnp.asarray((i + 1) * r.random((*shape, 3))), "label": jnp.asarray(labels)}
    for i, (domain, shape) in enumerate(unlabeled.items()):
        out["unlabeled"][domain] = {"image": jnp.asarray((i + 0.5) * r.random((*shape, 3)))}
    return out


def jitted(function=terms.compute, unroll=False, **changed):
    """(gradients, statistics, scalars, extra) of (state, batch); scans the micro-batches, or unrolls them."""

    def parts(state, batch):
        with mock.patch.object(terms, "accumulate", partial(accumulate, unroll=unroll)):
            found = function(state, batch, **(USSS if function is terms.compute else SETTING) | changed)
        return found.gradients, found.batch_stats, found.scalars, found.extra

    return jax.jit(parts)


compiled = functools.cache(jitted)
supervised_alone = jitted(supervised.compute)


def ours(state, batch, **changed):
    return compiled(**changed)(state, batch)


# ---- Eq. 5, written out ----


def mean_entropy(v):
    p = jnp.exp(v) / jnp.exp(v).sum(-1, keepdims=True)
    return -(p * jnp.log(p)).sum(-1).mean()


def scores(params, name, features, size):
    """A head's output at image size."""
    return enlarge(features, size) @ params[name]["kernel"][0, 0] + params[name]["bias"]


def plain_loss(params, state, batch, labels, model=MODEL, objective=OBJECTIVE):
    """L_S + alpha L_cross + beta L_within, and its terms. Batch statistics are those of every batch alone."""
    found = {}
    for domain, data in batch["labeled"].items():
        label = labels[domain]
        features, _ = encode(model, params, state.batch_stats, data["image"])
        logits = scores(params, f"decoder_{domain}", features, label.shape[1:])
        log_p = jnp.log(jnp.exp(logits) / jnp.exp(logits).sum(-1, keepdims=True))
        chosen = jnp.take_along_axis(log_p, jnp.where(label == 255, 0, label)[..., None], -1)[..., 0]
        found[f"supervised/{domain}"] = -jnp.where(label == 255, 0, chosen).sum() / (label != 255).sum()
    total = sum(found.values())
    for domain, data in batch["unlabeled"].items():
        passes = len(data["image"])
        within = cross = 0.0
        for images in data["image"]:
            features, _ = encode(model, params, state.batch_stats, images)
            embedding = scores(params, "embedding", features, images.shape[1:3])
            for other, rows in state.extra["label_embeddings"].items():
                entropy = mean_entropy(objective.similarity_scale * embedding @ rows.T) / passes
                if other == domain:
                    within = within + entropy
                else:
                    cross = cross + entropy
        found[f"within/{domain}"], found[f"cross/{domain}"] = within, cross
        total = total + objective.alpha * cross + objective.beta * within
    return total, found


def plain(model):
    return jax.jit(jax.value_and_grad(partial(plain_loss, model=model), has_aux=True))


def labels_of(batch):
    return {domain: data["label"] for domain, data in batch["labeled"].items()}


encode_alone = jax.jit(partial(encode, MODEL))


def statistics_after(state, batches):
    """Running statistics after encoding these batches one after the other."""
    stats = state.batch_stats
    for images in batches:
        _, stats = encode_alone(state.params, stats, images)
    return stats


SAME = {"camvid": (2, 16, 24), "city": (2, 16, 24)}
# labeled, unlabeled, whether the micro-batches are unrolled
CASES = {
    "equal_shapes": (SAME, {d: (2, *s) for d, s in SAME.items()}, False),
    # Two domains of equal shape and one of another, other sizes and numbers of micro-batches, one domain without them.
    "all_different": (
        {"camvid": (2, 16, 24), "city": (3, 17, 30), "sun": (2, 16, 24)},
        {"camvid": (2, 2, 16, 24), "city": (3, 1, 21, 24)},
        True,
    ),
    "one_domain": ({"sun": (2, 16, 24)}, {"sun": (2, 2, 16, 24)}, False),
    # "sun" has neither label embeddings nor a within term: its cross term is with those of the two others.
    "domain_without_labels": (SAME, {"city": (1, 2, 16, 24), "sun": (2, 2, 16, 24)}, False),
}


def case(name):
    """State and batch of a case."""
    labeled, unlabeled, _ = CASES[name]
    return create(MODEL), random_batch(labeled, unlabeled)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_gradient_equals_that_of_the_total_loss_written_out(name):
    state, batch = case(name)
    labeled, _, unroll = CASES[name]
    rows = state.extra["label_embeddings"]
    state = with_rows(state, {d: rows[d] for d in labeled})
    (total, found), want = plain(MODEL)(state.params, state, batch, labels_of(batch))
    grads, _, scalars, _ = ours(state, batch, unroll=unroll)
    assert_trees_close(grads, want)
    np.testing.assert_allclose(scalars["loss"], total, rtol=1e-12)
    for term, value in found.items():
        np.testing.assert_allclose(scalars[term], value, rtol=1e-12, err_msg=term)
    assert largest(want["embedding"]) > 1e-3 and largest(want["encoder"]) > 1e-3


@pytest.mark.nightly
def test_gradient_through_the_real_encoder_with_two_domains_in_one_pass():
    model = UniversalModel(DRN((1, 1, 1, 1), width=1 / 16), {"camvid": 3, "city": 5}, DIM)
    state, batch = create(model), random_batch(SAME, {})
    grads, _, scalars, _ = jitted(supervised.compute, model=model)(state, batch)
    (total, _), want = plain(model)(state.params, state, batch, labels_of(batch))
    np.testing.assert_allclose(scalars["loss"], total, rtol=1e-12)
    assert_trees_close(grads, want)
    assert largest(grads["encoder"]["level0_conv"]) > 1e-3


@pytest.mark.slow
def test_every_batch_updates_the_running_statistics_labeled_ones_first():
    """Then the micro-batches in order, in each of them the domains in order."""
    state, batch = case("equal_shapes")
    _, stats, _, _ = ours(state, batch)
    labeled = [batch["labeled"][d]["image"] for d in ("camvid", "city")]
    streams = [batch["unlabeled"][d]["image"] for d in ("camvid", "city")]
    order = [*labeled, streams[0][0], streams[1][0], streams[0][1], streams[1][1]]
    assert_trees_close(stats, statistics_after(state, order))
    for wrong in (order[::-1], [*order[2:], *order[:2]], [*labeled, *streams[0], *streams[1]]):
        assert difference(stats, statistics_after(state, wrong)) > 1e-4  # the order can be told


@pytest.mark.slow
def test_domains_whose_micro_batches_differ_update_the_statistics_one_after_the_other():
    state, batch = case("all_different")
    _, stats, _, _ = ours(state, batch, unroll=True)
    order = [batch["labeled"][d]["image"] for d in ("camvid", "sun", "city")]  # equal shapes share a pass
    order += [images for d in ("camvid", "city") for images in batch["unlabeled"][d]["image"]]
    assert_trees_close(stats, statistics_after(state, order))


def test_with_alpha_and_beta_zero_unlabeled_images_teach_nothing():
    state, batch = case("equal_shapes")
    grads, _, scalars, _ = ours(state, batch, objective=dataclasses.replace(PAPER, alpha=0.0, beta=0.0))
    want, _, want_scalars, _ = supervised_alone(state, batch)
    assert_trees_close(grads, want, 1e-14)
    assert largest(grads["embedding"]) == 0 and largest(grads["encoder"]) > 1e-3
    np.testing.assert_allclose(scalars["loss"], want_scalars["loss"], rtol=1e-14)


def test_an_empty_unlabeled_part_is_supervised_training():
    state, batch = create(MODEL), random_batch(SAME, {})
    got, want = ours(state, batch), supervised_alone(state, batch)
    assert_trees_close(got, want, 1e-14)
    assert set(want[2]) == {*("loss", "supervised/camvid", "supervised/city", "encoder_grad_norm/supervised")}


def test_a_domain_without_labeled_pixels_adds_nothing_and_stays_finite():
    state, batch = create(MODEL), random_batch(SAME, {})
    batch["labeled"]["city"]["label"] = jnp.full_like(batch["labeled"]["city"]["label"], 255)
    grads, _, scalars, _ = supervised_alone(state, batch)
    alone = {"labeled": {"camvid": batch["labeled"]["camvid"]}}
    assert_trees_close(grads, supervised_alone(state, alone)[0])
    assert float(scalars["supervised/city"]) == 0


def test_decoders_learn_from_their_own_domain_alone():
    state, batch = create(MODEL), random_batch(SAME, {})
    grads, _, _, _ = supervised_alone(state, batch)
    assert largest(grads["decoder_sun"]) == 0  # takes no part in this batch
    mixed = {"labeled": {**random_batch(SAME, {}, seed=7)["labeled"], "camvid": batch["labeled"]["camvid"]}}
    others = supervised_alone(state, mixed)[0]
    assert_trees_close(others["decoder_camvid"], grads["decoder_camvid"])
    assert difference(others["decoder_city"], grads["decoder_city"]) > 1e-3


def test_frozen_encoder_gets_no_gradient_and_keeps_its_statistics():
    state, batch = create(MODEL), random_batch({"camvid": (2, 9, 12)}, {})
    frozen = jitted(supervised.compute, frozen_encoder=True)
    grads, stats, scalars, _ = frozen(state, batch)
    assert largest(grads["encoder"]) == 0 and largest(grads["decoder_camvid"]) > 0
    assert_trees_close(stats, state.batch_stats, 0)
    # Its features are those of evaluation: the loss does not depend on which images share a batch.
    halves = [jax.tree.map(lambda a, i=i: a[i : i + 1], batch) for i in range(2)]
    counts = [int((half["labeled"]["camvid"]["label"] != 255).sum()) for half in halves]
    losses = [float(frozen(state, half)[2]["loss"]) for half in halves]
    np.testing.assert_allclose(np.average(losses, weights=counts), scalars["loss"], rtol=1e-12)


def test_a_step_keeps_frozen_statistics_and_trains_scales_and_shifts():
    model = UniversalModel(OneLayer(), CLASSES, batch_norm="frozen")
    state, batch = create(model), random_batch({"camvid": (2, 9, 12), "city": (2, 9, 12)}, {})
    tx = optax.sgd(0.1)
    step = jax.jit(partial(train_step, compute=partial(supervised.compute, **{**SETTING, "model": model}), tx=tx))
    new, _ = step(dataclasses.replace(state, opt_state=tx.init(state.params)), batch)
    assert_trees_close(new.batch_stats, state.batch_stats, 0)
    for name in ("scale", "bias"):
        assert np.any(new.params["encoder"]["bn"][name] != state.params["encoder"]["bn"][name])


def test_the_scalars_tell_every_pair_of_images_and_label_embeddings():
    state, batch = case("equal_shapes")
    _, _, scalars, _ = ours(state, batch)
    pairs = {f"{d}/{e}" for d in ("camvid", "city") for e in CLASSES}
    for name in ("entropy", "entropy_of_mean", "top_share"):
        assert {f"{name}/{pair}" for pair in pairs} <= set(scalars)
    assert all(np.shape(value) == () for value in scalars.values())
    np.testing.assert_allclose(scalars["entropy/city/city"], scalars["within/city"], rtol=1e-12)


# ---- The whole step ----


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [None, create_mesh(jax.devices()[:1])], ids=["function", "compiled_for_a_mesh"])
def test_a_step_applies_the_optimiser_to_the_gradient(mesh):
    """Plain SGD: p - 0.1 g; on bytes, as they come from the streams."""
    r = np.random.default_rng(4)
    labeled = {
        d: {
            "image": r.integers(0, 256, (2, 16, 24, 3), dtype=np.uint8),
            "label": r.choice([0, 1, 2, 255], (2, 16, 24)).astype(np.uint8),
        }
        for d in ("camvid", "city")
    }
    unlabeled = {"city": {"image": r.integers(0, 256, (2, 2, 16, 24, 3), dtype=np.uint8)}}
    batch, tx = {"labeled": labeled, "unlabeled": unlabeled}, optax.sgd(0.1)
    state = create(MODEL)
    state = state.replace(opt_state=tx.init(state.params))
    grads, stats, want, _ = ours(state, batch)
    before = jax.tree.map(np.asarray, state)  # the compiled step may take the memory of `state`
    compute = partial(terms.compute, **USSS)
    if mesh is None:
        step = jax.jit(partial(train_step, compute=compute, tx=tx))
    else:
        step = jit_step(mesh, compute=compute, tx=tx, batch_shardings=step_batch_shardings(mesh))
    new, scalars = step(state, batch)
    assert_trees_close(new.params, jax.tree.map(lambda p, g: p - 0.1 * g, before.params, grads), 1e-12)
    assert_trees_close(new.batch_stats, stats, 1e-12)
    assert_trees_close(new.extra, before.extra, 0)
    assert int(new.step) == 4 and new.step.dtype == jnp.int32
    norm = math.sqrt(sum(float((np.asarray(g) ** 2).sum()) for g in jax.tree.leaves(grads)))
    assert_trees_close(scalars, {**want, "grad_norm": np.float64(norm)}, 1e-12)


# ---- Augmentation inside the step ----


AUGMENT = DeviceAugment(color_jitter=0.5, grey=0.3, blur=0.5, mix="classmix")


@pytest.mark.slow
def test_a_step_trains_on_the_batch_that_augment_makes_of_its_seed_and_number():
    """And so another step on another one."""
    state, batch = create(MODEL), random_batch({"camvid": (2, 16, 24)}, {"camvid": (2, 2, 16, 24)})
    batch = jax.tree.map(lambda a: a / a.max() if jnp.issubdtype(a.dtype, jnp.floating) else a, batch)
    key = jax.random.fold_in(jax.random.key(9), 3)  # the state's step is 3
    augmented = jax.jit(augment, static_argnums=2)(batch, key, AUGMENT)
    assert difference(augmented["unlabeled"], batch["unlabeled"]) > 0.1
    got = ours(state, batch, augment=AUGMENT, seed=9)
    assert_trees_close(got, ours(state, augmented), 1e-8)
    other = ours(state.replace(step=jnp.asarray(4, jnp.int32)), batch, augment=AUGMENT, seed=9)
    assert difference(other[2]["loss"], got[2]["loss"]) > 1e-4


# ---- Options beyond Eq. 5 ----

# One class without a row, one with two.
ROWS = {"camvid": (0, 2), "city": (0, 1, 1, 3, 4), "sun": (0, 1, 2, 3)}


def labeled_embedding(params, stats, data, normalize):
    """E at the size of the labels, written out."""
    features, _ = encode(MODEL, params, stats, data["image"])
    embedding = features @ params["embedding"]["kernel"][0, 0] + params["embedding"]["bias"]
    if normalize:
        embedding = embedding / jnp.linalg.norm(embedding, axis=-1, keepdims=True)
    return enlarge(embedding, data["label"].shape[1:])


def test_embedding_supervision_is_the_cross_entropy_of_the_classes():
    """Classes with two embeddings sum their probabilities; pixels of a class without one do not count."""
    objective = dataclasses.replace(PAPER, embedding_supervision=0.3, normalize_embedding=True, similarity_scale=1.5)
    state, batch = with_rows(create(MODEL), ROWS), random_batch(SAME, {})

    @jax.jit
    @jax.value_and_grad
    def extra(params, state, batch):
        total = 0.0
        for domain, data in batch["labeled"].items():
            rows = state.extra["label_embeddings"][domain]
            values = 1.5 * labeled_embedding(params, state.batch_stats, data, normalize=True) @ rows.T
            p = jnp.exp(values) / jnp.exp(values).sum(-1, keepdims=True)
            own = sum(jnp.where(data["label"] == c, p[..., k], 0) for k, c in enumerate(ROWS[domain]))
            counts = jnp.isin(data["label"], np.asarray(ROWS[domain]))
            total = total - jnp.where(counts, jnp.log(jnp.where(counts, own, 1)), 0).sum() / counts.sum()
        return total

    value, want = extra(state.params, state, batch)
    without = supervised_alone(state, batch)
    got = jitted(objective=objective, label_classes=ROWS)(state, batch)
    assert_trees_close(jax.tree.map(np.subtract, got[0], without[0]), jax.tree.map(lambda g: 0.3 * g, want))
    told = [got[2][f"embedding_supervision/{d}"] for d in SAME]
    assert float(sum(told)) == pytest.approx(float(value), rel=1e-10)
    assert float(got[2]["loss"] - without[2]["loss"]) == pytest.approx(0.3 * float(value), rel=1e-9)


def test_diversity_subtracts_the_entropy_of_the_mean_prediction():
    state, batch = case("equal_shapes")
    without = ours(state, batch)
    diverse = ours(state, batch, objective=dataclasses.replace(OBJECTIVE, diversity=0.25))
    for domain in SAME:
        means = {e: diverse[2][f"entropy_of_mean/{domain}/{e}"] for e in CLASSES}
        within = without[2][f"within/{domain}"] - 0.25 * means[domain]
        cross = without[2][f"cross/{domain}"] - 0.25 * sum(v for e, v in means.items() if e != domain)
        np.testing.assert_allclose(diverse[2][f"within/{domain}"], within, rtol=1e-12)
        np.testing.assert_allclose(diverse[2][f"cross/{domain}"], cross, rtol=1e-12)
    assert difference(without[0]["embedding"], diverse[0]["embedding"]) > 1e-6


def test_direct_entropy_is_that_of_the_decoders_and_needs_no_entropy_module():
    model = UniversalModel(OneLayer(), CLASSES)
    state, batch = create(model).replace(extra={}), random_batch(SAME, {"city": (1, 2, 16, 24)})
    _, _, scalars, extra = jitted(model=model, scores=terms.decoder_scores)(state, batch)
    images = batch["unlabeled"]["city"]["image"][0]

    @jax.jit
    def entropies(params, stats, images):
        features, _ = encode(model, params, stats, images)
        return {d: mean_entropy(scores(params, f"decoder_{d}", features, (16, 24))) for d in CLASSES}

    want = jax.tree.map(float, entropies(state.params, state.batch_stats, images))
    assert float(scalars["within/city"]) == pytest.approx(want["city"], rel=1e-10)
    assert float(scalars["cross/city"]) == pytest.approx(want["camvid"] + want["sun"], rel=1e-10)
    assert extra == {}


def test_theta_moves_the_label_embeddings_towards_the_labeled_batch():
    """Eq. 7 written out on pixels; classes without a pixel and domains without labeled images keep their rows."""
    rows = {**ROWS, "city": (0, 1, 3, 4)}
    state, batch = with_rows(create(MODEL), rows), random_batch(SAME, {})
    label = batch["labeled"]["city"]["label"]
    batch["labeled"]["city"]["label"] = jnp.where(label == 3, 255, label)
    grads, _, _, extra = jitted(objective=dataclasses.replace(PAPER, theta=0.6), label_classes=rows)(state, batch)
    embed = jax.jit(partial(labeled_embedding, normalize=False))
    moved, before = extra["label_embeddings"], state.extra["label_embeddings"]
    for domain, data in batch["labeled"].items():
        embedding = np.asarray(embed(state.params, state.batch_stats, data))
        for row, c in enumerate(rows[domain]):
            old, pixels = np.asarray(before[domain])[row], embedding[np.asarray(data["label"]) == c]
            want = 0.6 * old + 0.4 * pixels.mean(0) if len(pixels) else old
            np.testing.assert_allclose(moved[domain][row], want / np.linalg.norm(want), atol=1e-10)
    np.testing.assert_array_equal(moved["sun"], before["sun"])
    assert largest(grads["embedding"]) == 0  # the average is no objective


@pytest.mark.slow
def test_warm_up_weighs_the_entropy_terms_by_the_share_of_its_steps():
    """State of step 3, so the 4th step of 8: half of the terms; from the 8th on the whole. And their gradient norms."""
    state, batch = case("domain_without_labels")
    warming = dataclasses.replace(OBJECTIVE, warmup=8)
    none, whole, half = (
        supervised_alone(state, batch),
        ours(state, batch),
        ours(state, batch, objective=warming),
    )
    for a, b, c in zip(*(jax.tree.leaves((x[0], x[2]["loss"])) for x in (none, whole, half)), strict=True):
        np.testing.assert_allclose(c, (a + b) / 2, rtol=1e-9, atol=1e-12)
    later = state.replace(step=jnp.asarray(20, jnp.int32))
    np.testing.assert_allclose(ours(later, batch, objective=warming)[2]["loss"], whole[2]["loss"], rtol=1e-12)

    def norm(tree):
        return math.sqrt(sum((x**2).sum() for x in jax.tree.leaves(tree)))

    of_entropy = jax.tree.map(np.subtract, whole[0]["encoder"], none[0]["encoder"])
    for scalars in (none[2], whole[2]):
        assert float(scalars["encoder_grad_norm/supervised"]) == pytest.approx(norm(none[0]["encoder"]))
    for found, share in ((whole, 1), (half, 0.5)):
        assert float(found[2]["encoder_grad_norm/entropy"]) == pytest.approx(share * norm(of_entropy))
