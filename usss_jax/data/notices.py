"""Notices about a run's data before it trains: classes without labels, ignored files, height and width exchanged."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from usss_jax.data.domain import Domain
from usss_jax.data.labels import Labels
from usss_jax.data.pools import Pools
from usss_jax.errors import InputError


def about_data(pools: Mapping[str, Pools], least_classes: int) -> Iterator[str]:
    """Read all labels of a run and yield a line for every absent class, unlabeled mask and folder with other files.

    Raises:
      InputError: if the labeled images or an evaluated split show fewer than `least_classes` classes, or if the size
        has height and width exchanged.
    """
    for name, pool in pools.items():
        check_file_orientation(pool)
        lines = [f"{text}; they are left out" for text in pool.left_out]
        for what, source in pool.labeled_sources.items():
            lines += about_classes(pool.domain, what, source.ids, pool.labels[what], least_classes)
        yield from (f"[{name}] {line}" for line in lines)


def check_file_orientation(pool: Pools):
    """Raise InputError if the images are landscape and the domain's size is portrait, or vice versa.

    This happens if a size is given as width, height; it would distort every image. Reads eight files of each source.
    """
    height, width = pool.domain.size
    if not pool.labeled_sources:
        return
    for source in pool.labeled_sources.values():
        for index in np.unique(np.linspace(0, len(source) - 1, 8).astype(int)).tolist():
            h, w = source.file_size(index)
            if (h - w) * (height - width) >= 0:
                return
    raise InputError(
        f"{pool.domain.name}: the size is {height}x{width}, {height} high and {width} wide, but the images are "
        f"{'landscape' if w > h else 'portrait'}, such as {source.ids[0]!r}: {h} high and {w} wide; did you mean "
        f"{width}x{height}? Correct size in the domain's file, and data.image_size if set: both are height, width"
    )


def about_classes(domain: Domain, what: str, ids: Sequence[str], labels: Labels, least_classes: int) -> Iterator[str]:
    """Yield a line for masks without a labeled pixel and one for absent classes.

    Args:
      domain: whose labels these are.
      what: name of the labels, such as "labeled images" or a split.
      ids: of the images.
      labels: their statistics.
      least_classes: smallest allowed number of classes; 1 if a single class is intended.

    Raises:
      InputError: if they show fewer classes than that, or none.
    """
    if least_classes > domain.num_classes > 1:
        raise InputError(f"data.min_classes={least_classes}: {domain.name} has {domain.num_classes} classes; lower it")
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
        absent = [name for name, found in zip(domain.class_names, present, strict=True) if not found]
        yield f"{what}: no labeled pixel of {', '.join(absent)}"


def _too_few(domain, what, present):
    names = [name for name, found in zip(domain.class_names, present, strict=True) if found]
    absent = ", ".join(name for name in domain.class_names if name not in names)
    shown = f"its {what} show {', '.join(names)} and no labeled pixel of {absent}"
    if not names:
        shown = f"its {what} have no labeled pixel"
    meant = f", or set data.min_classes={len(names)} if this is intended" if names else ""
    return (
        f"{domain.name}: {shown}; compare the ids of the domain with those of the masks (python -m "
        f"usss_jax.data.check), or use more or other images{meant}"
    )
