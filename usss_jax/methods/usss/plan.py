"""The plan of USSS: single-domain networks, label embeddings, universal networks, then a table and a picture."""

import itertools
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ml_collections import ConfigDict

from usss_jax.config import per_domain, read_count
from usss_jax.config.usss import UNIVERSAL, VARIANTS, last_job
from usss_jax.data.options import unlabeled_sizes
from usss_jax.data.pools import Pools, with_labels
from usss_jax.data.streams import epoch_steps, micro_batches
from usss_jax.engine.job import Fit, Job
from usss_jax.errors import InputError
from usss_jax.local_files import write_whole
from usss_jax.methods import hung, supervised
from usss_jax.methods.opening import claimed, create_encoder, open_run
from usss_jax.methods.predictions import draw_predictions
from usss_jax.methods.run import run_plan
from usss_jax.methods.segmentation import fit
from usss_jax.methods.supervised import LabeledBatches
from usss_jax.methods.training import Images, Network, Run, Start
from usss_jax.methods.usss import label_sources, self_training, terms
from usss_jax.methods.usss.embeddings_pass import (
    Embeddings,
    embeddings_pass,
    embeddings_without_networks,
    of_networks,
    read_embeddings,
)
from usss_jax.methods.usss.results import results_table, title
from usss_jax.methods.usss.singles import singles_folder
from usss_jax.methods.usss.teacher import check_teacher, teacher_fit
from usss_jax.parallel import hosts
from usss_jax.runs.workdir import written_summaries


def run(config: ConfigDict, workdir: pathlib.Path, devices=None) -> dict[str, dict[str, Any]]:
    """Run every variant of the config, write table and picture, and return the summaries by job.

    Args:
      config: a checked config.
      workdir: of the run.
      devices: to train on; None: all.

    Raises:
      InputError: if config, data or workdir cannot be used; finished work is kept.
    """
    check_before_data(config)
    run = open_run(config, workdir, devices)
    check_with_data(config, run.pools)
    labeled = with_labels(run.pools)
    needs = uses_embeddings(run.config)
    embeddings = embeddings_without_networks(run.config, workdir, labeled) if needs else None
    singles = singles_folder(run.config, workdir, {name: pool.content for name, pool in labeled.items()})
    with claimed(run):
        for name, pool in run.pools.items():
            if name not in labeled:
                print(about_unlabeled(pool))
        return finish(run, singles, embeddings)


def finish(run: Run, singles: pathlib.Path, embeddings: Embeddings | None = None) -> dict[str, dict[str, Any]]:
    """Run the unfinished jobs, then write table.md and predictions.png; arguments as for `plan`."""
    summaries = run_plan(plan(run, singles, embeddings))
    for name, summary in hosts.from_writer(written_summaries, run.workdir).items():  # of earlier commands, too
        summaries.setdefault(name, summary)
    table = results_table(summaries, list(with_labels(run.pools)))
    if hosts.is_writer():
        write_whole(run.workdir / "table.md", table)
    if jobs := [last_job(v, run.config.rounds.count) for v in run.config.variants if v in UNIVERSAL]:
        labeled = with_labels(run.pools)
        decoders = {d: [d] if d in labeled else list(labeled) for d in run.pools}
        draw_predictions(run, {job: title(job) for job in jobs}, decoders)
    print(f"\n{table}")
    return summaries


def plan(run: Run, singles: pathlib.Path, embeddings: Embeddings | None = None) -> Iterator[Job]:
    """Yield the jobs of the config's variants, in order.

    Args:
      run: the run.
      singles: workdir of the single-domain networks.
      embeddings: label embeddings; None: from the single-domain networks.
    """
    config = run.config
    embeds = uses_embeddings(config)
    if set(config.variants) & {"single", "frozen", "finetune"} or (embeds and of_networks(config)):
        yield from supervised.single_fits(run, singles)
    if "frozen" in config.variants:
        yield from supervised.frozen_fits(run, singles)
    if "finetune" in config.variants:
        yield from supervised.finetune_fits(run, singles)
    if "hung" in config.variants:
        passes = {d: unlabeled_passes(config, run.pools, [d]) for d in with_labels(run.pools)}
        yield from hung.fits(run, passes)
    if embeds:
        yield embeddings_pass(run, singles, embeddings)
    networks = self_training.given_networks(config)
    for variant in config.variants if networks else with_starts(config.variants):
        about = VARIANTS[variant]
        if about.teacher:
            labeled = list(with_labels(run.pools))
            for domains in [[d] for d in labeled] if about.per == "domain" else [labeled]:
                yield teacher_fit(run, variant, unlabeled_passes(config, run.pools, domains))
        elif about.start:
            label_with, train = networks or [run.workdir / about.start], partial(universal_fit, run, about.start)
            yield from self_training.rounds(run, variant, label_with, train)
        elif about.per == "run":
            yield universal_fit(run, variant)


def with_starts(variants: Iterable[str]) -> list[str]:
    """Variants in order, those with rounds after the variant that they start from.

    >>> with_starts(["self", "cross", "basic"])
    ['basic', 'self', 'cross']
    """
    pairs = ([VARIANTS[v].start, v] if VARIANTS[v].start else [v] for v in variants)
    return list(dict.fromkeys(itertools.chain(*pairs)))


def uses_embeddings(config: ConfigDict) -> bool:
    """Whether a variant of the config has an entropy module."""
    used = (VARIANTS[v] for v in config.variants)
    return any(about.embeddings and (not about.teacher or config.teacher.similarity_weight) for about in used)


def universal_fit(
    run: Run,
    variant: str,
    name: str = "",
    *,
    use: LabeledBatches | None = None,
    images: Images = Images(),
    start: Start = Start(),
    **arguments,
) -> Fit:
    """Univ-basic, Univ-cross or Univ-full (section 4.2 of the paper), or direct entropy of the decoders (appendix C).

    Images of a domain without labels contribute only the cross term.

    Args:
      run: the run.
      variant: "basic", "cross", "full" or "direct".
      name: of the job; empty: the variant.
      use: how labeled images are used; None: as in other trainings.
      images, start, arguments: of `methods.segmentation.fit`.
    """
    name = name or variant
    use = use or supervised.labeled_batches(run)
    if variant == "basic":
        return fit(run, name, partial(supervised.compute, use=use), images=images, start=start, **arguments)
    embeds = VARIANTS[variant].embeddings
    embeddings, classes = read_embeddings(run) if embeds else ({}, {})
    objective = terms.create_objective(run.config.usss, variant)
    scores = terms.label_similarities if embeds else terms.decoder_scores
    return fit(
        run,
        name,
        partial(terms.compute, objective=objective, label_classes=classes, scores=scores, use=use),
        images=replace(images, unlabeled_batches=unlabeled_passes(run.config, run.pools, list(run.pools))),
        network=Network(entropy_module=embeds),
        start=replace(start, make_extra=lambda model: {"label_embeddings": embeddings} if embeddings else {}),
        warnings=terms.warn_of_collapse,
        **arguments,
    )


def unlabeled_passes(config: ConfigDict, pools: Mapping[str, Pools], domains: Sequence[str]) -> dict[str, int]:
    """U_k: unlabeled micro-batches per step of domains that are trained together, by `train.unlabeled_batches`."""
    train = config.train
    rules = per_domain(train.unlabeled_batches, list(pools), "train.unlabeled_batches", read_count("pool"))
    epoch = epoch_steps(with_labels({d: pools[d] for d in domains}), train.batch_size)
    sizes = unlabeled_sizes(config, list(pools))
    return {d: micro_batches(rules[d] or "pool", pools[d], epoch, sizes[d]) for d in domains}


def about_unlabeled(pool: Pools) -> str:
    """Line on how a run uses a domain without labels."""
    name, split = pool.domain.name, pool.domain.test_split
    scores = f"the decoder of {pool.scored_by} is scored on its {split} split, which never selects a checkpoint"
    if not len(pool.test):
        scores = f"its {split} split has no masks, so it has no score"
    elif not pool.scored_by:
        scores = "it has no score, since no labeled domain has all of its classes"
    trained = f"only cross, full, direct and self_full train on its {len(pool.unlabeled)} images"
    return f"{name} has no labels: {trained}; {scores}"


# ---- Checks before anything is trained ----


def check_before_data(config: ConfigDict):
    """Raise InputError for errors of the config that show without data."""
    usss, channels = config.usss, create_encoder(config).out_channels
    label_sources.check_field(usss.label_embeddings, usss.embeddings_per_class)
    if of_networks(config) and uses_embeddings(config) and not 1 <= usss.embed_dim <= channels:
        raise InputError(f"usss.embed_dim={usss.embed_dim} must be from 1 to {channels}, the features' channels (PCA)")


def check_with_data(config: ConfigDict, pools: Mapping[str, Pools]):
    """Raise InputError if the config does not fit the data."""
    labeled = with_labels(pools)
    transfers = [v for v in config.variants if v in ("frozen", "finetune")]
    if transfers and len(labeled) == 1:
        raise InputError(
            f"variants: {transfers[0]} needs two domains with labels, but {next(iter(labeled))} is the only one; "
            f"remove {transfers[0]}, or add a domain"
        )
    if any(VARIANTS[v].start for v in config.variants):
        self_training.check(config, labeled)
    if any(VARIANTS[v].teacher for v in config.variants):
        check_teacher(config, pools)
    unlabeled_passes(config, pools, list(pools))
