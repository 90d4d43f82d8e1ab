"""Evaluation over a whole split: whole images, with arg max and confusion matrix on the device."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict
from jax.sharding import Mesh

from usss_jax.evaluation.metrics import confusion_matrix
from usss_jax.models.strips import map_pixels
from usss_jax.models.universal import UniversalModel
from usss_jax.objectives import IGNORE
from usss_jax.parallel import hosts
from usss_jax.parallel.sharding import batch_sharding, put, replicated

THREADS = 4  # to decode the images of a batch
T = TypeVar("T")


def predict(variables, images, *, domain: str, model: UniversalModel, classes: Sequence[int] | None = None):
    """Predict the class of every pixel, the arg max of G_k(F(x)): images uint8 [B, H, W, 3] -> int32 [B, H, W].

    The values are train ids of `domain`. If `classes`, some of its train ids, are given, only these are candidates, and
    the values are indices into `classes`.
    """
    features = model.apply(variables, images, method="encode")
    size = images.shape[1:3]
    return predict_from(variables, features, domain=domain, model=model, size=size, classes=classes)


def predict_from(
    variables,
    features,
    *,
    domain: str,
    model: UniversalModel,
    size: tuple[int, int],
    classes: Sequence[int] | None = None,
):
    """`predict` from the features [B, h, w, C] of images of this size."""
    logits = model.apply(variables, features, domain, method="decode")

    def arg_max(scores):
        return jnp.argmax(scores if classes is None else scores[..., np.asarray(classes)], axis=-1)

    labels = map_pixels(arg_max, logits, size=size, stride=model.stride, mode=model.upsample)
    return labels.astype(jnp.int32)


def padded_batches(source, batch_size: int, share: tuple[int, int] = (0, 1)) -> Iterator[dict]:
    """Batches of a source in order; the last one is padded with examples whose labels are all ignored.

    With `share` = (index, count), only the index-th of `count` equal parts of every batch is read.

    >>> source = [{"image": np.zeros((1, 1, 3)), "label": np.zeros((1, 1), np.uint8)}] * 3
    >>> [batch["label"].ravel().tolist() for batch in padded_batches(source, 2)]
    [[0, 0], [0, 255]]
    """
    index, count = share
    part = batch_size // count
    with ThreadPoolExecutor(THREADS) as threads:
        for start in range(index * part, index * part + len(source), batch_size):
            wanted = range(start, min(start + part, len(source)))
            yield _stack(list(threads.map(source.__getitem__, wanted)) or [_ignored(source[len(source) - 1])], part)


def placed_batches(source, batch_size: int, mesh: Mesh) -> Iterator[dict]:
    """`padded_batches` on the mesh, each process reading its share; the batch size is rounded up to fit the mesh."""
    size = -(-batch_size // mesh.size) * mesh.size
    for batch in padded_batches(source, size, hosts.share()):
        yield put({"batch": batch}, {"batch": batch_sharding(mesh)})["batch"]


def _ignored(example: dict) -> dict:
    return {**example, "label": np.full_like(example["label"], IGNORE)}


def _stack(examples: list[dict], batch_size: int) -> dict:
    batch = {key: np.stack([e[key] for e in examples]) for key in ("image", "label")}
    missing = batch_size - len(examples)
    if missing:
        widths = [(0, missing), (0, 0), (0, 0)]
        batch["image"] = np.pad(batch["image"], [*widths, (0, 0)], mode="edge")
        batch["label"] = np.pad(batch["label"], widths, constant_values=IGNORE)
    return batch


def create_evaluator(mesh: Mesh, domain: str, *, model: UniversalModel, classes: Sequence[int] | None = None):
    """Return `evaluate(variables, source, batch_size) -> int64 [C, C]` for one domain; compiled once per image size.

    `classes` is for images of another domain: their labels are then indices into these train ids of `domain` (see
    `predict`).
    """
    part = model.clone(num_classes=FrozenDict({domain: model.num_classes[domain]}), embed_dim=0, image_head=None)
    count = _counter(mesh, part, None if classes is None else tuple(classes))
    used = ("encoder", "lateral", f"decoder_{domain}")

    def evaluate(variables, source, batch_size: int) -> np.ndarray:
        variables = {kind: {name: v for name, v in tree.items() if name in used} for kind, tree in variables.items()}
        return sum_batches(count, variables, source, batch_size, mesh)

    return evaluate


@functools.lru_cache(maxsize=16)
def _counter(mesh: Mesh, model: UniversalModel, classes: tuple[int, ...] | None) -> Callable:
    """Program that counts pixels by label and prediction; networks with equal encoders and decoders share it."""
    ((domain, num_classes),) = model.num_classes.items()

    @partial(jax.jit, in_shardings=(replicated(mesh), batch_sharding(mesh)), out_shardings=replicated(mesh))
    def count(variables, batch):
        predictions = predict(variables, batch["image"], domain=domain, model=model, classes=classes)
        return confusion_matrix(batch["label"], predictions, len(classes or range(num_classes)))

    return count


def sum_batches(function: Callable, variables, source, batch_size: int, mesh: Mesh):
    """Sum function(variables, batch) over all batches of a source, in float64 or int64 on the host."""
    total = None
    for value in one_behind(function(variables, batch) for batch in placed_batches(source, batch_size, mesh)):
        value = jax.tree.map(_wide, value)
        total = value if total is None else jax.tree.map(np.add, total, value)
    return total


def one_behind(results: Iterable[T]) -> Iterator[T]:
    """Yield every result once the next one has been dispatched, so that the devices never wait for the host.

    Fetching a result blocks until it is computed. Meanwhile the devices have the next batch to work on, and the host
    then reads the one after it. At most two batches are in flight.
    """
    before: list[T] = []
    for result in results:
        yield from before
        before = [result]
    yield from before


def _wide(array) -> np.ndarray:
    array = np.asarray(array)
    return array.astype(np.int64 if np.issubdtype(array.dtype, np.integer) else np.float64)
