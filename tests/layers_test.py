"""Batch norm in groups: NumPy's, separate passes in order, and the precision of its statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from usss_jax.models.layers import GroupedBatchNorm


def norm_variables(channels, seed=0):
    r = np.random.default_rng(seed)
    params = {"scale": r.uniform(0.5, 2, channels), "bias": r.standard_normal(channels)}
    return {"params": params, "batch_stats": {"mean": r.standard_normal(channels), "var": r.uniform(0.5, 2, channels)}}


def normalise(variables, x, groups=1, train=True):
    """Output and new statistics in float64."""
    with jax.enable_x64(True):
        variables = jax.tree.map(jnp.asarray, variables)
        module, x = GroupedBatchNorm(groups), jnp.asarray(x)
        if not train:
            return module.apply(variables, x, train=False)
        y, updates = module.apply(variables, x, train=True, mutable=["batch_stats"])
        return y, jax.tree.map(np.asarray, updates["batch_stats"])


def numpy_norm(variables, x):
    """One training pass of PyTorch's BatchNorm2d: output and new running statistics."""
    mean, var, n = x.mean((0, 1, 2)), x.var((0, 1, 2)), x[..., 0].size
    y = (x - mean) / np.sqrt(var + 1e-5) * variables["params"]["scale"] + variables["params"]["bias"]
    old = variables["batch_stats"]
    return y, {"mean": 0.9 * old["mean"] + 0.1 * mean, "var": 0.9 * old["var"] + 0.1 * var * n / (n - 1)}


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.slow
def test_interleaved_groups_equal_separate_passes_in_order(groups):
    r, variables = np.random.default_rng(1), norm_variables(4)
    batches = [r.standard_normal((2, 3, 5, 4)) * (g + 1) + 3 * g for g in range(groups)]
    x = np.stack([batches[i % groups][i // groups] for i in range(2 * groups)])  # example i: group i % groups
    y, stats = normalise(variables, x, groups)

    running = variables
    for g, batch in enumerate(batches):
        want, new = numpy_norm(running, batch)
        running = {"params": variables["params"], "batch_stats": new}
        np.testing.assert_allclose(y[g::groups], want, atol=1e-12)
    for name in ("mean", "var"):
        np.testing.assert_allclose(stats[name], running["batch_stats"][name], rtol=1e-12)


def test_the_order_of_the_groups_matters_for_the_running_statistics():
    """0.9 (0.9 m + 0.1 a) + 0.1 b: with m = 0 and means 10 and 20 it is 2.9, the other way round 2.8."""
    variables = {
        "params": {"scale": np.ones(1), "bias": np.zeros(1)},
        "batch_stats": {"mean": np.zeros(1), "var": np.ones(1)},
    }
    noise = np.array([-1.0, 1.0]).reshape(2, 1, 1, 1)
    a, b = 10 + noise, 20 + noise
    for first, second, want in ((a, b, 2.9), (b, a, 2.8)):
        _, stats = normalise(variables, np.stack([first, second], axis=1).reshape(4, 1, 1, 1), groups=2)
        np.testing.assert_allclose(stats["mean"], [want], rtol=1e-12)
        # the batch variance is 1, unbiased (2 values) 2: 0.81 + 0.09 * 2 + 0.1 * 2
        np.testing.assert_allclose(stats["var"], [1.19], rtol=1e-12)


def test_evaluation_uses_the_running_statistics_alone():
    variables, x = norm_variables(3), np.random.default_rng(2).standard_normal((4, 2, 2, 3)) + 5
    params, stats = variables["params"], variables["batch_stats"]
    want = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params["scale"] + params["bias"]
    np.testing.assert_allclose(normalise(variables, x, train=False), want, atol=1e-12)
    np.testing.assert_allclose(normalise(variables, x[:1], train=False), want[:1], atol=1e-12)


def test_a_single_value_per_channel_stays_finite():
    y, stats = normalise(norm_variables(2), np.full((1, 1, 1, 2), 7.0))
    assert np.isfinite(y).all() and np.isfinite(stats["var"]).all()
    np.testing.assert_allclose(stats["var"], 0.9 * norm_variables(2)["batch_stats"]["var"], rtol=1e-12)


def test_initialisation_leaves_the_running_statistics_at_zero_and_one():
    x = np.random.default_rng(0).standard_normal((4, 3, 3, 2)).astype(np.float32) + 9
    stats = GroupedBatchNorm().init(jax.random.key(0), x, train=True)["batch_stats"]
    np.testing.assert_array_equal(stats["mean"], np.zeros(2))
    np.testing.assert_array_equal(stats["var"], np.ones(2))


def test_statistics_are_float32_although_activations_are_bfloat16():
    variables = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), norm_variables(2))
    x = np.random.default_rng(3).normal([30, -3], 1, (2, 16, 16, 2)).astype(jnp.bfloat16)
    y, updates = GroupedBatchNorm().apply(variables, jnp.asarray(x), train=True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    want_y, want = numpy_norm(jax.tree.map(np.float64, variables), x.astype(np.float64))
    for name in ("mean", "var"):
        assert updates["batch_stats"][name].dtype == jnp.float32
        np.testing.assert_allclose(updates["batch_stats"][name], want[name], rtol=1e-5)
    np.testing.assert_allclose(np.asarray(y, np.float64), want_y, rtol=2**-8, atol=1e-5)  # rounded once, at the end
