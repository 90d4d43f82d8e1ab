"""Label embeddings against brute force: features at full resolution, PCA and class means over labeled pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from usss_jax.models.upsample import upsample_matrix
from usss_jax.objectives.prototypes import accumulate, finish

CLASSES = 5
ABSENT = 3


def written_out_weights(size, mode):
    """Weights of the x8 upsampling along one axis, pixel by pixel: [size, cells]."""
    cells = -(-size // 8)
    out = np.zeros((size, cells))
    for p in range(size):
        at = (p + 0.5) / 8 - 0.5
        if mode == "bilinear":
            at = min(max(at, 0), cells - 1)
        for cell in range(cells):
            out[p, cell] = max(0.0, 1 - abs(at - cell))
    return out


def random_case(size, channels=7, batch=3, seed=0):
    """Features with an offset and unequal spread per channel; a class without pixels, and ignored ones."""
    r = np.random.default_rng(seed)
    cells = [-(-n // 8) for n in size]
    features = r.standard_normal((batch, *cells, channels)) * np.linspace(0.5, 3, channels) + r.normal(0, 2, channels)
    labels = r.choice([0, 1, 2, 4, 255], (batch, *size), p=[0.3, 0.2, 0.1, 0.15, 0.25]).astype(np.uint8)
    labels[:, : size[0] // 2] = np.minimum(labels[:, : size[0] // 2] // 2 * 2, 255)  # not the same mix everywhere
    labels[labels == 254] = 255
    return features, labels


def sums(features, labels, mode, dtype=jnp.float64):
    rows, columns = (upsample_matrix(n, 8, mode) for n in labels.shape[1:])
    totals = jax.jit(accumulate, static_argnums=4)(jnp.asarray(features, dtype), labels, rows, columns, CLASSES)
    return {k: np.asarray(v) for k, v in totals.items()}


def pixels_of(features, labels, mode):
    """Full-resolution features of the labeled pixels [n, C] and their labels [n]."""
    rows, columns = (written_out_weights(n, mode) for n in labels.shape[1:])
    full = np.einsum("Hh,Ww,bhwc->bHWc", rows, columns, features)
    labeled = labels < CLASSES
    return full[labeled], labels[labeled]


def brute_force(features, labels, mode, dim):
    """(unit rows, ids of present classes, mean, components, share of variance); signs as they come."""
    x, y = pixels_of(features, labels, mode)
    mean = x.mean(0)
    variance, vectors = np.linalg.eigh((x - mean).T @ (x - mean) / len(x))
    order = np.argsort(-variance)[:dim]
    present = sorted(set(y.tolist()))
    centroids = np.stack([(x[y == k].mean(0) - mean) @ vectors[:, order] for k in present])
    unit = centroids / np.linalg.norm(centroids, axis=1, keepdims=True)
    return unit, present, mean, vectors[:, order], variance[order] / variance.sum()


def assert_same(got, want, tolerance):
    """Compare up to the sign of every component."""
    unit, present, mean, components, share = want
    signs = np.sign((got.components * components).sum(0))
    assert got.class_ids.tolist() == present
    np.testing.assert_allclose(got.mean, mean, atol=tolerance * np.abs(mean).max())
    np.testing.assert_allclose(got.components * signs, components, atol=tolerance)
    np.testing.assert_allclose(got.explained_variance, share, atol=tolerance)
    np.testing.assert_allclose(got.embeddings * signs, unit, atol=max(tolerance, 1e-7))  # kept as float32


@pytest.mark.parametrize("mode", ["bilinear", "drn"])
@pytest.mark.parametrize("size", [(32, 40), (27, 33), (8, 24), (17, 5)])
def test_one_pass_equals_pca_of_the_features_at_every_labeled_pixel(mode, size):
    features, labels = random_case(size)
    with jax.enable_x64(True):
        got = finish(sums(features, labels, mode), 4)
    assert_same(got, brute_force(features, labels, mode, 4), 1e-10)
    assert got.embeddings.dtype == np.float32 and got.embeddings.shape == (4, 4)


@pytest.mark.parametrize("mode", ["bilinear", "drn"])
def test_float32_sums_are_accurate(mode):
    features, labels = random_case((27, 33), seed=1)
    assert_same(finish(sums(features, labels, mode, jnp.float32), 4), brute_force(features, labels, mode, 4), 1e-5)


@pytest.mark.parametrize("mode", ["bilinear", "drn"])
@pytest.mark.parametrize("size", [(24, 40), (19, 13), (3, 30)])
def test_the_sums_are_those_over_labeled_pixels(mode, size):
    features, labels = random_case(size, seed=2)
    x, y = pixels_of(features, labels, mode)
    with jax.enable_x64(True):
        got = sums(features, labels, mode)
    np.testing.assert_array_equal(got["count"], [(y == k).sum() for k in range(CLASSES)])
    np.testing.assert_allclose(got["sum"], [x[y == k].sum(0) for k in range(CLASSES)], atol=1e-9)
    np.testing.assert_allclose(got["second"], x.T @ x, rtol=1e-11, atol=1e-9)


def test_a_class_without_a_labeled_pixel_is_left_out():
    features, labels = random_case((24, 24))
    assert ABSENT not in labels
    got = finish(sums(features, labels, "bilinear", jnp.float32), 3)
    assert got.class_ids.tolist() == [0, 1, 2, 4] and got.embeddings.shape == (4, 3)
    assert got.counts.tolist() == [(labels == k).sum() for k in range(CLASSES)] and got.counts[ABSENT] == 0


def test_rows_have_unit_length():
    features, labels = random_case((24, 24))
    got = finish(sums(features, labels, "bilinear", jnp.float32), 3)
    np.testing.assert_allclose(np.linalg.norm(got.embeddings, axis=1), 1, rtol=1e-6)


def test_batches_add_up():
    features, labels = random_case((24, 24), batch=4)
    with jax.enable_x64(True):
        parts = [sums(features[s], labels[s], "bilinear") for s in (slice(0, 1), slice(1, 4))]
        whole = sums(features, labels, "bilinear")
    for name, value in whole.items():
        np.testing.assert_allclose(parts[0][name] + parts[1][name], value, rtol=1e-12)


@pytest.mark.parametrize("ignored", [255, CLASSES, 200])
def test_pixels_that_are_not_labeled_do_not_count(ignored):
    features, labels = random_case((24, 24))
    filled = np.concatenate([features, 1e3 + features]), np.concatenate([labels, np.full_like(labels, ignored)])
    with jax.enable_x64(True):
        got, want = sums(*filled, "bilinear"), sums(features, labels, "bilinear")
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-12)


def test_all_components_together_explain_all_variance():
    features, labels = random_case((24, 24))
    got = finish(sums(features, labels, "bilinear", jnp.float32), 7)
    assert got.components.shape == (7, 7)
    assert got.explained_variance.sum() == pytest.approx(1, rel=1e-12)
    assert (np.diff(got.explained_variance) <= 0).all()
    np.testing.assert_allclose(got.components.T @ got.components, np.eye(7), atol=1e-12)


def test_the_signs_do_not_depend_on_the_order_of_the_images():
    features, labels = random_case((24, 24))
    with jax.enable_x64(True):
        a = finish(sums(features, labels, "bilinear"), 4)
        b = finish(sums(features[::-1], labels[::-1], "bilinear"), 4)
    np.testing.assert_allclose(a.embeddings, b.embeddings, atol=1e-6)


def test_embeddings_point_from_the_mean_to_the_class():
    """Two classes at +v and -v around a large offset, on one cell each: opposite unit vectors along v."""
    features = np.full((1, 1, 2, 3), 10.0)
    features[0, 0, 0] += [0, 3, 4]
    features[0, 0, 1] -= [0, 3, 4]
    labels = np.zeros((1, 8, 16), np.uint8)
    labels[:, :, 8:] = 2
    got = finish(sums(features, labels, "bilinear", jnp.float32), 1)
    assert got.class_ids.tolist() == [0, 2] and got.counts.tolist() == [64, 0, 64, 0, 0]
    np.testing.assert_allclose(got.mean, [10, 10, 10], rtol=1e-6)
    np.testing.assert_allclose(np.abs(got.components[:, 0]), [0, 0.6, 0.8], atol=1e-5)
    np.testing.assert_allclose(got.embeddings, [[1], [-1]], rtol=1e-6)


def test_more_dimensions_than_channels_is_an_error():
    features, labels = random_case((16, 16))
    with pytest.raises(ValueError, match=r"8.*7 channels"):
        finish(sums(features, labels, "bilinear", jnp.float32), 8)


def test_no_labeled_pixel_at_all_is_an_error():
    features, labels = random_case((16, 16))
    with pytest.raises(ValueError, match="no labeled pixel"):
        finish(sums(features, np.full_like(labels, 255), "bilinear", jnp.float32), 2)
