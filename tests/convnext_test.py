"""ConvNeXt at stride 8: timm's numbers, the network of stride 32, the network written out in NumPy, names of files."""

import json
import math
import pathlib
import re
import subprocess
import sys
import zlib
from functools import partial

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_data

from usss_jax.engine import state
from usss_jax.errors import InputError
from usss_jax.methods.imagenet import classify
from usss_jax.methods.usss import label_embeddings
from usss_jax.models import convnext, drn, pretrained
from usss_jax.models.convnext import ConvNeXt
from usss_jax.models.universal import UniversalModel, create_model, encode_groups
from usss_jax.parallel import sharding
from usss_jax.runs import checkpoint, networks

GOLDEN = pathlib.Path(__file__).parent / "fixtures" / "convnext" / "stride8.npz"
# name: (blocks, channels) of the four stages, Table 9 of the paper
PUBLISHED = {
    "convnext_tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "convnext_small": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "convnext_base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
}
SMALL = ((1, 2, 1, 2), (4, 6, 8, 10))
NAMES = ConvNeXt(*SMALL).tensor_names
from_state_dict = partial(pretrained.from_state_dict, names=NAMES)


def timm_shapes(blocks, channels, head=True):
    """Tensors of timm's state dict in PyTorch's layout, from the published table."""
    out = {}

    def layer(name, *shape):
        out.update({f"{name}.weight": shape, f"{name}.bias": shape[:1]})

    layer("stem.0", channels[0], 3, 4, 4)
    layer("stem.1", channels[0])
    for stage, c in enumerate(channels):
        if stage:
            layer(f"stages.{stage}.downsample.0", channels[stage - 1])
            layer(f"stages.{stage}.downsample.1", c, channels[stage - 1], 2, 2)
        for i in range(blocks[stage]):
            block = f"stages.{stage}.blocks.{i}"
            out[f"{block}.gamma"] = (c,)
            layer(f"{block}.conv_dw", c, 1, 7, 7)
            layer(f"{block}.norm", c)
            layer(f"{block}.mlp.fc1", 4 * c, c)
            layer(f"{block}.mlp.fc2", c, 4 * c)
    layer("head.norm", channels[3])
    if head:
        layer("head.fc", 1000, channels[3])
    return out


def drawn(name, shape):
    """One tensor by the rule of tests/fixtures/README.md."""
    z = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF).standard_normal(shape).astype(np.float32)
    if name.endswith("gamma"):
        return 0.5 * np.abs(z)
    if len(shape) == 1:
        return 1 + 0.1 * z if name.endswith("weight") else 0.1 * z
    return z * math.sqrt(1 / math.prod(shape[1:]))


def weights_of(blocks, channels, head=False):
    return {name: drawn(name, shape) for name, shape in timm_shapes(blocks, channels, head).items()}


def model_of(blocks, channels):
    return UniversalModel(ConvNeXt(blocks, channels), {"a": 2})


def shapes_of(model):
    return {"batch_stats": {}, **jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))}


def flat(tree):
    return flax.traverse_util.flatten_dict(tree, sep="/")


def features(blocks, channels, weights, images):
    """Features in float64 of images [B, H, W, 3]."""
    model = model_of(blocks, channels)
    variables, _ = from_state_dict(weights, shapes_of(model))
    with jax.enable_x64(True):
        params = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), variables["params"]["encoder"])
        return np.asarray(jax.jit(model.encoder.apply)({"params": params}, jnp.asarray(images, jnp.float64)))


# ---- Numbers ----


@pytest.mark.slow
def test_agrees_with_timm_at_output_stride_8():
    with np.load(GOLDEN, allow_pickle=False) as file:
        meta, want = json.loads(str(file["meta"])), file["features"]
    b, h, w, c = meta["images"]
    images = np.random.RandomState(meta["seed"]).standard_normal((b, c, h, w)).astype(np.float32)
    weights = {name: drawn(name, shape) for name, shape in meta["state"].items()}
    got = features(meta["blocks"], meta["channels"], weights, images.transpose(0, 2, 3, 1))[..., ::3]
    assert got.shape == want.shape == (2, 5, 7, 32) and want.std() > 0.5
    np.testing.assert_allclose(got, want, atol=1e-10)


def conv(x, kernel, stride=1, dilation=1, before=0, after=0):
    """Dense convolution [B, H, W, I] x [k, k, I, O] with zeros before and after on each axis; `after` per axis."""
    k = kernel.shape[0]
    after = after if isinstance(after, tuple) else (after, after)
    x = np.pad(x, ((0, 0), (before, after[0]), (before, after[1]), (0, 0)))
    h, w = ((n - dilation * (k - 1) - 1) // stride + 1 for n in x.shape[1:3])
    out = np.zeros((x.shape[0], h, w, kernel.shape[3]))
    for y in range(k):
        for z in range(k):
            top, left = y * dilation, z * dilation
            out += (
                x[:, top : top + (h - 1) * stride + 1 : stride, left : left + (w - 1) * stride + 1 : stride]
                @ (kernel[y, z])
            )
    return out


def written_out(weights, blocks, images, stride):
    """The network in NumPy, at output stride 8 or, as published, 32."""
    weights = {name: np.float64(t) for name, t in weights.items()}

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def dense(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def down(x, name, step, **zeros):
        return conv(x, weights[f"{name}.weight"].transpose(2, 3, 1, 0), step, **zeros) + weights[f"{name}.bias"]

    def up_to(x, step):
        return tuple(-n % step for n in x.shape[1:3])

    gelu = np.vectorize(lambda v: v * 0.5 * (1 + math.erf(v / math.sqrt(2))))
    x = norm(down(images, "stem.0", 4, after=up_to(images, 4)), "stem.1")
    for stage, count in enumerate(blocks):
        dilation = 1
        if stage:
            x, name = norm(x, f"stages.{stage}.downsample.0"), f"stages.{stage}.downsample.1"
            if stage == 1 or stride == 32:
                x = down(x, name, 2, after=up_to(x, 2))
            elif stage == 2:
                x, dilation = down(x, name, 1, after=1), 2
            else:
                x, dilation = down(x, name, 1, dilation=2, before=1, after=1), 4
        for i in range(count):
            block = f"stages.{stage}.blocks.{i}"
            kernel = weights[f"{block}.conv_dw.weight"][:, 0].transpose(1, 2, 0)
            full = np.einsum("hwc,cd->hwcd", kernel, np.eye(kernel.shape[2]))
            y = conv(x, full, dilation=dilation, before=3 * dilation, after=3 * dilation)
            y = norm(y + weights[f"{block}.conv_dw.bias"], f"{block}.norm")
            y = dense(gelu(dense(y, f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
            x = x + weights[f"{block}.gamma"] * y
    return norm(x, "head.norm")


@pytest.mark.parametrize("size,cells", [((29, 17), (4, 3)), ((1, 9), (1, 2))])
@pytest.mark.slow
def test_any_size_gives_what_the_network_written_out_gives(size, cells):
    images = np.random.default_rng(1).standard_normal((2, *size, 3))
    weights = weights_of(*SMALL)
    want = written_out(weights, SMALL[0], images, 8)
    assert want.shape == (2, *cells, 10) and want.std() > 0.5
    np.testing.assert_allclose(features(*SMALL, weights, images), want, atol=1e-10)


def test_every_fourth_cell_is_that_of_the_published_network_of_stride_32():
    images = np.random.default_rng(2).standard_normal((1, 64, 96, 3))
    weights = weights_of(*SMALL)
    want = written_out(weights, SMALL[0], images, 32)
    got = features(*SMALL, weights, images)
    assert want.shape == (1, 2, 3, 10) and got.shape == (1, 8, 12, 10)
    np.testing.assert_allclose(got[:, 1::4, 1::4], want, atol=1e-10)
    assert np.abs(got[:, ::4, ::4] - want).max() > 0.1


def test_the_layer_scale_begins_at_a_millionth():
    encoder = ConvNeXt((0, 1, 0, 0), (64, 64, 1, 1))
    params = jax.jit(encoder.init)(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))["params"]
    np.testing.assert_array_equal(params["stage1_block0"]["scale"], np.full(64, 1e-6, np.float32))
    assert np.std(params["stage1_conv"]["kernel"]) == pytest.approx(0.02, rel=0.05)


# ---- As an encoder ----


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.slow
def test_every_tensor_of_the_published_encoders_has_its_shape(name):
    shapes = flat(shapes_of(create_model(name, {"a": 2}))["params"]["encoder"])
    theirs = {NAMES.theirs(f"params/encoder/{path}"): a.shape for path, a in shapes.items()}
    layout = {n: (s[2], s[3], s[1], s[0]) if len(s) == 4 else s[::-1] for n, s in timm_shapes(*PUBLISHED[name]).items()}
    assert theirs == {n: s for n, s in layout.items() if not n.startswith("head.fc")}


@pytest.mark.parametrize(
    "name,count", [("convnext_tiny", 28589128), ("convnext_small", 50223688), ("convnext_base", 88591464)]
)
@pytest.mark.slow
def test_with_the_classifier_they_have_the_published_number_of_parameters(name, count):
    """The numbers that torchvision gives for its weights (num_params)."""
    encoder = create_model(name, {"a": 2}).encoder
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))
    assert sum(a.size for a in jax.tree.leaves(shapes)) + 1000 * (encoder.out_channels + 1) == count


@pytest.mark.slow
def test_the_width_scales_every_channel_count():
    encoder = create_model("convnext_tiny", {"a": 2}, width=0.125).encoder
    assert encoder.out_channels == 96
    shapes = flat(jax.eval_shape(encoder.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))["params"])
    assert shapes["stage0_conv/kernel"].shape == (4, 4, 3, 12)
    assert shapes["stage2_block8/conv/kernel"].shape == (7, 7, 1, 48)


@pytest.mark.slow
def test_training_passes_do_not_depend_on_how_domains_share_them():
    """Domains of equal shape share a pass; nothing is kept, so the features are those of evaluation."""
    model = UniversalModel(ConvNeXt(*SMALL), {"a": 2, "b": 3})
    params = {"encoder": from_state_dict(weights_of(*SMALL), shapes_of(model))[0]["params"]["encoder"]}
    images = dict(zip("ab", np.random.default_rng(0).random((2, 2, 16, 24, 3), np.float32), strict=True))
    encoded, stats = jax.jit(partial(encode_groups, model))({"params": params, "batch_stats": {}}, images)
    assert stats == {}
    encode = jax.jit(partial(model.apply, method="encode"))
    for domain in "ab":
        np.testing.assert_allclose(encoded[domain], encode({"params": params}, images[domain]), atol=1e-5)


@pytest.mark.slow
def test_in_bfloat16_parameters_norms_and_sums_stay_float32():
    full, half = (ConvNeXt(*SMALL, dtype=dtype) for dtype in (None, jnp.bfloat16))
    shapes = jax.eval_shape(half.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    assert {a.dtype for a in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}
    variables, _ = from_state_dict(weights_of(*SMALL), shapes_of(model_of(*SMALL)))
    variables = {"params": variables["params"]["encoder"]}
    images = np.random.default_rng(0).random((1, 16, 16, 3), np.float32)
    wide, short = jax.jit(full.apply)(variables, images), jax.jit(half.apply)(variables, images)
    assert short.dtype == jnp.float32  # of the last norm
    assert 1e-5 < np.abs(wide - short).max() / np.abs(wide).max() < 0.1


@pytest.mark.slow
def test_a_checkpoint_without_batch_statistics_returns_bit_by_bit(tmp_path):
    model, mesh = UniversalModel(ConvNeXt(*SMALL), {"a": 2}, 4), sharding.create_mesh()
    saved, _ = state.create_state(model, optax.sgd(0.1, momentum=0.9), 0, mesh)
    assert saved.batch_stats == {}
    checkpoints = checkpoint.Checkpoints(tmp_path)
    checkpoints.save(1, {"state": saved, "variables": saved.variables}, {"progress": 1})
    fresh, _ = state.create_state(model, optax.sgd(0.1, momentum=0.9), 1, mesh)
    got = checkpoints.restore(1, state=fresh)["state"]
    variables = checkpoints.restore(1, variables=networks.abstract_variables(model, mesh))["variables"]
    for restored, wanted in ((got, saved), (variables, saved.variables)):
        assert jax.tree.structure(restored) == jax.tree.structure(wanted)
        jax.tree.map(np.testing.assert_array_equal, restored, wanted)


# ---- Names of files ----


def test_the_names_in_this_file_are_those_that_timm_has():
    with np.load(GOLDEN, allow_pickle=False) as file:
        meta = json.loads(str(file["meta"]))
    for key, table in (
        ("state", (meta["blocks"], meta["channels"])),
        ("state_of_convnext_tiny", PUBLISHED["convnext_tiny"]),
    ):
        assert timm_shapes(*table) == {name: tuple(shape) for name, shape in meta[key].items()}


def original(name):
    """timm's name in the original's files (facebookresearch/ConvNeXt)."""
    if name.startswith("head."):
        return name.replace("head.norm", "norm").replace("head.fc", "head")
    name = re.sub(r"^stem\.", "downsample_layers.0.", name)
    name = re.sub(r"^stages\.(\d)\.downsample", r"downsample_layers.\1", name)
    return name.replace(".blocks", "").replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")


def hugging_face(name):
    """timm's name in the files of transformers' ConvNextForImageClassification."""
    name = name.replace("head.norm", "convnext.layernorm").replace("head.fc", "classifier")
    name = name.replace("stem.0", "convnext.embeddings.patch_embeddings").replace(
        "stem.1", "convnext.embeddings.layernorm"
    )
    name = re.sub(r"^stages\.(\d)\.downsample", r"convnext.encoder.stages.\1.downsampling_layer", name)
    name = re.sub(r"^stages\.(\d)\.blocks", r"convnext.encoder.stages.\1.layers", name)
    name = name.replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv").replace(".gamma", ".layer_scale_parameter")
    return re.sub(r"(layers\.\d+)\.norm", r"\1.layernorm", name)


def torchvision(name):
    """timm's name in torchvision's files."""
    name = name.replace("head.norm", "classifier.0").replace("head.fc", "classifier.2").replace("stem", "features.0")
    name = re.sub(r"^stages\.(\d)\.downsample", lambda m: f"features.{2 * int(m[1])}", name)
    name = re.sub(r"^stages\.(\d)\.blocks", lambda m: f"features.{2 * int(m[1]) + 1}", name)
    for theirs, index in (("conv_dw", 0), ("norm", 2), ("mlp.fc1", 3), ("mlp.fc2", 5)):
        name = re.sub(rf"(features\.\d\.\d+)\.{theirs}", rf"\1.block.{index}", name)
    return name.replace(".gamma", ".layer_scale")


def test_the_renamings_in_this_file_give_known_public_names():
    """One of each kind, as they are in the public files."""
    for rename, names in (
        (original, ("downsample_layers.0.0.weight", "downsample_layers.3.1.bias", "stages.2.8.pwconv1.weight")),
        (original, ("stages.0.0.gamma", "stages.0.0.dwconv.bias", "norm.weight", "head.bias")),
        (torchvision, ("features.0.0.weight", "features.5.8.block.5.weight", "features.6.1.bias")),
        (torchvision, ("features.1.0.layer_scale", "classifier.0.weight", "classifier.2.bias")),
        (hugging_face, ("convnext.embeddings.patch_embeddings.weight", "convnext.layernorm.bias", "classifier.weight")),
        (hugging_face, ("convnext.encoder.stages.1.downsampling_layer.1.weight",)),
        (hugging_face, ("convnext.encoder.stages.2.layers.8.layernorm.weight",)),
        (hugging_face, ("convnext.encoder.stages.0.layers.0.layer_scale_parameter",)),
    ):
        assert set(names) <= {rename(name) for name in timm_shapes(*PUBLISHED["convnext_tiny"])}, rename


@pytest.mark.parametrize("rename", [str, original, hugging_face, torchvision])
@pytest.mark.slow
def test_every_tensor_of_four_layouts_has_its_place(rename):
    model, timm = model_of(*SMALL), weights_of(*SMALL, head=True)
    given = {rename(name): tensor for name, tensor in timm.items()}
    if rename is torchvision:
        given = {n: t[:, None, None] if n.endswith("layer_scale") else t for n, t in given.items()}
    variables, report = from_state_dict(given, shapes_of(model), encoder_only=True)
    head = {rename("head.fc.weight"), rename("head.fc.bias")}
    assert set(report.unused) == head and set(report.matched) == set(given) - head
    assert set(report.missing) == {"params/decoder_a/kernel", "params/decoder_a/bias"}
    moved = {n for n, t in given.items() if n not in head and t.ndim > 1}
    assert set(report.reshaped) == moved
    assert variables["batch_stats"] == {}
    back = pretrained.to_state_dict({"params": {"encoder": variables["params"]["encoder"]}}, names=NAMES)
    assert {n: (t.shape, t.tobytes()) for n, t in back.items()} == {
        n: (t.shape, t.tobytes()) for n, t in timm.items() if not n.startswith("head.fc")
    }


def test_values_arrive_with_outputs_last():
    timm = weights_of(*SMALL)
    variables, _ = from_state_dict(timm, shapes_of(model_of(*SMALL)))
    got = variables["params"]["encoder"]
    assert got["stage3_block1"]["conv"]["kernel"].shape == (7, 7, 1, 10)
    np.testing.assert_array_equal(
        got["stage3_block1"]["conv"]["kernel"][2, 5, 0], timm["stages.3.blocks.1.conv_dw.weight"][:, 0, 2, 5]
    )
    np.testing.assert_array_equal(
        got["stage1_block0"]["expand"]["kernel"][3], timm["stages.1.blocks.0.mlp.fc1.weight"][:, 3]
    )
    np.testing.assert_array_equal(got["stage1_norm"]["scale"], timm["stages.1.downsample.0.weight"])
    np.testing.assert_array_equal(got["stage0_norm"]["bias"], timm["stem.1.bias"])
    np.testing.assert_array_equal(got["stage2_block0"]["scale"], timm["stages.2.blocks.0.gamma"])


def test_weights_return_bit_by_bit_through_a_file(tmp_path):
    model, r = UniversalModel(ConvNeXt(*SMALL), {"a": 2}, 4), np.random.default_rng(0)
    ours = jax.tree.map(lambda a: r.standard_normal(a.shape).astype(np.float32), shapes_of(model))
    path = str(tmp_path / "w.safetensors")
    tensors = pretrained.to_state_dict(ours, ["a"], names=NAMES)
    assert tensors["seg.0.weight"].shape == (2, 10, 1, 1) and tensors["en_map.bias"].shape == (4,)
    pretrained.save_safetensors(path, tensors)
    back, report = from_state_dict(pretrained.load_file(path), shapes_of(model), ["a"])
    assert report.missing == () and report.unused == ()
    jax.tree.map(np.testing.assert_array_equal, back, ours)


def test_a_pretrained_classifier_fills_an_encoder():
    model = UniversalModel(ConvNeXt(*SMALL), {classify.HEAD: 3})
    r = np.random.default_rng(0)
    ours = jax.tree.map(lambda a: r.standard_normal(a.shape).astype(np.float32), shapes_of(model))
    tensors = classify.classifier_state_dict(ours, NAMES)
    back, report = from_state_dict(tensors, shapes_of(model_of(*SMALL)), encoder_only=True)
    assert set(report.unused) == {"fc.weight", "fc.bias"}
    jax.tree.map(np.testing.assert_array_equal, back["params"]["encoder"], ours["params"]["encoder"])


def complaint(given, model):
    with pytest.raises(InputError) as error:
        pretrained.from_state_dict(given, shapes_of(model), encoder_only=True, names=model.encoder.tensor_names)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.slow
def test_weights_of_the_other_architecture_are_refused_by_their_first_tensor():
    thin = create_model("drn_d_22", {"a": 2}, width=0.0625)
    timm = weights_of(*SMALL)
    assert "stem.0.weight is (4, 3, 4, 4) and has no place in this model" in complaint(timm, thin)
    for layout in ("base.0.0.weight", "layer0.0.weight"):
        text = complaint({layout: np.zeros((1, 3, 7, 7), np.float32)}, model_of(*SMALL))
        assert f"{layout} is (1, 3, 7, 7) and has no place" in text and "`encoder`" in text


@pytest.mark.slow
def test_weights_of_another_size_are_refused_with_both_shapes():
    timm = weights_of(*SMALL)
    assert (
        "stem.0.weight is (4, 3, 4, 4), the model's params/encoder/stage0_conv/kernel takes (5, 3, 4, 4)"
        in complaint(timm, model_of(SMALL[0], (5, 6, 8, 10)))
    )
    assert "stages.1.blocks.1.gamma is (6,) and has no place" in complaint(timm, model_of((1, 1, 1, 2), SMALL[1]))
    assert re.search(r"stages\.2\.blocks\.1\.\S+ is not given", complaint(timm, model_of((1, 2, 2, 2), SMALL[1])))
    grn = timm | {"stages.0.blocks.0.mlp.grn.weight": np.ones(16, np.float32)}  # ConvNeXt V2
    assert "stages.0.blocks.0.mlp.grn.weight is (16,) and has no place" in complaint(grn, model_of(*SMALL))
    without_norm = {n: t for n, t in timm.items() if not n.startswith("head.norm")}
    assert "head.norm.bias is not given" in complaint(without_norm, model_of(*SMALL))


def test_a_tensor_under_two_names_is_refused():
    timm = weights_of(*SMALL)
    text = complaint(timm | {"downsample_layers.0.0.bias": timm["stem.0.bias"]}, model_of(*SMALL))
    assert "downsample_layers.0.0.bias is given under two names" in text


def test_the_encoders_of_both_families_have_names_of_their_own():
    assert not set(drn.ENCODERS) & set(convnext.ENCODERS)
    assert set(convnext.ENCODERS) == set(PUBLISHED)


# ---- The whole method ----


@pytest.mark.nightly
def test_the_whole_method_runs_with_it(tmp_path):
    """configs/cs_cvd.py:convnext_tiny on one domain: train, select, label embeddings, Univ-full, then from its weights.

    The second command opens the checkpoint of the first's Univ-full as `pretrained`, the third is refused.
    """
    repo = pathlib.Path(__file__).parent.parent
    tiny_data.write_camvid(tmp_path / "data" / "camvid", count=6)

    def run(workdir, encoder, *options):
        command = [sys.executable, "-m", "usss_jax.main", f"--config={repo / 'configs' / 'cs_cvd.py'}:{encoder}"]
        fields = {"data.domains": "camvid", "data.root": tmp_path / "data", "data.labeled_per_domain": 4}
        fields |= {"data.image_size": "29x37", "data.crop_size": "29x37", "model.width": 0.0625, "usss.embed_dim": 8}
        fields |= {"train.batch_size": 2, "train.unlabeled_batch_size": 2, "train.unlabeled_batches": 1}
        fields |= {"train.eval_batch_size": 6, "train.steps": 2, "usss.single_steps": 2}
        command += [f"--workdir={tmp_path / workdir}", *(f"--config.{f}={v}" for f, v in fields.items()), *options]
        return subprocess.run(command, cwd=repo, capture_output=True, text=True)

    result = run("first", "convnext_tiny", "--config.variants=full")
    assert result.returncode == 0, result.stderr
    for job in ("single_camvid", "full"):
        summary = json.loads((tmp_path / "first" / job / "summary.json").read_text())
        assert summary["config"]["model"]["encoder"] == "convnext_tiny" and 0 <= summary["average_last"] <= 1
    embeddings, _ = label_embeddings.load(tmp_path / "first" / "prototypes" / "label_embeddings.npz")
    assert embeddings["camvid"].shape[1] == 8 and np.isfinite(embeddings["camvid"]).all()
    pretrained_from = f"--config.model.pretrained={tmp_path / 'first' / 'full'}"
    result = run("second", "convnext_tiny", "--config.variants=single", pretrained_from)
    assert result.returncode == 0, result.stderr
    assert "weights: 180 tensors matched" in result.stdout
    result = run("third", "drn_d_22", "--config.variants=single", pretrained_from)
    assert result.returncode == 2 and "has no place in this model" in result.stderr
    assert "Traceback" not in result.stderr and not (tmp_path / "third").exists()
