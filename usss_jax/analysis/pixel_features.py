"""The encoder's output at sampled pixels of chosen classes, for pictures of the feature space."""

from collections.abc import Sequence
from functools import partial

import jax
import numpy as np
from jax.sharding import Mesh

from usss_jax.evaluation.evaluate import placed_batches
from usss_jax.models.universal import UniversalModel
from usss_jax.models.upsample import upsample_at, upsample_matrix
from usss_jax.parallel.sharding import batch_sharding, replicated, to_host


def sample_pixels(source, classes: Sequence[int], count: int, seed: int) -> dict[int, np.ndarray]:
    """Sample pixels of each class uniformly without replacement from a source.

    Every pixel gets a random number that depends only on the seed and the image's index; the smallest ones are taken.

    Args:
      source: examples with "label" [H, W].
      classes: train ids.
      count: pixels per class; all pixels of a class that has fewer.
      seed: random seed.

    Returns:
      {class: int [n, 3]}, sorted rows of image, row and column.

    >>> sample_pixels([{"label": np.array([[7, 0], [0, 7]])}], [7], count=10, seed=0)[7].tolist()
    [[0, 0, 0], [0, 1, 1]]
    """
    keys, places = ({c: np.zeros(shape) for c in classes} for shape in ((0,), (0, 3)))
    for i in range(len(source)):
        label = source[i]["label"]
        random = np.random.default_rng([seed, i]).random(label.shape)
        for c in classes:
            worst = keys[c].max() if len(keys[c]) == count else 1.0
            rows, columns = np.nonzero((label == c) & (random < worst))
            key = np.concatenate([keys[c], random[rows, columns]])
            place = np.concatenate([places[c], np.stack([np.full(len(rows), i), rows, columns], axis=1)])
            best = np.argsort(key, kind="stable")[:count]
            keys[c], places[c] = key[best], place[best]
    return {c: places[c][np.lexsort(places[c].T[::-1])].astype(np.int64) for c in classes}


def pixel_features(
    model: UniversalModel, variables, source, pixels: np.ndarray, *, batch_size: int, mesh: Mesh
) -> np.ndarray:
    """Upsampled output of the encoder at some pixels, float32 [P, C], without features at full resolution.

    Args:
      model, variables: a network; only its encoder is used, in evaluation mode.
      source: examples {"image": uint8 [H, W, 3], "label"}.
      pixels: int [P, 3]: image, row and column.
      batch_size: images per batch.
      mesh: devices.
    """
    encode = jax.jit(
        partial(model.apply, method="encode"),
        in_shardings=(replicated(mesh), batch_sharding(mesh)),
        out_shardings=batch_sharding(mesh),
    )
    gather = jax.jit(upsample_at)
    batch_size = -(-batch_size // mesh.size) * mesh.size
    most = int(np.bincount(pixels[:, 0] // batch_size).max(initial=0))  # one shape for all batches: compiled once
    found = [np.zeros((0, model.out_channels), np.float32)] * len(pixels)
    for number, batch in enumerate(placed_batches(source, batch_size, mesh)):
        here = np.flatnonzero(pixels[:, 0] // batch_size == number)
        if not len(here):
            continue
        features = encode(variables, batch["image"])
        wanted = np.zeros((most, 3), np.int64)
        wanted[: len(here)] = pixels[here] - [number * batch_size, 0, 0]
        rows, columns = (upsample_matrix(side, model.stride, model.upsample) for side in batch["label"].shape[1:])
        values = to_host(gather(features, wanted, rows, columns))
        for place, value in zip(here, values, strict=False):  # the rest of `values` is padding
            found[place] = value
    return np.stack(found) if len(pixels) else np.zeros((0, model.out_channels), np.float32)
