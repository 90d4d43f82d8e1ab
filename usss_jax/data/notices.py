"""What a run says of its data before it trains: classes without a label, files left out, sizes in the wrong order."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from usss_jax.data.domain import Domain
from usss_jax.data.labels import Labels
from usss_jax.data.pools import Pools
from usss_jax.errors import InputError


def about_data(pools: Mapping[str, Pools], least_classes: int) -> Iterator[str]:
    """Read all labels of a run, and yield a line for whatever its data lacks or leaves out.

    Raises:
      InputError: if the labeled images, or a split that is evaluated, show fewer classes than `least_classes`, or if
        images are to be loaded at a size with height and width exchanged.
    """
    for name, pool in pools.items():
        check_file_orientation(pool)
        lines = [f"{text}; they are left out" for text in pool.left_out]
        for what, source in pool.labeled_sources.items():
            lines += about_classes(pool.domain, what, source.ids, pool.labels[what], least_classes)
        yield from (f"[{name}] {line}" for line in lines)


def check_file_orientation(pool: Pools, few: int = 8):
    """Raise InputError if a few of the images are all wide and the domain's size is high, or the other way round.

    That is what a size in the order width, height does, and it squeezes every image.
    """
    height, width = pool.domain.size
    if not pool.labeled_sources:
        return
    for source in pool.labeled_sources.values():
        for index in np.unique(np.linspace(0, len(source) - 1, few).astype(int)).tolist():
            h, w = source.file_size(index)
            if (h - w) * (height - width) >= 0:
                return
    raise InputError(
        f"{pool.domain.name}: images are to be loaded at {height}x{width}, that is {height} high and {width} wide, but "
        f"all of them are {'wide' if w > h else 'high'}, such as {source.ids[0]!r}: {h} high and {w} wide; did you "
        f"mean {width}x{height}? Correct size in the domain's file, and data.image_size if it is set: both are height, "
        "width"
    )


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
        absent = [name for name, there in zip(domain.class_names, present, strict=True) if not there]
        yield f"{what}: no labeled pixel of {', '.join(absent)}"


def _too_few(domain, what, present):
    names = [name for name, there in zip(domain.class_names, present, strict=True) if there]
    absent = ", ".join(name for name in domain.class_names if name not in names)
    shown = f"its {what} show {', '.join(names)} and no labeled pixel of {absent}"
    if not names:
        shown = f"its {what} have no labeled pixel"
    meant = f", or set data.min_classes={len(names)} if that is meant" if names else ""
    return (
        f"{domain.name}: {shown}; compare the ids of the domain with those of the masks (python -m "
        f"usss_jax.data.check), or take more or other images{meant}"
    )
