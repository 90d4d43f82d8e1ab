"""DINOv2: the numbers of Hugging Face's transformers, images of any size, names of files."""

import json
import math
import pathlib
import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from usss_jax.errors import InputError
from usss_jax.models import pretrained
from usss_jax.models.dinov2 import DinoV2, cubic_matrix
from usss_jax.models.universal import UniversalModel, create_model

GOLDEN = pathlib.Path(__file__).parent / "fixtures" / "dinov2" / "features.npz"
GRADIENTS = {  # recorded part of the gradient of each parameter
    "cls_token": np.s_[:],
    "pos_embed": np.s_[:, ::9],
    "patch_embed.proj.weight": np.s_[::8, :, ::3, ::3],
    "blocks.0.attn.qkv.weight": np.s_[::5, ::4],
    "blocks.0.attn.qkv.bias": np.s_[:],
    "blocks.0.ls1.gamma": np.s_[:],
    "blocks.1.mlp.fc1.bias": np.s_[:],
    "norm.weight": np.s_[:],
}
PARAMETERS = {"dinov2_vits14": 22056576, "dinov2_vitb14": 86580480}  # as published, with the mask token
CHANNELS = 128  # two heads


def original_shapes(channels, blocks):
    """Tensors of the original's state dict in PyTorch's layout."""
    out = {"cls_token": (1, 1, channels), "pos_embed": (1, 1370, channels), "mask_token": (1, channels)}

    def layer(name, *shape):
        out.update({f"{name}.weight": shape, f"{name}.bias": shape[:1]})

    layer("patch_embed.proj", channels, 3, 14, 14)
    for i in range(blocks):
        layer(f"blocks.{i}.norm1", channels)
        layer(f"blocks.{i}.attn.qkv", 3 * channels, channels)
        layer(f"blocks.{i}.attn.proj", channels, channels)
        out[f"blocks.{i}.ls1.gamma"] = (channels,)
        layer(f"blocks.{i}.norm2", channels)
        layer(f"blocks.{i}.mlp.fc1", 4 * channels, channels)
        layer(f"blocks.{i}.mlp.fc2", channels, 4 * channels)
        out[f"blocks.{i}.ls2.gamma"] = (channels,)
    layer("norm", channels)
    return out


def drawn(name, shape):
    """One tensor by the rule of tests/fixtures/README.md."""
    z = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF).standard_normal(shape).astype(np.float32)
    if name.endswith("gamma"):
        return 0.5 * np.abs(z)
    if name in ("cls_token", "pos_embed", "mask_token"):
        return 0.3 * z
    if len(shape) == 1:
        return 1 + 0.1 * z if name.endswith("weight") else 0.1 * z
    return z * np.float32(math.sqrt(1 / math.prod(shape[1:])))


def weights_of(blocks, channels=CHANNELS):
    return {name: drawn(name, shape) for name, shape in original_shapes(channels, blocks).items()}


def small(blocks, **fields):
    """A network of full precision: on GPUs the default would be TF32."""
    encoder = DinoV2(channels=CHANNELS, blocks=blocks, precision=lax.Precision.HIGHEST, **fields)
    return UniversalModel(encoder, {"a": 2}, normalize="none")


def filled(model, weights):
    """(parameters of the encoder, report) of a state dict."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 14, 14, 3), np.float32))
    names = model.encoder.tensor_names
    variables, report = pretrained.from_state_dict(weights, shapes, encoder_only=True, names=names)
    return variables["params"]["encoder"], report


def features_and_gradients(model, params, images, cotangent):
    """(features, gradients of their product with the cotangent for parameters and images)."""

    def product(params, images):
        features = model.apply({"params": {"encoder": params}}, images, method="encode")
        return (features * cotangent).sum(), features

    (_, features), gradients = jax.jit(jax.value_and_grad(product, (0, 1), has_aux=True))(params, images)
    return features, *gradients


def assert_close(got, want, tolerance=1e-5):
    """Compare relative to the largest value."""
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


def random_images(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


# ---- Numbers ----


@pytest.mark.slow
def test_features_and_gradients_are_those_of_transformers():
    """Features of a non-square image, and gradients of their product with a random tensor.

    The fixture holds what Dinov2Model of transformers 5.24.0 (torch 2.13.0) gives in float64 on the CPU for image_size
    518, seed 0 and weights by the rule of tests/fixtures/README.md.
    """
    with np.load(GOLDEN, allow_pickle=False) as file:
        golden = dict(file)
    meta = json.loads(str(golden["meta"]))
    b, h, w, c = meta["images"]
    assert (meta["channels"], meta["heads"]) == (CHANNELS, DinoV2(channels=CHANNELS).heads)
    random = np.random.RandomState(meta["seed"])
    images = random.standard_normal((b, c, h, w)).astype(np.float32).transpose(0, 2, 3, 1)
    cotangent = random.standard_normal(golden["features"].shape).astype(np.float32)
    model = small(meta["blocks"])
    params, _ = filled(model, weights_of(meta["blocks"]))
    features, gradients, of_images = features_and_gradients(model, params, images, cotangent)
    assert features.shape == (2, 3, 5, CHANNELS)
    assert_close(features, golden["features"])
    assert_close(of_images, golden["images"])
    theirs = pretrained.to_state_dict({"params": {"encoder": gradients}}, names=model.encoder.tensor_names)
    for name, part in GRADIENTS.items():
        assert_close(theirs[name][part], golden[name])


def test_the_position_embedding_keeps_its_own_grid():
    np.testing.assert_array_equal(cubic_matrix(37, 37), np.eye(37))
    np.testing.assert_allclose(cubic_matrix(5, 37).sum(1), 1, atol=1e-12)


def test_zeros_pad_other_sizes_at_the_lower_right():
    encoder = small(1).encoder
    params, _ = filled(small(1), weights_of(1))
    images = random_images(2, 29, 41, 3)
    padded = np.pad(images, ((0, 0), (0, 13), (0, 1), (0, 0)))
    got, want = (jax.jit(encoder.apply)({"params": params}, x) for x in (images, padded))
    assert got.shape == (2, 3, 3, CHANNELS)
    assert_close(got, want)


@pytest.mark.slow
def test_recomputed_blocks_change_nothing():
    params, _ = filled(small(2), weights_of(2))
    images, cotangent = random_images(1, 28, 42, 3), random_images(1, 2, 3, CHANNELS)
    kept, recomputed = (
        features_and_gradients(small(2, remat=remat), params, images, cotangent) for remat in ((), (0, 1))
    )
    jax.tree.map(lambda a, b: assert_close(b, a), kept, recomputed)


def test_bfloat16_gives_float32_features_near_those_of_float32():
    params, _ = filled(small(2), weights_of(2))
    images, cotangent = random_images(1, 28, 42, 3), random_images(1, 2, 3, CHANNELS)
    wide = features_and_gradients(small(2), params, images, cotangent)
    short = features_and_gradients(small(2, dtype=jnp.bfloat16), params, images, cotangent)
    assert {a.dtype for a in jax.tree.leaves(short)} == {jnp.dtype(jnp.float32)}
    assert np.abs(wide[0] - short[0]).max() > 1e-5
    jax.tree.map(lambda a, b: assert_close(b, a, 0.1), wide, short)


# ---- As an encoder ----


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.slow
def test_every_tensor_of_the_published_encoders_has_its_shape(name):
    encoder = create_model(name, {"a": 2}).encoder
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), np.zeros((1, 14, 14, 3), np.float32))
    zeros = jax.tree.map(lambda a: np.broadcast_to(np.float32(0), a.shape), shapes["params"])
    theirs = pretrained.to_state_dict({"params": {"encoder": zeros}}, names=encoder.tensor_names)
    published = original_shapes(encoder.out_channels, 12)
    assert sum(map(math.prod, published.values())) == PARAMETERS[name]
    assert {n: t.shape for n, t in theirs.items()} == {n: s for n, s in published.items() if n != "mask_token"}


@pytest.mark.parametrize(
    "width,heads,channels", [(1, 6, 384), (0.52, 3, 201), (0.4, 2, 154), (0.25, 1, 96), (0.001, 1, 1)]
)
def test_the_width_scales_channels_to_a_multiple_of_the_heads(width, heads, channels):
    encoder = create_model("dinov2_vits14", {"a": 2}, width=width).encoder
    assert (encoder.heads, encoder.out_channels) == (heads, channels)


# ---- Names of files ----


def timm(weights):
    return {name: tensor for name, tensor in weights.items() if name != "mask_token"}


def hugging_face(weights):
    """Tensors of the original as in the files of transformers' Dinov2Model."""
    out = {}
    for name, tensor in weights.items():
        name = re.sub(r"^(cls|mask)_token", r"embeddings.\1_token", name)
        name = name.replace("pos_embed", "embeddings.position_embeddings")
        name = name.replace("patch_embed.proj", "embeddings.patch_embeddings.projection")
        name = re.sub(r"^norm\.", "layernorm.", name).replace("blocks.", "encoder.layer.")
        name = re.sub(r"\.ls([12])\.gamma", r".layer_scale\1.lambda1", name)
        name = name.replace("attn.proj", "attention.output.dense")
        thirds = dict(zip(("query", "key", "value"), np.split(tensor, 3), strict=True)) if "qkv" in name else {}
        out |= {name.replace("attn.qkv", f"attention.attention.{part}"): third for part, third in thirds.items()}
        if not thirds:
            out[name] = tensor
    return out


def hugging_face_classifier(weights):
    """As in the files of Dinov2ForImageClassification."""
    classifier = {"classifier.weight": np.zeros((5, 2 * CHANNELS), np.float32)}
    return {f"dinov2.{name}": tensor for name, tensor in hugging_face(weights).items()} | classifier


def hugging_face_in_memory(weights):
    """As in the state dict of Dinov2Model in transformers 5, which its files do not use."""
    out = {}
    for name, tensor in hugging_face(weights).items():
        name = re.sub(r"\.attention\.(query|key|value)\.", lambda found: f".{found[1][0]}_proj.", name)
        out[name.replace("output.dense", "o_proj")] = tensor
    return out


@pytest.mark.parametrize("layout", [dict, timm, hugging_face, hugging_face_classifier, hugging_face_in_memory])
def test_a_file_of_any_layout_gives_the_same_network(layout, tmp_path):
    weights = weights_of(1)
    path = str(tmp_path / "weights.safetensors")
    pretrained.save_safetensors(path, layout(weights))
    params, report = filled(small(1), pretrained.load_file(path))
    assert all(name.endswith(("mask_token", "classifier.weight")) for name in report.unused)
    assert set(report.missing) == {"params/decoder_a/kernel", "params/decoder_a/bias"}
    assert not any("token" in name or "pos" in name for name in report.reshaped)
    back = pretrained.to_state_dict({"params": {"encoder": params}}, names=small(1).encoder.tensor_names)
    assert {n: (t.shape, t.tobytes()) for n, t in back.items()} == {
        n: (t.shape, t.tobytes()) for n, t in timm(weights).items()
    }


def test_weights_that_do_not_fit_are_refused_by_name():
    given = weights_of(1)
    registers = given | {"register_tokens": np.zeros((1, 4, CHANNELS), np.float32)}
    other_grid = given | {"pos_embed": np.zeros((1, 257, CHANNELS), np.float32)}
    lacking = hugging_face(given)
    del lacking["encoder.layer.0.attention.attention.key.bias"]
    for weights, text in (
        (registers, r"register_tokens is \(1, 4, 128\) and has no place"),
        (other_grid, r"pos_embed is \(1, 257, 128\), the model's params/encoder/positions takes \(1, 1370, 128\)"),
        (lacking, r"attention\.attention\.query\.bias is \(128,\) and has no place"),
        (weights_of(2), r"blocks\.1\.norm1\.weight is \(128,\) and has no place"),
    ):
        with pytest.raises(InputError, match=text):
            filled(small(1), weights)
