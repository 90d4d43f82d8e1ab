"""The plan of USSS: single-domain networks, label embeddings, universal networks, then a table and a picture."""

import itertools
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from usss_jax.config import per_domain, read_count
from usss_jax.config.teacher import VARIANTS as TAUGHT
from usss_jax.config.usss import SELF_TRAINING, last_job
from usss_jax.data.options import unlabeled_sizes
from usss_jax.data.pools import Pools, with_labels
from usss_jax.data.streams import epoch_steps, micro_batches
from usss_jax.engine.job import Fit, Job, Pass
from usss_jax.errors import InputError
from usss_jax.local_files import write_whole
from usss_jax.methods import hung, supervised
from usss_jax.methods.opening import claimed, create_encoder, open_run
from usss_jax.methods.predictions import draw_predictions
from usss_jax.methods.run import run_plan
from usss_jax.methods.segmentation import Images, Network, Run, Start, fit
from usss_jax.methods.usss import label_embeddings, label_sources, self_training, terms
from usss_jax.methods.usss.results import results_table, title
from usss_jax.methods.usss.teacher import check_teacher, teacher_fit
from usss_jax.parallel import hosts
from usss_jax.runs import logs
from usss_jax.runs.networks import load_best
from usss_jax.runs.workdir import singles_folder, written_summaries

UNIVERSAL = ("basic", "cross", "full", "direct")  # variants that train one network for all domains
TRAINS_ALL = (*UNIVERSAL, "teacher", "teacher_own", *SELF_TRAINING)  # and with a teacher, and trained further
EMBEDS = ("cross", "full")  # those with an entropy module

Embeddings = tuple[Mapping[str, Any], dict[str, Any]]  # by domain, and the metadata of their file


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
    embeddings = embeddings_without_networks(run.config, workdir, labeled)
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
    if jobs := [last_job(v, run.config.rounds.count) for v in run.config.variants if v in TRAINS_ALL]:
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
    for variant in with_starts(config.variants):
        if variant in UNIVERSAL:
            yield universal_fit(run, variant)
        elif variant in TAUGHT:
            labeled = list(with_labels(run.pools))
            for domains in [[d] for d in labeled] if variant == "teacher_single" else [labeled]:
                yield teacher_fit(run, variant, unlabeled_passes(config, run.pools, domains))
        elif variant in SELF_TRAINING:
            start = SELF_TRAINING[variant]
            yield from self_training.rounds(run, variant, run.workdir / start, partial(universal_fit, run, start))


def with_starts(variants: Iterable[str]) -> list[str]:
    """Variants in order, those with rounds after the variant that they start from.

    >>> with_starts(["self", "cross", "basic"])
    ['basic', 'self', 'cross']
    """
    pairs = ([SELF_TRAINING[v], v] if v in SELF_TRAINING else [v] for v in variants)
    return list(dict.fromkeys(itertools.chain(*pairs)))


def uses_embeddings(config: ConfigDict) -> bool:
    """Whether a variant of the config, or one that it starts from, has an entropy module."""
    return bool(set(with_starts(config.variants)) & set(EMBEDS))


def universal_fit(
    run: Run,
    variant: str,
    name: str = "",
    *,
    labels: Mapping[str, Any] = {},
    images: Images = Images(),
    start: Start = Start(),
    **arguments,
) -> Fit:
    """Univ-basic, Univ-cross or Univ-full (section 4.2 of the paper), or direct entropy of the decoders (appendix C).

    Images of a domain without labels contribute only the cross term.

    Args:
      run: the run.
      variant: one of UNIVERSAL.
      name: of the job; empty: the variant.
      labels: `decoders` and `weights` of the loss of labeled images (`supervised_loss`).
      images, start, arguments: of `methods.segmentation.fit`.
    """
    name = name or variant
    if variant == "basic":
        return fit(run, name, partial(supervised.compute, **labels), images=images, start=start, **arguments)
    embeddings, classes = read_embeddings(run) if variant in EMBEDS else ({}, {})
    objective = terms.create_objective(run.config.usss, variant)
    scores = terms.label_similarities if variant in EMBEDS else terms.decoder_scores
    return fit(
        run,
        name,
        partial(terms.compute, objective=objective, label_classes=classes, scores=scores, **labels),
        images=replace(images, unlabeled_batches=unlabeled_passes(run.config, run.pools, list(run.pools))),
        network=Network(entropy_module=variant in EMBEDS),
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


# ---- Label embeddings ----


def embeddings_file(workdir: pathlib.Path) -> pathlib.Path:
    """Path of the label embeddings of a workdir, from whatever source."""
    return workdir / "prototypes" / "label_embeddings.npz"


def has_embeddings(workdir: pathlib.Path) -> bool:
    """Whether a workdir has label embeddings already."""
    return hosts.from_writer(embeddings_file(workdir).exists)


def of_networks(config: ConfigDict) -> bool:
    """Whether the label embeddings come from the single-domain networks."""
    return config.usss.label_embeddings == label_sources.PROTOTYPES


def embeddings_without_networks(
    config: ConfigDict, workdir: pathlib.Path, labeled: Mapping[str, Pools]
) -> Embeddings | None:
    """Label embeddings that need no network; None if the run needs none, has them already, or takes them from networks.

    Raises:
      InputError: if their file cannot be read or does not fit the domains.
    """
    if of_networks(config) or not uses_embeddings(config) or has_embeddings(workdir):
        return None
    usss, classes = config.usss, {name: pool.domain.class_names for name, pool in labeled.items()}
    return label_sources.make(
        usss.label_embeddings, classes, usss.embed_dim, config.train.seed, usss.embeddings_per_class, usss.theta
    )


def embeddings_pass(run: Run, singles: pathlib.Path, embeddings: Embeddings | None = None) -> Pass:
    """Describe the pass that writes the label embeddings of every domain with labels; arguments as for `plan`."""
    path = embeddings_file(run.workdir)

    def make():
        logs.write_json(path.parent / "config.json", {"job": "prototypes", **run.config.to_dict()})
        made, meta = embeddings or prototypes_of_networks(run, singles)
        meta = {**meta, **logs.environment()}
        logs.write_json(path.parent / "label_embeddings.json", meta)  # the metadata of the file below, to read
        label_embeddings.save(path, made, meta)

    return Pass(path, make)


def read_embeddings(run: Run) -> tuple[dict[str, np.ndarray], dict[str, tuple[int, ...]]]:
    """Read the workdir's label embeddings by domain, and the train id of each.

    Raises:
      InputError: if their classes are not those of the domains.
    """
    path = embeddings_file(run.workdir)
    if not (path.parent / "cosines.json").exists():
        label_embeddings.write_cosines(path)
    content = hosts.broadcast(path.read_bytes() if hosts.is_writer() else b"")
    embeddings, meta = label_embeddings.load(path, content=content)
    remedy = "restore the domain's classes, or give another --workdir"
    classes = {
        name: tuple(map(int, label_sources.row_classes(path, meta, name, pool.domain.class_names, remedy)))
        for name, pool in with_labels(run.pools).items()
    }
    for name, about in meta["domains"].items():
        absent = f"; no labeled pixel of {', '.join(about['absent'])}" if about["absent"] else ""
        print(f"[prototypes] {name}: {len(about['classes'])} label embeddings{absent}", flush=True)
    return embeddings, classes


def prototypes_of_networks(run: Run, singles: pathlib.Path) -> Embeddings:
    """Class prototypes from the best checkpoint of every single-domain network, and the metadata of their file."""
    usss = run.config.usss
    made, about = {}, {}
    for name, pool in with_labels(run.pools).items():
        model, variables, _, checkpoint = load_best(singles / f"single_{name}", run.mesh)
        made[name] = label_embeddings.extract(
            model,
            variables,
            pool.labeled,
            pool.domain.num_classes,
            usss.embed_dim,
            batch_size=run.config.train.eval_batch_size,
            mesh=run.mesh,
            embeddings_per_class=usss.embeddings_per_class,
            seed=run.config.train.seed,
        )
        about[name] = label_embeddings.describe(made[name], pool.domain.class_names, checkpoint)
    method = label_embeddings.method(usss.embeddings_per_class)
    return made, {"method": method, "dim": usss.embed_dim, "domains": about}


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
    if set(config.variants) & set(SELF_TRAINING):
        self_training.check_sizes(config, labeled)
    if set(config.variants) & set(TAUGHT):
        check_teacher(config, pools)
    unlabeled_passes(config, pools, list(pools))
