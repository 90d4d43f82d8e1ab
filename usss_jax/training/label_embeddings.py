"""The pass that makes label embeddings from a single-domain network, and the file that keeps them."""

import dataclasses
import json
import os
import pathlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from usss_jax.errors import InputError
from usss_jax.evaluation.evaluate import sum_batches
from usss_jax.models.universal import UniversalModel
from usss_jax.models.upsample import upsample_matrix
from usss_jax.objectives.prototypes import Prototypes, accumulate, finish
from usss_jax.training.sharding import batch_sharding, replicated

METHOD = "prototypes: PCA of the encoder's output over all labeled pixels, class-wise centroids (K = 1), unit length"


@dataclasses.dataclass(frozen=True)
class LabelEmbeddings:
    """Label embeddings of one domain that no network was needed for: what a file must have.

    Attributes:
      embeddings: float32 [n, d], rows of unit length.
      class_ids: int [n], train ids of these rows.
    """

    embeddings: np.ndarray
    class_ids: np.ndarray


def prototype_sums(variables, batch, *, model: UniversalModel, num_classes: int) -> dict:
    """Sums of one batch {"image", "label"} for PCA and centroids (objectives/prototypes.py), evaluation mode."""
    features = model.apply(variables, batch["image"], method="encode")
    rows, columns = (upsample_matrix(side, model.upsample) for side in batch["image"].shape[1:3])
    return accumulate(features, batch["label"], rows, columns, num_classes)


def extract(
    model: UniversalModel, variables, source, num_classes: int, dim: int, *, batch_size: int, mesh: Mesh
) -> Prototypes:
    """Label embeddings of one domain from its labeled images (appendix B.1): one jitted pass, exact.

    Args:
      model: single-domain network; variables: its weights.
      source: labeled images with masks.
      num_classes: K.
      dim: d of the embeddings.
      batch_size: images at a time; does not change the result beyond rounding.
      mesh: devices.

    Raises:
      InputError: if no pixel is labeled, or `dim` exceeds the encoder's channels.
    """
    pass_ = jax.jit(
        partial(prototype_sums, model=model, num_classes=num_classes),
        in_shardings=(replicated(mesh), batch_sharding(mesh)),
        out_shardings=replicated(mesh),
    )
    try:
        return finish(sum_batches(pass_, variables, source, batch_size, mesh), dim)
    except ValueError as e:
        raise InputError(str(e)) from e


def describe(prototypes: Prototypes, class_names: Sequence[str], checkpoint: str) -> dict[str, Any]:
    """What the file says about one domain's label embeddings."""
    return {
        "classes": [class_names[i] for i in prototypes.class_ids],
        "counts": {name: int(n) for name, n in zip(class_names, prototypes.counts, strict=True)},
        "absent": [name for name, n in zip(class_names, prototypes.counts, strict=True) if n == 0],
        "explained_variance": float(prototypes.explained_variance.sum()),
        "checkpoint": checkpoint,
    }


def save(path: pathlib.Path, embeddings: Mapping[str, Prototypes | LabelEmbeddings], meta: Mapping[str, Any]):
    """Write label embeddings as .npz: JSON text `meta`, and per domain the arrays of its object."""
    arrays = {f"{domain}/{name}": value for domain, e in embeddings.items() for name, value in vars(e).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_name("partial_" + path.name)
    np.savez(partial_path, meta=np.array(json.dumps(meta)), **arrays)
    os.replace(partial_path, path)


def load(
    path: pathlib.Path, remedy: str = "delete it to make them anew"
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a file of `save`: (per domain float32 [n, d], meta); `remedy` says what to do if that fails.

    Raises:
      InputError: if the file cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            meta = json.loads(str(file["meta"]))
            return {domain: file[f"{domain}/embeddings"] for domain in meta["domains"]}, meta
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error) as e:
        raise InputError(f"{path}: cannot be read as label embeddings ({e}); {remedy}") from e
