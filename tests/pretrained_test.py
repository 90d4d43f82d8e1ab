"""Pretrained weights: the names and layouts of the reference and of the DRN release, files, complaints."""

import hashlib
import json
import os
import pathlib
import pickle
from functools import partial

import flax.traverse_util
import jax
import numpy as np
import optax
import pytest
from safetensors.numpy import save_file
from torch_writer import torch_file

from usss_jax.engine.state import create_state
from usss_jax.errors import InputError
from usss_jax.models import drn_names, pretrained
from usss_jax.models.pretrained import load_file, save_safetensors
from usss_jax.models.universal import create_model
from usss_jax.parallel.sharding import create_mesh

from_state_dict = partial(pretrained.from_state_dict, names=drn_names.NAMES)
to_state_dict = partial(pretrained.to_state_dict, names=drn_names.NAMES)

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
@pytest.mark.slow
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
@pytest.mark.slow
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
    convolutions = [name for name, tensor in given.items() if tensor.ndim == 4]
    assert list(report.reshaped) == convolutions and convolutions[0] == "base.0.0.weight"
    assert str(report) == (
        f"{len(given)} tensors matched (base.0.0.weight, base.0.1.weight, ...), "
        f"{len(convolutions)} of them reshaped (base.0.0.weight, base.1.0.weight, ...), 0 unused, "
        f"6 of ours not given ({report.missing[0]}, {report.missing[1]}, ...)"
    )


def test_the_report_names_what_is_unused_in_full():
    head = {"fc.weight": np.zeros((1000, 64, 1, 1), np.float32), "fc.bias": np.zeros(1000, np.float32)}
    given = {n: t for n, t in random_tensors().items() if n.startswith("base.") and "tracked" not in n}
    _, report = from_state_dict(given | head, variables_of())
    assert report.unused == ("fc.weight", "fc.bias")
    assert "2 unused (fc.weight, fc.bias)," in str(report)


def test_heads_are_unused_where_only_the_encoder_is_asked_for():
    given = {f"module.{name}": tensor for name, tensor in random_tensors().items()}
    variables, report = from_state_dict(given, variables_of(), list(CLASSES), encoder_only=True)
    heads = {n for n in random_tensors() if n.startswith(("seg.", "en_map."))}
    assert heads and heads <= set(report.unused) and not heads & set(report.matched)
    for part in ("decoder_city", "decoder_camvid", "embedding"):
        assert flat(variables)[f"params/{part}/kernel"] == flat(variables_of())[f"params/{part}/kernel"]


@pytest.mark.slow
def test_the_state_of_training_starts_from_the_encoder_alone():
    model = create_model("drn_d_22", CLASSES, embed_dim=128, width=0.125)
    given = random_tensors()
    tx = optax.sgd(0.1)
    state, report = create_state(model, tx, 0, create_mesh(), weights=given)
    random, _ = create_state(model, tx, 0, create_mesh())
    got, start = flat(state.variables), flat(random.variables)
    for path, value in got.items():
        if "decoder" in path or "embedding" in path:
            np.testing.assert_array_equal(value, start[path])
    back = to_state_dict(state.variables)
    for name in report.matched:
        np.testing.assert_array_equal(back[name], given[name])
    assert "seg.0.weight" in report.unused and "en_map.weight" in report.unused


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


@pytest.mark.parametrize(
    "weights,encoder,both",
    [
        ("drn_d_54", "drn_d_22", r"base\.3\.0\.conv1\.weight is \(8, 4, 1, 1\).*takes \(8, 4, 3, 3\)"),
        ("drn_d_38", "drn_d_22", r"base\.3\.2\.conv1\.weight is \(8, 8, 3, 3\).*has no .*level3_block2/conv1/kernel"),
        ("drn_d_22", "drn_d_38", r"base\.3\.2\.bn1\.bias is not given.*takes \(8,\)"),
    ],
)
def test_a_misfit_is_shown_with_both_shapes_in_the_layout_of_the_file(weights, encoder, both):
    with pytest.raises(InputError, match=both) as error:
        from_state_dict(random_tensors(weights), variables_of(encoder), list(CLASSES))
    assert "\n" not in str(error.value)


def test_a_tensor_of_another_rank_is_refused():
    given = random_tensors()
    given["base.7.0.weight"] = given["base.7.0.weight"].reshape(-1)
    with pytest.raises(InputError, match=r"base\.7\.0\.weight is \(\d+,\).*takes \(64, 64, 3, 3\)"):
        from_state_dict(given, variables_of(), list(CLASSES))


# ---- Back to the reference's names ----


def random_variables(arch):
    r = np.random.default_rng(2)
    return jax.tree.map(lambda a: r.standard_normal(a.shape).astype(np.float32), variables_of(arch))


def bits(array):
    return np.asarray(array).dtype, np.shape(array), np.asarray(array).tobytes()


@pytest.mark.parametrize("arch", ["drn_d_22", "drn_d_54"])
def test_our_variables_return_bit_by_bit_through_the_references_names(tmp_path, arch):
    ours = random_variables(arch)
    ours["params"]["decoder_city"]["bias"][:2] = np.nan, -0.0  # comparison by value would not see these
    save_safetensors(str(tmp_path / "ours.safetensors"), to_state_dict(ours, list(CLASSES)))
    back, report = from_state_dict(load_file(str(tmp_path / "ours.safetensors")), variables_of(arch), list(CLASSES))
    assert report.missing == () and report.unused == ()
    assert {p: bits(a) for p, a in flat(back).items()} == {p: bits(a) for p, a in flat(ours).items()}
    assert [path.name for path in tmp_path.iterdir()] == ["ours.safetensors"]


def test_a_state_dict_of_the_reference_returns_without_its_fixed_tensors():
    given = random_tensors("drn_d_22")
    variables, report = from_state_dict(given, variables_of("drn_d_22"), list(CLASSES))
    got = to_state_dict(jax.tree.map(jax.numpy.asarray, variables), list(CLASSES))
    assert {n: bits(t) for n, t in got.items()} == {n: bits(given[n]) for n in report.matched}
    assert all(t.flags.c_contiguous for t in got.values())
    levels = [tuple(map(int, n.split(".")[1:3])) for n in got if n.startswith("base.")]
    assert levels == sorted(levels)


def test_every_layer_of_a_deeper_head_has_a_name_of_its_own():
    ours = random_variables("drn_d_22")
    kernels = {f"conv{i}": {"kernel": np.full((3, 3, 4, 5), i, np.float32)} for i in (1, 2)}
    ours["params"]["decoder_camvid"] = kernels
    given = to_state_dict(ours, ["city", "camvid"])
    assert {n for n in given if n.startswith("seg.1")} == {"seg.1.conv1.weight", "seg.1.conv2.weight"}
    back, report = from_state_dict(given, ours, ["city", "camvid"])
    assert report.missing == () and report.unused == ()
    assert {p: bits(a) for p, a in flat(back).items()} == {p: bits(a) for p, a in flat(ours).items()}


def test_image_level_heads_have_no_name_in_files():
    """Neither that of a domain called as their parameters are."""
    ours = random_variables("drn_d_22")
    given = to_state_dict(ours, ["city"])
    ours["params"]["image_city"] = {"conv1": {"kernel": np.ones((1, 1, 4, 5), np.float32)}}
    assert to_state_dict(ours, ["city"]).keys() == given.keys()
    ours["params"]["decoder_image_city"] = {"bias": np.zeros(2, np.float32)}
    assert to_state_dict(ours, ["image_city"]).keys() ^ given.keys() == {"seg.0.weight"}


def test_only_the_decoders_that_are_named_get_a_number():
    ours = random_variables("drn_d_22")
    assert not any(name.startswith("seg.") for name in to_state_dict(ours))
    got = to_state_dict(ours, ["camvid"])
    assert {n for n in got if n.startswith("seg.")} == {"seg.0.weight", "seg.0.bias"}
    assert got["seg.0.bias"].shape == (CLASSES["camvid"],)
    with pytest.raises(InputError, match="'idd'"):
        to_state_dict(ours, ["city", "idd"])


def test_a_transposed_view_is_not_scrambled_by_saving(tmp_path):
    view = np.arange(12, dtype=np.float32).reshape(3, 4).T
    save_safetensors(str(tmp_path / "w.safetensors"), {"a": view, "scalar": np.array(7)})
    got = load_file(str(tmp_path / "w.safetensors"))
    np.testing.assert_array_equal(got["a"], view)
    assert got["scalar"].shape == ()


@pytest.mark.parametrize("name", ["w.npz", "file/w.safetensors"])
def test_a_place_that_cannot_be_written_is_named(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=name) as error:
        save_safetensors(str(tmp_path / name), small())
    assert "\n" not in str(error.value) and [path.name for path in tmp_path.iterdir()] == ["file"]


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


def save_torch(path, content, form="zip", key=None):
    path.write_bytes(torch_file(content, form, key))
    return str(path)


def of_data_parallel(content):
    return {f"module.{name}": value for name, value in content.items()}


FORMATS = pytest.mark.parametrize("form", ["zip", "legacy"])


@FORMATS
@pytest.mark.parametrize("key", [None, "state_dict", "model"])
@pytest.mark.parametrize("suffix", [".pth", ".pt"])
def test_a_torch_file_gives_back_what_was_written(tmp_path, form, key, suffix):
    got = load_file(save_torch(tmp_path / f"weights{suffix}", of_data_parallel(small()), form, key))
    assert {n: bits(t) for n, t in got.items()} == {n: bits(t) for n, t in small().items()}


@FORMATS
def test_a_release_file_with_its_classifier_fills_the_encoder(tmp_path, form):
    encoder = {n.replace("base.", "layer", 1): t for n, t in random_tensors().items() if n.startswith("base.")}
    head = {"fc.weight": np.zeros((1000, 64, 1, 1), np.float32), "fc.bias": np.zeros(1000, np.float32)}
    path = save_torch(tmp_path / "drn_d_22.pth", of_data_parallel(encoder | head), form, "state_dict")
    variables, report = from_state_dict(load_file(path), variables_of())
    assert {"fc.weight", "fc.bias"} <= set(report.unused)
    assert {n for n in encoder if "tracked" not in n} == set(report.matched)
    got = flat(variables)["params/encoder/level0_conv/kernel"]
    np.testing.assert_array_equal(got, encoder["layer0.0.weight"].transpose(2, 3, 1, 0))


def test_a_torch_file_that_is_more_than_tensors_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps(os.mkdir))
    with pytest.raises(InputError, match=rf"^model\.pretrained={path}: refused, nothing in it was executed") as error:
        load_file(str(path))
    assert "\n" not in str(error.value)


@FORMATS
def test_a_damaged_torch_file_is_named(tmp_path, form):
    path = tmp_path / "weights.pth"
    data = torch_file(small(), form)
    for damaged in (data[: len(data) // 2], b"", b"version https://example.org\n"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=rf"^model\.pretrained={path}: damaged.*restore") as error:
            load_file(str(path))
        assert "\n" not in str(error.value) and "()" not in str(error.value)


@pytest.mark.parametrize("digits", [8, 12, 64])
def test_the_hash_in_the_name_is_checked(tmp_path, digits):
    data = torch_file(small())
    true = hashlib.sha256(data).hexdigest()[:digits]
    false = ("0" if true[0] != "0" else "1") + true[1:]
    for given in (true, true.upper()):
        (tmp_path / f"drn-d-22-{given}.pth").write_bytes(data)
        assert load_file(str(tmp_path / f"drn-d-22-{given}.pth")).keys() == small().keys()
    (tmp_path / f"drn_d_22-{false}.pth").write_bytes(data)
    with pytest.raises(InputError, match=f"begin with {false} .* begins with {true}; restore the file, or its name"):
        load_file(str(tmp_path / f"drn_d_22-{false}.pth"))


def test_a_damaged_file_is_seen_by_its_name_before_it_is_read(tmp_path):
    (tmp_path / "drn_d_22-4bd2f8ea.pth").write_bytes(b"half a download")
    with pytest.raises(InputError, match="4bd2f8ea"):
        load_file(str(tmp_path / "drn_d_22-4bd2f8ea.pth"))


@pytest.mark.parametrize("name", ["weights", "drn_d_22-4bd2f8e", "drn-final-version", "4bd2f8ea", "a-4bd2f8ea-b"])
def test_names_without_hash_are_not_checked(tmp_path, name):
    assert load_file(save_torch(tmp_path / f"{name}.pth", small())).keys() == small().keys()


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
