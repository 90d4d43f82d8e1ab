"""K-means inside every class (appendix B.3 of the paper): several label embeddings per class.

Lloyd's iterations run over all labeled pixels without features at full resolution. With the linear upsampling U, the
squared distance of a pixel to a centre c of its class is

    |U f - c|^2 = |U f|^2 - 2 (U (f . c) - |c|^2 / 2),

so upsampled scores assign the pixels, and the adjoint of U gives the sums of a cluster as it does those of a class
(objectives/prototypes.py). The constant is subtracted after the upsampling, since the weights of a pixel need not sum
to one. Seeding with k-means++ uses a sample of the pixels and runs on the host.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from usss_jax.objectives.prototypes import HIGHEST, class_sums, neighbours

SEEDINGS = 4  # k-means++ seedings per class, from which the one with the lowest inertia on the sample is taken
MAX_ITERATIONS = 50
TOLERANCE = 1e-4  # a class has converged when its inertia falls by a smaller share


@dataclasses.dataclass(frozen=True)
class Clusters:
    """Result of K-means inside every class.

    Attributes:
      centers: float64 [n, K, C].
      counts: int64 [n, K], pixels nearest to each centre.
      inertia: float64 [n], sum of the squared distances to the nearest centre.
      iterations: passes over the data; the last one computed the counts and inertia of these centres.
      converged: whether all classes converged within the passes allowed.
    """

    centers: np.ndarray
    counts: np.ndarray
    inertia: np.ndarray
    iterations: int
    converged: bool


def cluster_sums(features, labels, rows, columns, centers):
    """Assign the labeled pixels of one batch to the nearest centre of their class, and sum them up per centre.

    Args:
      features: encoder output [B, h, w, C].
      labels: int [B, H, W], train ids; ids >= n (255) are ignored.
      rows, columns: upsampling weights [H, h] and [W, w] (models/upsample.py).
      centers: [n, K, C].

    Returns:
      {"count": int32 [n, K], "sum": [n, K, C] of the features, "inertia": [H, n] sums of squared distances, one per row
      of pixels for accuracy}. Of equally near centres the first is taken.

    >>> import jax
    >>> features, labels, centers = np.array([[[[1.0], [5.0]]]]), np.array([[[0, 0]]]), np.array([[[0.0], [4.0]]])
    >>> sums = jax.jit(cluster_sums)(features, labels, np.eye(1), np.eye(2), centers)
    >>> sums["count"].tolist(), sums["sum"].tolist(), sums["inertia"].tolist()
    ([[1, 1]], [[[1.0], [5.0]]], [[2.0]])
    """
    classes, per_class, _ = centers.shape
    labels = labels.astype(jnp.int32)
    rows, columns, centers = (jnp.asarray(a, features.dtype) for a in (rows, columns, centers))
    own = labels[..., None] == jnp.arange(classes)
    scores = []
    for k in range(per_class):  # one centre of every class at a time: [B, H, W, n] is the largest array
        score = _upsampled(jnp.einsum("bhwc,nc->bhwn", features, centers[:, k], precision=HIGHEST), rows, columns)
        score = score - (centers[:, k] ** 2).sum(-1) / 2
        scores.append(jnp.where(own, score, 0).sum(-1))
    score = jnp.stack(scores, -1)
    nearest = jnp.argmax(score, -1)
    distance = jnp.maximum(squared_norms(features, rows, columns) - 2 * score.max(-1), 0)
    parts = [
        class_sums(features, jnp.where(nearest == k, labels, -1), rows, columns, classes) for k in range(per_class)
    ]
    return {
        "count": jnp.stack([part["count"] for part in parts], 1),
        "sum": jnp.stack([part["sum"] for part in parts], 1),
        "inertia": jnp.where(own, distance[..., None], 0).sum((0, 2)),
    }


def squared_norms(features, rows, columns):
    """|U f|^2 of every pixel from the products of neighbouring cells, [B, h, w, C] -> [B, H, W].

    >>> squared_norms(jnp.array([[[[3.0, 4.0]]]]), rows=np.ones((1, 1)), columns=np.ones((2, 1))).tolist()
    [[[25.0, 25.0]]]
    """
    rows, columns = jnp.asarray(rows, features.dtype), jnp.asarray(columns, features.dtype)
    total = 0.0
    for times, here, there, pair_rows, pair_columns in neighbours(features.shape[1:3], rows, columns):
        product = (features[here] * features[there]).sum(-1, keepdims=True)
        total = total + times * _upsampled(product, pair_rows, pair_columns)[..., 0]
    return total


def _upsampled(x, rows, columns):
    x = jnp.einsum("Ww,bhwn->bhWn", columns, x, precision=HIGHEST)
    return jnp.einsum("Hh,bhWn->bHWn", rows, x, precision=HIGHEST)


def lloyd(
    sums_of: Callable, centers: np.ndarray, *, max_iterations: int = MAX_ITERATIONS, tolerance: float = TOLERANCE
) -> Clusters:
    """Run Lloyd's iterations until every class has converged; a centre without pixels keeps its place.

    Args:
      sums_of: centers [n, K, C] -> `cluster_sums` over all batches; "inertia" is summed over its first axis here.
      centers: initial centres [n, K, C].
      max_iterations: maximal number of passes.
      tolerance: a class has converged when its inertia falls by no more than this share.

    Returns:
      The centres of the last pass, with their counts and inertia.
    """
    centers, before = np.asarray(centers, np.float64), np.full(len(centers), np.inf)
    for iteration in range(1, max_iterations + 1):
        sums = sums_of(centers)
        counts = np.asarray(sums["count"], np.int64)
        inertia = np.asarray(sums["inertia"], np.float64).sum(0)
        means = np.asarray(sums["sum"], np.float64) / np.maximum(counts, 1)[..., None]
        moved = np.where(counts[..., None] > 0, means, centers)
        converged = bool((before <= inertia * (1 + tolerance)).all() or (moved == centers).all())
        if converged or iteration == max_iterations:
            break
        centers, before = moved, inertia
    return Clusters(centers, counts, inertia, iteration, converged)


def seed_centers(samples: list[np.ndarray], per_class: int, seed: int) -> np.ndarray:
    """Initial centres of every class: the best of several k-means++ seedings after K-means on a sample of its pixels.

    Args:
      samples: for each class the features [m, C] of some of its pixels; m may be 0 and may differ between classes.
      per_class: K.
      seed: random seed; the result for a class does not depend on the other classes.

    Returns:
      float64 [n, K, C]; zeros for a class without a sample. If a sample has fewer than K distinct points, some centres
      coincide.

    >>> centers = seed_centers([np.array([[0.0], [2.0], [9.0]])], per_class=2, seed=0)
    >>> sorted(centers.ravel().tolist())
    [1.0, 9.0]
    """
    out = np.zeros((len(samples), per_class, samples[0].shape[1]))
    for i, sample in enumerate(samples):
        if not len(sample):
            continue
        points, random = np.asarray(sample, np.float64), np.random.RandomState([seed, i])
        tried = (
            lloyd(lambda c, x=points: _sample_sums(x, c), plus_plus(points, per_class, random)[None], tolerance=1e-3)
            for _ in range(SEEDINGS)
        )
        out[i] = min(tried, key=lambda clusters: clusters.inertia[0]).centers[0]
    return out


def plus_plus(points: np.ndarray, count: int, random: np.random.RandomState) -> np.ndarray:
    """Seed by k-means++ (Arthur and Vassilvitskii, 2007): choose `count` of the points [m, C].

    The first point is uniformly random; the probability of each further one is proportional to its squared distance to
    the nearest point chosen before. If all remaining distances are zero, a point is repeated.

    >>> sorted(plus_plus(np.array([[0.0], [9.0]]), 2, np.random.RandomState(0)).ravel().tolist())
    [0.0, 9.0]
    """
    chosen = [points[random.randint(len(points))]]
    distance = np.full(len(points), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, ((points - chosen[-1]) ** 2).sum(1))
        total = distance.sum()
        chosen.append(points[random.choice(len(points), p=distance / total) if total > 0 else 0])
    return np.stack(chosen)


def _sample_sums(points: np.ndarray, centers: np.ndarray) -> dict[str, np.ndarray]:
    """`cluster_sums` for points [m, C] of one class and centres [1, K, C]."""
    distance = (points**2).sum(1)[:, None] - 2 * points @ centers[0].T + (centers[0] ** 2).sum(1)
    nearest = distance.argmin(1)
    onehot = (nearest[:, None] == np.arange(centers.shape[1])).astype(np.float64)
    return {
        "count": onehot.sum(0)[None],
        "sum": (onehot.T @ points)[None],
        "inertia": np.maximum(distance.min(1), 0).sum().reshape(1, 1),
    }
