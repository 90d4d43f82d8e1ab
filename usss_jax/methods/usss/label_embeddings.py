"""The pass that computes label embeddings from a single-domain network, and their file."""

import dataclasses
import io
import json
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from usss_jax.data.pictures import save_png
from usss_jax.errors import InputError
from usss_jax.evaluation.evaluate import one_behind, placed_batches, sum_batches
from usss_jax.local_files import checksum, read_object, reason, write_object, write_whole
from usss_jax.methods.usss import cosines
from usss_jax.models.universal import UniversalModel
from usss_jax.models.upsample import upsample_at, upsample_matrix
from usss_jax.objectives.kmeans import cluster_sums, lloyd, seed_centers
from usss_jax.objectives.prototypes import Prototypes, accumulate, finish
from usss_jax.parallel import hosts
from usss_jax.parallel.sharding import batch_sharding, replicated, to_host
from usss_jax.runs import logs
from usss_jax.runs.checksums import damage

SAMPLE = 2048  # pixels per class for the seeding of K-means
INDEX_STEP = 2048
KEEP_BYTES = 2**31  # of encoder outputs to keep on the device between the iterations of K-means


@dataclasses.dataclass(frozen=True)
class LabelEmbeddings:
    """Label embeddings of one domain: the required content of a file.

    Attributes:
      embeddings: float32 [n, d], rows of unit length.
      class_ids: int [n], train id of each row.
    """

    embeddings: np.ndarray
    class_ids: np.ndarray


def prototype_sums(variables, batch, *, model: UniversalModel, num_classes: int) -> dict:
    """Sums of a batch {"image", "label"} for `objectives.prototypes.finish`, with running statistics."""
    features = model.apply(variables, batch["image"], method="encode")
    rows, columns = (upsample_matrix(side, model.stride, model.upsample) for side in batch["image"].shape[1:3])
    return accumulate(features, batch["label"], rows, columns, num_classes)


def extract(
    model: UniversalModel,
    variables,
    source,
    num_classes: int,
    dim: int,
    *,
    batch_size: int,
    mesh: Mesh,
    embeddings_per_class: int = 1,
    seed: int = 0,
) -> Prototypes:
    """Label embeddings of one domain from its labeled images (appendix B.1): one jitted pass, exact.

    Args:
      model: a single-domain network.
      variables: its variables.
      source: images with masks.
      num_classes: n.
      dim: d of the embeddings.
      batch_size: images per batch; changes the result by rounding only.
      mesh: devices.
      embeddings_per_class: K; above 1, K-means within every class (appendix B.3), one pass over all pixels per
        iteration.
      seed: of the seeding of K-means.

    Raises:
      InputError: if no pixel is labeled, or `dim` exceeds the encoder's channels.
    """
    pass_ = jitted(prototype_sums, mesh, model=model, num_classes=num_classes)
    try:
        totals = sum_batches(pass_, variables, source, batch_size, mesh)
        prototypes = finish(totals, dim)
        if embeddings_per_class == 1:
            return prototypes
        batches = encoded_batches(model, variables, source, batch_size, mesh)
        samples = sample_pixels(batches, prototypes.counts, seed, model)
        clusters = lloyd(kmeans_pass(batches, mesh, model), seed_centers(samples, embeddings_per_class, seed))
        return dataclasses.replace(
            finish(totals, dim, clusters.centers, clusters.counts),
            per_class=embeddings_per_class,
            seed=seed,
            iterations=clusters.iterations,
            converged=clusters.converged,
            inertia=clusters.inertia,
        )
    except ValueError as e:
        raise InputError(str(e)) from e


def jitted(function, mesh: Mesh, **arguments):
    """Jit function(variables, batch) for the mesh: the batch split over the devices, everything else replicated."""
    return jax.jit(
        partial(function, **arguments),
        in_shardings=(replicated(mesh), batch_sharding(mesh)),
        out_shardings=replicated(mesh),
    )


def encoded_batches(
    model: UniversalModel, variables, source, batch_size: int, mesh: Mesh, keep_bytes: int = KEEP_BYTES
) -> Callable[[], Iterator[dict]]:
    """Return batches(), which yields {"features" [B, h, w, C], "label" [B, H, W]} on the devices, for all images.

    If the features of all images fit into `keep_bytes`, images are encoded once and the features stay on the devices;
    otherwise every call encodes them again.
    """
    encode = jax.jit(
        lambda v, images: model.apply(v, images, method="encode"),
        in_shardings=(replicated(mesh), batch_sharding(mesh)),
        out_shardings=batch_sharding(mesh),
    )
    kept: list[dict] = []

    def batches() -> Iterator[dict]:
        if kept:
            yield from kept
            return
        found: list[dict] | None = []
        for batch in placed_batches(source, batch_size, mesh):
            encoded = {"features": encode(variables, batch["image"]), "label": batch["label"]}
            yield encoded
            if found is not None and encoded["features"].nbytes * -(-len(source) // len(batch["label"])) <= keep_bytes:
                found.append(encoded)
            else:
                found = None
        kept.extend(found or [])

    return batches


def kmeans_pass(batches: Callable, mesh: Mesh, model: UniversalModel) -> Callable:
    """Return sums_of(centers) for `objectives.kmeans.lloyd`: one jitted pass, summed in float64 on the host."""

    def sums(centers, batch):
        rows, columns = (upsample_matrix(side, model.stride, model.upsample) for side in batch["label"].shape[1:])
        return cluster_sums(batch["features"], batch["label"], rows, columns, centers)

    step = jitted(sums, mesh)

    def sums_of(centers):
        total = None
        for value in one_behind(step(np.asarray(centers), batch) for batch in batches()):
            value = jax.tree.map(lambda a: np.asarray(a, np.float64), value)
            total = value if total is None else jax.tree.map(np.add, total, value)
        return total

    return sums_of


def sample_pixels(batches: Callable, counts, seed: int, model: UniversalModel, limit: int = SAMPLE) -> list[np.ndarray]:
    """Upsampled features of up to `limit` labeled pixels per class, sampled without replacement: per class [m, C].

    The sample depends on the labels and the seed only. `counts` is the number of labeled pixels of every class.
    """
    ranks = [sample_ranks(int(n), limit, np.random.RandomState([seed, i, 1])) for i, n in enumerate(counts)]
    gather = jax.jit(upsample_at)
    found: list[list[np.ndarray]] = [[] for _ in ranks]
    seen = np.zeros(len(ranks), np.int64)  # pixels of every class in earlier batches

    def gathered() -> Iterator[tuple]:
        for batch in batches():
            labels, chosen = to_host(batch["label"]), []
            for i, of_class in enumerate(ranks):
                places = np.flatnonzero(labels == i)
                first, last = np.searchsorted(of_class, [seen[i], seen[i] + len(places)])
                chosen.append(places[of_class[first:last] - seen[i]])
                seen[i] += len(places)
            index = np.stack(np.unravel_index(np.concatenate(chosen), labels.shape), 1).astype(np.int32)
            padded = np.pad(index, [(0, -len(index) % INDEX_STEP), (0, 0)])  # to compile for few shapes
            rows, columns = (upsample_matrix(side, model.stride, model.upsample) for side in labels.shape[1:])
            yield gather(batch["features"], padded, rows, columns), [len(c) for c in chosen]

    for values, sizes in one_behind(gathered()):
        for i, part in enumerate(np.split(to_host(values)[: sum(sizes)], np.cumsum(sizes)[:-1])):
            found[i].append(part)
    return [np.concatenate(parts) for parts in found]


def sample_ranks(n: int, limit: int, state: np.random.RandomState) -> np.ndarray:
    """Sample up to `limit` numbers below n without replacement, sorted, in memory that does not grow with n.

    >>> sample_ranks(3, 5, np.random.RandomState(0)).tolist()
    [0, 1, 2]
    """
    if n <= 2 * limit:
        return np.sort(state.choice(n, min(n, limit), replace=False))
    sample: set[int] = set()  # `choice` would permute all n: hundreds of millions of pixels
    while len(sample) < limit:
        sample.add(int(state.randint(n, dtype=np.int64)))
    return np.array(sorted(sample))


def describe(prototypes: Prototypes, class_names: Sequence[str], checkpoint: str) -> dict[str, Any]:
    """Metadata of one domain's label embeddings."""
    about = {
        "classes": [class_names[i] for i in prototypes.class_ids],
        "counts": {name: int(n) for name, n in zip(class_names, prototypes.counts, strict=True)},
        "absent": [name for name, n in zip(class_names, prototypes.counts, strict=True) if n == 0],
        "explained_variance": float(prototypes.explained_variance.sum()),
        "checkpoint": checkpoint,
    }
    if prototypes.per_class == 1:
        return about
    pixels = {
        name: [int(n) for n in prototypes.row_counts[prototypes.class_ids == i]]
        for i, name in enumerate(class_names)
        if prototypes.counts[i]
    }
    about["kmeans"] = {
        "embeddings_per_class": prototypes.per_class,
        "seed": prototypes.seed,
        "iterations": prototypes.iterations,
        "converged": prototypes.converged,
        "inertia": {name: float(prototypes.inertia[i]) for i, name in enumerate(class_names) if prototypes.counts[i]},
        "pixels": pixels,
        "empty": {name: prototypes.per_class - len(n) for name, n in pixels.items() if len(n) < prototypes.per_class},
    }
    return about


def method(embeddings_per_class: int) -> str:
    """Describe how `extract` computes label embeddings.

    >>> method(1)
    "prototypes: PCA of the encoder's output over all labeled pixels, class-wise centroids (K = 1), unit length"
    """
    how = "class-wise centroids (K = 1)"
    if embeddings_per_class > 1:
        how = f"K-means inside every class before the PCA (K = {embeddings_per_class})"
    return f"prototypes: PCA of the encoder's output over all labeled pixels, {how}, unit length"


def save(path: pathlib.Path, embeddings: Mapping[str, Prototypes | LabelEmbeddings], meta: Mapping[str, Any]):
    """Write label embeddings and metadata as .npz, on process 0: "meta" (JSON), and DOMAIN/FIELD for every field.

    A .json file of the same name, which is written first, has the metadata and the checksum of the .npz file.
    """
    if not hosts.is_writer():
        return
    arrays = {f"{domain}/{name}": value for domain, e in embeddings.items() for name, value in vars(e).items()}
    data = io.BytesIO()
    np.savez(data, meta=np.array(json.dumps(meta)), **arrays)
    write_object(path.with_suffix(".json"), {**meta, "checksums": {path.name: checksum(data.getvalue())}})
    write_whole(path, data.getvalue())


def verify(path: pathlib.Path):
    """Verify the checksum of a file of `save`; print a line if it has none, as those of older versions.

    Raises:
      InputError: if it is damaged or was changed.
    """
    about = path.with_suffix(".json")
    try:
        kept = read_object(about).get("checksums", {}) if about.exists() else {}
        why = damage(path.parent, kept)
    except (OSError, ValueError) as e:
        why = f"{about.name}: {reason(e)}"
    if why:
        raise InputError(f"{path} is damaged ({why}); restore it, or remove {path.parent} to make it again")
    if path.name not in kept:
        print(f"{path} has no checksum in {about.name}, as those of older versions: used unverified", flush=True)


def load(
    path: pathlib.Path, remedy: str = "delete it, and it is made again", content: bytes | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read a file of `save`.

    Args:
      path: of the file.
      remedy: end of an error message.
      content: bytes of the file, from the process that has it; None: read them from `path`.

    Returns:
      {domain: float32 [n, d]}, metadata.

    Raises:
      InputError: if the file cannot be read.

    >>> path = pathlib.Path("embeddings.npz")
    >>> save(path, {"city": LabelEmbeddings(np.eye(2), np.arange(2))}, {"domains": {"city": {}}})
    >>> load(path)[0]["city"].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    try:
        data = io.BytesIO(path.read_bytes() if content is None else content)
        if not zipfile.is_zipfile(data):  # NumPy would suggest to unpickle it
            raise ValueError("not an archive of arrays")
        with np.load(data, allow_pickle=False) as file:
            meta = json.loads(str(file["meta"]))
            return {domain: file[f"{domain}/embeddings"] for domain in meta["domains"]}, meta
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error) as e:
        raise InputError(f"{path}: cannot be read as label embeddings ({e}); {remedy}") from e


def write_cosines(path: pathlib.Path):
    """Write cosines.json and cosines.png next to a file of `save`, on process 0; InputError if it cannot be read."""
    if not hosts.is_writer():
        return
    embeddings, meta = load(path)
    with np.load(path, allow_pickle=False) as file:
        name = "{}/explained_variance"
        explained = {domain: file[name.format(domain)] for domain in embeddings if name.format(domain) in file.files}
    content = cosines.compare(embeddings, meta, explained)
    groups = [len(rows) for rows in embeddings.values()]
    picture = cosines.draw_cosines(np.array(content["cosines"]), content["rows"], groups)
    save_png(path.with_name("cosines.png"), picture)
    logs.write_json(path.with_name("cosines.json"), content)
