"""The fixed upsampling at every stride against the transposed convolution, half-pixel bilinear and PIL's bicubic."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from usss_jax.models.upsample import MODES, bicubic_matrix, upsample, upsample_at, upsample_bicubic, upsample_matrix

STRIDES = [8, 14, 16, 32]
SIZES = [8, 16, 40, 13, 33, 1, 7, 70]


def transposed_convolution(x, stride):
    """Reference: kernel 2 s, stride s, padding s / 2, per channel; [h, w] -> [s h, s w]."""
    k = 1 - np.abs(np.arange(2 * stride) / stride - (2 * stride - 1) / (2 * stride))
    h, w = x.shape
    full = np.zeros((stride * (h + 1), stride * (w + 1)))
    for y in range(h):
        for z in range(w):
            top, left = stride * y, stride * z
            full[top : top + 2 * stride, left : left + 2 * stride] += np.outer(k, k) * x[y, z]
    return full[stride // 2 : -stride // 2, stride // 2 : -stride // 2]


def half_pixel_bilinear(x, stride):
    """Middles of cells at s i + (s - 1) / 2, linear between them, the edge repeated outside; [h, w] -> [s h, s w]."""
    for axis in (0, 1):
        cells = x.shape[axis]
        place = np.clip((np.arange(stride * cells) + 0.5) / stride - 0.5, 0, cells - 1)
        before = np.floor(place).astype(int)
        after = np.minimum(before + 1, cells - 1)
        share = np.expand_dims(place - before, 1 - axis)
        x = (1 - share) * x.take(before, axis) + share * x.take(after, axis)
    return x


WRITTEN_OUT = {"drn": transposed_convolution, "bilinear": half_pixel_bilinear}


def upsample64(x, size, stride, mode):
    with jax.enable_x64(True):
        return np.asarray(upsample(jnp.asarray(x, jnp.float64), size, stride, mode))


def cells_of(size, stride):
    return [-(-n // stride) for n in size]


@pytest.mark.parametrize(("mode", "stride"), [*itertools.product(MODES, STRIDES), ("bilinear", 7)])
@pytest.mark.parametrize("size", [(24, 32), (19, 27), (5, 8), (17, 1), (70, 96)])
def test_upsampling_equals_its_definition_cropped_to_the_image(size, stride, mode):
    x = np.random.default_rng(0).standard_normal((2, *cells_of(size, stride), 3))
    got = upsample64(x, size, stride, mode)
    assert got.shape == (2, *size, 3)
    for b in range(2):
        for channel in range(3):
            want = WRITTEN_OUT[mode](x[b, :, :, channel], stride)[: size[0], : size[1]]
            np.testing.assert_allclose(got[b, :, :, channel], want, atol=1e-13)


@pytest.mark.parametrize("stride", STRIDES)
def test_bilinear_is_that_of_jax_image_where_the_size_is_a_multiple(stride):
    x = np.random.default_rng(1).standard_normal((2, 3, 4, 5))
    size = 3 * stride, 4 * stride
    with jax.enable_x64(True):
        want = jax.image.resize(jnp.asarray(x), (2, *size, 5), "bilinear")
    np.testing.assert_allclose(upsample64(x, size, stride, "bilinear"), want, atol=1e-13)


@pytest.mark.parametrize("mode", MODES)
def test_the_weights_at_stride_8_by_hand(mode):
    """The first pixels of two cells: sixteenths, where "drn" loses what falls outside."""
    first = upsample_matrix(16, 8, mode)[:6, 0] * 16
    np.testing.assert_array_equal(first, [9, 11, 13, 15, 15, 13] if mode == "drn" else [16, 16, 16, 16, 15, 13])


def test_the_two_modes_differ_at_the_border_alone():
    """A map of ones: "drn" fades to 9/16, 11/16, 13/16, 15/16 of the inside over the outermost four pixels."""
    ones = np.ones((1, 3, 3, 1))
    np.testing.assert_allclose(upsample64(ones, (24, 24), 8, "bilinear"), 1, rtol=1e-14)
    faded = upsample64(ones, (24, 24), 8, "drn")[0, :, :, 0]
    side = np.array([9, 11, 13, 15, *[16] * 16, 15, 13, 11, 9]) / 16
    np.testing.assert_allclose(faded, np.outer(side, side), rtol=1e-14)
    x = np.random.default_rng(1).standard_normal((1, 4, 5, 2))
    inside = np.s_[:, 4:-4, 4:-4]
    a, b = (upsample64(x, (32, 40), 8, mode)[inside] for mode in MODES)
    np.testing.assert_allclose(a, b, atol=1e-14)


@pytest.mark.parametrize("stride", [*STRIDES, 7])
@pytest.mark.parametrize("size", SIZES)
def test_bilinear_weights_of_a_pixel_are_positive_and_sum_to_one(size, stride):
    matrix = upsample_matrix(size, stride, "bilinear")
    assert matrix.shape == (size, -(-size // stride)) and matrix.dtype == np.float64
    assert matrix.min() >= 0
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-15)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stride", [*STRIDES, 7])
@pytest.mark.parametrize("size", SIZES)
def test_a_pixel_mixes_at_most_two_neighbouring_cells(size, stride, mode):
    used = [np.flatnonzero(row) for row in upsample_matrix(size, stride, mode)]
    assert all(1 <= len(cells) <= 2 and cells[-1] - cells[0] == len(cells) - 1 for cells in used)


@pytest.mark.parametrize("size", [(24, 32), (19, 27), (5, 8), (17, 1), (70, 96)])
@pytest.mark.parametrize("stride", [8, 2, 7])
def test_bicubic_is_pils_cropped_to_the_image(size, stride):
    """PIL sums in float64 and keeps float32 between the axes; maps of one and of two cells are all border."""
    cells = cells_of(size, stride)
    x = np.random.default_rng(6).random((2, *cells, 3), np.float32)
    with jax.enable_x64(True):
        got = np.asarray(upsample_bicubic(jnp.asarray(x, jnp.float64), size, stride))
    single = upsample_bicubic(jnp.asarray(x), size, stride)
    assert got.shape == single.shape == (2, *size, 3) and single.dtype == np.float32
    for b in range(2):
        for channel in range(3):
            picture = Image.fromarray(x[b, :, :, channel], mode="F")
            whole = picture.resize((stride * cells[1], stride * cells[0]), Image.Resampling.BICUBIC)
            want = np.asarray(whole)[: size[0], : size[1]]
            np.testing.assert_allclose(got[b, :, :, channel], want, atol=1e-6)
            np.testing.assert_allclose(single[b, :, :, channel], want, atol=1e-6)


def test_bicubic_weights_at_stride_2_by_hand():
    """Keys at distances 1/4, 3/4, 5/4, 7/4: 111, 29, -9, -3, in 128ths inside, by the sum of those left at the border.

    The first pixel lies 1/4 from the first cell's middle and 5/4 from the second's, the second 1/4, 3/4 and 7/4.
    """
    matrix = bicubic_matrix(8, 2)
    assert matrix.shape == (8, 4) and matrix.dtype == np.float64
    np.testing.assert_allclose(matrix[0], np.array([111, -9, 0, 0]) / 102, rtol=1e-15)
    np.testing.assert_allclose(matrix[1], np.array([111, 29, -3, 0]) / 137, rtol=1e-15)
    np.testing.assert_allclose(matrix[3:5], np.array([[-9, 111, 29, -3], [-3, 29, 111, -9]]) / 128, rtol=1e-15)
    np.testing.assert_allclose(matrix[::-1, ::-1], matrix, rtol=1e-15)


@pytest.mark.parametrize("stride", [*STRIDES, 7])
@pytest.mark.parametrize("size", SIZES)
def test_bicubic_weights_are_of_at_most_four_cells_and_sum_to_one(size, stride):
    matrix = bicubic_matrix(size, stride)
    assert matrix.shape == (size, -(-size // stride))
    assert (matrix != 0).sum(1).max() <= 4
    np.testing.assert_allclose(matrix.sum(1), 1, rtol=1e-14)
    np.testing.assert_array_equal(matrix, bicubic_matrix(-(-size // stride) * stride, stride)[:size])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stride", STRIDES)
def test_a_size_that_is_no_multiple_of_the_stride_is_cropped_at_the_end(stride, mode):
    size = 2 * stride + 3
    whole = upsample_matrix(3 * stride, stride, mode)
    np.testing.assert_array_equal(upsample_matrix(size, stride, mode), whole[:size])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.slow
def test_scores_may_be_taken_before_the_upsampling_with_the_same_gradients(stride, mode):
    r, size = np.random.default_rng(3), (2 * stride + 3, 3 * stride)
    x, weights, target = (r.standard_normal(s) for s in ((2, 3, 3, 6), (6, 4), (2, *size, 4)))

    @jax.jit
    def score_first(x, weights):
        return (jnp.tanh(upsample(x @ weights, size, stride, mode)) * target).sum()

    @jax.jit
    def upsample_first(x, weights):
        return (jnp.tanh(upsample(x, size, stride, mode) @ weights) * target).sum()

    with jax.enable_x64(True):
        x, weights = jnp.asarray(x), jnp.asarray(weights)
        value, grads = jax.value_and_grad(score_first, (0, 1))(x, weights)
        other_value, other_grads = jax.value_and_grad(upsample_first, (0, 1))(x, weights)
    np.testing.assert_allclose(value, other_value, rtol=1e-11)
    for got, want in zip(grads, other_grads, strict=True):
        assert np.abs(want).max() > 0.1
        np.testing.assert_allclose(got, want, atol=1e-10)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stride", [8, 14])
@pytest.mark.slow
def test_values_at_some_pixels_are_those_of_the_whole_map(stride, mode):
    size = 19, 30
    x = np.random.default_rng(5).standard_normal((2, *cells_of(size, stride), 3))
    places = np.argwhere(np.ones((2, *size), bool))
    with jax.enable_x64(True):
        got = upsample_at(jnp.asarray(x), places, *(upsample_matrix(n, stride, mode) for n in size))
    np.testing.assert_allclose(got, upsample64(x, size, stride, mode)[tuple(places.T)], atol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_dtype_is_kept(dtype):
    assert upsample(jnp.ones((1, 2, 2, 1), dtype), (16, 16), 8).dtype == dtype


def test_float32_is_not_rounded_further():
    x = np.random.default_rng(4).standard_normal((1, 4, 4, 2)).astype(np.float32)
    got = np.asarray(upsample(jnp.asarray(x), (32, 32), 8))
    np.testing.assert_allclose(got[0, :, :, 1], half_pixel_bilinear(x[0, :, :, 1].astype(np.float64), 8), atol=1e-6)


def test_an_unknown_mode_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'nearest'.*bilinear.*drn"):
        upsample_matrix(16, 8, "nearest")
