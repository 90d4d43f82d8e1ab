"""How well the encoder aligns classes of equal meaning across domains: Figure 4 of the paper as a number.

The centroid of a class is the exact mean of the encoder's output over its labeled pixels (objectives/prototypes.py).
The number is the mean cosine between the centroids of matching classes of two domains, minus that of the other pairs.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from usss_jax.evaluation.evaluate import sum_batches
from usss_jax.models.universal import UniversalModel
from usss_jax.models.upsample import upsample_matrix
from usss_jax.objectives.prototypes import class_sums
from usss_jax.parallel.sharding import batch_sharding, replicated

CONVENTION = (
    "centroid = mean of the encoder's output (evaluation mode, upsampled) over all labeled pixels of a class in the "
    "split; pairs = classes of two different domains; matching, other = mean cosine over the pairs whose classes match "
    "and over the remaining ones, difference = matching - other; raw = of the centroids as they are: after a last "
    "ReLU their coordinates are not negative, which biases raw cosines towards 1; centred = of the centroids minus a "
    "common mean: the mean over the domains of the mean over a domain's labeled pixels (of all its classes), so that a "
    "domain with more pixels has no more weight; a shift between the domains is not removed and lowers matching and "
    "other alike"
)


def sum_classes(
    model: UniversalModel, variables, source, num_classes: int, *, batch_size: int, mesh: Mesh
) -> dict[str, np.ndarray]:
    """Sum the encoder's output over the labeled pixels of each class of a source, in one jitted pass.

    Args:
      model, variables: a network; only its encoder is used, in evaluation mode.
      source: examples {"image": uint8 [H, W, 3], "label": uint8 [H, W]}; ids >= num_classes (255) are ignored.
      num_classes: K.
      batch_size: images per batch; changes the result by rounding only.
      mesh: devices.

    Returns:
      {"count": int64 [K] pixels, "sum": float64 [K, C]}.
    """

    @partial(jax.jit, in_shardings=(replicated(mesh), batch_sharding(mesh)), out_shardings=replicated(mesh))
    def sums(variables, batch):
        features = model.apply(variables, batch["image"], method="encode")
        rows, columns = (upsample_matrix(side, model.stride, model.upsample) for side in batch["label"].shape[1:])
        return class_sums(features, batch["label"], rows, columns, num_classes)

    return sum_batches(sums, variables, source, batch_size, mesh)


def centroids(totals: Mapping[str, np.ndarray]) -> np.ndarray:
    """Means of the classes from the sums of `sum_classes`: float64 [K, C], NaN for a class without a pixel.

    >>> centroids({"count": np.array([2, 0]), "sum": np.array([[6.0], [0.0]])}).tolist()
    [[3.0], [nan]]
    """
    with np.errstate(invalid="ignore"):
        return totals["sum"] / totals["count"][:, None]


def common_mean(totals: Mapping[str, Mapping[str, np.ndarray]]) -> np.ndarray:
    """Mean over the domains of the mean over each domain's labeled pixels, float64 [C].

    >>> big = {"count": np.array([3, 1]), "sum": np.array([[6.0], [2.0]])}
    >>> common_mean({"big": big, "small": {"count": np.array([1]), "sum": np.array([[4.0]])}}).tolist()
    [3.0]
    """
    return np.mean([t["sum"].sum(0) / t["count"].sum() for t in totals.values()], axis=0)


def cosines(vectors: np.ndarray) -> np.ndarray:
    """Cosine of every pair of rows: [P, C] -> [P, P]; 0 where a row is zero.

    >>> cosines(np.array([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]])).round(3).tolist()
    [[1.0, 0.8, 0.0], [0.8, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(lengths > 0, lengths, 1)
    return unit @ unit.T


def cross_domain_pairs(domains: Sequence[str], groups: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of classes of different domains.

    Args:
      domains: domain of each of P classes.
      groups: group of each class; classes of one group match.

    Returns:
      Index pairs int [n, 2], first < second, and whether they match, bool [n].

    >>> pairs, matches = cross_domain_pairs(["a", "a", "b", "c"], [0, 1, 0, 1])
    >>> pairs.tolist(), matches.tolist()
    ([[0, 2], [0, 3], [1, 2], [1, 3], [2, 3]], [True, False, False, True, False])
    """
    first, second = np.triu_indices(len(domains), 1)
    crossing = np.asarray(domains)[first] != np.asarray(domains)[second]
    pairs = np.stack([first[crossing], second[crossing]], axis=1)
    return pairs, np.asarray(groups)[pairs[:, 0]] == np.asarray(groups)[pairs[:, 1]]


def alignment(vectors: np.ndarray, pairs: np.ndarray, matches: np.ndarray) -> dict[str, Any]:
    """Mean cosine over the matching pairs and over the other ones, and the difference.

    Args:
      vectors: centroids [P, C].
      pairs, matches: result of `cross_domain_pairs`; some pairs must match and some must not.

    Returns:
      {"matching", "other", "difference": float, "cosines": list of the cosine of each pair}.

    >>> vectors, pairs = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]), np.array([[0, 2], [1, 2]])
    >>> alignment(vectors, pairs, np.array([True, False]))
    {'matching': 1.0, 'other': 0.0, 'difference': 1.0, 'cosines': [1.0, 0.0]}
    """
    values = cosines(vectors)[pairs[:, 0], pairs[:, 1]]
    matching, other = float(values[matches].mean()), float(values[~matches].mean())
    return {"matching": matching, "other": other, "difference": matching - other, "cosines": values.tolist()}
