"""A teacher across domains, three of them: pasted parts, other decoders, similarities, moved label embeddings.

The loss is written out pixel by pixel on the views that the step sees, whose own test is consistency_test.py.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from tiny_models import OneLayer, assert_trees_close, encode, enlarge, largest

from usss_jax.config import checked, default_config
from usss_jax.data.augment_device import DeviceAugment, part_key
from usss_jax.engine.job import Fit
from usss_jax.engine.state import TrainState
from usss_jax.methods.opening import open_run
from usss_jax.methods.supervised import step_key
from usss_jax.methods.usss import consistency, terms
from usss_jax.methods.usss.plan import plan
from usss_jax.methods.usss.teaching import Similarity, create_teaching
from usss_jax.methods.usss.views import strong_view
from usss_jax.models.universal import UniversalModel

pytestmark = pytest.mark.usefixtures("scanned_teacher")

CLASSES = {"a": 3, "b": 4, "c": 5}
SIZES = {"a": (16, 24), "b": (16, 24), "c": (24, 16)}
PASSES = {"a": 2, "b": 2, "c": 1}
BATCH = {"a": 4, "b": 4, "c": 3}
PARTNERS = {"strong0": {"a": "b", "b": "c", "c": "a"}, "strong1": {"a": "c", "b": "a", "c": "b"}}
WEIGHTS = {"a": 1.0, "b": 0.3, "c": 2.0}
LIMITS = {"a": 0.45, "b": 0.35, "c": 0.3}
NAMES = {d: [f"{d}{i}" for i in range(n)] for d, n in CLASSES.items()}
ROWS = {"a": (0, 1, 2), "b": (0, 2, 3), "c": (0, 1, 2, 3, 4)}  # b1 has no label embedding
MODEL = UniversalModel(OneLayer(), CLASSES, embed_dim=5)
PLAIN = dataclasses.replace(
    create_teaching(checked(default_config()), list(CLASSES)), strong=DeviceAugment(mix="cutmix"), threshold=LIMITS
)
OBJECTIVE = dataclasses.replace(
    terms.create_objective(default_config().usss), embedding_supervision=0.6, similarity_scale=2.0
)


def state_of():
    """A student, and another network as its teacher."""
    one, two = (MODEL.init(jax.random.key(i), np.zeros((1, 8, 8, 3), np.float32)) for i in (0, 1))
    two = jax.tree.map(lambda a: 2 * a, two)  # not its own initial statistics, and confident
    r = np.random.default_rng(1)
    rows = {d: r.standard_normal((len(c), 5)).astype(np.float32) for d, c in ROWS.items()}
    rows = {d: jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True)) for d, x in rows.items()}
    extra = {"teacher": two, "label_embeddings": rows}
    return TrainState(jnp.asarray(3, jnp.int32), one["params"], one["batch_stats"], (), extra)


def batch_of():
    """Images with padding; labels with ignored pixels, and no pixel of class a2."""
    r = np.random.default_rng(0)
    batch = {"labeled": {}, "unlabeled": {}}
    for d, n in CLASSES.items():
        images = r.random((PASSES[d], BATCH[d], *SIZES[d], 3), np.float32)
        valid = (np.arange(SIZES[d][1]) < r.integers(10, 30, (PASSES[d], BATCH[d], 1, 1))) * np.ones((SIZES[d][0], 1))
        label = r.integers(0, 2 if d == "a" else n, (2, *SIZES[d])).astype(np.uint8)
        label[:, :3] = 255
        batch["labeled"][d] = {"image": jnp.asarray(r.random((2, *SIZES[d], 3), np.float32)), "label": label}
        batch["unlabeled"][d] = {"image": jnp.asarray(images), "valid": jnp.asarray(valid, jnp.uint8)}
    return jax.tree.map(jnp.asarray, batch)


def step_of(state, *, similar=None, **changed):
    """The jitted step (state, batch, weights) -> gradients, scalars, extra with these settings of a teacher."""
    compute = partial(
        consistency.compute,
        model=MODEL,
        augment=DeviceAugment(),
        seed=0,
        class_names=NAMES,
        similarity=similar and Similarity(similar, ROWS, state.extra["label_embeddings"]),
    )

    @jax.jit
    def step(state, batch, weight):
        found = compute(state, batch, teaching=dataclasses.replace(PLAIN, weight=weight, **changed))
        return found.gradients, found.scalars, found.extra

    return step


# ---- One step, written out ----


def decoded(params, domain, features, size):
    head = params[f"decoder_{domain}"]
    return enlarge(features @ head["kernel"][0, 0] + head["bias"], size)


def similar(params, rows, features, size):
    head = params["embedding"]
    embedding = features @ head["kernel"][0, 0] + head["bias"]
    return enlarge(OBJECTIVE.similarity_scale * embedding @ rows.T, size)


def probabilities(scores):
    return np.asarray(jax.nn.softmax(scores))


def taught(state, images, domain, size):
    """Label and confidence of every pixel by the teacher, and its features."""
    teacher = state.extra["teacher"]
    features = MODEL.apply(teacher, images, method="encode")
    p = probabilities(decoded(teacher["params"], domain, features, size))
    return p, features


def maps_of(state, batch, d, u):
    """A micro-batch and what the teacher says about it."""
    part = {k: v[u] for k, v in batch["unlabeled"][d].items()}
    p, _ = taught(state, part["image"], d, SIZES[d])
    label = jnp.asarray(np.where(part["valid"] != 0, p.argmax(-1), 255), jnp.uint8)
    return {**part, "label": label, "confidence": jnp.asarray(p.max(-1))}


def source_of(state, batch, other, u, across):
    if across == "none":
        return None
    if across == "unlabeled":
        return maps_of(state, batch, other, u % PASSES[other])
    image, label = batch["labeled"][other]["image"], batch["labeled"][other]["label"]
    return {"image": image, "label": label, "confidence": jnp.ones(label.shape), "valid": label != 255}


def own_of_pixel(array, rolled):
    """Values of every pixel of an image into which the previous one was mixed."""
    return np.where(np.asarray(rolled)[..., None], np.roll(array, 1, axis=0), array)


def of_labels(params, domain, features, maps, over):
    """Sum of the cross-entropy with hard labels, and number of pixels of the mean."""
    label, inside = np.asarray(maps["label"]), (np.asarray(maps["valid"]) != 0) & (np.asarray(maps["label"]) != 255)
    keep = inside & (np.asarray(maps["confidence"]) >= LIMITS[domain])
    log_q = jax.nn.log_softmax(decoded(params, domain, features, label.shape[1:]))
    picked = jnp.take_along_axis(log_q, jnp.asarray(np.where(inside, label, 0), jnp.int32)[..., None], -1)[..., 0]
    return -(picked * keep).sum(), (keep if over == "kept" else inside).sum()


def of_view(params, state, batch, view, d, u, teaching):
    """The loss of one view of the u-th micro-batch of a domain."""
    maps, size, teacher = maps_of(state, batch, d, u), SIZES[d], state.extra["teacher"]["params"]
    key = jax.random.fold_in(part_key(step_key(state, 0), view, d), u)
    other = PARTNERS[view][d]
    source = source_of(state, batch, other, u, teaching.across)
    seen, rolled, pasted = strong_view(maps, key, teaching.strong, source)
    features, _ = encode(MODEL, params, state.batch_stats, seen["image"])
    _, of_teacher = taught(state, maps["image"], d, size)
    inside = np.asarray(seen["valid"]) != 0
    if teaching.targets == "soft":
        keep = inside & (np.asarray(seen["label"]) != 255) & (np.asarray(seen["confidence"]) >= LIMITS[d])
        p = own_of_pixel(probabilities(decoded(teacher, d, of_teacher, size)), rolled)
        total = -(keep[..., None] * p * jax.nn.log_softmax(decoded(params, d, features, size))).sum()
        count = (keep if teaching.mean_over == "kept" else inside).sum()
    else:
        total, count = of_labels(params, d, features, seen, teaching.mean_over)
    if pasted is not None:
        of_pasted, pixels = of_labels(params, other, features, pasted, teaching.mean_over)
        total, count = total + of_pasted, count + pixels
    loss = total / count
    for o in (o for o in CLASSES if o != d):
        rows = state.extra["label_embeddings"][o]
        for weight, scores in (
            (teaching.cross_weight, lambda of, x, o=o: decoded(of, o, x, size)),
            (teaching.similarity_weight, lambda of, x, rows=rows: similar(of, rows, x, size)),
        ):
            if weight:
                p = own_of_pixel(probabilities(scores(teacher, of_teacher)), rolled)
                log_q = jax.nn.log_softmax(scores(params, features))
                loss = loss - weight * (inside[..., None] * p * log_q).sum() / inside.sum()
    return loss


def written_out(params, state, batch, teaching):
    return sum(
        weight * WEIGHTS[d] * of_view(params, state, batch, view, d, u, teaching) / PASSES[d]
        for view, weight in teaching.view_weights.items()
        for d in CLASSES
        for u in range(PASSES[d])
    )


SETTINGS = {
    "unlabeled": {"across": "unlabeled", "views": 2},
    "labeled": {"across": "labeled", "mean_over": "kept", "targets": "soft", "cross_weight": 0.7},
    "similarities": {"similarity_weight": 0.8, "across": "unlabeled", "strong": DeviceAugment(mix="classmix")},
}


@pytest.mark.parametrize("name", ["unlabeled", "similarities", pytest.param("labeled", marks=pytest.mark.nightly)])
def test_a_step_adds_the_loss_written_out_for_three_domains(name):
    state, batch, teaching = state_of(), batch_of(), dataclasses.replace(PLAIN, **SETTINGS[name])
    objective = OBJECTIVE if teaching.similarity_weight else None
    step = step_of(state, similar=objective, **SETTINGS[name])
    got, scalars, extra = step(state, batch, WEIGHTS)
    without, plain, _ = step(state, batch, dict.fromkeys(CLASSES, 0.0))
    value, want = jax.value_and_grad(written_out)(state.params, state, batch, teaching)
    assert float(scalars["loss"] - plain["loss"]) == pytest.approx(float(value), rel=1e-4)
    assert_trees_close(jax.tree.map(np.subtract, got, without), want, 3e-5)
    assert largest(want["encoder"]) > 1e-2
    told = {name.rpartition("/")[0] for name in scalars if name.startswith("pasted/")}
    assert told == {f"pasted/{d}/{o}" for v in teaching.view_weights for d, o in PARTNERS[v].items()}
    assert all(float(scalars[f"{name}/strong0"]) > 0 for name in told if f"{name}/strong0" in scalars)
    assert (largest(want["embedding"]) > 1e-2) == bool(objective)
    assert_trees_close(extra["label_embeddings"], state.extra["label_embeddings"], 0)  # theta is 1


@pytest.fixture(scope="module")
def moving():
    """State and batch, scalars and extra of a step whose teacher moves the label embeddings."""
    state, batch = state_of(), batch_of()
    step = step_of(state, similar=dataclasses.replace(OBJECTIVE, theta=0.75), similarity_weight=1.0)
    return state, batch, *step(state, batch, WEIGHTS)[1:]


def test_labels_supervise_the_similarities_and_the_teachers_spread_is_watched(moving):
    state, batch, scalars, _ = moving
    for d in CLASSES:
        image, label = batch["labeled"][d]["image"], np.asarray(batch["labeled"][d]["label"])
        features, _ = encode(MODEL, state.params, state.batch_stats, image)
        log_q = jax.nn.log_softmax(similar(state.params, state.extra["label_embeddings"][d], features, SIZES[d]))
        picked = [np.asarray(log_q)[label == c, i] for i, c in enumerate(ROWS[d])]
        want = -np.concatenate(picked).mean()
        assert float(scalars[f"embedding_supervision/{d}"]) == pytest.approx(want, rel=1e-4)
        for other in (o for o in CLASSES if o != d):
            shares = []
            for images in batch["unlabeled"][d]["image"]:
                features = MODEL.apply(state.extra["teacher"], images, method="encode")
                head, rows = state.extra["teacher"]["params"]["embedding"], state.extra["label_embeddings"][other]
                nearest = np.asarray((features @ head["kernel"][0, 0] + head["bias"]) @ rows.T).argmax(-1)
                shares.append(np.bincount(nearest.ravel()).max() / nearest.size)
            assert float(scalars[f"top_share/{d}/{other}"]) == pytest.approx(np.mean(shares), abs=1e-6)


def test_the_teachers_features_of_labeled_pixels_move_the_label_embeddings(moving):
    """theta c + (1 - theta) mean, of unit length; a2 has no pixel, and the student no part in it."""
    state, batch, scalars, extra = moving
    teacher = state.extra["teacher"]
    for d in CLASSES:
        image, label = batch["labeled"][d]["image"], np.asarray(batch["labeled"][d]["label"])
        features = MODEL.apply(teacher, image, method="encode")
        head = teacher["params"]["embedding"]
        embedding = np.asarray(enlarge(features @ head["kernel"][0, 0] + head["bias"], SIZES[d]))
        before = np.asarray(state.extra["label_embeddings"][d])
        want = before.copy()
        for i, c in enumerate(ROWS[d]):
            if (label == c).any():
                row = 0.75 * before[i] + 0.25 * embedding[label == c].mean(0)
                want[i] = row / np.linalg.norm(row)
        np.testing.assert_allclose(extra["label_embeddings"][d], want, atol=2e-6)
        distances = np.linalg.norm(want - before, axis=1)
        assert float(scalars[f"moved/{d}"]) == pytest.approx(distances.mean(), abs=2e-6)
        each = [float(scalars[f"moved/{d}/{NAMES[d][c]}"]) for c in ROWS[d]]
        np.testing.assert_allclose(each, distances, atol=2e-6)
        assert distances.max() > 0.01
    assert distances.min() > 0 and float(scalars["moved/a/a2"]) == 0


# ---- Jobs ----


def test_a_run_with_similarities_has_the_pass_of_the_label_embeddings_and_an_entropy_module(toy_encoder, tmp_path):
    given = {"teacher.similarity_weight": 0.5, "usss.embedding_supervision": 1.0, "usss.label_embeddings": "prototypes"}
    config = toy.config(variants=["teacher"], **given)
    jobs = plan(open_run(config, tmp_path), tmp_path)
    names = [next(jobs) for _ in range(3)]
    assert [job.name for job in names[:2]] == ["single_city_street", "single_town_street"]
    assert not isinstance(names[2], Fit) and names[2].path.name == "label_embeddings.npz"
    assert all(isinstance(job, Fit) for job in plan(open_run(toy.config(variants=["teacher"]), tmp_path), tmp_path))
