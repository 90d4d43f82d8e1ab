"""Accumulation over terms and micro-batches, with losses whose gradients are seen at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from usss_jax.engine.accumulate import Term, accumulate

PARAMS = {"encoder": jnp.asarray([2.0, -1.0]), "head": jnp.asarray(3.0)}


def squares(params, stats, x):
    """(w * x)^2 summed, whose gradient is 2 w x^2; the statistics remember the order of passes as decimal digits."""
    loss = ((params["encoder"] * x) ** 2).sum()
    return loss, (10 * stats + x.sum(), {"size": x.sum()}, {"seen": x + 1})


def products(params, stats, batch, u):
    """Sum over domains of head * mean(x), for micro-batch u."""
    total = sum(x.mean() for x in batch.values())
    scalars = {f"mean/{domain}": x.mean() for domain, x in batch.items()} | {f"number/{d}": 1.0 * u for d in batch}
    return params["head"] * total, (10 * stats + total, scalars, None)


def both(unroll, **batches):
    terms = [
        Term("plain", squares, batches.get("plain")),
        Term("passes", products, batches.get("passes"), micro_batches=True, weight=0.5),
    ]
    run = jax.jit(lambda params, stats: vars(accumulate(terms, params, stats, unroll=unroll)))
    return jax.tree.map(np.asarray, run(PARAMS, jnp.asarray(0.0)))


X = jnp.asarray([1.0, 3.0])
EQUAL = {"a": jnp.asarray([[1.0, 1.0], [2.0, 2.0]]), "b": jnp.asarray([[3.0, 3.0], [4.0, 4.0]])}
OTHER = {**EQUAL, "c": jnp.asarray([[7.0], [8.0], [9.0]])}


@pytest.mark.parametrize("unroll", [False, True], ids=["scan", "unrolled"])
def test_terms_are_summed_and_their_micro_batches_averaged(unroll):
    """w = (2, -1) and x = (1, 3): 4 + 9, gradient (4, -18); head 3 by half of the means 1.5 + 3.5 + 8 = 13."""
    found = both(unroll, plain=X, passes=OTHER)
    assert found["loss"] == 13 + 0.5 * 3 * 13
    np.testing.assert_array_equal(found["gradients"]["encoder"], [4, -18])
    assert found["gradients"]["head"] == 0.5 * 13
    told = {"size": 4, "mean/a": 1.5, "mean/b": 3.5, "mean/c": 8, "number/a": 0.5, "number/b": 0.5, "number/c": 1}
    norms = {"encoder_grad_norm/plain": np.hypot(4, 18), "encoder_grad_norm/passes": 0}
    assert {name: float(value) for name, value in found["scalars"].items()} == pytest.approx(told | norms)


@pytest.mark.parametrize("unroll", [False, True], ids=["scan", "unrolled"])
def test_passes_follow_the_terms_and_domains_of_equal_shapes_share_them(unroll):
    """Digits: 4; a and b together, 1 + 3 and 2 + 4; then c alone, 7, 8 and 9."""
    assert both(unroll, plain=X, passes=OTHER)["batch_stats"] == 446789


def test_a_term_without_a_batch_is_left_out():
    found = both(False, plain=X, passes={})
    assert set(found["scalars"]) == {"size", "encoder_grad_norm/plain"} and found["loss"] == 13
    assert found["gradients"]["head"] == 0 and found["batch_stats"] == 4


def test_aux_is_that_of_the_terms_without_micro_batches():
    aux = both(False, plain=X, passes=EQUAL)["aux"]
    assert set(aux) == {"plain"}
    np.testing.assert_array_equal(aux["plain"]["seen"], [2, 4])


def test_a_weight_may_depend_on_the_step():
    """An array as weight scales loss and gradient of either kind of term."""
    terms = [Term("plain", squares, X, weight=jnp.asarray(0.25)), Term("more", squares, X, weight=1.0)]
    found = accumulate(terms, PARAMS, jnp.asarray(0.0), unroll=True)
    assert float(found.loss) == 1.25 * 13
    np.testing.assert_array_equal(found.gradients["encoder"], 1.25 * np.asarray([4, -18]))
