"""Similarities with label embeddings, the within and cross terms, and what they report."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from usss_jax.objectives.entropy import entropy_terms, similarities

LOG3 = math.log(3)


@partial(jax.jit, static_argnames=("own", "mean"))
def terms_of(embedding, own, embeddings, mean, scale=1.0):
    return entropy_terms({d: similarities(embedding, rows, scale) for d, rows in embeddings.items()}, own, mean)


def same_size(function, scores):
    return function(scores).mean()


def upsampling(size):
    """Any linear upsampling: random weights [H, h], [W, w] with rows that sum to one."""
    r = np.random.default_rng(9)
    return tuple((m := r.random(s)) / m.sum(1, keepdims=True) for s in ((size[0], 3), (size[1], 4)))


def enlarged(function, x, rows, columns):
    return function(jnp.einsum("Hh,Ww,bhwc->bHWc", rows, columns, x)).mean()


def mean_entropy(logits):
    """NumPy, mean over all pixels."""
    e = np.exp(logits - logits.max(-1, keepdims=True))
    p = e / e.sum(-1, keepdims=True)
    return -(p * np.log(p)).sum(-1).mean()


def random_case(sizes=(("a", 3), ("b", 5), ("c", 4)), dim=6):
    r = np.random.default_rng(0)
    embeddings = {}
    for domain, n in sizes:
        e = r.standard_normal((n, dim))
        embeddings[domain] = e / np.linalg.norm(e, axis=1, keepdims=True)
    return 2 * r.standard_normal((2, 3, 4, dim)), embeddings


def test_similarities_are_dot_products():
    embedding = jnp.array([[[[1.0, 2.0], [0.0, -3.0]]]])
    rows = jnp.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    want = [[[[1.0, 2.2, 2.0], [0.0, -2.4, -3.0]]]]
    np.testing.assert_allclose(similarities(embedding, rows), want, rtol=1e-6)  # the embedding is not normalised
    np.testing.assert_allclose(similarities(embedding, rows, 0.5), np.multiply(want, 0.5), rtol=1e-6)


def test_within_and_cross_entropy_by_hand():
    """Similarities (0, ln 3) with the own embeddings and (0, 0, 0, 0) with the others: 0.562335 and ln 4."""
    embedding = jnp.array([[[[LOG3, 0.0]]]])
    embeddings = {"other": jnp.tile(jnp.array([[0.0, 1.0]]), (4, 1)), "own": jnp.array([[0.0, 1.0], [1.0, 0.0]])}
    within, cross, _ = terms_of(embedding, "own", embeddings, same_size)
    assert float(within) == pytest.approx(0.5623351446, rel=1e-6)
    assert float(cross) == pytest.approx(math.log(4), rel=1e-6)


@pytest.mark.parametrize("own", ["a", "b", "c"])
def test_the_cross_term_is_the_sum_over_the_other_domains(own):
    """Upsampled features first, as the paper defines it, then similarities, entropy and its mean over pixels."""
    embedding, embeddings = random_case()
    rows, columns = upsampling((11, 9))
    full = np.einsum("Hh,Ww,bhwc->bHWc", rows, columns, embedding)
    want = {d: mean_entropy(full @ e.T) for d, e in embeddings.items()}
    with jax.enable_x64(True):
        resize = partial(enlarged, rows=rows, columns=columns)
        within, cross, watch = terms_of(jnp.asarray(embedding), own, embeddings, resize)
    np.testing.assert_allclose(within, want[own], rtol=1e-12)
    np.testing.assert_allclose(cross, sum(v for d, v in want.items() if d != own), rtol=1e-12)
    for domain, value in want.items():
        np.testing.assert_allclose(watch[domain]["entropy"], value, rtol=1e-12)


def test_a_domain_without_label_embeddings_has_the_cross_term_with_every_other_alone():
    embedding, embeddings = random_case()
    with jax.enable_x64(True):
        within, cross, watch = terms_of(jnp.asarray(embedding), "unlabeled", embeddings, same_size)
    assert float(within) == 0 and set(watch) == {"a", "b", "c"}
    np.testing.assert_allclose(cross, sum(mean_entropy(embedding @ e.T) for e in embeddings.values()), rtol=1e-12)


def test_with_one_domain_the_cross_term_is_zero():
    embedding, embeddings = random_case(sizes=[("a", 3)])
    within, cross, watch = terms_of(jnp.asarray(embedding), "a", embeddings, same_size)
    assert float(cross) == 0.0 and float(within) > 0.1 and set(watch) == {"a"}


def test_several_embeddings_of_a_class_all_enter_the_softmax():
    """Three rows for each of two classes, all alike: ln 6, not ln 2."""
    embeddings = {"a": jnp.tile(jnp.array([[0.6, 0.8]]), (6, 1))}
    embedding = jnp.asarray(np.random.default_rng(1).standard_normal((1, 2, 2, 2)))
    within, _, _ = terms_of(embedding, "a", embeddings, same_size)
    assert float(within) == pytest.approx(math.log(6), rel=1e-6)


def test_label_embeddings_get_no_gradient_but_the_features_do():
    embedding, embeddings = random_case()

    def loss(embedding, embeddings):
        within, cross, watch = terms_of(embedding, "b", embeddings, same_size)
        return within + cross + sum(v["entropy"] for v in watch.values())

    with jax.enable_x64(True):
        grad, constants = jax.jit(jax.grad(loss, (0, 1)))(embedding, embeddings)
        for value in constants.values():
            np.testing.assert_array_equal(value, np.zeros(value.shape))
        step = np.zeros_like(embedding)
        for index in ((0, 0, 0, 0), (1, 2, 3, 5)):
            step[:], step[index] = 0, 1e-5
            ends = [float(loss(jnp.asarray(embedding + s), embeddings)) for s in (step, -step)]
            np.testing.assert_allclose(grad[index], (ends[0] - ends[1]) / 2e-5, rtol=1e-6)


def test_what_is_watched_shows_how_cells_spread_over_the_embeddings():
    """Four cells, certain of embeddings 2, 2, 2, 0 of three: mean prediction (1/4, 0, 3/4)."""
    embedding = 1000 * jnp.eye(3)[jnp.array([[[2, 2], [2, 0]]])]
    _, _, watch = terms_of(embedding, "a", {"a": jnp.eye(3), "b": jnp.ones((2, 3))}, same_size)
    assert {n: float(v) for n, v in watch["a"].items()} == pytest.approx(
        {"entropy": 0.0, "entropy_of_mean": 0.5623351446, "top_share": 0.75}, rel=1e-6
    )
    assert float(watch["b"]["entropy_of_mean"]) == pytest.approx(math.log(2), rel=1e-6)


def test_a_collapse_shows_as_a_share_of_one_and_no_entropy_of_the_mean():
    embedding = jnp.broadcast_to(jnp.array([0.0, 500.0]), (2, 3, 3, 2))
    _, _, watch = terms_of(embedding, "a", {"a": jnp.eye(2)}, same_size)
    assert {n: float(v) for n, v in watch["a"].items()} == {"entropy": 0.0, "entropy_of_mean": 0.0, "top_share": 1.0}


def test_watching_does_not_change_the_gradient():
    embedding, embeddings = random_case()

    def watched(embedding):
        watch = terms_of(embedding, "a", embeddings, same_size)[2]
        return sum(v["entropy_of_mean"] + v["top_share"] for v in watch.values())

    np.testing.assert_array_equal(jax.jit(jax.grad(watched))(embedding), np.zeros(embedding.shape))


def test_the_scale_is_an_inverse_temperature():
    embedding, embeddings = random_case()
    values = {}
    with jax.enable_x64(True):
        for scale in (0.0, 0.5, 1.0, 1000.0):
            within, cross, _ = terms_of(jnp.asarray(embedding), "a", embeddings, same_size, scale)
            values[scale] = float(within)
            want = sum(mean_entropy(scale * embedding @ embeddings[d].T + 1e-300) for d in "bc") if scale < 2 else None
            if want is not None:
                assert float(cross) == pytest.approx(want, rel=1e-12)
    assert values[0.0] == pytest.approx(math.log(3), rel=1e-12)
    assert values[0.0] > values[0.5] > values[1.0] > values[1000.0] >= 0
    assert values[1000.0] < 0.02


def test_float32_embeddings_serve_wider_features():
    embedding, embeddings = random_case()
    with jax.enable_x64(True):
        narrow = {d: jnp.asarray(e, jnp.float32) for d, e in embeddings.items()}
        within, cross, _ = terms_of(jnp.asarray(embedding), "a", narrow, same_size)
    assert within.dtype == cross.dtype == jnp.float64
