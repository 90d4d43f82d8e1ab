"""Statistics and hash of the labels of a run, read once before it starts."""

import contextlib
import dataclasses
import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from usss_jax.data.domain import IGNORE
from usss_jax.data.examples import Source
from usss_jax.data.progress import Progress


@dataclasses.dataclass(frozen=True)
class Labels:
    """Statistics of the labels of a source, at the size at which they are loaded.

    Attributes:
      counts: pixels of every class in every image, int64 [N, C].
      digest: first 16 hex digits of a SHA-256 of the ids of the images and the train ids of all pixels.
    """

    counts: np.ndarray
    digest: str


def read_labels(source: Source, num_classes: int, what: str = "", threads: int = 4) -> Labels:
    """Read all labels of a source; `what` is its name in the progress line, "" for none.

    >>> from usss_jax.data.domains import get_domain
    >>> from usss_jax.data.sources import open_source
    >>> source = open_source(get_domain("indoor_room"), None, "val", size=(16, 24), ids=["00000", "00001"])
    >>> read_labels(source, num_classes=8).counts.shape
    (2, 8)
    """

    def read(index: int) -> tuple[np.ndarray, bytes]:
        label = source.label(index)
        counts = np.bincount(label.ravel(), minlength=IGNORE + 1)[:num_classes]
        return counts, hashlib.sha256(label.tobytes()).digest()

    counts, whole = [], hashlib.sha256()
    with contextlib.closing(Progress()) as progress, ThreadPoolExecutor(threads) as pool:
        step = progress.start(what, len(source), 0) if what else lambda: None
        for key, (count, digest) in zip(source.ids, pool.map(read, range(len(source))), strict=True):
            counts.append(count)
            whole.update(f"{key}\n".encode() + digest)
            step()
    return Labels(np.stack(counts), whole.hexdigest()[:16])
