"""Heads: numbers of the dilated decoder and of the image's scores in NumPy, and the choice by the config."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy
from numpy_conv import numpy_conv

import usss_jax
from usss_jax.config import checked, default_config
from usss_jax.engine.state import create_state
from usss_jax.errors import InputError
from usss_jax.evaluation.evaluate import predict
from usss_jax.models import heads
from usss_jax.models.heads import Dilated, ImageScores
from usss_jax.parallel.sharding import create_mesh
from usss_jax.runs.checkpoint import Checkpoints
from usss_jax.runs.networks import build_network, describe_network


def float64(module, channels=6, size=(13, 14)):
    """Random float64 variables of a head, features, and its scores of them."""
    r = np.random.default_rng(0)
    features = r.standard_normal((2, *size, channels))
    shapes = jax.eval_shape(module.init, jax.random.key(0), features.astype(np.float32))
    params = jax.tree.map(lambda a: r.standard_normal(a.shape), shapes["params"])
    with jax.enable_x64(True):
        got = module.apply({"params": jax.tree.map(jnp.asarray, params)}, jnp.asarray(features))
    return params, features, np.asarray(got)


def relu(x):
    return np.maximum(x, 0)


def test_the_dilated_decoder_is_numpys():
    params, features, got = float64(Dilated(3, width=1 / 128))
    hidden = relu(numpy_conv(features, params["hidden"]["kernel"], dilation=12) + params["hidden"]["bias"])
    want = numpy_conv(hidden, params["scores"]["kernel"], dilation=12) + params["scores"]["bias"]
    assert hidden.shape[-1] == 4 and got.shape == (2, 13, 14, 3)
    np.testing.assert_allclose(got, want, atol=1e-9)


@pytest.mark.parametrize("every_relu", [True, False])
def test_scores_of_images_are_numpys(every_relu):
    params, features, got = float64(ImageScores(3, width=1 / 128, every_relu=every_relu), size=(3, 4))
    later = relu if every_relu else lambda x: x
    x = relu(features @ params["conv1"]["kernel"][0, 0] + params["conv1"]["bias"])
    x = later(numpy_conv(x, params["conv2"]["kernel"]) + params["conv2"]["bias"]).mean((1, 2))
    assert x.shape == (2, 16)
    x = later(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    np.testing.assert_allclose(got, x @ params["scores"]["kernel"] + params["scores"]["bias"], atol=1e-9)


@pytest.mark.parametrize("head,count", [(Dilated, 18_962_451), (ImageScores, 47_200_275)])
def test_heads_of_the_published_width_have_the_published_number_of_parameters(head, count):
    shapes = jax.eval_shape(head(19).init, jax.random.key(0), np.zeros((1, 1, 1, 4096), np.float32))
    assert sum(a.size for a in jax.tree.leaves(shapes)) == count


@pytest.mark.parametrize("head", [Dilated, ImageScores])
def test_scores_are_float32_if_the_convolutions_are_bfloat16(head):
    features = np.ones((1, 2, 2, 8), np.float32)
    scores, variables = head(3, width=1 / 128, dtype=jnp.bfloat16).init_with_output(jax.random.key(0), features)
    assert scores.dtype == np.float32
    assert {a.dtype for a in jax.tree.leaves(variables)} == {np.dtype(np.float32)}


def config_of(head):
    config = default_config()
    config.model.update({"encoder": "drn_d_22", "width": 0.0625, "precision": "bfloat16", "head": head})
    return config


def test_the_configs_head_is_that_of_every_decoder_and_of_its_checkpoints():
    network = describe_network(config_of("dilated"), {"a": ["road"], "b": ["road", "sky"]}, embed_dim=4)
    model = build_network(network)
    assert model == build_network(network) and model != build_network({**network, "head": "linear"})
    assert model.head(2) == Dilated(2, width=0.0625, dtype=jnp.bfloat16, precision=jax.lax.Precision.DEFAULT)
    params = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))["params"]
    assert params["decoder_b"]["hidden"]["kernel"].shape == (3, 3, 32, 32)
    assert params["decoder_b"]["scores"]["kernel"].shape == (3, 3, 32, 2)
    assert params["embedding"]["kernel"].shape == (1, 1, 32, 4)


@pytest.mark.parametrize("name", ["every_relu", "first_relu"])
def test_the_image_level_head_of_a_description_is_that_of_every_domain(name):
    """Its width is that of the description, and not that of the encoder."""
    options = {"image_head": name, "image_head_width": 1 / 256}
    network = describe_network(config_of("linear"), {"a": ["road"], "b": ["road", "sky"]}, **options)
    assert {field: network[field] for field in options} == options
    model = build_network(network)
    assert model == build_network(network)
    assert model != build_network({**network, "image_head": "none"})
    numerics = {"dtype": jnp.bfloat16, "precision": jax.lax.Precision.DEFAULT}
    assert model.image_head(2) == ImageScores(2, width=1 / 256, every_relu=name == "every_relu", **numerics)
    params = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))["params"]
    assert params["image_b"]["conv1"]["kernel"].shape == (1, 1, 32, 8)
    assert params["image_b"]["scores"]["kernel"].shape == (2, 2)


def test_a_network_has_no_image_level_head_unless_its_description_says_so():
    network = describe_network(config_of("linear"), {"a": ["road"]})
    assert (network.pop("image_head"), network.pop("image_head_width")) == ("none", 1.0)
    assert build_network(network).image_head is None


def test_a_job_with_image_level_heads_is_loaded_and_predicts_as_without(toy_encoder, tmp_path):
    """Its checkpoint has their parameters; predictions are those of the same variables in a network without them."""
    config = toy.config()
    network = describe_network(config, {"city": ["road", "sky"]}, image_head="every_relu", image_head_width=1 / 256)
    model = build_network(network)
    state, _ = create_state(model, optax.sgd(0.1), 3, create_mesh(jax.devices()[:1]))
    checkpoints = Checkpoints(tmp_path / "best")
    checkpoints.save(2, {"variables": state.variables}, {"network": network})
    (tmp_path / "config.json").write_text(json.dumps({"job": "basic", **config.to_dict()}))
    (tmp_path / "summary.json").write_text(json.dumps({"best_step": 2, "domains": {}}))
    predictor = usss_jax.load(tmp_path)
    assert predictor.variables["params"]["image_city"]["conv1"]["bias"].shape == (8,)
    jax.tree.map(np.testing.assert_array_equal, predictor.variables, state.variables)
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    without = build_network({**network, "image_head": "none"})
    want = predict(state.variables, image[None], domain="city", model=without)[0]
    np.testing.assert_array_equal(predictor.predict(image), want)
    assert len(np.unique(want)) == 2


def test_a_network_described_before_heads_were_has_linear_decoders():
    network = describe_network(config_of("linear"), {"a": ["road"]})
    assert network.pop("head") == "linear"
    assert build_network(network).head is heads.linear


def test_an_unknown_head_is_told_in_one_line():
    with pytest.raises(InputError, match=r"model\.head=wide must be one of linear, dilated$") as error:
        checked(config_of("wide"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("head", [Dilated, ImageScores])
def test_kernels_start_with_a_variance_of_2_by_their_inputs_and_biases_with_0(head):
    params = head(64, width=0.125).init(jax.random.key(0), np.ones((1, 1, 1, 128), np.float32))["params"]
    for layer in params.values():
        kernel = np.asarray(layer["kernel"])
        assert 0.9 < kernel.var() * kernel[..., 0].size / 2 < 1.1 and not layer["bias"].any()
