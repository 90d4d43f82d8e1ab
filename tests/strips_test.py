"""Sums and maps over the upsampled pixels, strip by strip, against the plain expressions at image size."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from usss_jax.models import strips
from usss_jax.models.upsample import MODES, upsample
from usss_jax.objectives.losses import grouped_pixel_cross_entropy, pixel_cross_entropy, pixel_entropy

STRIDES = [8, 14, 16, 32]
SIZES = [(64, 48), (45, 60), (8, 8), (7, 20), (33, 1), (72, 40)]
FUNCTIONS = {
    "cross_entropy": pixel_cross_entropy,
    "grouped": partial(grouped_pixel_cross_entropy, classes=(0, 0, 2, 3, 3)),
    "entropy": lambda scores, labels: pixel_entropy(scores),
}


def case(size, stride=8, classes=5, dtype=np.float64):
    r = np.random.default_rng(0)
    scores = 3 * r.standard_normal((2, -(-size[0] // stride), -(-size[1] // stride), classes))
    labels = r.integers(0, classes, (2, *size)).astype(np.uint8)
    labels[:, : size[0] // 3] = 255
    return scores.astype(dtype), labels


@pytest.fixture
def small_strips(monkeypatch):
    """Strips of one row of cells, so that tiny images have several."""
    monkeypatch.setattr(strips, "STRIP_BYTES", 1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("name", "size", "stride"),
    [
        *itertools.product(["cross_entropy"], SIZES, [8]),
        *itertools.product(["grouped", "entropy"], SIZES[1::3], [8]),
        *itertools.product(["cross_entropy"], SIZES[:2], STRIDES[1:]),
    ],
)
@pytest.mark.slow
def test_sum_and_its_gradient_equal_the_plain_expression(name, size, stride, mode, small_strips):
    function = FUNCTIONS[name]
    with jax.enable_x64(True):
        scores, labels = case(size, stride)
        total = partial(strips.sum_over_pixels, function, size=size, stride=stride, mode=mode)

        @jax.jit
        def both(scores, labels):
            plain = jax.value_and_grad(lambda s: function(upsample(s, size, stride, mode), labels).sum())(scores)
            return plain, jax.value_and_grad(total)(scores, labels), total(scores, labels)

        plain, ours, alone = both(scores, labels)
    np.testing.assert_allclose(ours[0], plain[0], rtol=1e-12)
    np.testing.assert_allclose(alone, plain[0], rtol=1e-12)
    np.testing.assert_allclose(ours[1], plain[1], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("rows", [1, 2, 3, 9])
def test_the_height_of_the_strips_does_not_change_the_gradient(rows, monkeypatch):
    """Nine rows of cells: strips that fit, strips that reach below the image, and a single one."""
    size = (72, 40)
    with jax.enable_x64(True):
        scores, labels = case(size)
        monkeypatch.setattr(strips, "STRIP_BYTES", rows * 2 * 8 * size[1] * 5 * 8)
        total = partial(strips.sum_over_pixels, pixel_cross_entropy, size=size, stride=8)
        got = jax.jit(jax.grad(total))(scores, labels)
        want = jax.jit(jax.grad(lambda s, y: pixel_cross_entropy(upsample(s, size, 8), y).sum()))(scores, labels)
    np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12)


def test_the_gradient_is_scaled_by_what_the_sum_goes_into():
    scores, labels = case((16, 24), dtype=np.float32)
    total = partial(strips.sum_over_pixels, pixel_cross_entropy, size=(16, 24), stride=8)
    plain = jax.jit(jax.grad(total))(scores, labels)
    got = jax.jit(jax.grad(lambda s, y: 0.25 * total(s, y) + 1))(scores, labels)
    np.testing.assert_allclose(got, 0.25 * plain, rtol=1e-6)


def test_mean_is_over_every_pixel_of_every_image():
    scores, _ = case((45, 60), dtype=np.float32)
    got = strips.mean_over_pixels(pixel_entropy, scores, size=(45, 60), stride=8)
    np.testing.assert_allclose(got, pixel_entropy(upsample(scores, (45, 60), 8)).mean(), rtol=1e-6)


@pytest.mark.parametrize(("size", "stride"), [*itertools.product(SIZES, [8]), ((45, 60), 14), ((45, 60), 32)])
@pytest.mark.slow
def test_arg_max_of_every_pixel_equals_the_plain_one(size, stride, small_strips):
    with jax.enable_x64(True):
        scores, _ = case(size, stride)
        of_pixels = partial(strips.map_pixels, partial(jnp.argmax, axis=-1), size=size, stride=stride)
        got = jax.jit(of_pixels)(scores)
        np.testing.assert_array_equal(got, upsample(scores, size, stride).argmax(-1))


def test_temporaries_do_not_grow_with_the_height_of_the_image():
    """Four times the pixels in the same strips: only what has the size of the encoder's maps and labels grows."""

    def temporary_bytes(height, classes):
        scores = jax.ShapeDtypeStruct((2, height // 8, 32, classes), jnp.float32)
        labels = jax.ShapeDtypeStruct((2, height, 256), jnp.uint8)
        total = partial(strips.sum_over_pixels, pixel_cross_entropy, size=(height, 256), stride=8)
        return jax.jit(jax.value_and_grad(total)).lower(scores, labels).compile().memory_analysis().temp_size_in_bytes

    logits = 2 * 1024 * 256 * 20 * 4
    assert temporary_bytes(1024, 20) - temporary_bytes(256, 20) < 0.1 * logits
    assert temporary_bytes(1024, 20) < 0.3 * logits
