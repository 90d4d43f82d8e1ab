"""The rewritten convolutions against XLA's own: values and gradients, in float64 and in float32."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from usss_jax.models import convolution
from usss_jax.models.convolution import convolve, several_columns, winograd


def plain(x, kernel, stride=1, dilation=1):
    """XLA's convolution, which drn_test.py compares with NumPy."""
    return convolution.plain(x, kernel, stride=stride, dilation=dilation, precision=None)


def random_arrays(size, side, inputs, outputs, dtype=np.float64):
    r = np.random.default_rng(0)
    x, kernel = r.standard_normal((2, *size, inputs)), r.standard_normal((side, side, inputs, outputs))
    return x.astype(dtype), kernel.astype(dtype)


def assert_same(function, reference, x, kernel, rtol=1e-12):
    """Values and both gradients, relative to the largest."""

    def value_and_gradients(f, x, kernel, cotangent):  # arguments, since XLA computes with constants while it compiles
        y, pull_back = jax.vjp(f, x, kernel)
        return y, *pull_back(cotangent.astype(y.dtype))

    shape = jax.eval_shape(reference, x, kernel).shape
    arrays = x, kernel, np.random.default_rng(1).standard_normal(shape)
    ours, theirs = (jax.jit(partial(value_and_gradients, f))(*arrays) for f in (function, reference))
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=0, atol=rtol * float(np.abs(other).max()))


@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("size", [(8, 8), (16, 8), (5, 7), (1, 9), (45, 60)], ids=str)
@pytest.mark.slow
def test_winograd_equals_the_convolution(size, dilation):
    """Sizes that the tiles fit and that they do not, smaller than the dilation and larger."""
    with jax.enable_x64(True):
        x, kernel = random_arrays(size, 3, 3, 4)
        assert_same(partial(winograd, dilation=dilation), partial(plain, dilation=dilation), x, kernel)


@pytest.mark.parametrize("side", [3, 7])
@pytest.mark.parametrize("neighbours", [1, 2, 4])
def test_several_columns_at_once_equal_the_convolution(neighbours, side):
    with jax.enable_x64(True):
        x, kernel = random_arrays((9, 16), side, 3, 5)
        assert_same(partial(several_columns, neighbours=neighbours), plain, x, kernel)


CASES = [
    # side, inputs, outputs, stride, dilation: what is rewritten, and what stays
    (7, 3, 4, 1, 1),
    (3, 4, 4, 1, 1),
    (3, 4, 8, 2, 1),
    (3, 4, 4, 1, 2),
    (1, 4, 8, 2, 1),
    (1, 4, 4, 1, 1),
    (3, 256, 256, 1, 2),
]


@pytest.mark.parametrize(("side", "inputs", "outputs", "stride", "dilation"), CASES)
@pytest.mark.slow
def test_convolve_equals_the_plain_convolution(side, inputs, outputs, stride, dilation):
    with jax.enable_x64(True):
        x, kernel = random_arrays((12, 16), side, inputs, outputs)
        function, reference = (partial(f, stride=stride, dilation=dilation) for f in (convolve_by_name, plain))
        assert_same(function, reference, x, kernel, 1e-11)


def convolve_by_name(x, kernel, stride, dilation):
    return convolve(x, kernel, stride, dilation)


def test_rewritten_convolutions_are_as_exact_in_float32_as_rounding_allows():
    x, kernel = random_arrays((16, 16), 3, 256, 256, np.float32)
    assert_same(convolve, plain, x, kernel, 1e-5)


def test_other_precisions_are_left_to_the_backend():
    x, kernel = (jnp.asarray(a, jnp.bfloat16) for a in random_arrays((8, 8), 3, 256, 256))
    assert convolution._rewriting(x, kernel, 1, 1, None) is None
    assert convolve(x, kernel).dtype == jnp.bfloat16


def test_only_the_program_for_cpu_is_rewritten_and_holds_no_branch():
    x, kernel = (jax.ShapeDtypeStruct(a.shape, jnp.float32) for a in random_arrays((16, 16), 3, 256, 256))
    traced = jax.jit(convolve).trace(x, kernel)
    texts = {platform: traced.lower(lowering_platforms=(platform,)).as_text() for platform in ("cpu", "tpu")}
    assert "stablehlo.convolution" not in texts["cpu"] and "dot_general" in texts["cpu"]
    assert "stablehlo.convolution" in texts["tpu"] and "dot_general" not in texts["tpu"]
    assert "conditional" not in traced.lower().compile().as_text()
