"""The encoder: level table, sizes, explicit padding, and a whole forward pass in NumPy."""

import functools
import math
from functools import partial

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy_conv import numpy_conv
from tiny_models import ThreeLayers

from usss_jax.models.drn import DRN, ENCODERS, ResidualBlock
from usss_jax.models.layers import Convolution

# name: (residual blocks of levels 3 to 6, bottleneck)
PUBLISHED = {
    "drn_d_22": ((2, 2, 2, 2), False),
    "drn_d_38": ((3, 4, 6, 3), False),
    "drn_d_54": ((3, 4, 6, 3), True),
    "drn_d_105": ((3, 4, 23, 3), True),
}


def layers(blocks, bottleneck, width=1.0):
    """Every convolution: name -> (kernel, stride, dilation, channels in, channels out), from the published table."""
    c = [round(n * width) for n in (16, 16, 32, 64, 128, 256, 512, 512, 512)]
    out = {
        "level0_conv": (7, 1, 1, 3, c[0]),
        "level1_conv": (3, 1, 1, c[0], c[1]),
        "level2_conv": (3, 2, 1, c[1], c[2]),
    }
    channels = c[2]
    for level, stride, dilation in ((3, 2, 1), (4, 2, 1), (5, 1, 2), (6, 1, 4)):
        inner = c[level]
        outer = 4 * inner if bottleneck else inner
        for i in range(blocks[level - 3]):
            name, s = f"level{level}_block{i}", stride if i == 0 else 1
            if bottleneck:
                out[f"{name}/conv1"] = (1, 1, 1, channels, inner)
                out[f"{name}/conv2"] = (3, s, dilation, inner, inner)
                out[f"{name}/conv3"] = (1, 1, 1, inner, outer)
            else:
                out[f"{name}/conv1"] = (3, s, dilation, channels, inner)
                out[f"{name}/conv2"] = (3, 1, dilation, inner, outer)
            if s != 1 or channels != outer:
                out[f"{name}/shortcut_conv"] = (1, s, 1, channels, outer)
            channels = outer
    out["level7_conv"] = (3, 1, 2, channels, c[7])
    out["level8_conv"] = (3, 1, 1, c[7], c[8])
    return out


def norm_name(conv_name):
    return conv_name.replace("_conv", "_bn") if conv_name.endswith("_conv") else conv_name.replace("conv", "bn")


def shapes_of(module, size=(8, 8)):
    """Shapes of parameters and statistics without computing anything."""
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *size, 3)))
    return {c: flax.traverse_util.flatten_dict(tree, sep="/") for c, tree in variables.items()}


def random_variables(module, seed=0):
    """Float64 variables, drawn by NumPy in the shapes that the module asks for."""
    r = np.random.default_rng(seed)
    out = {}
    for collection, tree in shapes_of(module).items():
        values = {}
        for name, a in tree.items():
            if name.endswith("kernel"):
                values[name] = r.standard_normal(a.shape) * math.sqrt(2 / math.prod(a.shape[:3]))
            elif name.endswith(("var", "scale")):
                values[name] = r.uniform(0.5, 1.5, a.shape)
            else:
                values[name] = 0.2 * r.standard_normal(a.shape)
        out[collection] = values
    return out


def unflatten(variables):
    return {c: flax.traverse_util.unflatten_dict(tree, sep="/") for c, tree in variables.items()}


class NumpyDRN:
    """The encoder in evaluation mode, written out."""

    def __init__(self, variables, blocks, bottleneck, width):
        self.params, self.stats = variables["params"], variables["batch_stats"]
        self.layers, self.blocks, self.bottleneck = layers(blocks, bottleneck, width), blocks, bottleneck

    def conv_norm(self, x, name):
        _, stride, dilation, _, _ = self.layers[name]
        x, bn = numpy_conv(x, self.params[f"{name}/kernel"], stride, dilation), norm_name(name)
        x = (x - self.stats[f"{bn}/mean"]) / np.sqrt(self.stats[f"{bn}/var"] + 1e-5)
        return x * self.params[f"{bn}/scale"] + self.params[f"{bn}/bias"]

    def block(self, x, name):
        y, last = x, 3 if self.bottleneck else 2
        for i in range(1, last + 1):
            y = self.conv_norm(y, f"{name}/conv{i}")
            if i < last:
                y = np.maximum(y, 0)
        shortcut = f"{name}/shortcut_conv"
        return np.maximum(y + (self.conv_norm(x, shortcut) if shortcut in self.layers else x), 0)

    def __call__(self, x):
        for level in (0, 1, 2):
            x = np.maximum(self.conv_norm(x, f"level{level}_conv"), 0)
        for level in (3, 4, 5, 6):
            for i in range(self.blocks[level - 3]):
                x = self.block(x, f"level{level}_block{i}")
        for level in (7, 8):
            x = np.maximum(self.conv_norm(x, f"level{level}_conv"), 0)
        return x


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.slow
def test_every_tensor_of_the_published_encoders_has_its_shape(name):
    want_params, want_stats = {}, {}
    for layer, (kernel, _, _, channels_in, channels_out) in layers(*PUBLISHED[name]).items():
        want_params[f"{layer}/kernel"] = (kernel, kernel, channels_in, channels_out)
        for leaf, tree in (("scale", want_params), ("bias", want_params), ("mean", want_stats), ("var", want_stats)):
            tree[f"{norm_name(layer)}/{leaf}"] = (channels_out,)
    shapes = shapes_of(ENCODERS[name]())
    assert {n: a.shape for n, a in shapes["params"].items()} == want_params
    assert {n: a.shape for n, a in shapes["batch_stats"].items()} == want_stats


def test_there_are_four_encoders_and_all_give_512_channels():
    assert set(ENCODERS) == set(PUBLISHED)
    assert {ENCODERS[name]().out_channels for name in ENCODERS} == {512}


def test_number_of_parameters_of_the_smallest_encoder_with_its_heads():
    """16.00 M: encoder, heads of 20 and 12 outputs, the map to 128, and a fixed 16 x 16 up-sampler per output."""
    by_table = sum(k * k * i * o + 2 * o for k, _, _, i, o in layers(*PUBLISHED["drn_d_22"]).values())
    encoder = sum(math.prod(a.shape) for a in shapes_of(ENCODERS["drn_d_22"]())["params"].values())
    assert encoder == by_table
    heads = sum(512 * n + n for n in (20, 12, 128))
    total = encoder + heads + (20 + 12 + 128) * 16 * 16
    assert total == 16_003_792 and f"{total / 1e6:.2f}" == "16.00"


@pytest.mark.parametrize("width,channels", [(0.125, 64), (0.25, 128), (2.0, 1024)])
def test_width_scales_every_channel_count(width, channels):
    module = DRN((1, 1, 1, 1), width=width)
    kernels = {n: a.shape for n, a in shapes_of(module)["params"].items() if n.endswith("kernel")}
    assert kernels == {f"{n}/kernel": (k, k, i, o) for n, (k, _, _, i, o) in layers((1,) * 4, False, width).items()}
    assert module.out_channels == channels


def test_a_tiny_width_keeps_at_least_one_channel():
    assert min(a.shape[-1] for a in shapes_of(DRN((1, 1, 1, 1), width=0.01))["params"].values()) == 1


@pytest.mark.parametrize(
    "size,cells", [((32, 48), (4, 6)), ((227, 320), (29, 40)), ((1, 9), (1, 2)), ((15, 17), (2, 3))]
)
@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.slow
def test_features_have_an_eighth_of_the_size_rounded_up(size, cells, bottleneck):
    module = DRN((1, 1, 1, 1), bottleneck, width=0.125)
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    out = jax.eval_shape(module.apply, variables, jnp.zeros((2, *size, 3)))
    assert out.shape == (2, *cells, 64)


@pytest.mark.parametrize("size", [(6, 8), (7, 9)])  # for even sizes XLA's SAME would pad on one side only
@pytest.mark.parametrize("kernel,stride,dilation", [(3, 2, 1), (1, 2, 1), (7, 1, 1), (3, 1, 4), (3, 2, 2)])
def test_convolution_pads_both_sides_alike(size, kernel, stride, dilation):
    r = np.random.default_rng(0)
    x, weights = r.standard_normal((2, *size, 3)), r.standard_normal((kernel, kernel, 3, 4))
    with jax.enable_x64(True):
        got = Convolution(4, kernel, stride, dilation).apply({"params": {"kernel": weights}}, jnp.asarray(x))
    np.testing.assert_allclose(got, numpy_conv(x, weights, stride, dilation), atol=1e-12)


def test_convolutions_start_from_a_normal_distribution_over_the_outputs():
    """Standard deviation sqrt(2 / (k k c_out)); a truncated normal would have no value beyond 2.3 deviations."""
    kernel = Convolution(512, 3).init(jax.random.key(0), jnp.zeros((1, 4, 4, 16)))["params"]["kernel"]
    deviation = math.sqrt(2 / (3 * 3 * 512))
    assert np.std(kernel) == pytest.approx(deviation, rel=0.02) and abs(np.mean(kernel)) < 0.02 * deviation
    assert np.abs(kernel).max() > 3.5 * deviation


@pytest.mark.parametrize("blocks,bottleneck", [((1, 2, 1, 1), False), ((2, 1, 1, 2), True)])
@pytest.mark.slow
def test_a_forward_pass_equals_the_published_network_written_out(blocks, bottleneck):
    module = DRN(blocks, bottleneck, width=1 / 16)
    variables = random_variables(module)
    images = np.random.default_rng(1).standard_normal((2, 33, 42, 3))
    with jax.enable_x64(True):
        got = jax.jit(module.apply)(jax.tree.map(jnp.asarray, unflatten(variables)), jnp.asarray(images))
    want = NumpyDRN(variables, blocks, bottleneck, 1 / 16)(images)
    assert want.shape == (2, 5, 6, 32) and want.std() > 0.1
    np.testing.assert_allclose(got, want, atol=1e-10)


def test_a_block_without_a_change_of_shape_adds_its_input_itself():
    block = ResidualBlock(4, bottleneck=False)
    init = partial(block.init, train=False)
    names = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 8, 8, 4)))["params"]
    assert set(names) == {"conv1", "bn1", "conv2", "bn2"}
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape), names)
    stats = {n: {"mean": jnp.zeros(4), "var": jnp.ones(4)} for n in ("bn1", "bn2")}
    x = np.random.default_rng(0).standard_normal((1, 5, 5, 4)).astype(np.float32)
    got = block.apply({"params": zeros, "batch_stats": stats}, x, train=False)
    np.testing.assert_array_equal(got, np.maximum(x, 0))  # the last ReLU follows the sum


def test_a_bfloat16_encoder_keeps_float32_parameters_and_statistics():
    shapes = shapes_of(DRN((1, 1, 1, 1), width=0.125, dtype=jnp.bfloat16))
    assert {a.dtype for tree in shapes.values() for a in tree.values()} == {jnp.dtype(jnp.float32)}


def loss(variables, images, module):
    features, new = module.apply(variables, images, train=True, groups=2, mutable=["batch_stats"])
    return (features**2).sum(), new


@functools.cache
def gradients_of(module):
    """((loss, new batch statistics), gradients) of random variables and images."""
    variables = jax.tree.map(jnp.asarray, unflatten(random_variables(module)))
    images = np.random.default_rng(0).random((4, 16, 24, 3))
    return jax.jit(jax.value_and_grad(partial(loss, module=module), has_aux=True))(variables, images)


def repeated(module):
    """How many parts of the backward pass are computed again."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((4, 16, 24, 3)))
    backward = jax.grad(partial(loss, module=module), has_aux=True)
    return str(jax.make_jaxpr(backward)(shapes, jnp.zeros((4, 16, 24, 3)))).count("remat")


@pytest.mark.parametrize(
    "again",
    [
        pytest.param(
            DRN(blocks=(1, 1, 1, 2), width=0.0625, remat=tuple(range(9))), id="all levels", marks=pytest.mark.nightly
        ),
        pytest.param(ThreeLayers(width=0.0625, remat=(0, 2)), id="some levels"),
    ],
)
def test_levels_that_are_computed_again_change_no_number(again):
    """Features, gradients and batch statistics in float64; the parameters have the same names."""
    with jax.enable_x64(True):
        (one, stats), gradients = gradients_of(again.clone(remat=()))
        (other, stats_again), gradients_again = gradients_of(again)
    assert repeated(again) >= len(again.remat), "something is computed again"
    assert float(one) == pytest.approx(float(other), rel=1e-12)
    assert jax.tree.structure((stats, gradients)) == jax.tree.structure((stats_again, gradients_again))
    pairs = zip(jax.tree.leaves((stats, gradients)), jax.tree.leaves((stats_again, gradients_again)), strict=True)
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
