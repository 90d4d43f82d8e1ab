"""Depthwise convolution by shifted products against XLA's grouped convolution."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from usss_jax.models.depthwise import depthwise, plain

CASES = [
    (kernel, stride, dilation, padding, size)
    for kernel, stride, dilation in itertools.product((3, 5), (1, 2, 3), (1, 2))
    for padding, size in ((((1, 2), (0, 3)), (13, 12)), (((4, 4), (4, 4)), (10, 11)))
]


@pytest.mark.parametrize("kernel, stride, dilation, padding, size", CASES)
@pytest.mark.slow
def test_value_and_both_gradients_are_exact(kernel, stride, dilation, padding, size):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, k = jnp.asarray(rng.normal(size=(2, *size, 3))), jnp.asarray(rng.normal(size=(kernel, kernel, 1, 3)))

        def ours(x, k):
            return depthwise(x, k, stride, dilation, padding)

        def xla(x, k):
            return plain(x, k, stride=stride, dilation=dilation, padding=padding, precision=None)

        weights = jnp.asarray(rng.normal(size=jax.eval_shape(xla, x, k).shape))
        for function, expected in (
            (ours, xla),
            *((jax.grad(lambda x, k, f=f: (f(x, k) * weights).sum(), (0, 1)) for f in (ours, xla)),),
        ):
            found, wanted = jax.jit(function)(x, k), jax.jit(expected)(x, k)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), found, wanted)


def test_on_an_accelerator_it_is_one_grouped_convolution():
    x, k = jnp.zeros((1, 8, 8, 4)), jnp.zeros((3, 3, 1, 4))
    lowered = (
        jax.jit(lambda x, k: depthwise(x, k, 1, 1, ((1, 1), (1, 1)))).trace(x, k).lower(lowering_platforms=("cuda",))
    )
    assert "feature_group_count = 4" in lowered.as_text()
