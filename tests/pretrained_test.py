"""Weights of others: the names and layouts of the reference and of the DRN release, files, complaints."""

import json
import pathlib
import sys

import flax.traverse_util
import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from usss_jax.errors import InputError
from usss_jax.models.pretrained import from_state_dict, load_file
from usss_jax.models.universal import create_model

# name: (residual blocks of levels 3 to 6, bottleneck)
PUBLISHED = {
    "drn_d_22": ((2, 2, 2, 2), False),
    "drn_d_38": ((3, 4, 6, 3), False),
    "drn_d_54": ((3, 4, 6, 3), True),
    "drn_d_105": ((3, 4, 23, 3), True),
}
CLASSES = {"city": 20, "camvid": 12}


def reference_shapes(arch, width=1.0):
    """Tensors of the reference's state dict, in PyTorch's layout, from the published table."""
    blocks, bottleneck = PUBLISHED[arch]
    c = [round(n * width) for n in (16, 16, 32, 64, 128, 256, 512, 512, 512)]
    out = {}

    def norm(name, n):
        out.update({f"{name}.{leaf}": (n,) for leaf in ("weight", "bias", "running_mean", "running_var")})
        out[f"{name}.num_batches_tracked"] = ()

    channels = 3
    for level in range(9):
        if level not in (3, 4, 5, 6):
            k = 7 if level == 0 else 3
            out[f"base.{level}.0.weight"] = (c[level], channels, k, k)
            norm(f"base.{level}.1", c[level])
            channels = c[level]
            continue
        n, expanded = c[level], c[level] * (4 if bottleneck else 1)
        for i in range(blocks[level - 3]):
            name = f"base.{level}.{i}"
            plan = [(n, channels, 1), (n, n, 3), (expanded, n, 1)] if bottleneck else [(n, channels, 3), (n, n, 3)]
            for j, (o, inputs, k) in enumerate(plan, start=1):
                out[f"{name}.conv{j}.weight"] = (o, inputs, k, k)
                norm(f"{name}.bn{j}", o)
            if channels != expanded or (i == 0 and level in (3, 4)):
                out[f"{name}.downsample.0.weight"] = (expanded, channels, 1, 1)
                norm(f"{name}.downsample.1", expanded)
            channels = expanded
    for i, n in enumerate(CLASSES.values()):
        out[f"seg.{i}.weight"], out[f"seg.{i}.bias"] = (n, c[8], 1, 1), (n,)
        out[f"up.{i}.weight"] = (n, 1, 16, 16)
    out["en_map.weight"], out["en_map.bias"], out["en_up.weight"] = (128, c[8], 1, 1), (128,), (128, 1, 16, 16)
    return out


def tensors(arch, width=1.0):
    """Every tensor filled with a number of its own; broadcast, so that it takes no memory."""
    shapes = reference_shapes(arch, width)
    return {name: np.broadcast_to(np.float32(i), s) for i, (name, s) in enumerate(shapes.items(), start=1)}


def random_tensors(arch="drn_d_22", width=0.125):
    r = np.random.default_rng(0)
    return {n: r.standard_normal(s).astype(np.float32) for n, s in reference_shapes(arch, width).items()}


def variables_of(arch="drn_d_22", width=0.125, classes=CLASSES, embed_dim=128):
    """Shapes of our variables."""
    model = create_model(arch, classes, embed_dim=embed_dim, width=width)
    return jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))


def flat(variables):
    return flax.traverse_util.flatten_dict(variables, sep="/")


def test_the_names_in_this_file_are_those_that_the_reference_recorded():
    path = pathlib.Path(__file__).parent / "fixtures" / "drn_d_22.npz"
    with np.load(path, allow_pickle=False) as file:
        recorded = json.loads(str(file["meta"]))["state"]
    assert reference_shapes("drn_d_22") == {name: tuple(shape) for name, shape in recorded.items()}


@pytest.mark.parametrize("arch", PUBLISHED)
def test_every_tensor_of_the_reference_has_exactly_one_place(arch):
    given, shapes = tensors(arch), variables_of(arch, width=1.0)
    variables, report = from_state_dict(given, shapes, list(CLASSES))
    assert report.missing == ()
    fixed = {n for n in given if n.startswith(("up.", "en_up.")) or n.endswith("num_batches_tracked")}
    assert set(report.unused) == fixed and set(report.matched) == set(given) - fixed
    values, names = flat(variables), list(given)
    assert {p: a.shape for p, a in values.items()} == {p: a.shape for p, a in flat(shapes).items()}
    source = {path: names[int(np.ravel(a)[0]) - 1] for path, a in values.items()}
    assert sorted(source.values()) == sorted(report.matched)
    leaves = {"weight": ("kernel", "scale"), "bias": ("bias",), "running_mean": ("mean",), "running_var": ("var",)}
    for path, name in source.items():
        assert path.rpartition("/")[2] in leaves[name.rpartition(".")[2]], (path, name)


@pytest.mark.parametrize(
    "arch,name,path",
    [
        ("drn_d_22", "base.0.0.weight", "params/encoder/level0_conv/kernel"),
        ("drn_d_22", "base.8.1.running_var", "batch_stats/encoder/level8_bn/var"),
        ("drn_d_22", "base.1.1.weight", "params/encoder/level1_bn/scale"),
        ("drn_d_22", "base.3.1.conv2.weight", "params/encoder/level3_block1/conv2/kernel"),
        ("drn_d_22", "base.6.0.bn1.bias", "params/encoder/level6_block0/bn1/bias"),
        ("drn_d_22", "base.4.0.downsample.0.weight", "params/encoder/level4_block0/shortcut_conv/kernel"),
        ("drn_d_22", "base.4.0.downsample.1.running_mean", "batch_stats/encoder/level4_block0/shortcut_bn/mean"),
        ("drn_d_22", "seg.1.weight", "params/decoder_camvid/kernel"),
        ("drn_d_22", "seg.0.bias", "params/decoder_city/bias"),
        ("drn_d_22", "en_map.weight", "params/embedding/kernel"),
        ("drn_d_54", "base.5.0.conv3.weight", "params/encoder/level5_block0/conv3/kernel"),
        ("drn_d_54", "base.3.0.downsample.1.weight", "params/encoder/level3_block0/shortcut_bn/scale"),
    ],
)
def test_values_arrive_with_outputs_last(arch, name, path):
    given = random_tensors(arch)
    variables, _ = from_state_dict(given, variables_of(arch), list(CLASSES))
    got, tensor = flat(variables)[path], given[name]
    if tensor.ndim == 1:
        np.testing.assert_array_equal(got, tensor)
        return
    outputs, inputs, height, width = tensor.shape
    assert got.shape == (height, width, inputs, outputs)
    for o, i in ((0, 0), (outputs - 1, inputs - 2), (outputs // 2, 1)):
        np.testing.assert_array_equal(got[:, :, i, o], tensor[o, i])


def test_names_of_the_drn_release_are_understood():
    """There the encoder is layer0 to layer8, beside an ImageNet head `fc` that has no use."""
    ours = {n: t for n, t in random_tensors().items() if n.startswith("base.")}
    release = {n.replace("base.", "layer", 1): t for n, t in ours.items()}
    assert "layer3.0.conv1.weight" in release and "layer0.1.running_mean" in release
    head = {"fc.weight": np.zeros((1000, 64, 1, 1), np.float32), "fc.bias": np.zeros(1000, np.float32)}
    variables, report = from_state_dict(release | head, variables_of())
    want, want_report = from_state_dict(ours, variables_of())
    assert len(report.matched) == len(want_report.matched) > 100
    assert {"fc.weight", "fc.bias"} <= set(report.unused)
    assert set(report.missing) == {n for n in flat(variables_of()) if "decoder" in n or "embedding" in n}
    for path, value in flat(variables).items():
        if path.startswith(("params/encoder", "batch_stats")):
            np.testing.assert_array_equal(value, flat(want)[path])


def test_decoders_are_filled_only_for_the_domains_that_are_named():
    given = random_tensors()
    variables, report = from_state_dict(given, variables_of())
    assert {"seg.0.weight", "seg.0.bias", "seg.1.weight", "seg.1.bias"} <= set(report.unused)
    assert flat(variables)["params/decoder_city/kernel"] == flat(variables_of())["params/decoder_city/kernel"]
    variables, report = from_state_dict(given, variables_of(classes={"first": 20}), ["first"])
    np.testing.assert_array_equal(flat(variables)["params/decoder_first/bias"], given["seg.0.bias"])
    assert {"seg.1.weight", "seg.1.bias"} <= set(report.unused)


def test_a_model_without_entropy_module_leaves_its_map_unused():
    _, report = from_state_dict(random_tensors(), variables_of(embed_dim=0), list(CLASSES))
    assert {"en_map.weight", "en_map.bias"} <= set(report.unused) and report.missing == ()


def test_the_given_variables_are_not_changed_and_what_is_not_given_is_kept():
    before = jax.tree.map(lambda a: np.full(a.shape, 7, np.float32), variables_of())
    given = {n: t for n, t in random_tensors().items() if n.startswith("base.") and "tracked" not in n}
    after, report = from_state_dict(given, before, list(CLASSES))
    assert all((a == 7).all() for a in jax.tree.leaves(before))
    kept = {path for path, a in flat(after).items() if (a == 7).all()}
    heads = ("decoder_city", "decoder_camvid", "embedding")
    assert kept == {f"params/{head}/{leaf}" for head in heads for leaf in ("kernel", "bias")}
    assert set(report.missing) == kept and set(report.matched) == set(given)
    assert str(report) == f"{len(given)} tensors matched, 0 unused, 6 of ours not given"


@pytest.mark.parametrize(
    "weights,encoder,first",
    [
        ("drn_d_54", "drn_d_22", r"base\.3\.0\.conv1\.weight"),  # 1x1 instead of 3x3
        ("drn_d_22", "drn_d_54", r"base\.3\.0\.conv1\.weight"),
        ("drn_d_38", "drn_d_22", r"base\.3\.2\.conv1\.weight"),  # a third block
    ],
)
def test_weights_of_another_encoder_are_refused_by_their_first_misfit(weights, encoder, first):
    with pytest.raises(InputError, match=first) as error:
        from_state_dict(random_tensors(weights), variables_of(encoder), list(CLASSES))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "weights,encoder,first",
    [
        ("drn_d_22", "drn_d_38", r"level3_block2|base\.3\.2"),
        ("drn_d_54", "drn_d_105", r"level5_block|base\.5"),
    ],
)
def test_weights_of_a_shallower_encoder_are_refused(weights, encoder, first):
    """Every tensor fits, but some layers would stay random: nobody wants that unawares."""
    with pytest.raises(InputError, match=first):
        from_state_dict(random_tensors(weights), variables_of(encoder), list(CLASSES))


def test_weights_of_another_width_are_refused_with_both_shapes():
    with pytest.raises(InputError, match=r"base\.0\.0\.weight.*\b4\b.*level0_conv.*\b2\b"):
        from_state_dict(random_tensors(width=0.25), variables_of(), list(CLASSES))


@pytest.mark.parametrize(
    "name", ["conv1.weight", "layer9.0.weight", "base.3.weight", "base.3", "stem", "layer4.0.weight"]
)
def test_a_tensor_without_a_place_is_named(name):
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        from_state_dict({name: np.zeros((4, 4, 3, 3), np.float32)}, variables_of())


# ---- Files ----


def small():
    r = np.random.default_rng(1)
    return {"base.0.0.weight": r.standard_normal((2, 3, 7, 7)).astype(np.float32), "fc.bias": np.arange(3.0)}


def write(path, content):
    if path.suffix == ".npz":
        np.savez(path, **content)
    else:
        save_file(content, path)
    return str(path)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_file_gives_back_what_was_written(tmp_path, suffix):
    got = load_file(write(tmp_path / f"weights{suffix}", small()))
    assert got.keys() == small().keys()
    for name, value in small().items():
        assert got[name].dtype == value.dtype
        np.testing.assert_array_equal(got[name], value)


def test_a_torch_file_gives_back_what_was_written(tmp_path):
    torch = pytest.importorskip("torch")
    for file, wrap in (("plain.pth", lambda d: d), ("train.pth", lambda d: {"state_dict": d, "epoch": 3})):
        content = {f"module.{name}": torch.from_numpy(value) for name, value in small().items()}
        torch.save(wrap(content), tmp_path / file)
        got = load_file(str(tmp_path / file))
        assert got.keys() == small().keys()
        np.testing.assert_array_equal(got["base.0.0.weight"], small()["base.0.0.weight"])


def test_a_torch_file_without_torch_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "weights.pth").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"weights\.pth.*torch.*pip install"):
        load_file(str(tmp_path / "weights.pth"))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_damaged_file_is_named(tmp_path, suffix, damage):
    path = tmp_path / f"weights{suffix}"
    write(path, small())
    data = path.read_bytes()
    path.write_bytes(
        {"truncated": data[: len(data) // 2], "empty": b"", "text": b"version https://example.org\n"}[damage]
    )
    with pytest.raises(InputError, match="weights") as error:
        load_file(str(path))
    assert suffix in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, **{"base.0.0.weight": np.array([{"an": "object"}], object)})
    with pytest.raises(InputError, match="weights"):
        load_file(str(path))


def test_a_missing_file_is_named(tmp_path):
    for path in (tmp_path / "none.npz", tmp_path):  # a folder is no file either
        with pytest.raises(InputError, match=rf"{path.name}.*no such file"):
            load_file(str(path))


def test_an_unknown_kind_of_file_lists_the_known_ones(tmp_path):
    (tmp_path / "weights.h5").write_bytes(b"\x89HDF")
    with pytest.raises(InputError, match=r"weights\.h5.*\.safetensors.*\.npz.*\.pth"):
        load_file(str(tmp_path / "weights.h5"))
