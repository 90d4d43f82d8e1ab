"""The fixed x8 upsampling and its adjoint against the transposed convolution and half-pixel bilinear, written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from usss_jax.models.upsample import MODES, upsample, upsample_adjoint, upsample_matrix

SIZES = [8, 16, 40, 13, 33, 1, 7]


def transposed_convolution(x):
    """Reference: kernel 16, stride 8, padding 4, per channel; [h, w] -> [8 h, 8 w]."""
    c = 15 / 16
    h, w = x.shape
    full = np.zeros((8 * (h - 1) + 16, 8 * (w - 1) + 16))
    for y in range(h):
        for z in range(w):
            for i in range(16):
                for j in range(16):
                    full[8 * y + i, 8 * z + j] += (1 - abs(i / 8 - c)) * (1 - abs(j / 8 - c)) * x[y, z]
    return full[4:-4, 4:-4]


def half_pixel_bilinear(x):
    """Centres of cells at 8 i + 3.5, linear between them, the edge repeated outside; [h, w] -> [8 h, 8 w]."""
    h, w = x.shape
    out = np.zeros((8 * h, 8 * w))
    for y in range(8 * h):
        for z in range(8 * w):
            v, u = (min(max((p + 0.5) / 8 - 0.5, 0), n - 1) for p, n in ((y, h), (z, w)))
            top, left = int(v), int(u)
            bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
            b, r = v - top, u - left
            out[y, z] = (1 - b) * ((1 - r) * x[top, left] + r * x[top, right])
            out[y, z] += b * ((1 - r) * x[bottom, left] + r * x[bottom, right])
    return out


WRITTEN_OUT = {"drn": transposed_convolution, "bilinear": half_pixel_bilinear}


def upsample64(x, size, mode):
    with jax.enable_x64(True):
        return np.asarray(upsample(jnp.asarray(x, jnp.float64), size, mode))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(24, 32), (19, 27), (5, 8), (17, 1)])
def test_upsampling_equals_its_definition_cropped_to_the_image(mode, size):
    cells = [-(-n // 8) for n in size]
    x = np.random.default_rng(0).standard_normal((2, *cells, 3))
    got = upsample64(x, size, mode)
    assert got.shape == (2, *size, 3)
    for b in range(2):
        for channel in range(3):
            want = WRITTEN_OUT[mode](x[b, :, :, channel])[: size[0], : size[1]]
            np.testing.assert_allclose(got[b, :, :, channel], want, atol=1e-13)


def test_the_two_modes_differ_at_the_border_alone():
    """A map of ones: "drn" fades to 9/16, 11/16, 13/16, 15/16 of the inside over the outermost four pixels."""
    ones = np.ones((1, 3, 3, 1))
    np.testing.assert_allclose(upsample64(ones, (24, 24), "bilinear"), 1, rtol=1e-14)
    faded = upsample64(ones, (24, 24), "drn")[0, :, :, 0]
    side = np.array([9, 11, 13, 15, *[16] * 16, 15, 13, 11, 9]) / 16
    np.testing.assert_allclose(faded, np.outer(side, side), rtol=1e-14)
    x = np.random.default_rng(1).standard_normal((1, 4, 5, 2))
    inside = np.s_[:, 4:-4, 4:-4]
    a, b = (upsample64(x, (32, 40), mode)[inside] for mode in MODES)
    np.testing.assert_allclose(a, b, atol=1e-14)


@pytest.mark.parametrize("size", SIZES)
def test_bilinear_weights_of_a_pixel_are_positive_and_sum_to_one(size):
    matrix = upsample_matrix(size, "bilinear")
    assert matrix.shape == (size, -(-size // 8)) and matrix.dtype == np.float64
    assert matrix.min() >= 0
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-15)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
def test_a_pixel_mixes_at_most_two_neighbouring_cells(mode, size):
    used = [np.flatnonzero(row) for row in upsample_matrix(size, mode)]
    assert all(1 <= len(cells) <= 2 and cells[-1] - cells[0] == len(cells) - 1 for cells in used)


@pytest.mark.parametrize("mode", MODES)
def test_a_size_that_is_no_multiple_of_eight_is_cropped_at_the_end(mode):
    np.testing.assert_array_equal(upsample_matrix(19, mode), upsample_matrix(24, mode)[:19])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(24, 32), (19, 27)])
def test_the_adjoint_is_the_transpose(mode, size):
    """<U x, y> = <x, U^T y> for all x and y."""
    r, cells = np.random.default_rng(2), [-(-n // 8) for n in size]
    x, y = r.standard_normal((2, *cells, 3)), r.standard_normal((2, *size, 3))
    with jax.enable_x64(True):
        down = np.asarray(upsample_adjoint(jnp.asarray(y), mode))
    assert down.shape == x.shape
    left, right = (upsample64(x, size, mode) * y).sum((0, 1, 2)), (x * down).sum((0, 1, 2))
    np.testing.assert_allclose(left, right, rtol=1e-12)  # every channel alone
    unit = np.zeros_like(x)
    unit[1, -1, 0, 2] = 1
    np.testing.assert_allclose(down[1, -1, 0, 2], (upsample64(unit, size, mode) * y).sum(), rtol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_scores_may_be_taken_before_the_upsampling_with_the_same_gradients(mode):
    r, size = np.random.default_rng(3), (19, 24)
    x, weights, target = (r.standard_normal(s) for s in ((2, 3, 3, 6), (6, 4), (2, *size, 4)))

    def score_first(x, weights):
        return (jnp.tanh(upsample(x @ weights, size, mode)) * target).sum()

    def upsample_first(x, weights):
        return (jnp.tanh(upsample(x, size, mode) @ weights) * target).sum()

    with jax.enable_x64(True):
        x, weights = jnp.asarray(x), jnp.asarray(weights)
        value, grads = jax.value_and_grad(score_first, (0, 1))(x, weights)
        other_value, other_grads = jax.value_and_grad(upsample_first, (0, 1))(x, weights)
    np.testing.assert_allclose(value, other_value, rtol=1e-12)
    for got, want in zip(grads, other_grads, strict=True):
        assert np.abs(want).max() > 0.1
        np.testing.assert_allclose(got, want, atol=1e-11)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_dtype_is_kept(dtype):
    assert upsample(jnp.ones((1, 2, 2, 1), dtype), (16, 16)).dtype == dtype
    assert upsample_adjoint(jnp.ones((1, 16, 16, 1), dtype)).dtype == dtype


def test_float32_is_not_rounded_further():
    x = np.random.default_rng(4).standard_normal((1, 4, 4, 2)).astype(np.float32)
    got = np.asarray(upsample(jnp.asarray(x), (32, 32)))
    np.testing.assert_allclose(got[0, :, :, 1], half_pixel_bilinear(x[0, :, :, 1].astype(np.float64)), atol=1e-6)


def test_an_unknown_mode_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'nearest'.*bilinear.*drn"):
        upsample_matrix(16, "nearest")
