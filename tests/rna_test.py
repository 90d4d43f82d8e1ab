"""RNA-A1: the published table, a whole forward pass in NumPy, strides, dropout, and its weight files."""

import math
from functools import partial

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mxnet_writer import ENCODINGS, mxnet_file
from numpy_conv import numpy_conv
from tiny_models import difference

from usss_jax.models.pretrained import from_state_dict, load_file, to_state_dict
from usss_jax.models.rna import RNA, Unit
from usss_jax.models.rna_names import NAMES
from usss_jax.models.universal import create_model, encode_groups

WIDTH = 1 / 32
BRANCHES = ("2a", "2b1", "2b2")


def published():
    """Units in order: name -> (channels in, stride, [(kernel, dilation, channels out), ...])."""
    out, channels = {}, 64
    for level, names, stride, convolutions in (
        ("2", "a b1 b2", 2, [(3, 1, 128), (3, 1, 128)]),
        ("3", "a b1 b2", 2, [(3, 1, 256), (3, 1, 256)]),
        ("4", "a b1 b2 b3 b4 b5", 2, [(3, 1, 512), (3, 1, 512)]),
        ("5", "a", 1, [(3, 1, 512), (3, 2, 1024)]),
        ("5", "b1 b2", 1, [(3, 2, 512), (3, 2, 1024)]),
        ("6", "a", 1, [(1, 1, 512), (3, 4, 1024), (1, 1, 2048)]),
        ("7", "a", 1, [(1, 1, 1024), (3, 4, 2048), (1, 1, 4096)]),
    ):
        for name in names.split():
            out[level + name] = (channels, stride if name == "a" else 1, convolutions)
            channels = convolutions[-1][2]
    return out


def tensor_shapes(width=1.0):
    """Tensors of a file's encoder, in MXNet's layout."""

    def norm(name, channels):
        for leaf in ("gamma", "beta", "moving_mean", "moving_var"):
            out[f"{name}_{leaf}"] = (round(channels * width),)

    def convolution(name, kernel, inputs, outputs):
        out[f"{name}_weight"] = (round(outputs * width), round(inputs * width), kernel, kernel)

    out = {"conv1a_weight": (round(64 * width), 3, 3, 3)}
    for unit, (inputs, _, convolutions) in published().items():
        if unit.endswith("a"):
            convolution(f"res{unit}_branch1", 1, inputs, convolutions[-1][2])
        for branch, (kernel, _, outputs) in zip(BRANCHES, convolutions, strict=False):
            norm(f"bn{unit}_branch{branch}", inputs)
            convolution(f"res{unit}_branch{branch}", kernel, inputs, outputs)
            inputs = outputs
    norm("bn7", 4096)
    return out


def random_tensors(width=WIDTH):
    r, out = np.random.default_rng(0), {}
    for name, shape in tensor_shapes(width).items():
        if len(shape) == 4:
            out[name] = r.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))
        elif name.endswith(("gamma", "var")):
            out[name] = r.uniform(0.5, 1.5, shape)
        else:
            out[name] = 0.2 * r.standard_normal(shape)
    return out


def reference(t, x):
    """The encoder in evaluation mode, written out: tensors of a file, normalised images -> features."""

    def norm_relu(x, name):
        x = (x - t[f"{name}_moving_mean"]) / np.sqrt(t[f"{name}_moving_var"] + 1.001e-5)
        return np.maximum(x * t[f"{name}_gamma"] + t[f"{name}_beta"], 0)

    def convolve(x, name, stride=1, dilation=1):
        return numpy_conv(x, t[f"{name}_weight"].transpose(2, 3, 1, 0), stride, dilation)

    x = convolve(x, "conv1a")
    for unit, (_, stride, convolutions) in published().items():
        y = x
        for branch, (_, dilation, _) in zip(BRANCHES, convolutions, strict=False):
            first = branch == "2a"
            y = norm_relu(y, f"bn{unit}_branch{branch}")
            if first and unit.endswith("a"):
                x = convolve(y, f"res{unit}_branch1", stride)
            y = convolve(y, f"res{unit}_branch{branch}", stride if first else 1, dilation)
        x = x + y
    return norm_relu(x, "bn7")


def model_of(**arguments):
    return create_model("rna_a1", {"city": 2}, **arguments)


def shapes_of(model):
    return jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))


def flat(variables):
    return flax.traverse_util.flatten_dict(variables, sep="/")


# ---- The table ----


@pytest.mark.slow
def test_every_tensor_of_the_published_files_has_exactly_one_place():
    given = {name: np.broadcast_to(np.float32(0), shape) for name, shape in tensor_shapes().items()}
    classifier = {"linear1000_weight": np.zeros((1000, 4), np.float32), "linear1000_bias": np.zeros(1000, np.float32)}
    variables, report = from_state_dict(given | classifier, shapes := shapes_of(model_of()), names=NAMES)
    assert report.unused == tuple(classifier) and set(report.matched) == set(given)
    assert set(report.missing) == {"params/decoder_city/kernel", "params/decoder_city/bias"}
    assert {path: a.shape for path, a in flat(variables).items()} == {p: a.shape for p, a in flat(shapes).items()}
    assert sum(a.size for a in jax.tree.leaves(shapes["params"]["encoder"])) == 105_070_912


@pytest.mark.parametrize("size,cells", [((504, 504), (63, 63)), ((512, 512), (64, 64)), ((1024, 2048), (128, 256))])
@pytest.mark.slow
def test_features_have_an_eighth_of_the_images_size(size, cells):
    encoder, images = RNA(), jax.ShapeDtypeStruct((1, *size, 3), np.float32)
    features, _ = jax.eval_shape(encoder.init_with_output, jax.random.key(0), images)
    assert features.shape == (1, *cells, 4096) and encoder.out_channels == 4096


# ---- Numbers ----


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.slow
def test_features_of_a_files_weights_are_numpys(tmp_path, encoding):
    tensors, images = random_tensors(), np.random.default_rng(1).standard_normal((2, 17, 24, 3))
    (tmp_path / "w.params").write_bytes(mxnet_file(tensors, encoding))
    given = load_file(str(tmp_path / "w.params"))
    model = model_of(width=WIDTH, normalize="none")
    variables, _ = from_state_dict(given, shapes_of(model), encoder_only=True, names=NAMES)
    encoder = {collection: tree["encoder"] for collection, tree in variables.items()}
    with jax.enable_x64(True):
        got = jax.jit(model.encoder.apply)(jax.tree.map(jnp.asarray, encoder), jnp.asarray(images))
    want = reference(tensors, images)
    assert got.shape == (2, 3, 3, 128) and want.std() > 0.1
    np.testing.assert_allclose(got, want, atol=1e-9, rtol=1e-9)


def test_our_variables_return_through_the_files_names():
    tensors = random_tensors()
    variables, _ = from_state_dict(tensors, shapes_of(model_of(width=WIDTH)), names=NAMES)
    back = to_state_dict({kind: {"encoder": tree["encoder"]} for kind, tree in variables.items()}, names=NAMES)
    assert back.keys() == tensors.keys()
    assert all((back[name] == tensor).all() for name, tensor in tensors.items())


def test_the_dilated_head_of_a_file_is_decoder_0():
    r = np.random.default_rng(3)
    head = {"conv6a_weight": r.standard_normal((16, 128, 3, 3)), "conv6a_bias": r.standard_normal(16)}
    head |= {"linear2_weight": r.standard_normal((2, 16, 3, 3)), "linear2_bias": r.standard_normal(2)}
    shapes = shapes_of(model_of(width=WIDTH, head="dilated"))
    variables, report = from_state_dict(random_tensors() | head, shapes, ["city"], names=NAMES)
    assert report.missing == () and report.unused == ()
    decoder = variables["params"]["decoder_city"]
    np.testing.assert_array_equal(decoder["hidden"]["kernel"], head["conv6a_weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(decoder["scores"]["bias"], head["linear2_bias"])


# ---- Units ----


def apply_unit(unit, x, kernels=None, rngs=None):
    """The unit's output, with unit statistics, and the kernels that are not given drawn at random."""
    variables = unit.init(jax.random.key(0), jnp.asarray(x), False)
    for name, kernel in (kernels or {}).items():
        variables["params"][name]["kernel"] = jnp.asarray(kernel, jnp.float32)
    return np.asarray(unit.apply(variables, jnp.asarray(x), False, rngs=rngs))


CENTRE = np.eye(3)[1][:, None] * np.eye(3)[1]  # a 3x3 kernel that changes nothing


@pytest.mark.parametrize("pixel,cells", [((4, 4), {(2, 2)}), ((4, 5), {(2, 2), (2, 3)}), ((0, 7), {(0, 3)})])
def test_strided_convolutions_are_centred_on_even_pixels(pixel, cells):
    """Of an 8 x 8 image; SAME padding of XLA would centre them on odd ones."""
    x = np.zeros((1, 8, 8, 1), np.float32)
    x[0, *pixel] = 1
    kernels = {
        "conv1": np.ones((3, 3, 1, 1)),
        "conv2": CENTRE[..., None, None],
        "shortcut_conv": np.zeros((1, 1, 1, 1)),
    }
    y = apply_unit(Unit((1, 1), projection=True, stride=2), x, kernels)
    assert y.shape == (1, 4, 4, 1) and set(zip(*np.nonzero(y[0, :, :, 0]), strict=True)) == cells


def test_the_shortcut_is_the_input_or_a_projection_of_the_first_activation():
    """Of -3 and 2: the activation is 0 and 2; kernels of zeros leave the shortcut alone."""
    x = np.array([-3.0, 2.0], np.float32).reshape(1, 1, 2, 1)
    none = {"conv1": np.zeros((3, 3, 1, 1)), "conv2": np.zeros((3, 3, 1, 1))}
    y = apply_unit(Unit((1, 1), projection=False), x, none)
    np.testing.assert_array_equal(y.ravel(), [-3, 2])
    y = apply_unit(Unit((1, 1), projection=True), x, none | {"shortcut_conv": np.full((1, 1, 1, 1), 10)})
    np.testing.assert_allclose(y.ravel(), [0, 20 / np.sqrt(1.00001001)], rtol=1e-6)


def test_dropout_scales_what_it_keeps():
    """Kernels that change nothing, of ones: before the last one a share of 0.3 becomes 0, the rest 1 / 0.7."""
    channels, x = 64, np.ones((1, 8, 8, 64), np.float32)
    identity = np.eye(channels)[None, None]
    kernels = {"conv1": identity, "conv2": CENTRE[..., None, None] * identity, "conv3": identity}
    unit = Unit((channels,) * 3, projection=False, dropout=0.3)
    np.testing.assert_allclose(apply_unit(unit, x, kernels), 2, atol=1e-4)
    branch = apply_unit(unit, x, kernels, rngs={"dropout": jax.random.key(1)}) - 1
    dropped = np.abs(branch) < 1e-6
    assert abs(dropped.mean() - 0.3) < 0.03
    np.testing.assert_allclose(branch[~dropped], 1 / 0.7, atol=1e-4)


# ---- Training ----


def encode(frozen_levels=0, remat=""):
    """`encode_groups` of a model with frozen statistics, as a function of a key, and the statistics before."""
    model = model_of(width=WIDTH, batch_norm="frozen", frozen_levels=frozen_levels, remat=remat)
    given = {name: tensor.astype(np.float32) for name, tensor in random_tensors().items()}
    variables, _ = from_state_dict(given, shapes_of(model), names=NAMES)
    variables["params"] = {"encoder": variables["params"]["encoder"]}
    images = {"city": np.random.default_rng(2).random((2, 16, 16, 3), np.float32)}
    return partial(encode_groups, model, variables, images), variables["batch_stats"]


@pytest.mark.nightly
def test_frozen_statistics_stay_and_dropout_follows_the_key():
    run, stats = encode()
    (plain, same), (one, _), (two, _) = run(), run(dropout=jax.random.key(1)), run(dropout=jax.random.key(2))
    assert difference(same, stats) == 0
    assert difference(plain, one) > 1e-3 and difference(one, two) > 1e-3
    recomputed, _ = encode(remat="all")[0](dropout=jax.random.key(1))
    assert difference(recomputed, one) < 1e-6


@pytest.mark.parametrize("frozen_levels,drops", [(0, 2), (6, 1), (7, 0)])
def test_only_the_last_two_levels_drop_and_not_where_they_are_frozen(frozen_levels, drops):
    run, _ = encode(frozen_levels)
    assert str(jax.make_jaxpr(lambda key: run(dropout=key))(jax.random.key(0))).count("name=_bernoulli") == drops
    assert "_bernoulli" not in str(jax.make_jaxpr(run)())
