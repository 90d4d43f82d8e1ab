"""The t-SNE of the encoder's output at sampled pixels of matching classes, one panel per job."""

import importlib.metadata
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from usss_jax.analysis.class_matches import DomainClass, Group, group_title
from usss_jax.analysis.pixel_features import pixel_features, sample_pixels
from usss_jax.data.pictures import save_png
from usss_jax.errors import InputError


def import_scatter():
    """Import analysis/scatter.py; raises InputError if the extra `figures` is not installed."""
    try:
        from usss_jax.analysis import scatter
    except ImportError as e:
        raise InputError(
            f"the picture needs {(e.name or str(e)).split('.')[0]}: pip install 'usss_jax[figures]'; "
            "--nopicture computes the numbers only"
        ) from e
    return scatter


def check_perplexity(perplexity: float, points: int):
    """Raise InputError for a t-SNE of too few points."""
    if perplexity >= points:
        raise InputError(
            f"perplexity={perplexity:g} must be below the number of points, here {points}; raise --pixels or lower "
            "--perplexity"
        )


def sample_groups(
    groups: Sequence[Group], sources: Mapping[str, Any], class_names: Mapping, count: int, seed: int
) -> dict[str, dict[DomainClass, np.ndarray]]:
    """Sample at most `count` pixels of every class: {domain: {class: int [n, 3]}} of image, row and column."""
    chosen = [c for group in groups for c in group]
    sampled = {}
    for domain, source in sources.items():
        ids = {c: class_names[domain].index(c.name) for c in chosen if c.domain == domain}
        if ids:
            pixels = sample_pixels(source, list(ids.values()), count, seed)
            sampled[domain] = {c: pixels[i] for c, i in ids.items()}
    return sampled


def features_at(model, variables, sources: Mapping[str, Any], sampled: Mapping[str, Mapping], **batching) -> np.ndarray:
    """Encoder output at the pixels of `sample_groups`, by domain and class: [P, C]."""
    places = {domain: np.concatenate(list(of_domain.values())) for domain, of_domain in sampled.items()}
    return np.concatenate([pixel_features(model, variables, sources[d], p, **batching) for d, p in places.items()])


def draw(
    scatter,
    entries: Sequence[dict[str, Any]],
    features: Iterable[np.ndarray],
    groups: Sequence[Group],
    sampled: Mapping[str, Mapping],
    perplexity: float,
    seed: int,
    path: pathlib.Path,
) -> dict[str, Any]:
    """Draw a t-SNE of every job, and return how it was made, as JSON.

    Args:
      scatter: the module analysis/scatter.py.
      entries: of the jobs in the numbers; each gets the divergence of its t-SNE.
      features: of the jobs at the pixels of `sampled`, [P, C] each.
      groups: matching classes.
      sampled: see `sample_groups`.
      perplexity, seed: of the t-SNE.
      path: of the picture.
    """
    points = []
    for entry, of_job in zip(entries, features, strict=True):
        embedded, entry["tsne_divergence"] = scatter.tsne(of_job, perplexity, seed)
        points.append((panel_title(entry), embedded))
    titles = {c: group_title(group) for group in groups for c in group}
    labels = [c for of_domain in sampled.values() for c, places in of_domain.items() for _ in places]
    save_png(path, scatter.draw_panels(points, [titles[c] for c in labels], [c.domain for c in labels]))
    version = importlib.metadata.version("scikit-learn")
    return {"perplexity": perplexity, "seed": seed, "points": len(labels), "scikit-learn": version}


def panel_title(entry: Mapping[str, Any]) -> str:
    """Title of a panel, in two lines: the job and its alignment."""
    values = (entry["centred"][key] for key in ("matching", "other", "difference"))
    return "{}\ncentred cosine: matching {:.3f}, other {:.3f}, difference {:.3f}".format(entry["title"], *values)
