"""The universal model: which parts exist, what the encoder is given, passes shared between domains."""

import dataclasses
import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from usss_jax.errors import InputError
from usss_jax.evaluation.evaluate import predict
from usss_jax.models import encoders
from usss_jax.models.drn import DRN
from usss_jax.models.encoder import Encoder
from usss_jax.models.layers import Convolution, GroupedBatchNorm
from usss_jax.models.universal import UniversalModel, create_model, encode_groups
from usss_jax.models.upsample import upsample

CLASSES = {"camvid": 3, "city": 5, "sun": 4}


class Given(Encoder):
    """Stands in for the encoder and returns the very images that it is given."""

    @nn.compact
    def __call__(self, x, train, groups):
        return x


class TwoLayers(Encoder):
    """Stands in for the encoder where one with the layers of interest will do, since it compiles quickly."""

    @nn.compact
    def __call__(self, x, train, groups):
        for i, stride in enumerate((4, 2)):
            x = nn.relu(GroupedBatchNorm(groups, name=f"bn{i}")(Convolution(4, 3, stride, name=f"conv{i}")(x), train))
        return x


class Patches(Encoder):
    """An encoder of any stride: one linear layer on every patch, zeros beyond the lower and right border."""

    levels = 1
    strides = (8, 14, 16, 32)
    out_channels = 6

    @nn.compact
    def __call__(self, x, train, groups):
        s = self.stride
        padding = [(0, -side % s) for side in x.shape[1:3]]
        return nn.Conv(self.out_channels, (s, s), strides=s, padding=padding, precision="highest")(x)


class DilatedHead(nn.Module):
    """Two dilated convolutions; the channels in between are fewer than those of any paper."""

    outputs: int

    @nn.compact
    def __call__(self, features):
        x = nn.relu(nn.Conv(8, (3, 3), padding=12, kernel_dilation=12, name="conv1")(features))
        return nn.Conv(self.outputs, (3, 3), padding=12, kernel_dilation=12, name="conv2")(x)


class ImageHead(nn.Module):
    """Scores of the whole image: a layer on the mean over its cells."""

    outputs: int

    @nn.compact
    def __call__(self, features):
        return nn.Dense(self.outputs)(features.mean((1, 2)))


def tiny_model(encoder=None):
    return UniversalModel(encoder or DRN((1, 1, 1, 1), width=0.125), CLASSES, 6)


def shapes_of(model):
    return jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))


def random_variables(model, seed=0, dtype=np.float64):
    """Variables in the shapes that the model asks for, drawn by NumPy."""
    r = np.random.default_rng(seed)

    def draw(path, a):
        leaf = path[-1].key
        if leaf == "kernel":
            return (r.standard_normal(a.shape) * math.sqrt(2 / math.prod(a.shape[:3]))).astype(dtype)
        values = r.uniform(0.5, 1.5, a.shape) if leaf in ("scale", "var") else 0.2 * r.standard_normal(a.shape)
        return values.astype(dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes_of(model))


def assert_trees_close(got, want, **tolerance):
    got, want = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (got, want))
    assert got.keys() == want.keys()
    for path, value in want.items():
        np.testing.assert_allclose(got[path], value, err_msg=jax.tree_util.keystr(path), **tolerance)


# ---- Parts ----


def test_only_the_given_domains_have_a_decoder():
    for domains in (["city"], ["camvid", "sun"], list(CLASSES)):
        model = UniversalModel(DRN((1, 1, 1, 1), width=0.125), {d: CLASSES[d] for d in domains}, 6)
        params = shapes_of(model)["params"]
        assert set(params) == {"encoder", "embedding", *(f"decoder_{d}" for d in domains)}
        for domain in domains:
            assert params[f"decoder_{domain}"]["kernel"].shape == (1, 1, 64, CLASSES[domain])
            assert params[f"decoder_{domain}"]["bias"].shape == (CLASSES[domain],)


def test_the_embedding_exists_only_if_it_is_asked_for():
    assert shapes_of(tiny_model())["params"]["embedding"]["kernel"].shape == (1, 1, 64, 6)
    without = UniversalModel(DRN((1, 1, 1, 1), width=0.125), CLASSES)
    assert "embedding" not in shapes_of(without)["params"]


def test_every_domain_has_an_image_level_head_only_if_it_is_asked_for():
    model = UniversalModel(TwoLayers(), CLASSES, 6, image_head=ImageHead)
    images, features = (np.zeros((1, 8, 8, n), np.float32) for n in (3, 4))
    whole = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    heads = jax.eval_shape(partial(model.init, method="score"), jax.random.key(0), features)["params"]
    for domain, n in CLASSES.items():
        for params in (whole, heads):
            assert params[f"image_{domain}"]["Dense_0"]["kernel"].shape == (4, n)
    names = {"embedding", *(f"{kind}_{d}" for kind in ("decoder", "image") for d in CLASSES)}
    assert set(heads) == names and set(whole) == {"encoder", *names}
    assert not any(name.startswith("image_") for name in shapes_of(tiny_model(TwoLayers()))["params"])


def test_scores_of_images_are_those_of_the_domains_own_head():
    """Of the mean over the cells; logits and embedding are those of the model without image-level heads."""
    model = UniversalModel(TwoLayers(), CLASSES, 6, image_head=ImageHead)
    variables = random_variables(model, dtype=np.float32)
    features = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
    for domain, n in CLASSES.items():
        head = variables["params"][f"image_{domain}"]["Dense_0"]
        got = model.apply(variables, features, domain, method="image_scores")
        assert got.shape == (2, n)
        np.testing.assert_allclose(got, features.mean((1, 2)) @ head["kernel"] + head["bias"], atol=1e-5)
    without = UniversalModel(TwoLayers(), CLASSES, 6)
    params = {name: tree for name, tree in variables["params"].items() if not name.startswith("image_")}
    outputs = [
        m.apply({"params": p}, features, method="score")
        for m, p in ((model, variables["params"]), (model, params), (without, params))
    ]
    jax.tree.map(np.testing.assert_array_equal, *outputs[:2])
    jax.tree.map(np.testing.assert_array_equal, *outputs[1:])


def test_a_deployed_model_needs_nothing_of_the_entropy_module():
    model = tiny_model(TwoLayers())
    variables = random_variables(model, dtype=np.float32)
    params = {k: v for k, v in variables["params"].items() if k in ("encoder", "decoder_camvid")}
    deployed = UniversalModel(TwoLayers(), {"camvid": CLASSES["camvid"]})
    images = np.random.default_rng(0).random((1, 16, 16, 3), np.float32)
    outputs = []
    for m, p in ((model, variables["params"]), (deployed, params)):
        v = {"params": p, "batch_stats": variables["batch_stats"]}
        features = m.apply(v, images, method="encode")
        outputs.append(m.apply(v, features, "camvid", method="decode"))
    np.testing.assert_array_equal(*outputs)


def test_heads_are_linear_maps_with_bias():
    model, variables = tiny_model(), random_variables(tiny_model())
    features = np.random.default_rng(1).standard_normal((2, 3, 4, 64))
    with jax.enable_x64(True):
        variables = jax.tree.map(jnp.asarray, variables)
        got = {d: model.apply(variables, jnp.asarray(features), d, method="decode") for d in CLASSES}
        got["embedding"] = model.apply(variables, jnp.asarray(features), method="embed")
    for name, value in got.items():
        head = variables["params"]["embedding" if name == "embedding" else f"decoder_{name}"]
        want = features @ np.asarray(head["kernel"])[0, 0] + np.asarray(head["bias"])
        np.testing.assert_allclose(value, want, atol=1e-12)


def test_calling_the_model_gives_logits_of_every_domain_and_the_embedding():
    model = tiny_model()
    logits, embedding = jax.eval_shape(model.apply, shapes_of(model), jnp.zeros((2, 17, 24, 3)))
    assert {d: a.shape for d, a in logits.items()} == {d: (2, 3, 3, n) for d, n in CLASSES.items()}
    assert embedding.shape == (2, 3, 3, 6)


# ---- What the encoder is given ----


def given(images, normalize):
    return np.asarray(UniversalModel(Given(), {"any": 2}, normalize=normalize).apply({}, images, method="encode"))


def test_bytes_are_scaled_to_one_and_floats_taken_as_they_are():
    image = np.array([[[[0, 51, 255]]]], np.uint8)
    np.testing.assert_allclose(given(image, "none"), [[[[0, 0.2, 1]]]], rtol=1e-6)
    np.testing.assert_array_equal(given(np.float32([[[[0, 0.2, 1]]]]), "none"), np.float32([[[[0, 0.2, 1]]]]))


def test_imagenet_normalisation_is_per_channel():
    """Means 0.485, 0.456, 0.406 and deviations 0.229, 0.224, 0.225: for 0.5 it is 0.015 / 0.229, and so on."""
    want = [0.0655021834, 0.1964285714, 0.4177777778]
    np.testing.assert_allclose(given(np.full((1, 2, 2, 3), 0.5, np.float32), "imagenet")[0, 1, 1], want, rtol=1e-5)
    byte = given(np.array([[[[255, 0, 51]]]], np.uint8), "imagenet")[0, 0, 0]
    np.testing.assert_allclose(byte, [2.2489083, -2.0357143, -0.9155556], rtol=1e-5)


def test_features_are_float32_although_the_encoder_computes_in_bfloat16():
    models = {p: create_model("drn_d_22", {"a": 3}, width=1 / 16, precision=p) for p in ("float32", "bfloat16")}
    variables = random_variables(models["float32"], dtype=np.float32)
    images = np.random.default_rng(0).random((1, 16, 16, 3), np.float32)
    full, half = (jax.jit(partial(models[p].apply, method="encode"))(variables, images) for p in models)
    assert full.dtype == half.dtype == jnp.float32
    np.testing.assert_array_equal(half, half.astype(jnp.bfloat16).astype(jnp.float32))
    difference = np.abs(full - half).max() / np.abs(full).max()
    assert 1e-5 < difference < 0.1
    logits = models["bfloat16"].apply(variables, full, "a", method="decode")
    np.testing.assert_array_equal(logits, models["float32"].apply(variables, full, "a", method="decode"))


@pytest.mark.parametrize("stride", [8, 14, 16, 32])
@pytest.mark.slow
def test_an_encoder_states_its_stride_and_predictions_have_the_size_of_the_image(stride, monkeypatch):
    monkeypatch.setitem(encoders.ENCODERS, "mine", Patches)
    model = create_model("mine", CLASSES, embed_dim=4, stride=stride)
    assert model.stride == stride
    variables = random_variables(model, dtype=np.float32)
    images = np.random.default_rng(0).standard_normal((2, 45, 70, 3)).astype(np.float32)
    logits, embedding = model.apply(variables, images)
    cells = (2, -(-45 // stride), -(-70 // stride))
    assert logits["city"].shape == (*cells, 5) and embedding.shape == (*cells, 4)
    got = predict(variables, images, domain="city", model=model)
    want = upsample(logits["city"], (45, 70), stride).argmax(-1)
    assert got.shape == (2, 45, 70) and len(np.unique(got)) > 1
    assert np.mean(np.asarray(got) != np.asarray(want)) < 1e-3  # ties are broken by rounding


@pytest.mark.parametrize(("head", "shape"), [(DilatedHead, (2, 3, 5)), (ImageHead, (2,))])
@pytest.mark.slow
def test_another_head_takes_the_place_of_the_linear_one(head, shape):
    model = UniversalModel(TwoLayers(), CLASSES, 6, head=head)
    variables = random_variables(model, dtype=np.float32)
    images = np.random.default_rng(0).random((2, 24, 40, 3), np.float32)
    features = model.apply(variables, images, method="encode")
    for domain, n in CLASSES.items():
        got = model.apply(variables, features, domain, method="decode")
        alone = head(n).apply({"params": variables["params"][f"decoder_{domain}"]}, features)
        assert got.shape == (*shape, n)
        np.testing.assert_array_equal(got, alone)
    assert set(variables["params"]["embedding"]) == {"kernel", "bias"}


# ---- Shared passes ----


def separate_passes(model, variables, images, order):
    """Encode one domain after the other; features per domain and the statistics after all of them."""
    stats, features = variables["batch_stats"], {}
    for domain in order:
        features[domain], updates = model.apply(
            {"params": variables["params"], "batch_stats": stats},
            images[domain],
            train=True,
            method="encode",
            mutable=["batch_stats"],
        )
        stats = updates["batch_stats"]
    return features, stats


@pytest.mark.parametrize(
    "shapes,order",
    [
        ({"camvid": (2, 24, 32), "city": (2, 24, 32), "sun": (2, 24, 32)}, ["camvid", "city", "sun"]),
        ({"camvid": (2, 24, 32), "city": (2, 16, 33)}, ["camvid", "city"]),
        ({"camvid": (2, 24, 32), "city": (3, 24, 32), "sun": (2, 24, 32)}, ["camvid", "sun", "city"]),
        ({"city": (2, 17, 24)}, ["city"]),
    ],
    ids=["equal", "unequal", "two_of_three_equal", "one"],
)
@pytest.mark.slow
def test_a_shared_pass_equals_one_pass_after_the_other(shapes, order):
    model, r = tiny_model(TwoLayers()), np.random.default_rng(5)
    variables = random_variables(model)
    images = {d: r.random((*s, 3)) * (i + 1) for i, (d, s) in enumerate(shapes.items())}
    with jax.enable_x64(True):
        variables, images = jax.tree.map(jnp.asarray, (variables, images))
        features, stats = jax.jit(partial(encode_groups, model))(variables, images)
        want, want_stats = separate_passes(model, variables, images, order)
        assert_trees_close(features, want, atol=1e-10)
        assert_trees_close(stats, want_stats, atol=1e-11)


def test_joint_statistics_are_those_of_one_batch_with_all_images():
    model, r = dataclasses.replace(tiny_model(TwoLayers()), batch_norm="joint"), np.random.default_rng(5)
    variables = random_variables(model, dtype=np.float32)
    images = {d: r.random((2, 16, 24, 3), np.float32) * (i + 1) for i, d in enumerate(("camvid", "city"))}
    features, stats = jax.jit(partial(encode_groups, model))(variables, images)
    want, want_stats = separate_passes(model, variables, {"all": np.concatenate(list(images.values()))}, ["all"])
    assert_trees_close({"all": np.concatenate(list(features.values()))}, want, atol=1e-5)
    assert_trees_close(stats, want_stats, atol=1e-6)


def test_joint_statistics_need_batches_of_one_shape():
    model = dataclasses.replace(tiny_model(TwoLayers()), batch_norm="joint")
    images = {"camvid": np.zeros((2, 16, 24, 3), np.float32), "city": np.zeros((2, 16, 32, 3), np.float32)}
    with pytest.raises(InputError, match=r"batches 2x16x24 of camvid, 2x16x32 of city differ; .* data.crop_size"):
        encode_groups(model, random_variables(model), images)


@pytest.mark.parametrize("jit", [False, True], ids=["plain", "jit"])
@pytest.mark.slow
def test_running_statistics_are_updated_in_the_order_of_the_domains(jit):
    """The order is neither that of the names, which jit sorts dicts by, nor arbitrary."""
    model, r = UniversalModel(TwoLayers(), {"sun": 4, "camvid": 3, "city": 5}), np.random.default_rng(8)
    variables = random_variables(model)
    images = {d: r.random((2, 16, 24, 3)) * (i + 1) for i, d in enumerate(("sun", "camvid", "city"))}
    with jax.enable_x64(True):
        variables = jax.tree.map(jnp.asarray, variables)
        images = {d: jnp.asarray(x) for d, x in images.items()}  # tree.map too would sort them
        encode = partial(encode_groups, model)
        _, stats = (jax.jit(encode) if jit else encode)(variables, images)
        _, want = separate_passes(model, variables, images, ["sun", "camvid", "city"])
        _, sorted_by_name = separate_passes(model, variables, images, ["camvid", "city", "sun"])
    means = [tree["encoder"]["bn0"]["mean"] for tree in (want, sorted_by_name)]
    assert np.abs(means[0] - means[1]).max() > 1e-3  # the order can be told
    assert_trees_close(stats, want, atol=1e-11)


def test_statistics_of_one_domain_do_not_depend_on_another():
    model = tiny_model(TwoLayers())
    variables = random_variables(model, dtype=np.float32)
    images = np.random.default_rng(6).random((3, 2, 16, 16, 3), np.float32)
    apply = jax.jit(partial(encode_groups, model))
    one, _ = apply(variables, {"city": images[0], "sun": images[1]})
    two, _ = apply(variables, {"city": images[0], "sun": 5 * images[2]})
    np.testing.assert_allclose(one["city"], two["city"], atol=1e-6)
    assert np.abs(one["sun"] - two["sun"]).max() > 1e-2


# ---- Names ----


@pytest.mark.parametrize(
    "field,known",
    [
        ("encoder", ["drn_d_22", "drn_d_105", "resnet18", "resnet101"]),
        ("precision", ["float32", "tf32", "bfloat16"]),
        ("head", ["linear", "dilated"]),
        ("upsample", ["bilinear", "drn"]),
        ("normalize", ["imagenet", "none"]),
    ],
)
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(field, known):
    arguments = {"encoder": "drn_d_22", "num_classes": {"a": 2}} | {field: "wrong"}
    with pytest.raises(InputError) as error:
        create_model(**arguments)
    text = str(error.value)
    assert field in text and "'wrong'" in text and "\n" not in text
    assert all(name in text for name in known)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_head": "wide"}, "^image_head='wide' is not one of none, every_relu, first_relu$"),
        ({"image_head_width": 0}, "^image_head_width=0 must be positive$"),
    ],
)
def test_an_unknown_image_level_head_or_a_width_of_it_that_is_not_positive_is_an_error(arguments, message):
    with pytest.raises(InputError, match=message):
        create_model("drn_d_22", {"a": 2}, **arguments)


@pytest.mark.parametrize("width", [0, -1.0, float("nan")])
def test_a_width_that_is_not_positive_is_an_error(width):
    with pytest.raises(InputError, match="width"):
        create_model("drn_d_22", {"a": 2}, width=width)


@pytest.mark.parametrize(
    "paper,published",
    [("resnet18", "drn_d_22"), ("resnet34", "drn_d_38"), ("resnet50", "drn_d_54"), ("resnet101", "drn_d_105")],
)
def test_the_names_of_the_paper_mean_the_published_encoders(paper, published):
    models = [create_model(name, {"a": 2}, embed_dim=4, width=0.25) for name in (paper, published)]
    assert models[0] == models[1]


@pytest.mark.parametrize(
    ("text", "levels"), [("", ()), ("all", tuple(range(9))), ("0-2, 8", (0, 1, 2, 8)), ("4", (4,))]
)
def test_levels_to_compute_again_are_read(text, levels):
    assert create_model("drn_d_22", {"a": 3}, remat=text).encoder.remat == levels


@pytest.mark.parametrize("text", ["9", "2-1", "x", "0-", "1,,2", "-1"])
def test_wrong_levels_to_compute_again_are_named(text):
    with pytest.raises(InputError, match=r"remat=.*give levels from 0 to 8, or all"):
        create_model("drn_d_22", {"a": 3}, remat=text)
