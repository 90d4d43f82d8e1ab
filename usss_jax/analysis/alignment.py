"""Figure 4 of the paper for finished jobs: the alignment of matching classes, and a t-SNE of the encoder's output."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from usss_jax.analysis import class_centroids, tsne
from usss_jax.analysis.class_centroids import sum_classes
from usss_jax.analysis.class_matches import DomainClass, Group, group_title, match_all, match_classes
from usss_jax.data.pools import Pools, open_all
from usss_jax.errors import InputError
from usss_jax.parallel import sharding
from usss_jax.runs import logs
from usss_jax.runs.finished import FinishedJob, check_labels, open_jobs

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
    """Compare the encoders of jobs; write class_plot.json and class_plot.png, and return the content of the former.

    Args:
      folders: folders of the jobs, in the order of the panels.
      out: folder for the two files.
      classes: see `match_classes`; empty: all matching classes with labeled pixels.
      split: "test" or "val", the images to use.
      data_root: replaces data.root of the first job's config unless empty.
      picture: whether to compute the t-SNE, which needs the extra `figures`.
      pixels: number of pixels of each class in the t-SNE.
      perplexity: perplexity of the t-SNE.
      seed: seed of the t-SNE and of the sampled pixels.

    Raises:
      InputError: if the jobs cannot be compared, or classes or data do not fit them.
    """
    jobs = open_jobs(folders)
    pools = open_sources(jobs[0], split, data_root)
    sources = {d: getattr(pool, split) for d, pool in pools.items()}
    split_names = {d: getattr(pool.domain, f"{split}_split") for d, pool in pools.items()}
    class_names = {d: pool.domain.class_names for d, pool in pools.items()}
    groups = match_classes(classes, class_names) if classes.strip() else match_all(class_names)
    check_pairs(groups)
    scatter = tsne.import_scatter() if picture else None
    if scatter:
        tsne.check_perplexity(perplexity, pixels * sum(map(len, groups)))
    _make_folder(out)
    mesh = sharding.create_mesh()
    batching: dict[str, Any] = {"batch_size": jobs[0].config.train.eval_batch_size, "mesh": mesh}
    networks = [job.restore(mesh) for job in jobs]  # all of them before the long passes: one may be missing
    totals = []
    for job, (model, variables, _) in zip(jobs, networks, strict=True):
        logs.say(job.title, " and ".join(f"{len(s)} images of {d} ({split_names[d]})" for d, s in sources.items()))
        sums = {d: sum_classes(model, variables, s, len(class_names[d]), **batching) for d, s in sources.items()}
        totals.append(sums)
    counts = pixel_counts(totals[0], class_names)
    groups, left_out = drop_absent(groups, counts, may_drop=not classes.strip())
    result: dict[str, Any] = {
        "jobs": [
            {**describe(job, checkpoint), **align(job_totals, groups, class_names)}
            for job, (_, _, checkpoint), job_totals in zip(jobs, networks, totals, strict=True)
        ],
        "pixels": {group_title(group): {str(c): counts[c] for c in group} for group in groups},
        "left_out": [str(c) for c in left_out],
        "split": split_names,
        "images": {d: len(source) for d, source in sources.items()},
        "convention": class_centroids.CONVENTION,
    }
    if scatter:
        sampled = tsne.sample_groups(groups, sources, class_names, pixels, seed)
        features = (
            tsne.features_at(model, variables, sources, sampled, **batching) for model, variables, _ in networks
        )
        result["tsne"] = tsne.draw(scatter, result["jobs"], features, groups, sampled, perplexity, seed, out / PICTURE)
        result["tsne"]["pixels_per_class"] = pixels
    logs.write_json(out / NUMBERS, {**result, **logs.environment()})
    for entry in result["jobs"]:
        print(tsne.panel_title(entry).replace("\n", ": "), flush=True)
    return result


def pixel_counts(totals: Mapping[str, Mapping], class_names: Mapping) -> dict[DomainClass, int]:
    """Labeled pixels of every class, from the sums of all domains."""
    return {
        DomainClass(d, name): int(n)
        for d, of_domain in totals.items()
        for name, n in zip(class_names[d], of_domain["count"], strict=True)
    }


def check_pairs(groups: Sequence[Group]):
    """Raise InputError unless some pairs of classes of different domains match and some do not."""
    places, chosen = _flat(groups)
    pairs, matches = class_centroids.cross_domain_pairs([c.domain for c in chosen], places)
    if not len(pairs) or not matches.any() or matches.all():
        missing = "match" if not len(pairs) or not matches.any() else "do not match"
        raise InputError(
            f"classes {', '.join(map(str, chosen)) or '(none)'}: no two of different domains {missing}; choose more, "
            "such as --classes=road,sky,DOMAIN:NAME=OTHER:NAME (= joins classes of equal meaning)"
        )


def drop_absent(
    groups: Sequence[Group], counts: Mapping[DomainClass, int], *, may_drop: bool
) -> tuple[list[Group], list[DomainClass]]:
    """Leave out classes without a labeled pixel, and groups that then have a single domain.

    Args:
      groups: chosen classes.
      counts: labeled pixels of each class.
      may_drop: whether classes may be left out.

    Returns:
      (remaining groups, classes left out).

    Raises:
      InputError: if a class has no labeled pixel and may not be left out, or if too few groups remain.
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
    """Alignment of one job, raw and centred, and the cosine of every pair, from the sums of all domains."""
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
            {
                "classes": [str(chosen[a]), str(chosen[b])],
                "match": bool(match),
                "centred": centred_cosine,
                "raw": raw_cosine,
            }
            for (a, b), match, raw_cosine, centred_cosine in each
        ],
    }


def open_sources(job: FinishedJob, split: str, data_root: str) -> dict[str, Pools]:
    """Open the domains of a job that have labeled images in `split`, "test" or "val".

    Raises:
      InputError: if the data is missing, or has other classes or ids than in training.
    """
    config = job.config.copy_and_resolve_references()
    config.data.root = data_root or config.data.root
    try:
        pools = open_all(config)
    except InputError as e:
        raise InputError(str(e).replace("--config.data.root", "--data_root")) from e
    for name, pool in pools.items():
        check_labels(job, pool.domain)
        if job.class_names.get(name, pool.domain.class_names) != pool.domain.class_names:
            raise InputError(f"{job.folder} was trained with other classes of {name} than it has now; restore them")
    return {name: pool for name, pool in pools.items() if len(getattr(pool, split))}


def describe(job: FinishedJob, checkpoint: str) -> dict[str, Any]:
    """Title, job, checkpoint and training of a network, as JSON."""
    from_summary = {key: job.summary[key] for key in ("split_hash", "steps", "best_step", "config")}
    return {"title": job.title, "job": job.folder.name, "checkpoint": checkpoint, **from_summary}


def _flat(groups: Sequence[Group]) -> tuple[list[int], list[DomainClass]]:
    """Index of the group of each class, and the classes."""
    return [i for i, group in enumerate(groups) for _ in group], [c for group in groups for c in group]


def _make_folder(out: pathlib.Path):
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"--out: cannot write {out} ({e.strerror}); give another folder") from e
