"""Label embeddings from class prototypes (appendix B of the paper): PCA of the features, then class-wise centroids.

The paper takes the encoder's output "at each pixel" of the labeled images. Features upsampled to label resolution
would not fit in memory and are not needed: with the linear upsampling U,

    sum over pixels of onehot(y) U f      = (U^T onehot(y)) f          (class sums), and
    sum over pixels of m (U f) (U f)^T    = sum over offsets of (weights of neighbouring cells) f f_shifted^T,

where a pixel mixes at most 2x2 cells, so that the second sum involves neighbouring cells only. One pass over the
labeled images therefore gives the exact PCA and the exact centroids.
"""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

HIGHEST = jax.lax.Precision.HIGHEST


def accumulate(features, labels, rows, columns, num_classes: int):
    """Sum up the labeled pixels of one batch, for PCA and centroids.

    Args:
      features: encoder output [B, h, w, C].
      labels: int [B, H, W], train ids; ids >= num_classes (255) are ignored.
      rows, columns: upsampling weights [H, h] and [W, w] (models/upsample.py).
      num_classes: K.

    Returns:
      {"count": int32 [K], "sum": [K, C] of the features per class, "second": [C, C] sum of f f^T}.

    >>> features, labels = np.array([[[[1.0, 2.0]]]]), np.array([[[0]]])
    >>> sums = jax.jit(accumulate, static_argnames="num_classes")(features, labels, np.eye(1), np.eye(1), num_classes=1)
    >>> sums["second"].tolist()
    [[1.0, 2.0], [2.0, 4.0]]
    """
    labeled = (labels < num_classes).astype(features.dtype)
    rows, columns = jnp.asarray(rows, features.dtype), jnp.asarray(columns, features.dtype)
    return {
        **class_sums(features, labels, rows, columns, num_classes),
        "second": _second_moment(features, labeled, rows, columns),
    }


def class_sums(features, labels, rows, columns, num_classes: int):
    """Count the pixels and sum the features of every class: {"count": int32 [K], "sum": [K, C]}; see `accumulate`.

    >>> features, labels = jnp.array([[[[2.0], [4.0], [6.0]]]]), jnp.array([[[0, 0, 255]]])
    >>> sums = class_sums(features, labels, rows=np.eye(1), columns=np.eye(3), num_classes=2)
    >>> sums["count"].tolist(), sums["sum"].tolist()
    ([2, 0], [[6.0], [0.0]])
    """
    onehot = labels[..., None] == jnp.arange(num_classes)
    rows, columns = jnp.asarray(rows, features.dtype), jnp.asarray(columns, features.dtype)
    weights = jnp.einsum("Hh,bHWk->bhWk", rows, onehot.astype(features.dtype), precision=HIGHEST)
    weights = jnp.einsum("Ww,bhWk->bhwk", columns, weights, precision=HIGHEST)
    return {
        "count": onehot.sum((0, 1, 2), dtype=jnp.int32),
        "sum": jnp.einsum("bhwk,bhwc->kc", weights, features, precision=HIGHEST),
    }


def moving_average(label_embeddings, sums: dict, classes, theta: float):
    """Eq. 7: c <- theta c + (1 - theta) mu, scaled to unit length; classes without a pixel keep their row.

    Args:
      label_embeddings: c, [n, d].
      sums: `class_sums` of the output of E, for all classes.
      classes: int [n], train id of each row, each once.
      theta: 1 keeps the rows.

    >>> sums = {"count": jnp.array([2]), "sum": jnp.array([[0.0, 2.0]])}
    >>> print(moving_average(jnp.array([[1.0, 0.0]]), sums, classes=[0], theta=0.5).round(3))
    [[0.707 0.707]]
    """
    classes = jnp.asarray(classes)
    count = sums["count"][classes][:, None]
    moved = theta * label_embeddings + (1 - theta) * sums["sum"][classes] / jnp.maximum(count, 1)
    moved = moved * jax.lax.rsqrt(jnp.maximum((moved**2).sum(-1, keepdims=True), 1e-24))
    return jnp.where(count > 0, moved, label_embeddings).astype(label_embeddings.dtype)


def _second_moment(features, labeled, rows, columns):
    """Sum over pixels of labeled * (U f)(U f)^T: [B, h, w, C], [B, H, W] -> [C, C]."""
    _, h, w, channels = features.shape
    total = jnp.zeros((channels, channels), features.dtype)
    for times, here, there, pair_rows, pair_columns in neighbours((h, w), rows, columns):
        weights = jnp.einsum("Hh,bHW->bhW", pair_rows, labeled, precision=HIGHEST)
        weights = jnp.einsum("Ww,bhW->bhw", pair_columns, weights, precision=HIGHEST)
        weighted = features[here] * weights[..., None]
        moment = jnp.einsum("bhwc,bhwd->cd", weighted, features[there], precision=HIGHEST)
        total = total + (moment if times == 1 else moment + moment.T)
    return total


def neighbours(cells: tuple[int, int], rows, columns) -> Iterator[tuple]:
    """Pairs of cells that a pixel may mix, by offset: 5 of the 9 offsets, since the others follow by symmetry.

    Args:
      cells: (h, w).
      rows, columns: upsampling weights [H, h] and [W, w].

    Yields:
      (1 for a cell paired with itself, else 2; index of the one cell in arrays [B, h, w, ...]; index of the other;
      products of their weights in rows; and in columns).
    """
    h, w = cells
    for dy, dx in ((0, 0), (0, 1), (1, -1), (1, 0), (1, 1)):
        here = np.s_[:, : h - dy, max(-dx, 0) : w - max(dx, 0)]
        there = np.s_[:, dy:, max(dx, 0) : w + min(dx, 0)]
        pair_rows = rows[:, : h - dy] * rows[:, dy:]
        pair_columns = columns[:, here[2]] * columns[:, there[2]]
        yield (1 if dy == dx == 0 else 2), here, there, pair_rows, pair_columns


@dataclasses.dataclass(frozen=True)
class Prototypes:
    """Label embeddings of one domain.

    Attributes:
      embeddings: float32 [P, d], rows of unit length: one per class with labeled pixels, or one per non-empty cluster
        of such a class, the largest first.
      class_ids: int [P], train id of each row.
      row_counts: int64 [P], labeled pixels of each row.
      counts: int64 [n], labeled pixels of every class.
      mean, components: mean and components of the PCA, float64 [C] and [C, d].
      explained_variance: share of the features' variance that each component explains, float64 [d].
      per_class, seed, iterations, converged, inertia: K, seed, number of passes, whether it converged and the sums of
        squared distances, float64 [n], of the K-means (objectives/kmeans.py); empty for K = 1.
    """

    embeddings: np.ndarray
    class_ids: np.ndarray
    row_counts: np.ndarray
    counts: np.ndarray
    mean: np.ndarray
    components: np.ndarray
    explained_variance: np.ndarray
    per_class: int = 1
    seed: int = 0
    iterations: int = 0
    converged: bool = True
    inertia: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))


def finish(totals: dict, dim: int, centers=None, cluster_counts=None) -> Prototypes:
    """Compute label embeddings of dimension `dim` from the sums of `accumulate` over all batches.

    Args:
      totals: the sums, added up in float64.
      dim: d.
      centers: [n, K, C], the clusters of every class; None: the class means.
      cluster_counts: int [n, K], pixels of each cluster; empty clusters get no row.

    Raises:
      ValueError: if no pixel is labeled, or `dim` exceeds the number of channels.

    >>> totals = {"count": [1, 1], "sum": [[2.0, 0.0], [0.0, 0.0]], "second": [[4.0, 0.0], [0.0, 0.0]]}
    >>> finish(totals, dim=1).embeddings.tolist()
    [[1.0], [-1.0]]
    """
    counts = np.asarray(totals["count"], np.int64)
    sums, second = np.asarray(totals["sum"], np.float64), np.asarray(totals["second"], np.float64)
    n, channels = counts.sum(), sums.shape[1]
    if n == 0:
        raise ValueError("no labeled pixel: label embeddings need labeled images")
    if dim > channels:
        raise ValueError(f"embed_dim={dim} exceeds the encoder's {channels} channels: lower embed_dim or raise width")
    mean = sums.sum(0) / n
    variance, vectors = np.linalg.eigh(second / n - np.outer(mean, mean))
    variance, vectors = np.maximum(variance[::-1], 0.0), vectors[:, ::-1]
    components = vectors[:, :dim]
    # An eigenvector's sign is arbitrary: fix it, so that equal sums give equal files.
    largest = np.abs(components).argmax(0)
    components = components * np.where(components[largest, np.arange(dim)] < 0, -1.0, 1.0)
    if centers is None:
        class_ids = np.flatnonzero(counts)
        row_counts, points = counts[class_ids], sums[class_ids] / counts[class_ids, None]
    else:
        class_ids, clusters = _clusters_in_order(cluster_counts)
        row_counts, points = cluster_counts[class_ids, clusters], np.asarray(centers, np.float64)[class_ids, clusters]
    centroids = (points - mean) @ components
    norms = np.linalg.norm(centroids, axis=1, keepdims=True)
    return Prototypes(
        embeddings=(centroids / np.maximum(norms, np.finfo(np.float64).tiny)).astype(np.float32),
        class_ids=class_ids,
        row_counts=row_counts,
        counts=counts,
        mean=mean,
        components=components,
        explained_variance=variance[:dim] / max(variance.sum(), np.finfo(np.float64).tiny),
    )


def _clusters_in_order(counts) -> tuple[np.ndarray, np.ndarray]:
    """Class and cluster of every non-empty cluster, [n, K] -> two int [P]: by class, the largest cluster first."""
    order = np.argsort(-counts, axis=1, kind="stable")
    kept = np.take_along_axis(counts, order, 1) > 0
    class_ids, places = np.nonzero(kept)
    return class_ids, order[class_ids, places]
