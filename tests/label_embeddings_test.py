"""The extraction pass over a source, and the file that keeps label embeddings."""

import tracemalloc

import jax
import numpy as np
import pytest
from tiny_models import OneLayer

from usss_jax.errors import InputError
from usss_jax.methods.usss import label_embeddings
from usss_jax.models.universal import UniversalModel
from usss_jax.objectives.entropy import entropy_terms, similarities
from usss_jax.objectives.losses import count_labeled, grouped_pixel_cross_entropy
from usss_jax.parallel import sharding

CLASSES, SIZE, DIM = 4, (21, 30), 3  # class 3 never occurs; sizes are no multiples of 8


class Memory:
    def __init__(self, count):
        r = np.random.RandomState(3)
        self.examples = []
        for _ in range(count):
            label = r.randint(0, CLASSES - 1, SIZE)
            label[:, :5] = 255
            image = (r.rand(*SIZE, 3) * 120 + 40 * np.minimum(label, 3)[..., None]).astype(np.uint8)
            self.examples.append({"image": image, "label": label.astype(np.uint8)})

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, i):
        return self.examples[i]


@pytest.fixture(scope="module")
def network():
    model = UniversalModel(OneLayer(), {"d": CLASSES})
    return model, jax.jit(model.init)(jax.random.key(0, impl="rbg"), np.zeros((1, 8, 8, 3), np.float32))


def brute_force(model, variables, source):
    """Full-resolution features of every image, PCA by an explicit covariance, class means; plain NumPy in float64."""

    def interpolate(features, size):  # half-pixel bilinear with the edge repeated, one pixel at a time
        h, w, _ = features.shape
        out = np.empty((*size, features.shape[2]))
        for y in range(size[0]):
            for x in range(size[1]):
                fy, fx = (y + 0.5) / 8 - 0.5, (x + 0.5) / 8 - 0.5
                y0, x0 = int(np.floor(fy)), int(np.floor(fx))
                ay, ax = fy - y0, fx - x0
                rows, columns = np.clip([y0, y0 + 1], 0, h - 1), np.clip([x0, x0 + 1], 0, w - 1)
                corner = features[rows][:, columns]
                out[y, x] = np.einsum("i,j,ijc->c", [1 - ay, ay], [1 - ax, ax], corner)
        return out

    pixels, labels = [], []
    for example in source.examples:
        features = np.asarray(model.apply(variables, example["image"][None], method="encode"), np.float64)[0]
        keep = example["label"] != 255
        pixels.append(interpolate(features, SIZE)[keep])
        labels.append(example["label"][keep])
    pixels, labels = np.concatenate(pixels), np.concatenate(labels)
    mean = pixels.mean(0)
    covariance = np.cov((pixels - mean).T, bias=True)
    _, vectors = np.linalg.eigh(covariance)
    projected = (pixels - mean) @ vectors[:, ::-1][:, :DIM]
    centroids = np.stack([projected[labels == k].mean(0) for k in range(CLASSES - 1)])
    return centroids / np.linalg.norm(centroids, axis=1, keepdims=True), np.bincount(labels, minlength=CLASSES)


def extract(network, source, batch_size, dim=DIM, **kmeans):
    model, variables = network
    mesh = sharding.create_mesh()
    return label_embeddings.extract(model, variables, source, CLASSES, dim, batch_size=batch_size, mesh=mesh, **kmeans)


@pytest.mark.parametrize("batch_size", [1, 2, 4])
@pytest.mark.slow
def test_extraction_equals_brute_force(network, batch_size):
    """Up to the sign of every component; 3 images, so that the batches of 2 and 4 are filled up."""
    source = Memory(3)
    expected, counts = brute_force(*network, source)
    got = extract(network, source, batch_size)
    signs = np.sign((got.embeddings * expected).sum(0))
    np.testing.assert_allclose(got.embeddings * signs, expected, atol=1e-5)
    np.testing.assert_array_equal(got.counts, counts)
    np.testing.assert_array_equal(got.class_ids, [0, 1, 2])
    np.testing.assert_array_equal(got.row_counts, counts[:3])


def test_description_reports_absent_classes(network):
    about = label_embeddings.describe(extract(network, Memory(2), 2), ["w", "x", "y", "z"], "single_d/best/5")
    assert about["classes"] == ["w", "x", "y"] and about["absent"] == ["z"]
    assert about["counts"]["z"] == 0 and about["counts"]["w"] > 0
    assert about["checkpoint"] == "single_d/best/5"


def test_file_comes_back(network, tmp_path):
    prototypes = {"d": extract(network, Memory(2), 2)}
    meta = {"method": "m", "domains": {"d": {"classes": ["w", "x", "y"]}}}
    label_embeddings.save(tmp_path / "e.npz", prototypes, meta)
    embeddings, read = label_embeddings.load(tmp_path / "e.npz")
    np.testing.assert_array_equal(embeddings["d"], prototypes["d"].embeddings)
    assert read == meta
    assert {p.name for p in tmp_path.iterdir()} == {"e.npz", "e.json"}


def test_damaged_file_is_named(tmp_path):
    (tmp_path / "e.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(InputError, match=r"e\.npz"):
        label_embeddings.load(tmp_path / "e.npz")


def test_dimension_above_the_channels_is_bad_input(network):
    with pytest.raises(InputError, match="embed_dim=999"):
        extract(network, Memory(1), 1, dim=999)


@pytest.mark.slow
def test_several_embeddings_per_class(network, tmp_path):
    """Rows of K clusters whose weighted mean is the class mean; the file says how they were made."""
    source = Memory(3)
    one, several = extract(network, source, 2), extract(network, source, 2, embeddings_per_class=3, seed=1)
    assert several.class_ids.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    np.testing.assert_array_equal(several.row_counts.reshape(3, 3).sum(1), one.counts[:3])
    np.testing.assert_array_equal(several.components, one.components)
    np.testing.assert_allclose(np.linalg.norm(several.embeddings, axis=1), 1, rtol=1e-6)
    again = extract(network, source, 2, embeddings_per_class=3, seed=1)
    np.testing.assert_array_equal(several.embeddings, again.embeddings)

    about = label_embeddings.describe(several, ["w", "x", "y", "z"], "single_d/best/5")
    assert about["classes"] == ["w"] * 3 + ["x"] * 3 + ["y"] * 3 and about["absent"] == ["z"]
    kmeans = about["kmeans"]
    assert kmeans["embeddings_per_class"] == 3 and kmeans["seed"] == 1 and kmeans["iterations"] > 1
    assert sum(kmeans["pixels"]["w"]) == about["counts"]["w"] and kmeans["empty"] == {}
    assert set(kmeans["inertia"]) == {"w", "x", "y"} and min(kmeans["inertia"].values()) > 0
    label_embeddings.save(tmp_path / "e.npz", {"d": several}, {"domains": {"d": about}})
    np.testing.assert_array_equal(label_embeddings.load(tmp_path / "e.npz")[0]["d"], several.embeddings)
    assert "K = 3" in label_embeddings.method(3)


def test_features_that_are_not_kept_are_encoded_again(network):
    model, variables = network
    source, mesh, passes = Memory(3), sharding.create_mesh(), []
    for keep_bytes in (0, 2**30):
        batches = label_embeddings.encoded_batches(model, variables, source, 2, mesh, keep_bytes)
        first, second = ([jax.device_get(b) for b in batches()] for _ in range(2))
        assert [b["features"].shape[0] for b in first] == [2, 2]
        passes += [first, second]
    for other in passes[1:]:
        for a, b in zip(passes[0], other, strict=True):
            np.testing.assert_array_equal(a["features"], b["features"])
            np.testing.assert_array_equal(a["label"], b["label"])


def test_sample_has_the_stated_number_of_pixels_and_does_not_depend_on_the_batches(network):
    model, variables = network
    source, mesh = Memory(3), sharding.create_mesh()
    counts = sum(np.bincount(e["label"][e["label"] != 255], minlength=CLASSES) for e in source.examples)
    made = []
    for batch_size in (1, 2):
        batches = label_embeddings.encoded_batches(model, variables, source, batch_size, mesh)
        made.append(label_embeddings.sample_pixels(batches, counts, 0, model, limit=100))
    assert [len(x) for x in made[0]] == [100, 100, 100, 0]
    for a, b in zip(*made, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    everything = label_embeddings.sample_pixels(batches, counts, 0, model, limit=10**6)
    assert [len(x) for x in everything] == counts.tolist()
    one = extract(network, source, 2)
    centroid = (everything[0].mean(0, dtype=np.float64) - one.mean) @ one.components
    np.testing.assert_allclose(centroid / np.linalg.norm(centroid), one.embeddings[0], atol=1e-5)


def test_memory_of_the_draw_does_not_grow_with_the_pixels_of_a_class():
    """5e7 pixels; a permutation of them would take 400 MB."""
    batch = {"features": np.zeros((1, 1, 1, 2), np.float32), "label": np.zeros((1, 8, 8), np.uint8)}
    model = UniversalModel(OneLayer(), {"d": CLASSES})
    tracemalloc.start()
    try:
        label_embeddings.sample_pixels(lambda: iter([batch]), [50_000_000], 0, model)
        assert tracemalloc.get_traced_memory()[1] < 40e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("n", [0, 3, 40, 41, 1000, 10**10])
def test_draw_has_different_numbers_of_the_whole_range(n):
    drawn = label_embeddings.sample_ranks(n, 20, np.random.RandomState([5, 2, 1]))
    assert len(set(drawn.tolist())) == len(drawn) == min(n, 20) and (np.diff(drawn) > 0).all()
    again = label_embeddings.sample_ranks(n, 20, np.random.RandomState([5, 2, 1]))
    np.testing.assert_array_equal(drawn, again)
    if n > 3:
        assert drawn[0] < n / 2 <= drawn[-1] < n


@pytest.mark.slow
def test_gradient_with_several_embeddings_per_class_equals_the_formula_written_out():
    """Softmax over all rows; supervision sums the probabilities of a class's rows; against finite differences."""
    r = np.random.default_rng(0)
    rows, classes = r.standard_normal((6, 4)), (0, 0, 0, 2, 2, 1)
    embedding, labels = r.standard_normal((1, 2, 2, 4)), np.array([[[0, 1], [2, 255]]])

    def plain(e):
        p = np.exp(e @ rows.T)
        p = p / p.sum(-1, keepdims=True)
        entropy = -(p * np.log(p)).sum(-1).mean()
        of_class = np.stack([p[..., np.equal(classes, k)].sum(-1) for k in range(3)], -1)
        chosen = [of_class[0, y, x, labels[0, y, x]] for y, x in ((0, 0), (0, 1), (1, 0))]
        return entropy - np.log(chosen).mean()

    def ours(e):
        scores = similarities(e, rows)
        within, _, _ = entropy_terms({"d": scores}, "d", lambda function, x: function(x).mean())
        supervised = grouped_pixel_cross_entropy(scores, labels, classes).sum()
        return within + supervised / count_labeled(labels, classes)

    with jax.enable_x64(True):
        value, gradient = jax.value_and_grad(ours)(embedding)
    np.testing.assert_allclose(value, plain(embedding), rtol=1e-12)
    numeric = np.zeros_like(embedding)
    for at in np.ndindex(embedding.shape):
        step = np.zeros_like(embedding)
        step[at] = 1e-6
        numeric[at] = (plain(embedding + step) - plain(embedding - step)) / 2e-6
    np.testing.assert_allclose(gradient, numeric, atol=1e-8)
    assert np.abs(numeric).max() > 0.01
