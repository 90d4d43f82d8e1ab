"""The training step against Eq. 5 written out plainly: every batch encoded alone, no scan, no groups, in float64."""

import dataclasses
import functools
import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from usss_jax.methods.usss.step import Objective, gradients, jit_train_step, train_step

from usss_jax.data.augment_device import DeviceAugment, augment
from usss_jax.engine.state import TrainState
from usss_jax.models.drn import DRN
from usss_jax.models.layers import Convolution, GroupedBatchNorm
from usss_jax.models.universal import UniversalModel
from usss_jax.parallel.sharding import create_mesh

CLASSES = {"camvid": 3, "city": 5, "sun": 4}
DIM = 4
OBJECTIVE = Objective(alpha=0.7, beta=0.4, similarity_scale=1.5)
# Compiling takes nearly all of the time here, so let the compiler do less.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class OneLayer(nn.Module):
    """Stands in for the encoder where one with the layers of interest will do, since it compiles quickly."""

    stride = 8

    @nn.compact
    def __call__(self, x, train, groups):
        return nn.relu(GroupedBatchNorm(groups, name="bn")(Convolution(6, 3, 8, name="conv")(x), train))


MODEL = UniversalModel(OneLayer(), CLASSES, DIM)


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
        label_embeddings=embeddings,
    )


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


# ---- Eq. 5, written out ----


def enlarge(x, size):
    """Half-pixel bilinear x8 with the edge repeated, cropped."""
    for axis, pixels in ((1, size[0]), (2, size[1])):
        cells = x.shape[axis]
        at = np.clip((np.arange(pixels) + 0.5) / 8 - 0.5, 0, cells - 1)
        low = at.astype(int)
        weight = (at - low).reshape([-1 if a == axis else 1 for a in range(4)])
        high = np.minimum(low + 1, cells - 1)
        x = jnp.take(x, low, axis) * (1 - weight) + jnp.take(x, high, axis) * weight
    return x


def encode(model, params, stats, images):
    variables = {"params": params, "batch_stats": stats}
    features, new = model.apply(variables, images, train=True, method="encode", mutable=["batch_stats"])
    return features, new["batch_stats"]


def mean_entropy(v):
    p = jnp.exp(v) / jnp.exp(v).sum(-1, keepdims=True)
    return -(p * jnp.log(p)).sum(-1).mean()


def plain_loss(params, state, batch, model, objective):
    """L_S + alpha L_cross + beta L_within, and its terms. Batch statistics are those of every batch alone."""
    terms = {}
    for domain, data in batch["labeled"].items():
        features, _ = encode(model, params, state.batch_stats, data["image"])
        head = params[f"decoder_{domain}"]
        logits = enlarge(features, data["label"].shape[1:]) @ head["kernel"][0, 0] + head["bias"]
        label = np.asarray(data["label"])
        log_p = jnp.log(jnp.exp(logits) / jnp.exp(logits).sum(-1, keepdims=True))
        chosen = jnp.take_along_axis(log_p, np.where(label == 255, 0, label)[..., None], -1)[..., 0]
        terms[f"supervised/{domain}"] = -chosen[label != 255].mean()
    total = sum(terms.values())
    for domain, data in batch["unlabeled"].items():
        passes = len(data["image"])
        within = cross = 0.0
        for images in data["image"]:
            features, _ = encode(model, params, state.batch_stats, images)
            head = params["embedding"]
            embedding = enlarge(features, images.shape[1:3]) @ head["kernel"][0, 0] + head["bias"]
            for other, rows in state.label_embeddings.items():
                entropy = mean_entropy(objective.similarity_scale * embedding @ rows.T) / passes
                if other == domain:
                    within = within + entropy
                else:
                    cross = cross + entropy
        terms[f"within/{domain}"], terms[f"cross/{domain}"] = within, cross
        total = total + objective.alpha * cross + objective.beta * within
    return total, terms


def statistics_after(model, state, batches):
    """Running statistics after encoding these batches one after the other."""
    stats = state.batch_stats
    for images in batches:
        _, stats = encode(model, state.params, stats, images)
    return stats


def assert_trees_close(got, want, tolerance=1e-10):
    got, want = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (got, want))
    assert got.keys() == want.keys()
    for path, value in want.items():
        np.testing.assert_allclose(got[path], value, atol=tolerance, rtol=0, err_msg=jax.tree_util.keystr(path))


@functools.cache
def compiled(objective, unroll):
    return quick_jit(partial(gradients, model=MODEL, objective=objective, unroll=unroll))


def ours(state, batch, objective=OBJECTIVE, unroll=False):
    return compiled(objective, unroll)(state, batch)[:3]


def largest(tree):
    return max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


SAME = {"camvid": (2, 16, 24), "city": (2, 16, 24)}
CASES = {
    "equal_shapes": (SAME, {d: (2, *s) for d, s in SAME.items()}),
    # Two domains of equal shape and one of another, other sizes and numbers of micro-batches, one domain without them.
    "all_different": (
        {"camvid": (2, 16, 24), "city": (3, 17, 30), "sun": (2, 16, 24)},
        {"camvid": (2, 2, 16, 24), "city": (3, 1, 21, 24)},
    ),
    "one_domain": ({"sun": (2, 16, 24)}, {"sun": (2, 2, 16, 24)}),
    # "sun" has neither label embeddings nor a within term: its cross term is with those of the two others.
    "domain_without_labels": (SAME, {"city": (1, 2, 16, 24), "sun": (2, 2, 16, 24)}),
}


@pytest.mark.parametrize("case", CASES)
def test_gradient_equals_that_of_the_total_loss_written_out(case):
    labeled, unlabeled = CASES[case]
    with jax.enable_x64(True):
        state, batch = create(MODEL), random_batch(labeled, unlabeled)
        state = state.replace(label_embeddings={d: state.label_embeddings[d] for d in labeled})
        plain = quick_jit(jax.value_and_grad(lambda p: plain_loss(p, state, batch, MODEL, OBJECTIVE), has_aux=True))
        (total, terms), want = plain(state.params)
        for unroll in (False, True):
            grads, _, scalars = ours(state, batch, unroll=unroll)
            assert_trees_close(grads, want)
            np.testing.assert_allclose(scalars["loss"], total, rtol=1e-12)
            for name, value in terms.items():
                np.testing.assert_allclose(scalars[name], value, rtol=1e-12, err_msg=name)
        assert largest(want["embedding"]) > 1e-3 and largest(want["encoder"]) > 1e-3


def test_gradient_through_the_real_encoder_with_two_domains_in_one_pass():
    model = UniversalModel(DRN((1, 1, 1, 1), width=1 / 16), {"camvid": 3, "city": 5}, DIM)
    with jax.enable_x64(True):
        state, batch = create(model), random_batch(SAME, {})
        grads, _, scalars, _ = quick_jit(partial(gradients, model=model, objective=OBJECTIVE))(state, batch)
        total, want = quick_jit(jax.value_and_grad(lambda p: plain_loss(p, state, batch, model, OBJECTIVE)[0]))(
            state.params
        )
        np.testing.assert_allclose(scalars["loss"], total, rtol=1e-12)
        assert_trees_close(grads, want)
        assert largest(grads["encoder"]["level0_conv"]) > 1e-3


@pytest.mark.parametrize("unroll", [False, True], ids=["scan", "unrolled"])
def test_every_batch_updates_the_running_statistics_labeled_ones_first(unroll):
    """Then the micro-batches in order, in each of them the domains in order."""
    with jax.enable_x64(True):
        labeled, unlabeled = CASES["equal_shapes"]
        state, batch = create(MODEL), random_batch(labeled, unlabeled)
        _, stats, _ = ours(state, batch, unroll=unroll)
        supervised = [batch["labeled"][d]["image"] for d in ("camvid", "city")]
        streams = [batch["unlabeled"][d]["image"] for d in ("camvid", "city")]
        order = [*supervised, streams[0][0], streams[1][0], streams[0][1], streams[1][1]]
        assert_trees_close(stats, statistics_after(MODEL, state, order))
        for wrong in (order[::-1], [*order[2:], *order[:2]], [*supervised, *streams[0], *streams[1]]):
            difference = jax.tree.map(jnp.subtract, stats, statistics_after(MODEL, state, wrong))
            assert largest(difference) > 1e-4  # the order can be told


def test_domains_whose_micro_batches_differ_update_the_statistics_one_after_the_other():
    with jax.enable_x64(True):
        state, batch = create(MODEL), random_batch(*CASES["all_different"])
        _, stats, _ = ours(state, batch)
        order = [batch["labeled"][d]["image"] for d in ("camvid", "sun", "city")]  # equal shapes share a pass
        order += [images for d in ("camvid", "city") for images in batch["unlabeled"][d]["image"]]
        assert_trees_close(stats, statistics_after(MODEL, state, order))


def test_repeating_a_micro_batch_does_not_change_the_gradient():
    """The losses of the U micro-batches are averaged, not added."""
    with jax.enable_x64(True):
        state = create(MODEL)
        once = random_batch(SAME, {"camvid": (1, 2, 16, 24), "city": (1, 2, 16, 24)})
        thrice = {
            "labeled": once["labeled"],
            "unlabeled": {d: {"image": jnp.tile(v["image"], (3, 1, 1, 1, 1))} for d, v in once["unlabeled"].items()},
        }
        (grads, _, scalars), (other, _, other_scalars) = ours(state, once), ours(state, thrice)
        assert_trees_close(other, grads)
        np.testing.assert_allclose(other_scalars["loss"], scalars["loss"], rtol=1e-12)


def test_with_alpha_and_beta_zero_unlabeled_images_teach_nothing():
    with jax.enable_x64(True):
        state, batch = create(MODEL), random_batch(*CASES["equal_shapes"])
        grads, _, scalars = ours(state, batch, objective=Objective(alpha=0.0, beta=0.0))
        supervised, _, supervised_scalars = ours(state, {"labeled": batch["labeled"]})
        assert_trees_close(grads, supervised, 1e-14)
        assert largest(grads["embedding"]) == 0 and largest(grads["encoder"]) > 1e-3
        np.testing.assert_allclose(scalars["loss"], supervised_scalars["loss"], rtol=1e-14)


def test_an_empty_unlabeled_part_is_supervised_training():
    with jax.enable_x64(True):
        state, batch = create(MODEL), random_batch(SAME, {})
        with_empty, without = ours(state, batch), ours(state, {"labeled": batch["labeled"]})
        assert_trees_close(with_empty, without, 0)
        assert set(without[2]) == {*("loss", "supervised/camvid", "supervised/city", "encoder_grad_norm/supervised")}


def test_a_domain_without_labeled_pixels_adds_nothing_and_stays_finite():
    with jax.enable_x64(True):
        state, batch = create(MODEL), random_batch(SAME, {})
        batch["labeled"]["city"]["label"] = jnp.full_like(batch["labeled"]["city"]["label"], 255)
        grads, _, scalars = ours(state, batch)
        alone = {"labeled": {"camvid": batch["labeled"]["camvid"]}}
        assert_trees_close(grads, ours(state, alone)[0])
        assert float(scalars["supervised/city"]) == 0


def test_decoders_learn_from_their_own_domain_alone():
    with jax.enable_x64(True):
        state, batch = create(MODEL), random_batch(*CASES["equal_shapes"])
        grads, _, _ = ours(state, batch)
        assert largest(grads["decoder_sun"]) == 0  # takes no part in this batch
        other = random_batch(*CASES["equal_shapes"], seed=7)
        mixed = {"labeled": {"camvid": batch["labeled"]["camvid"], "city": other["labeled"]["city"]}}
        assert_trees_close(ours(state, mixed)[0]["decoder_camvid"], grads["decoder_camvid"])


# ---- The whole step ----


def test_a_step_applies_the_optimiser_to_the_gradient():
    """Plain SGD: p - 0.1 g."""
    tx = optax.sgd(0.1)
    with jax.enable_x64(True):
        state, batch = create(MODEL), random_batch(*CASES["equal_shapes"])
        state = state.replace(opt_state=tx.init(state.params))
        grads, stats, scalars = ours(state, batch)
        new, new_scalars = quick_jit(partial(train_step, model=MODEL, tx=tx, objective=OBJECTIVE))(state, batch)
        assert_trees_close(new.params, jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads), 1e-12)
        assert_trees_close(new.batch_stats, stats, 1e-12)
        assert_trees_close(new.label_embeddings, state.label_embeddings, 0)
        assert int(new.step) == 4 and new.step.dtype == jnp.int32
        norm = math.sqrt(sum(float((np.asarray(g) ** 2).sum()) for g in jax.tree.leaves(grads)))
        assert float(new_scalars["grad_norm"]) == pytest.approx(norm, rel=1e-12)
        assert set(new_scalars) == {*scalars, "grad_norm"}


def test_the_scalars_tell_every_pair_of_images_and_label_embeddings():
    with jax.enable_x64(True):
        _, _, scalars = ours(create(MODEL), random_batch(*CASES["equal_shapes"]))
    pairs = {f"{d}/{e}" for d in ("camvid", "city") for e in CLASSES}
    for name in ("entropy", "entropy_of_mean", "top_share"):
        assert {f"{name}/{pair}" for pair in pairs} <= set(scalars)
    assert all(np.shape(value) == () for value in scalars.values())
    np.testing.assert_allclose(scalars["entropy/city/city"], scalars["within/city"], rtol=1e-12)


@pytest.mark.parametrize("has_unlabeled", [False, True])
def test_the_compiled_step_on_a_mesh_is_the_same_function(has_unlabeled):
    """On bytes, as they come from the streams."""
    r = np.random.default_rng(4)
    batch = {
        "labeled": {
            d: {
                "image": r.integers(0, 256, (2, 16, 24, 3), dtype=np.uint8),
                "label": r.choice([0, 1, 2, 255], (2, 16, 24)).astype(np.uint8),
            }
            for d in ("camvid", "city")
        }
    }
    if has_unlabeled:
        batch["unlabeled"] = {"city": {"image": r.integers(0, 256, (2, 2, 16, 24, 3), dtype=np.uint8)}}
    tx, mesh = optax.sgd(0.1, momentum=0.9), create_mesh(jax.devices()[:1])
    with jax.enable_x64(True):
        state = create(MODEL)
        state = state.replace(opt_state=tx.init(state.params))
        grads, stats, want = ours(state, batch)
        params = jax.tree.map(lambda p, g: np.asarray(p - 0.1 * g), state.params, grads)
        step = jit_train_step(mesh, model=MODEL, tx=tx, objective=OBJECTIVE, has_unlabeled=has_unlabeled)
        new, scalars = step(state, batch)  # which may take the memory of `state`
        assert_trees_close(new.params, params)
        assert_trees_close(new.batch_stats, stats)
        assert_trees_close({name: scalars[name] for name in want}, want)
        assert int(new.step) == 4


# ---- Augmentation inside the step ----


AUGMENT = DeviceAugment(color_jitter=0.5, grey=0.3, blur=0.5, mix="classmix")


@pytest.mark.parametrize("unroll", [False, True])
def test_a_step_trains_on_the_batch_that_augment_makes_of_its_seed_and_number(unroll):
    with jax.enable_x64(True):
        state, batch = create(MODEL), random_batch(*CASES["all_different"])
        batch = jax.tree.map(lambda a: a / a.max() if jnp.issubdtype(a.dtype, jnp.floating) else a, batch)
        key = jax.random.fold_in(jax.random.key(9), 3)  # the state's step is 3
        augmented = jax.jit(augment, static_argnums=2)(batch, key, AUGMENT)
        assert largest(jax.tree.map(lambda a, b: a - b, augmented["unlabeled"], batch["unlabeled"])) > 0.1
        want = ours(state, augmented, unroll=unroll)
        function = partial(gradients, model=MODEL, objective=OBJECTIVE, augment=AUGMENT, seed=9, unroll=unroll)
        assert_trees_close(quick_jit(function)(state, batch)[:3], want, 1e-8)


def test_another_step_is_augmented_anew():
    with jax.enable_x64(True):
        state, batch = create(MODEL), random_batch(SAME, {})
        function = quick_jit(partial(gradients, model=MODEL, objective=OBJECTIVE, augment=AUGMENT))
        losses = [float(function(state.replace(step=jnp.asarray(s)), batch)[2]["loss"]) for s in (3, 4, 3)]
        assert losses[0] == losses[2] != losses[1]


# ---- Options beyond Eq. 5 ----

LABEL_CLASSES = {"camvid": (0, 2), "city": (0, 1, 1, 3, 4), "sun": (0, 1, 2, 3)}  # one class without, one with two rows


def with_rows(state):
    """The state with as many label embeddings as LABEL_CLASSES says."""
    return state.replace(label_embeddings={d: e[: len(LABEL_CLASSES[d])] for d, e in state.label_embeddings.items()})


def option_gradients(state, batch, objective):
    function = partial(gradients, model=MODEL, objective=objective, label_classes=LABEL_CLASSES)
    return quick_jit(function)(state, batch)


def labeled_embedding(params, state, data, domain, normalize):
    """E at the size of the labels and the labels, written out."""
    features, _ = encode(MODEL, params, state.batch_stats, data["image"])
    head = params["embedding"]
    embedding = features @ head["kernel"][0, 0] + head["bias"]
    if normalize:
        embedding = embedding / jnp.linalg.norm(embedding, axis=-1, keepdims=True)
    return enlarge(embedding, data["label"].shape[1:])


@pytest.mark.parametrize("normalize", [False, True])
def test_embedding_supervision_is_the_cross_entropy_of_the_classes(normalize):
    """Classes with two embeddings sum their probabilities; pixels of a class without one do not count."""
    objective = Objective(0.7, 0.4, 1.5, embedding_supervision=0.3, normalize_embedding=normalize)
    with jax.enable_x64(True):
        state, batch = with_rows(create(MODEL)), random_batch(SAME, {})

        def extra(params):
            total = 0.0
            for domain, data in batch["labeled"].items():
                rows = state.label_embeddings[domain]
                scores = 1.5 * labeled_embedding(params, state, data, domain, normalize) @ rows.T
                p = jnp.exp(scores) / jnp.exp(scores).sum(-1, keepdims=True)
                label, classes = np.asarray(data["label"]), LABEL_CLASSES[domain]
                own = sum(jnp.where(label == c, p[..., k], 0) for k, c in enumerate(classes))
                counts = np.isin(label, classes)
                total = total - jnp.log(own[counts]).mean()
            return total

        value, want = jax.value_and_grad(extra)(state.params)
        plain, got = (option_gradients(state, batch, o) for o in (Objective(0.7, 0.4, 1.5), objective))
        assert_trees_close(jax.tree.map(lambda a, b: a - b, got[0], plain[0]), jax.tree.map(lambda g: 0.3 * g, want))
        terms = [got[2][f"embedding_supervision/{d}"] for d in SAME]
        assert float(sum(terms)) == pytest.approx(float(value), rel=1e-10)
        assert float(got[2]["loss"] - plain[2]["loss"]) == pytest.approx(0.3 * float(value), rel=1e-9)


def test_diversity_subtracts_the_entropy_of_the_mean_prediction():
    labeled, unlabeled = CASES["equal_shapes"]
    with jax.enable_x64(True):
        state, batch = create(MODEL), random_batch(labeled, unlabeled)
        plain, diverse = (ours(state, batch, objective=Objective(0.7, 0.4, 1.0, diversity=d)) for d in (0.0, 0.25))
        for domain in unlabeled:
            means = {e: diverse[2][f"entropy_of_mean/{domain}/{e}"] for e in CLASSES}
            within = plain[2][f"within/{domain}"] - 0.25 * means[domain]
            cross = plain[2][f"cross/{domain}"] - 0.25 * sum(v for e, v in means.items() if e != domain)
            np.testing.assert_allclose(diverse[2][f"within/{domain}"], within, rtol=1e-12)
            np.testing.assert_allclose(diverse[2][f"cross/{domain}"], cross, rtol=1e-12)
        assert largest(jax.tree.map(lambda a, b: a - b, plain[0]["embedding"], diverse[0]["embedding"])) > 1e-6


def test_direct_entropy_is_that_of_the_decoders_and_needs_no_entropy_module():
    model = UniversalModel(OneLayer(), CLASSES)
    with jax.enable_x64(True):
        state, batch = create(model).replace(label_embeddings={}), random_batch(SAME, {"city": (1, 2, 16, 24)})
        function = partial(gradients, model=model, objective=Objective(0.7, 0.4, direct=True))
        _, _, scalars, _ = quick_jit(function)(state, batch)
        images = batch["unlabeled"]["city"]["image"][0]
        features, _ = encode(model, state.params, state.batch_stats, images)
        want = {}
        for domain in CLASSES:
            head = state.params[f"decoder_{domain}"]
            logits = enlarge(features, images.shape[1:3]) @ head["kernel"][0, 0] + head["bias"]
            want[domain] = float(mean_entropy(logits))
        assert float(scalars["within/city"]) == pytest.approx(want["city"], rel=1e-10)
        assert float(scalars["cross/city"]) == pytest.approx(want["camvid"] + want["sun"], rel=1e-10)


def test_theta_moves_the_label_embeddings_towards_the_labeled_batch():
    """Eq. 7 written out on pixels; classes without a pixel and domains without labeled images keep their rows."""
    classes = {"camvid": (0, 2), "city": (0, 1, 3, 4), "sun": (0, 1, 2, 3)}
    with jax.enable_x64(True):
        state, batch = create(MODEL), random_batch(SAME, {})
        state = state.replace(label_embeddings={d: e[: len(classes[d])] for d, e in state.label_embeddings.items()})
        label = batch["labeled"]["city"]["label"]
        batch["labeled"]["city"]["label"] = jnp.where(label == 3, 255, label)
        function = partial(gradients, model=MODEL, objective=Objective(0, 0, theta=0.6), label_classes=classes)
        grads, _, _, moved = quick_jit(function)(state, batch)
        for domain, data in batch["labeled"].items():
            embedding = labeled_embedding(state.params, state, data, domain, normalize=False)
            for row, c in enumerate(classes[domain]):
                old, pixels = state.label_embeddings[domain][row], embedding[data["label"] == c]
                want = 0.6 * old + 0.4 * pixels.mean(0) if len(pixels) else old
                np.testing.assert_allclose(moved[domain][row], want / jnp.linalg.norm(want), atol=1e-10)
        np.testing.assert_array_equal(moved["sun"], state.label_embeddings["sun"])
        assert largest(grads["embedding"]) == 0  # the average is no objective


def test_frozen_encoder_gets_no_gradient_and_keeps_its_statistics():
    with jax.enable_x64(True):
        state = create(MODEL)
        batch = random_batch({"camvid": (2, 9, 12)}, {})
        grads, stats, scalars, _ = gradients(state, batch, model=MODEL, objective=Objective(0, 0, frozen_encoder=True))
        assert all((g == 0).all() for g in jax.tree.leaves(grads["encoder"]))
        assert jnp.abs(grads["decoder_camvid"]["kernel"]).max() > 0
        jax.tree.map(np.testing.assert_array_equal, stats, state.batch_stats)
        # Its features are those of evaluation: the loss does not depend on which images share a batch.
        halves = []
        for i in range(2):
            half = {"labeled": {"camvid": {k: v[i : i + 1] for k, v in batch["labeled"]["camvid"].items()}}}
            n = (half["labeled"]["camvid"]["label"] != 255).sum()
            halves.append((n, gradients(state, half, model=MODEL, objective=Objective(0, 0, frozen_encoder=True))[2]))
        total = sum(n * s["loss"] for n, s in halves) / sum(n for n, _ in halves)
        np.testing.assert_allclose(total, scalars["loss"], rtol=1e-12)


def test_warm_up_weighs_the_entropy_terms_by_the_share_of_its_steps():
    """State of step 3, so the 4th step of 8: half of the terms; from the 8th on the whole."""
    with jax.enable_x64(True):
        state = create(MODEL)
        batch = random_batch({"camvid": (2, 8, 8)}, {"camvid": (2, 2, 8, 8), "city": (1, 2, 8, 8)})
        run = quick_jit(partial(gradients, model=MODEL, unroll=True), static_argnames="objective")
        none, whole, half = (run(state, batch, objective=o) for o in (Objective(0, 0), OBJECTIVE, warm(8)))
        for a, b, c in zip(*(jax.tree.leaves((x[0], x[2]["loss"])) for x in (none, whole, half)), strict=True):
            np.testing.assert_allclose(c, (a + b) / 2, rtol=1e-9, atol=1e-12)
        later = dataclasses.replace(state, step=jnp.asarray(20, jnp.int32))
        np.testing.assert_allclose(run(later, batch, objective=warm(8))[2]["loss"], whole[2]["loss"], rtol=1e-12)


def warm(steps):
    return dataclasses.replace(OBJECTIVE, warmup=steps)


def test_gradient_norms_at_the_encoder_are_told_apart():
    with jax.enable_x64(True):
        state = create(MODEL)
        batch = random_batch({"camvid": (2, 8, 8)}, {"camvid": (2, 2, 8, 8)})
        run = quick_jit(partial(gradients, model=MODEL, unroll=True), static_argnames="objective")
        none, whole = (run(state, batch, objective=o) for o in (Objective(0, 0), OBJECTIVE))
        scalars, squares = whole[2], lambda tree: sum((x**2).sum() for x in jax.tree.leaves(tree))
        difference = jax.tree.map(jnp.subtract, whole[0]["encoder"], none[0]["encoder"])
        np.testing.assert_allclose(scalars["encoder_grad_norm/supervised"] ** 2, squares(none[0]["encoder"]), rtol=1e-9)
        np.testing.assert_allclose(scalars["encoder_grad_norm/entropy"] ** 2, squares(difference), rtol=1e-9)
        assert none[2]["encoder_grad_norm/entropy"] == 0
