"""How close the encoder puts classes of different domains that mean the same: Figure 4 of the paper as a number.

The centroid of a class is the mean of the encoder's output over its labeled pixels, exact (objectives/prototypes.py).
The number is the mean cosine of centroids of matching classes of two domains less that of classes which do not match.
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
    "and over the remaining ones, difference = matching - other; raw = of the centroids as they are, none of whose "
    "coordinates is negative after the last ReLU, so that no raw cosine is either and all are drawn towards 1; centred "
    "= of the centroids less one common mean: the mean over the domains of the mean over a domain's labeled pixels (of "
    "all its classes), so that no domain counts more for having more pixels; a shift between the domains is not "
    "removed and lowers matching and other alike"
)


def sum_classes(
    model: UniversalModel, variables, source, num_classes: int, *, batch_size: int, mesh: Mesh
) -> dict[str, np.ndarray]:
    """Add up the encoder's output over the labeled pixels of each class of a source, in one jitted pass.

    Args:
      model, variables: a network; only its encoder is used, in evaluation mode.
      source: examples {"image": uint8 [H, W, 3], "label": uint8 [H, W]}; ids >= num_classes (255) do not count.
      num_classes: K.
      batch_size: images at a time; does not change the result beyond rounding.
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
    """Mean per class of the sums of `sum_classes`: float64 [K, C], NaN for a class without a pixel."""
    with np.errstate(invalid="ignore"):
        return totals["sum"] / totals["count"][:, None]


def common_mean(totals: Mapping[str, Mapping[str, np.ndarray]]) -> np.ndarray:
    """Mean over the domains of the mean over each domain's labeled pixels, float64 [C]."""
    return np.mean([t["sum"].sum(0) / t["count"].sum() for t in totals.values()], axis=0)


def cosines(vectors: np.ndarray) -> np.ndarray:
    """Cosine of every pair of rows: [P, C] -> [P, P]; 0 where a row is zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(lengths > 0, lengths, 1)
    return unit @ unit.T


def cross_domain_pairs(domains: Sequence[str], groups: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of classes of different domains.

    Args:
      domains: of P classes.
      groups: of these classes; those of equal group match.

    Returns:
      Index pairs int [n, 2], first < second, and whether they match, bool [n].
    """
    first, second = np.triu_indices(len(domains), 1)
    crossing = np.asarray(domains)[first] != np.asarray(domains)[second]
    pairs = np.stack([first[crossing], second[crossing]], axis=1)
    return pairs, np.asarray(groups)[pairs[:, 0]] == np.asarray(groups)[pairs[:, 1]]


def alignment(vectors: np.ndarray, pairs: np.ndarray, matches: np.ndarray) -> dict[str, Any]:
    """Mean cosine over matching pairs, over the other ones, and their difference.

    Args:
      vectors: centroids [P, C].
      pairs, matches: of `cross_domain_pairs`; some must match and some not.

    Returns:
      {"matching", "other", "difference": float, "cosines": list of the cosine of each pair}.
    """
    values = cosines(vectors)[pairs[:, 0], pairs[:, 1]]
    matching, other = float(values[matches].mean()), float(values[~matches].mean())
    return {"matching": matching, "other": other, "difference": matching - other, "cosines": values.tolist()}
