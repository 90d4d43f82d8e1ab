"""The labels that a run learns from and is scored on, read once before it starts: their classes and their hash."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from usss_jax.data.domain import IGNORE, Domain
from usss_jax.data.progress import Progress
from usss_jax.data.sources import Source
from usss_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Labels:
    """What the masks of a source show at the size at which they are loaded.

    Attributes:
      counts: pixels of every class in every image, int64 [N, C].
      digest: hash of the ids and the train ids of every pixel: the first 16 hex digits of a SHA-256.
    """

    counts: np.ndarray
    digest: str


def read_labels(source: Source, num_classes: int, what: str = "", threads: int = 4) -> Labels:
    """Read all masks of a source; `what` names it in the line that shows the progress, "" shows none."""

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


def about_classes(domain: Domain, what: str, ids: Sequence[str], labels: Labels, least_classes: int) -> Iterator[str]:
    """Yield a line for whatever labels of a domain lack.

    Args:
      domain: its classes.
      what: the labels are, such as "labeled images" or the name of a split.
      ids: of their images.
      labels: what they show.
      least_classes: number of classes that they must show; 1 if a lone class is meant.

    Raises:
      InputError: if they show fewer classes than that, or none.
    """
    present = labels.counts.sum(axis=0) > 0
    if present.sum() < max(1, least_classes):
        raise InputError(_too_few(domain, what, present))
    empty = [key for key, counts in zip(ids, labels.counts, strict=True) if not counts.any()]
    if empty:
        more = f" and {len(empty) - 3} more" if len(empty) > 3 else ""
        yield f"{what}: {len(empty)} of {len(ids)} without any labeled pixel: {', '.join(empty[:3])}{more}"
    if present.sum() == 1:
        only = domain.class_names[int(np.argmax(present))]
        yield f"{what}: {only!r} is the only class, so that a mean over classes is its score alone"
    elif not present.all():
        absent = [name for name, there in zip(domain.class_names, present, strict=True) if not there]
        yield f"{what}: no labeled pixel of {', '.join(absent)}"


def _too_few(domain, what, present):
    names = [name for name, there in zip(domain.class_names, present, strict=True) if there]
    absent = ", ".join(name for name in domain.class_names if name not in names)
    shown = f"all labeled pixels of its {what} are {', '.join(names)}, none {absent}"
    if not names:
        shown = f"its {what} have no labeled pixel"
    meant = f", or set min_classes={len(names)} if that is meant" if names else ""
    return (
        f"{domain.name}: {shown}; compare the ids of the domain with those of the masks (python -m "
        f"usss_jax.data.check), or take more or other images{meant}"
    )
