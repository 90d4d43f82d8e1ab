"""Figure 4 of the paper for finished jobs: a t-SNE of the encoder's output, and how well matching classes align."""

import importlib.metadata
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from usss_jax.analysis import class_centroids
from usss_jax.analysis.class_matches import DomainClass, Group, group_title, match_all, match_classes
from usss_jax.analysis.pixel_features import pixel_features, sample_pixels
from usss_jax.data.content import differences, label_space
from usss_jax.data.pictures import save_png
from usss_jax.data.pools import Pools, open_all
from usss_jax.errors import InputError
from usss_jax.parallel import sharding
from usss_jax.runs import logs
from usss_jax.runs.finished import FinishedJob, open_jobs
from usss_jax.runs.workdir import read_data

NUMBERS, PICTURE = "class_plot.json", "class_plot.png"


def compare_jobs(
    folders: Sequence[pathlib.Path],
    out: pathlib.Path,
    *,
    classes: str = "",
    split: str = "test",
    data_root: str = "",
    picture: bool = True,
    pixels: int = 100,
    perplexity: float = 30.0,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare the encoders of jobs; write class_plot.json and class_plot.png, and return what the former has.

    Args:
      folders: of the jobs, in the order of the panels.
      out: folder for the two files.
      classes: see class_matches.match_classes; empty: all classes that match, less those without a pixel.
      split: "test" or "val", whose images are used.
      data_root: in place of that of the first job's config; empty: that one.
      picture: whether to make the t-SNE too, which needs the extra `figures`.
      pixels: of each class in the t-SNE; perplexity: of the t-SNE; seed: of it and of the draw of pixels.

    Raises:
      InputError: for jobs, classes or data with which this cannot be done.
    """
    jobs = open_jobs(folders)
    pools = open_sources(jobs[0], split, data_root)
    sources = {d: getattr(pool, split) for d, pool in pools.items()}
    split_names = {d: getattr(pool.domain, f"{split}_split") for d, pool in pools.items()}
    class_names = {d: pool.domain.class_names for d, pool in pools.items()}
    groups = match_classes(classes, class_names) if classes.strip() else match_all(class_names)
    check_pairs(groups)
    scatter = import_scatter() if picture else None
    if scatter and perplexity >= (most := pixels * sum(map(len, groups))):
        raise InputError(
            f"perplexity={perplexity:g} must be below the number of points, here {most}; raise --pixels or lower "
            "--perplexity"
        )
    _make_folder(out)

    mesh = sharding.create_mesh()
    setting: dict[str, Any] = {"batch_size": jobs[0].config.train.eval_batch_size, "mesh": mesh}
    networks = [job.restore(mesh) for job in jobs]  # all first: a missing one is told before the long passes
    totals = []
    for job, (model, variables, _) in zip(jobs, networks, strict=True):
        logs.say(job.title, " and ".join(f"{len(s)} images of {d} ({split_names[d]})" for d, s in sources.items()))
        totals.append(sum_domains(model, variables, sources, class_names, **setting))
    counts = {
        DomainClass(d, name): int(n)
        for d, of_domain in totals[0].items()
        for name, n in zip(class_names[d], of_domain["count"], strict=True)
    }
    groups, left_out = drop_absent(groups, counts, may_drop=not classes.strip())
    result: dict[str, Any] = {
        "jobs": [
            {**describe(job, checkpoint), **align(of_job, groups, class_names)}
            for job, (_, _, checkpoint), of_job in zip(jobs, networks, totals, strict=True)
        ],
        "pixels": {group_title(group): {str(c): counts[c] for c in group} for group in groups},
        "left_out": [str(c) for c in left_out],
        "split": split_names,
        "images": {d: len(source) for d, source in sources.items()},
        "convention": class_centroids.CONVENTION,
    }
    if scatter:
        drawn = draw_pixels(groups, sources, class_names, pixels, seed)
        points = []
        for entry, (model, variables, _) in zip(result["jobs"], networks, strict=True):
            features = features_at(model, variables, sources, drawn, **setting)
            placed, entry["tsne_divergence"] = scatter.tsne(features, perplexity, seed)
            points.append((panel_title(entry), placed))
        titles = {c: group_title(group) for group in groups for c in group}
        labels = [c for of_domain in drawn.values() for c, places in of_domain.items() for _ in places]
        picture_of = scatter.draw_panels(points, [titles[c] for c in labels], [c.domain for c in labels])
        save_png(out / PICTURE, picture_of)
        result["tsne"] = {
            **{"perplexity": perplexity, "seed": seed, "pixels_per_class": pixels, "points": len(labels)},
            "scikit-learn": importlib.metadata.version("scikit-learn"),
        }
    logs.write_json(out / NUMBERS, {**result, **logs.environment()})
    for entry in result["jobs"]:
        print(panel_title(entry).replace("\n", ": "), flush=True)
    return result


def sum_domains(model, variables, sources: Mapping[str, Any], class_names: Mapping, **setting) -> dict[str, dict]:
    """Per domain the sums of class_centroids.sum_classes."""
    return {
        domain: class_centroids.sum_classes(model, variables, source, len(class_names[domain]), **setting)
        for domain, source in sources.items()
    }


def features_at(model, variables, sources: Mapping[str, Any], drawn: Mapping[str, Mapping], **setting) -> np.ndarray:
    """Encoder output at the pixels of `draw_pixels`, domain after domain, class after class: [P, C]."""
    places = {domain: np.concatenate(list(of_domain.values())) for domain, of_domain in drawn.items()}
    return np.concatenate([pixel_features(model, variables, sources[d], p, **setting) for d, p in places.items()])


def check_pairs(groups: Sequence[Group]):
    """Raise InputError unless some pairs of classes of two domains match and others do not."""
    places, chosen = _flat(groups)
    pairs, matches = class_centroids.cross_domain_pairs([c.domain for c in chosen], places)
    if not len(pairs) or not matches.any() or matches.all():
        missing = "match" if not len(pairs) or not matches.any() else "do not match"
        raise InputError(
            f"classes {', '.join(map(str, chosen)) or '(none)'}: no two of different domains {missing}; choose more, "
            "such as --classes=road,sky,DOMAIN:NAME=OTHER:NAME (= between classes that mean the same)"
        )


def drop_absent(
    groups: Sequence[Group], counts: Mapping[DomainClass, int], *, may_drop: bool
) -> tuple[list[Group], list[DomainClass]]:
    """Leave out classes without a labeled pixel, and groups that are then in one domain alone.

    Args:
      groups: chosen classes.
      counts: labeled pixels of each.
      may_drop: whether that is allowed; else such a class is an InputError.

    Returns:
      (the other groups, classes that are left out).
    """
    absent = [c for group in groups for c in group if not counts[c]]
    if not absent:
        return list(groups), []
    if not may_drop:
        raise InputError(
            f"classes: {', '.join(map(str, absent))}: no labeled pixel in the split; leave them out of --classes, or "
            "give another --split"
        )
    kept = [tuple(c for c in group if counts[c]) for group in groups]
    kept = [group for group in kept if len({c.domain for c in group}) > 1]
    check_pairs(kept)
    left_out = [c for group in groups for c in group if not any(c in k for k in kept)]
    print(f"left out, without a labeled pixel or a match: {', '.join(map(str, left_out))}", flush=True)
    return kept, left_out


def align(totals: Mapping[str, Mapping], groups: Sequence[Group], class_names: Mapping) -> dict[str, Any]:
    """Alignment of one job, raw and centred, and the cosine of every pair, from the sums of every domain."""
    places, chosen = _flat(groups)
    means = {d: class_centroids.centroids(t) for d, t in totals.items()}
    vectors = np.stack([means[c.domain][class_names[c.domain].index(c.name)] for c in chosen])
    pairs, matches = class_centroids.cross_domain_pairs([c.domain for c in chosen], places)
    raw = class_centroids.alignment(vectors, pairs, matches)
    centred = class_centroids.alignment(vectors - class_centroids.common_mean(totals), pairs, matches)
    each = zip(pairs, matches, raw.pop("cosines"), centred.pop("cosines"), strict=True)
    return {
        "centred": centred,
        "raw": raw,
        "pairs": [
            {"classes": [str(chosen[a]), str(chosen[b])], "match": bool(match), "centred": of_centred, "raw": of_raw}
            for (a, b), match, of_raw, of_centred in each
        ],
    }


def draw_pixels(
    groups: Sequence[Group], sources: Mapping[str, Any], class_names: Mapping, count: int, seed: int
) -> dict[str, dict[DomainClass, np.ndarray]]:
    """Pixels int [n, 3] (image, row, column) of every class, by domain; at most `count` of each."""
    _, chosen = _flat(groups)
    drawn = {}
    for domain, source in sources.items():
        ids = {c: class_names[domain].index(c.name) for c in chosen if c.domain == domain}
        if ids:
            sampled = sample_pixels(source, list(ids.values()), count, seed)
            drawn[domain] = {c: sampled[i] for c, i in ids.items()}
    return drawn


def open_sources(job: FinishedJob, split: str, data_root: str) -> dict[str, Pools]:
    """Images of the domains of a job that have masks in "test" or "val", whose sources are `split` of each.

    Raises:
      InputError: if the data is not there, or has other classes or ids than the job was trained on.
    """
    config = job.config.copy_and_resolve_references()
    config.data.root = data_root or config.data.root
    try:
        pools = open_all(config)
    except InputError as e:
        raise InputError(str(e).replace("--config.data.root", "--data_root")) from e
    data = read_data(job.folder.parent / "data.json") or {"domains": {}}
    for name, pool in pools.items():
        now, before = label_space(pool.domain), data["domains"].get(name, {})
        if changed := differences({key: before.get(key, now[key]) for key in now}, now, name):
            raise InputError(f"{job.folder} was trained on other data: {changed[0]}; restore the domain")
        if job.class_names.get(name, pool.domain.class_names) != pool.domain.class_names:
            raise InputError(f"{job.folder} was trained with other classes of {name} than it has now; restore them")
    return {name: pool for name, pool in pools.items() if len(getattr(pool, split))}


def describe(job: FinishedJob, checkpoint: str) -> dict[str, Any]:
    """Which network it is."""
    same = {key: job.summary[key] for key in ("split_hash", "steps", "best_step", "config")}
    return {"title": job.title, "job": job.folder.name, "checkpoint": checkpoint, **same}


def panel_title(entry: Mapping[str, Any]) -> str:
    """Job and number, in two lines."""
    values = (entry["centred"][key] for key in ("matching", "other", "difference"))
    return "{}\ncentred cosine: matching {:.3f}, other {:.3f}, difference {:.3f}".format(entry["title"], *values)


def import_scatter():
    """Module analysis/scatter.py; InputError without the extra `figures`."""
    try:
        from usss_jax.analysis import scatter
    except ImportError as e:
        raise InputError(
            f"the picture needs {(e.name or str(e)).split('.')[0]}: pip install 'usss_jax[figures]'; "
            "--nopicture gives the numbers without"
        ) from e
    return scatter


def _flat(groups: Sequence[Group]) -> tuple[list[int], list[DomainClass]]:
    """Number of the group of each class, and the classes."""
    return [i for i, group in enumerate(groups) for _ in group], [c for group in groups for c in group]


def _make_folder(out: pathlib.Path):
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"--out: cannot write {out} ({e.strerror}); give another folder") from e
