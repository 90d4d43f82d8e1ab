"""K-means inside every class against scikit-learn on the same features, written out pixel by pixel."""

import jax
import numpy as np
import pytest
from sklearn.cluster import KMeans

from usss_jax.models.upsample import upsample_matrix
from usss_jax.objectives.kmeans import cluster_sums, lloyd, plus_plus, seed_centers, squared_norms
from usss_jax.objectives.prototypes import accumulate, finish

CLASSES, CHANNELS, ABSENT = 4, 5, 2
PRESENT = (0, 1, 3)


def case(size=(27, 33), batch=4, seed=0):
    """Features [B, h, w, C] and labels [B, H, W] of all classes but one, with ignored pixels."""
    r = np.random.default_rng(seed)
    cells = [-(-n // 8) for n in size]
    features = r.standard_normal((batch, *cells, CHANNELS)) * np.linspace(0.5, 2, CHANNELS) + r.normal(0, 2, CHANNELS)
    labels = r.choice([*PRESENT, 255], (batch, *size), p=[0.4, 0.3, 0.1, 0.2]).astype(np.uint8)
    return features, labels


def weights(labels, mode):
    return [upsample_matrix(n, 8, mode) for n in labels.shape[1:]]


def full_resolution(features, labels, mode):
    """Half-pixel linear interpolation written out; "drn" has zeros outside, "bilinear" repeats the edge."""
    out = np.zeros((*labels.shape, features.shape[-1]))
    for y in range(labels.shape[1]):
        for x in range(labels.shape[2]):
            for i, wi in taps(y, features.shape[1], mode):
                for j, wj in taps(x, features.shape[2], mode):
                    out[:, y, x] += wi * wj * features[:, i, j]
    return out


def taps(pixel, cells, mode):
    at = (pixel + 0.5) / 8 - 0.5
    low = int(np.floor(at))
    for cell, weight in ((low, 1 - (at - low)), (low + 1, at - low)):
        if 0 <= cell < cells:
            yield cell, weight
        elif mode == "bilinear":
            yield min(max(cell, 0), cells - 1), weight


def pixels_by_class(features, labels, mode):
    full = full_resolution(features, labels, mode)
    return [full[labels == i] for i in range(CLASSES)]


STEP = jax.jit(cluster_sums)


def passes(features, labels, mode):
    """`sums_of` for `lloyd`, over two batches of one size."""
    half = len(features) // 2
    batches = [(features[s], labels[s]) for s in (slice(0, half), slice(half, None))]

    def sums_of(centers):
        parts = [STEP(f, y, *weights(y, mode), centers) for f, y in batches]
        return jax.tree.map(lambda a, b: np.asarray(a, np.float64) + np.asarray(b, np.float64), *parts)

    return sums_of


def starts(pixels, k, seed=1):
    r = np.random.default_rng(seed)
    return np.stack([x[r.choice(len(x), k, replace=False)] if len(x) else np.zeros((k, CHANNELS)) for x in pixels])


@pytest.mark.parametrize("mode", ["bilinear", "drn"])
@pytest.mark.parametrize("k", [2, 3])
def test_from_the_same_centers_it_ends_where_scikit_learn_does(mode, k):
    features, labels = case()
    pixels = pixels_by_class(features, labels, mode)
    first = starts(pixels, k)
    with jax.enable_x64(True):
        got = lloyd(passes(features, labels, mode), first, tolerance=0, max_iterations=300)
    assert got.converged and got.iterations > 2
    assert got.counts[ABSENT].sum() == 0 and got.inertia[ABSENT] == 0
    for i in PRESENT:
        want = KMeans(k, init=first[i], n_init=1, tol=0, algorithm="lloyd").fit(pixels[i])
        np.testing.assert_allclose(got.centers[i], want.cluster_centers_, rtol=1e-9)
        np.testing.assert_allclose(got.inertia[i], want.inertia_, rtol=1e-9)
        np.testing.assert_array_equal(got.counts[i], np.bincount(want.labels_, minlength=k))


@pytest.mark.parametrize("mode", ["bilinear", "drn"])
def test_one_pass_assigns_every_pixel_to_the_nearest_center_of_its_class(mode):
    features, labels = case()
    pixels = pixels_by_class(features, labels, mode)
    centers = starts(pixels, 3)
    with jax.enable_x64(True):
        got = jax.device_get(STEP(features, labels, *weights(labels, mode), centers))
        norms = jax.device_get(squared_norms(features, *weights(labels, mode)))
    np.testing.assert_allclose(norms, (full_resolution(features, labels, mode) ** 2).sum(-1), rtol=1e-11)
    for i in PRESENT:
        distance = ((pixels[i][:, None] - centers[i]) ** 2).sum(-1)
        nearest = distance.argmin(1)
        np.testing.assert_array_equal(got["count"][i], np.bincount(nearest, minlength=3))
        np.testing.assert_allclose(got["sum"][i], [pixels[i][nearest == k].sum(0) for k in range(3)], atol=1e-9)
        np.testing.assert_allclose(got["inertia"].sum(0)[i], distance.min(1).sum(), rtol=1e-11)


def test_float32_is_accurate():
    features, labels = case()
    pixels = pixels_by_class(features, labels, "bilinear")
    first = starts(pixels, 3)
    got = lloyd(passes(features.astype(np.float32), labels, "bilinear"), first)
    with jax.enable_x64(True):
        want = lloyd(passes(features, labels, "bilinear"), first)
    np.testing.assert_allclose(got.inertia, want.inertia, rtol=1e-4)
    np.testing.assert_allclose(got.inertia.sum(), want.inertia.sum(), rtol=1e-5)


def test_from_its_own_seeding_the_inertia_is_near_that_of_scikit_learn():
    features, labels = case()
    pixels = pixels_by_class(features, labels, "bilinear")
    samples = [x[::2] for x in pixels]
    with jax.enable_x64(True):
        got = lloyd(passes(features, labels, "bilinear"), seed_centers(samples, 3, seed=0))
    for i in PRESENT:
        want = KMeans(3, n_init=10, random_state=0).fit(pixels[i]).inertia_
        assert got.inertia[i] < 1.01 * want


def test_a_center_without_pixels_stays():
    features, labels = case()
    pixels = pixels_by_class(features, labels, "bilinear")
    first = starts(pixels, 2)
    first[1, 1] = 1e3
    got = lloyd(passes(features, labels, "bilinear"), first)
    np.testing.assert_array_equal(got.centers[1, 1], first[1, 1])
    assert got.counts[1].tolist() == [len(pixels[1]), 0]
    np.testing.assert_allclose(got.centers[1, 0], pixels[1].mean(0), rtol=1e-5)


def test_one_cluster_gives_the_class_means():
    features, labels = case()
    rows, columns = weights(labels, "bilinear")
    with jax.enable_x64(True):
        totals = jax.device_get(accumulate(features, labels, rows, columns, CLASSES))
        got = lloyd(passes(features, labels, "bilinear"), starts(pixels_by_class(features, labels, "bilinear"), 1))
    assert got.converged and got.iterations == 2  # where it starts, then at the means, which do not move
    a, b = finish(totals, 3), finish(totals, 3, got.centers, got.counts)
    np.testing.assert_allclose(a.embeddings, b.embeddings, atol=1e-7)
    np.testing.assert_array_equal(a.class_ids, b.class_ids)
    np.testing.assert_array_equal(a.row_counts, b.row_counts)


def test_a_class_with_fewer_distinct_pixels_than_clusters_gets_fewer_rows():
    """Class 0 has one value everywhere, class 1 two of them, class 3 more; two cells far apart have no mixture."""
    labels = np.full((1, 8, 40), 255, np.uint8)
    features = np.zeros((1, 1, 5, CHANNELS))
    features[0, 0, 1:] = 1 + np.arange(4)[:, None] * np.eye(4, CHANNELS)
    labels[0, :, :4] = 0  # the edge, where the first cell is repeated
    labels[0, :4, 35:37], labels[0, :4, 38:] = 255, 1
    labels[0, :2, 0] = 1
    labels[0, :, 8:30] = 3
    pixels = pixels_by_class(features, labels, "bilinear")
    assert [len(np.unique(x.round(9), axis=0)) for x in pixels[:2]] == [1, 2]
    with jax.enable_x64(True):
        totals = jax.device_get(accumulate(features, labels, *weights(labels, "bilinear"), CLASSES))
        got = lloyd(passes(np.repeat(features, 2, 0), np.repeat(labels, 2, 0), "bilinear"), seed_centers(pixels, 3, 0))
    made = finish(totals, 2, got.centers, got.counts)
    assert made.class_ids.tolist() == [0, 1, 1, 3, 3, 3]
    assert np.isfinite(made.embeddings).all()
    np.testing.assert_allclose(got.inertia[:2], 0, atol=1e-12)
    assert made.row_counts.sum() == 2 * (labels != 255).sum()
    assert made.row_counts[1] >= made.row_counts[2]  # the largest cluster first


def test_seeding_chooses_far_points_and_depends_on_the_seed_alone():
    points = np.concatenate([np.zeros((50, 2)), np.full((50, 2), 10.0), [[0.0, 100.0]]])
    chosen = plus_plus(points, 3, np.random.RandomState(0))
    assert len(np.unique(chosen, axis=0)) == 3  # equal points have the probability 0
    r = np.random.default_rng(0)
    samples = [r.standard_normal((60, 3)), np.zeros((0, 3)), r.standard_normal((40, 3))]
    a, b, c = (seed_centers(samples, 3, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c) and (a[1] == 0).all()
    alone = seed_centers(samples[:1], 3, 0)
    np.testing.assert_array_equal(alone[0], a[0])


def test_it_stops_after_the_stated_number_of_passes_and_says_so():
    features, labels = case()
    first = starts(pixels_by_class(features, labels, "bilinear"), 3)
    got = lloyd(passes(features, labels, "bilinear"), first, max_iterations=2)
    assert got.iterations == 2 and not got.converged
