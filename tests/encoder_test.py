"""What every encoder has in common (models/encoder.py)."""

from functools import partial

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import usss_jax
from usss_jax.config import default_config, parse_arg
from usss_jax.errors import InputError
from usss_jax.methods.imagenet import classify
from usss_jax.models import encoders
from usss_jax.models.universal import create_model
from usss_jax.runs.networks import build_network, describe_network

# One of each family, and the others by night.
ONE_OF_EACH = ("drn_d_22", "convnext_tiny", "dinov2_vits14", "efficientnet_lite0", "mobilenet_v2", "rna_a1")
EVERY = [n if n in ONE_OF_EACH else pytest.param(n, marks=pytest.mark.nightly) for n in encoders.ENCODERS]


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.slow
def test_every_encoder_keeps_the_interface(name):
    model = create_model(name, {"a": 2}, width=0.0625)
    stride = model.encoder.stride
    assert stride in model.encoder.strides
    variables = jax.eval_shape(model.encoder.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
    images = np.zeros((4, 21, 40, 3), np.float32)
    run = partial(model.encoder.apply, train=True, groups=2, mutable=["batch_stats"])
    out, _ = jax.eval_shape(run, variables, images)
    assert out.shape == (4, -(-21 // stride), -(-40 // stride), model.encoder.out_channels)
    assert model.encoder.tensor_names.ours(f"{classify.HEAD}.weight") is None  # of ImageNet pretraining
    for path in flatten_dict(variables, sep="/"):
        if "batch_stats" in path or "params" in path:
            inside = path.replace("/", "/encoder/", 1)
            assert model.encoder.tensor_names.ours(model.encoder.tensor_names.theirs(inside)) == inside


@pytest.mark.parametrize("name", [*encoders.ENCODERS, *encoders.PAPER_NAMES])
def test_every_encoder_is_a_bare_word_of_a_configs_argument(name):
    assert parse_arg(name, encoder="drn_d_22").encoder == name


def test_an_unknown_encoder_lists_the_known_ones():
    with pytest.raises(InputError, match=r"'convnext_huge' is not one of .*drn_d_22.*convnext_tiny, .*resnet18"):
        create_model("convnext_huge", {"a": 2})


def test_a_network_described_before_strides_were_is_built_with_the_default():
    network = describe_network(default_config(), {"a": ["road"]})
    old = {name: value for name, value in network.items() if name not in ("stride", "lateral")}
    assert network["stride"] == 8 and build_network(old) == build_network(network)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((0, 64, 64, 3), np.uint8), r"images: \[0, 64, 64, 3\]; give RGB images"),
        (np.full((1, 64, 64, 3), 200.0, np.float32), r"images: float32 up to 200; give uint8, or floats from 0 to 1"),
        (np.zeros((1, 31, 64, 3), np.uint8), r"31x64 is smaller than one cell of the encoder, 32 pixels"),
    ],
)
def test_images_that_an_encoder_cannot_take_are_told(images, message):
    features = usss_jax.encoder("efficientnet_lite0", stride=32)
    assert len(repr(features)) < 5000  # without the weights
    with pytest.raises(InputError, match=message):
        features(images)


def test_pretrained_that_is_no_name_is_told():
    with pytest.raises(InputError, match=r'pretrained=True: give "imagenet", a file of weights or a folder'):
        usss_jax.encoder("efficientnet_lite0", pretrained=True)
