"""What the label spaces of a network share: which class of one domain it sees where another domain's class is."""

import csv
import io
import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from usss_jax.analysis.class_matches import match_all
from usss_jax.analysis.heatmap import draw_heatmap
from usss_jax.data.progress import Progress
from usss_jax.errors import InputError
from usss_jax.inference.batches import InMemory, batches, read_ahead
from usss_jax.inference.inputs import find_files, read_photographs
from usss_jax.inference.predictor import load
from usss_jax.local_files import write_whole

THREADS = 4  # to read images


def relate(run: pathlib.Path, inputs: Sequence[str], out: pathlib.Path, *, batch_size: int = 8):
    """Count which classes the decoders of every pair of domains give the same pixels, and write what they share.

    Files of every pair A, B: A_B.csv and A_B.png, the share of the pixels of a class of A that B's decoder sees as each
    of its classes; and relations.json, written last, with these counts and the agreements.

    Args:
      run: folder of a run or of a job (see `load`), with two decoders or more.
      inputs: images, folders or patterns, best of all domains.
      out: folder for the outputs.
      batch_size: images of equal size that are predicted together.

    Raises:
      InputError: if the run or an image cannot be used.
    """
    predictor = load(run, devices=jax.local_devices())
    classes = {d: list(of["classes"]) for d, of in predictor.domains.items()}
    if len(classes) < 2:
        raise InputError(
            f"{predictor.job}: has one decoder, of {', '.join(classes)}; relations are between two or more"
        )
    paths = [path for one in inputs for path in find_files(one, out)]
    photographs = read_photographs(paths, predictor.model.encoder.stride)
    pairs = list(itertools.permutations(classes, 2))
    counts = {(a, b): np.zeros((len(classes[a]), len(classes[b])), np.int64) for a, b in pairs}
    predict, progress = InMemory(predictor, list(classes), None), Progress()
    step = progress.start("relations", len(photographs), 0)
    with ThreadPoolExecutor(THREADS) as threads:
        for batch, images, _ in read_ahead(threads, batches(predictor, photographs, batch_size, None)):
            labels, _ = predict.labels(np.stack(images))
            for (a, b), count in counts.items():
                count += pair_counts(labels[a], labels[b], count.shape)
            for _ in batch:
                step()
    progress.close()
    found = {f"{a} {b}": describe(count, classes[a], classes[b], (a, b)) for (a, b), count in counts.items()}
    for (a, b), count in counts.items():
        shares = row_shares(count)
        write_whole(out / f"{a}_{b}.csv", table(shares, classes[a], classes[b], f"{a} \\ {b}"))
        title = f"{a} (rows) as {b} sees it"
        draw_heatmap(out / f"{a}_{b}.png", shares, classes[a], classes[b], title)
        print(f"{title}: {agreement_text(found[f'{a} {b}'])}", flush=True)
    about = {"job": str(predictor.job), "checkpoint": predictor.checkpoint, "images": len(photographs)}
    write_whole(out / "relations.json", json.dumps({**about, "classes": classes, "pairs": found}, indent=1) + "\n")
    print(f"wrote {out / 'relations.json'}")


def pair_counts(one: np.ndarray, other: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Count the pixels by both labels: uint8 arrays of one shape -> int64 `shape`.

    >>> pair_counts(np.array([0, 1, 1]), np.array([2, 0, 0]), (2, 3)).tolist()
    [[0, 0, 1], [2, 0, 0]]
    """
    index = one.astype(np.int64).ravel() * shape[1] + other.ravel()
    return np.bincount(index, minlength=shape[0] * shape[1]).reshape(shape)


def row_shares(counts: np.ndarray) -> np.ndarray:
    """Share of each row's pixels, float64; a row without pixels is 0."""
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


def describe(counts: np.ndarray, rows: Sequence[str], columns: Sequence[str], pair: tuple[str, str]) -> dict[str, Any]:
    """Counts of a pair as JSON, and its agreement with equal names.

    A class of equal meaning in the other domain (by name, or a synonym such as pavement and sidewalk) should be what
    the other decoder sees there. "classes": the share of matching classes, among those with a pixel, that the
    other decoder most often predicts as their match; "pixels": that share of their pixels. None without any.

    >>> found = describe(np.array([[3, 1], [0, 0]]), ["road", "sky"], ["road", "sky"], ("a", "b"))
    >>> found["agreement"], found["matches"]["road"]
    ({'classes': 1.0, 'pixels': 0.75}, {'class': 'road', 'share': 0.75, 'sees': 'road'})
    """
    a, b = pair
    partners: dict[str, list[str]] = {}
    for group in match_all({a: rows, b: columns}):
        for mine in (c.name for c in group if c.domain == a):
            partners[mine] = [c.name for c in group if c.domain == b]
    matches, right, pixels, total = {}, 0, 0, 0
    for name, known in partners.items():
        row = counts[list(rows).index(name)]
        if not row.sum():
            continue
        inside = sum(int(row[list(columns).index(partner)]) for partner in known)
        sees = columns[int(row.argmax())]
        matches[name] = {"class": " / ".join(known), "share": inside / int(row.sum()), "sees": sees}
        right, pixels, total = right + (sees in known), pixels + inside, total + int(row.sum())
    agreement = {"classes": right / len(matches), "pixels": pixels / total} if matches else None
    return {"counts": counts.tolist(), "agreement": agreement, "matches": matches}


def agreement_text(found: Mapping[str, Any]) -> str:
    """Line on the agreement of a pair.

    >>> agreement_text({"agreement": {"classes": 0.5, "pixels": 0.75}, "matches": {"road": 0, "sky": 0}})
    '2 classes with the same meaning, 50 % of them and 75 % of their pixels agree'
    """
    if not found["agreement"]:
        return "no class with the same meaning"
    shares = found["agreement"]
    many = f"{len(found['matches'])} class{'es' * (len(found['matches']) > 1)} with the same meaning"
    return f"{many}, {100 * shares['classes']:.0f} % of them and {100 * shares['pixels']:.0f} % of their pixels agree"


def table(values: np.ndarray, rows: Sequence[str], columns: Sequence[str], corner: str) -> str:
    """A matrix of shares, or of integers, with names as CSV.

    >>> print(table(np.array([[0.5, 0.25]]), ["road"], ["sky", "road"], "a"), end="")
    a,sky,road
    road,0.5,0.25
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([corner, *columns])
    whole = np.issubdtype(values.dtype, np.integer)
    cells = [[value if whole else f"{value:.6g}" for value in line] for line in values.tolist()]
    writer.writerows([name, *line] for name, line in zip(rows, cells, strict=True))
    return text.getvalue()
