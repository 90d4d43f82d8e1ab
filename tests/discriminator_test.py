"""The discriminator against a convolution and an upsampling written out in NumPy, and its place over the pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from usss_jax.models.discriminator import Discriminator

TINY = Discriminator(width=1 / 32)  # 2, 4, 8, 16 channels


def random_params(module, classes, seed=0):
    """Weights large enough that no layer dies out, drawn by NumPy."""
    r = np.random.default_rng(seed)
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 8, 8, classes), np.float32))["params"]
    return jax.tree.map(lambda a: r.standard_normal(a.shape) * (0.5 if len(a.shape) == 4 else 0.1), shapes)


def plain_conv(x, kernel, bias):
    """4x4, stride 2: output (i, j) sees rows 2i - 1 to 2i + 2 and columns 2j - 1 to 2j + 2, zeros outside."""
    rows, columns = (-(-side // 2) for side in x.shape[1:3])
    padded = np.zeros((len(x), 2 * rows + 2, 2 * columns + 2, x.shape[3]))
    padded[:, 1 : 1 + x.shape[1], 1 : 1 + x.shape[2]] = x
    out = np.zeros((len(x), rows, columns, kernel.shape[3]))
    for i in range(rows):
        for j in range(columns):
            window = padded[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4]
            out[:, i, j] = np.einsum("bhwc,hwcd->bd", window, kernel) + bias
    return out


def plain_enlarge(x, size):
    """Half-pixel bilinear x32 with the edge repeated, cropped: [B, h, w] -> [B, H, W]."""
    for axis in (1, 2):
        at = np.clip((np.arange(size[axis - 1]) + 0.5) / 32 - 0.5, 0, x.shape[axis] - 1)
        low = at.astype(int)
        high = np.minimum(low + 1, x.shape[axis] - 1)
        weight = (at - low).reshape((-1, 1) if axis == 1 else (-1,))
        x = np.take(x, low, axis) * (1 - weight) + np.take(x, high, axis) * weight
    return x


@pytest.mark.parametrize("size", [(64, 96), (51, 37), (3, 1)])
@pytest.mark.slow
def test_it_is_five_strided_convolutions_with_leaky_relus_and_an_upsampling(size):
    params = random_params(TINY, 3)
    x = np.random.default_rng(1).random((2, *size, 3))
    want = x
    for i in range(1, 6):
        want = plain_conv(want, params[f"conv{i}"]["kernel"], params[f"conv{i}"]["bias"])
        if i < 5:
            want = np.where(want > 0, want, 0.2 * want)
    assert want.shape == (2, -(-size[0] // 32), -(-size[1] // 32), 1)
    with jax.enable_x64(True):
        got = TINY.apply({"params": params}, jnp.asarray(x))
    np.testing.assert_allclose(got, plain_enlarge(want[..., 0], size), atol=1e-11)
    assert np.ptp(got) > 1e-3


def test_parameters_of_the_papers_width():
    """Kernels of 16 taps and a bias each: 64, 128, 256, 512 and 1 channels on 19 classes."""
    pairs = ((19, 64), (64, 128), (128, 256), (256, 512), (512, 1))
    shapes = jax.eval_shape(Discriminator().init, jax.random.key(0), np.zeros((1, 8, 8, 19), np.float32))
    assert set(shapes) == {"params"}  # no batch normalisation
    assert sum(a.size for a in jax.tree.leaves(shapes)) == sum(16 * a * b + b for a, b in pairs) == 2_781_121


@pytest.mark.parametrize("axis", [1, 2])
def test_scores_lie_over_the_pixels_they_judge(axis):
    """With mirrored kernels the scores of a mirrored map are the mirrored scores: nothing is shifted."""
    params = random_params(TINY, 3)
    for layer in params.values():
        layer["kernel"] = layer["kernel"] + np.flip(layer["kernel"], axis - 1)
    x = np.random.default_rng(1).random((1, 96, 128, 3))
    with jax.enable_x64(True):
        score, mirrored = (TINY.apply({"params": params}, jnp.asarray(v)) for v in (x, np.flip(x, axis)))
    np.testing.assert_allclose(mirrored, np.flip(score, axis), atol=1e-10)
    assert np.abs(score - np.flip(score, axis)).max() > 0.1


def test_an_examples_scores_do_not_depend_on_its_batch():
    params = random_params(TINY, 3)
    x = np.random.default_rng(1).random((3, 40, 40, 3))
    with jax.enable_x64(True):
        together, alone = (TINY.apply({"params": params}, jnp.asarray(v)) for v in (x, x[1:2]))
    np.testing.assert_allclose(together[1:2], alone, atol=1e-12)


def test_scores_are_float32_when_the_convolutions_are_bfloat16():
    module = Discriminator(width=1 / 32, dtype=jnp.bfloat16)
    maps = np.full((1, 33, 40, 3), 1 / 3, np.float32)
    score = jax.eval_shape(lambda maps: module.init_with_output(jax.random.key(0), maps)[0], maps)
    assert score.dtype == jnp.float32 and score.shape == (1, 33, 40)
