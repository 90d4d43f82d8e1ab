"""The extraction pass over a source, and the file that keeps label embeddings."""

import jax
import numpy as np
import pytest

from usss_jax.errors import InputError
from usss_jax.models.drn import DRN
from usss_jax.models.universal import UniversalModel
from usss_jax.training import label_embeddings, sharding

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
    model = UniversalModel(DRN(blocks=(1, 1, 1, 1), width=0.0625), {"d": CLASSES})
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


def extract(network, source, batch_size, dim=DIM):
    model, variables = network
    mesh = sharding.create_mesh()
    return label_embeddings.extract(model, variables, source, CLASSES, dim, batch_size=batch_size, mesh=mesh)


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_extraction_equals_brute_force(network, batch_size):
    """Up to the sign of every component; 3 images, so that the batches of 2 and 4 are filled up."""
    source = Memory(3)
    expected, counts = brute_force(*network, source)
    got = extract(network, source, batch_size)
    signs = np.sign((got.embeddings * expected).sum(0))
    np.testing.assert_allclose(got.embeddings * signs, expected, atol=1e-5)
    np.testing.assert_array_equal(got.counts, counts)
    np.testing.assert_array_equal(got.class_ids, [0, 1, 2])


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
    assert [p.name for p in tmp_path.iterdir()] == ["e.npz"]


def test_damaged_file_is_named(tmp_path):
    (tmp_path / "e.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(InputError, match=r"e\.npz"):
        label_embeddings.load(tmp_path / "e.npz")


def test_dimension_above_the_channels_is_bad_input(network):
    with pytest.raises(InputError, match="embed_dim=999"):
        extract(network, Memory(1), 1, dim=999)
