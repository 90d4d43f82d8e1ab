"""The method as a plan: single-domain networks -> label embeddings -> universal networks, then table and picture."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from usss_jax import config as config_lib
from usss_jax.config import per_domain, read_count
from usss_jax.data.notices import about_data
from usss_jax.data.pools import Pools, open_all, with_labels
from usss_jax.data.streams import epoch_steps, micro_batches
from usss_jax.engine.job import Fit, Job, Pass
from usss_jax.errors import InputError
from usss_jax.local_files import write_whole
from usss_jax.methods import hung, supervised
from usss_jax.methods.run import run_plan
from usss_jax.methods.segmentation import Run, device_augment, fit
from usss_jax.methods.usss import label_embeddings, label_sources, terms
from usss_jax.methods.usss.results import draw_predictions, results_table
from usss_jax.models.universal import create_model
from usss_jax.parallel import hosts, sharding
from usss_jax.runs import encoder_weights, logs
from usss_jax.runs.networks import load_best
from usss_jax.runs.workdir import alone_in, claim_workdir, singles_folder, written_summaries

UNIVERSAL = ("basic", "cross", "full", "direct")  # variants with one network for all domains
EMBEDS = ("cross", "full")  # of these, the ones with an entropy module


def run(config: ConfigDict, workdir: pathlib.Path, devices=None) -> dict[str, dict[str, Any]]:
    """Run every variant that the config asks for; leave table and picture; return the summaries by job.

    Args:
      config: checked.
      workdir: of the run.
      devices: to train on; None: all.

    Raises:
      InputError: for whatever is wrong with config, data or workdir; nothing already computed is lost.
    """
    mesh = sharding.widest_mesh(devices or jax.devices(), config.train.batch_size, config.train.unlabeled_batch_size)
    model = check_before_data(config)
    pools = hosts.together(open_all, config)
    for line in hosts.together(lambda: list(about_data(pools, config.data.min_classes))):
        print(line, flush=True)
    check_same_run(config, pools)
    labeled = with_labels(pools)
    check_with_data(config, pools)
    config = config_lib.with_absolute_paths(config, list(pools))
    # Weights first: a bad file must not claim the workdir.
    weights = encoder_weights.load(config.model.pretrained, model, mesh) if config.model.pretrained else None
    given = None
    if not of_networks(config) and set(config.variants) & set(EMBEDS) and not has_embeddings(workdir):
        usss, classes = config.usss, {name: pool.domain.class_names for name, pool in labeled.items()}
        given = label_sources.make(
            usss.label_embeddings, classes, usss.embed_dim, config.train.seed, usss.embeddings_per_class, usss.theta
        )
    data = {name: pool.content for name, pool in pools.items()}
    singles = singles_folder(config, workdir, {name: data[name] for name in labeled})
    claim_workdir(config, workdir, data)
    for pool in (pool for name, pool in pools.items() if name not in labeled):
        print(about_unlabeled(pool))
    if weights is None:
        print("model.pretrained is empty: the encoder starts from random weights; the paper's from ImageNet's")
    if config.model.remat and sharding.on_cpu(mesh):
        print(f"model.remat={config.model.remat} saves no memory on CPU: XLA computes nothing again there")
    with alone_in(workdir):
        return finish(Run(config, workdir, mesh, pools, weights), singles, given)


def finish(run: Run, singles: pathlib.Path, given=None) -> dict[str, dict[str, Any]]:
    """Run the jobs that are not finished, then write table.md and predictions.png from all of the workdir's."""
    summaries = run_plan(plan(run, singles, given))
    for name, summary in hosts.from_writer(written_summaries, run.workdir).items():  # of earlier commands too
        summaries.setdefault(name, summary)
    table = results_table(summaries, list(with_labels(run.pools)))
    if hosts.is_writer():
        write_whole(run.workdir / "table.md", table)
    if universal := [v for v in run.config.variants if v in UNIVERSAL]:
        draw_predictions(run, universal)
    print(f"\n{table}")
    return summaries


def plan(run: Run, singles: pathlib.Path, given=None) -> Iterator[Job]:
    """Yield the jobs of a config's variants in their order.

    Args:
      run: what they share.
      singles: workdir of the single-domain networks.
      given: label embeddings of label_sources.make; None: from the single-domain networks.
    """
    config = run.config
    universal = [v for v in config.variants if v in UNIVERSAL]
    embeds = bool(set(config.variants) & set(EMBEDS))
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
        yield embeddings_pass(run, singles, given)
    for variant in universal:
        yield supervised.joint_fit(run) if variant == "basic" else universal_fit(run, variant)


def universal_fit(run: Run, variant: str) -> Fit:
    """Univ-cross or -full (section 4.2 of the paper), or the direct entropy of the decoders (appendix C).

    Images of a domain without labels contribute only the cross term.
    """
    usss = run.config.usss
    objective = terms.Objective(
        alpha=usss.alpha,
        beta=0.0 if variant == "cross" else usss.beta,
        diversity=usss.diversity,
        warmup=usss.entropy_warmup,
    )
    passes = unlabeled_passes(run.config, run.pools, list(run.pools))
    if variant == "direct":
        compute = partial(terms.compute, objective=objective, label_classes={}, direct=True)
        return fit(run, variant, compute, unlabeled_batches=passes, warnings=terms.warn_of_collapse)
    objective = dataclasses.replace(
        objective,
        similarity_scale=usss.similarity_scale,
        theta=usss.theta,
        embedding_supervision=usss.embedding_supervision,
        normalize_embedding=usss.normalize_embedding,
    )
    rows, classes = read_embeddings(run)
    return fit(
        run,
        variant,
        partial(terms.compute, objective=objective, label_classes=classes),
        unlabeled_batches=passes,
        embed_dim=usss.embed_dim,
        embed_bias=usss.embedding_bias,
        embedding_lr_scale=usss.embedding_lr_scale,
        make_extra=lambda model: {"label_embeddings": rows},
        warnings=terms.warn_of_collapse,
    )


def unlabeled_passes(config: ConfigDict, pools: Mapping[str, Pools], domains: Sequence[str]) -> dict[str, int]:
    """U_k: unlabeled micro-batches per step for the domains that are trained together, by the config's rule."""
    train = config.train
    rules = per_domain(train.unlabeled_batches, list(pools), "train.unlabeled_batches", read_count("pool"))
    epoch = epoch_steps(with_labels({d: pools[d] for d in domains}), train.batch_size)
    return {d: micro_batches(rules[d] or "pool", pools[d], epoch, train.unlabeled_batch_size) for d in domains}


# ---- Label embeddings ----


def embeddings_file(workdir: pathlib.Path) -> pathlib.Path:
    """Where a workdir keeps its label embeddings, wherever they are from."""
    return workdir / "prototypes" / "label_embeddings.npz"


def has_embeddings(workdir: pathlib.Path) -> bool:
    """Whether a workdir has its label embeddings already."""
    return hosts.from_writer(embeddings_file(workdir).exists)


def of_networks(config: ConfigDict) -> bool:
    """Whether the label embeddings come from the single-domain networks."""
    return config.usss.label_embeddings == label_sources.PROTOTYPES


def embeddings_pass(run: Run, singles: pathlib.Path, given=None) -> Pass:
    """Make the label embeddings of every domain with labels; `singles` and `given` as for `plan`."""
    path = embeddings_file(run.workdir)

    def make():
        logs.write_json(path.parent / "config.json", {"job": "prototypes", **run.config.to_dict()})
        made, meta = given or prototypes_of_networks(run, singles)
        meta = {**meta, **logs.environment()}
        logs.write_json(path.parent / "label_embeddings.json", meta)  # what the file below says, to read
        label_embeddings.save(path, made, meta)

    return Pass(path, make)


def read_embeddings(run: Run) -> tuple[dict[str, np.ndarray], dict[str, tuple[int, ...]]]:
    """Label embeddings of every domain that the workdir keeps, and the train ids of their rows.

    Raises:
      InputError: if they are of other classes than the domains have now.
    """
    path = embeddings_file(run.workdir)
    if not (path.parent / "report.json").exists():
        label_embeddings.write_report(path)
    content = hosts.broadcast(path.read_bytes() if hosts.is_writer() else b"")
    embeddings, meta = label_embeddings.load(path, content=content)
    remedy = "restore the domain's classes, or give another --workdir"
    classes = {
        name: tuple(map(int, label_sources.row_classes(path, meta, name, pool.domain.class_names, remedy)))
        for name, pool in with_labels(run.pools).items()
    }
    for name, about in meta["domains"].items():
        absent = f"; left out, without a labeled pixel: {', '.join(about['absent'])}" if about["absent"] else ""
        print(f"[prototypes] {name}: {len(about['classes'])} label embeddings{absent}", flush=True)
    return embeddings, classes


def prototypes_of_networks(run: Run, singles: pathlib.Path):
    """Class prototypes from the best checkpoint of every single-domain network, and what their file says."""
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


# ---- What is wrong, before anything is trained ----


def check_before_data(config: ConfigDict):
    """Model of the config's encoder; InputError for what is wrong without looking at data."""
    model = create_model(
        config.model.encoder,
        {"any": 1},
        width=config.model.width,
        precision=config.model.precision,
        upsample=config.model.upsample,
        normalize=config.data.normalize,
        remat=config.model.remat,
    )
    usss, channels = config.usss, model.encoder.out_channels
    label_sources.check_field(usss.label_embeddings, usss.embeddings_per_class)
    if of_networks(config) and set(config.variants) & set(EMBEDS) and not 1 <= usss.embed_dim <= channels:
        raise InputError(f"usss.embed_dim={usss.embed_dim} must be from 1 to the encoder's {channels} channels (PCA)")
    device_augment(config)
    return model


def check_with_data(config: ConfigDict, pools: Mapping[str, Pools]):
    """Raise InputError for what does not fit the data."""
    labeled = with_labels(pools)
    transfers = [v for v in config.variants if v in ("frozen", "finetune")]
    if transfers and len(labeled) == 1:
        raise InputError(
            f"variants: {transfers[0]} trains on every other domain, and {next(iter(labeled))} is the only one with "
            "labels; leave it out, or add a domain"
        )
    unlabeled_passes(config, pools, list(pools))


def check_same_run(config: ConfigDict, pools: Mapping[str, Pools]):
    """Raise InputError unless all hosts have the same config and lists of images: each reads a part of a batch."""
    what = config_lib.same_on_hosts(config)
    for name, pool in pools.items():
        for use in ("labeled", "unlabeled", "val", "test"):
            what[f"list of {use} images of {name}"] = list(getattr(pool, use).ids)
        what[f"content of domain {name}"] = pool.content
    hosts.check_same(what, "give every host the same flags and the same images")


def about_unlabeled(pool: Pools) -> str:
    """One line on what a run does with a domain without labels."""
    name, split = pool.domain.name, pool.domain.test_split
    scored = f"the decoder of {pool.scored_by} is scored on the masks of its {split} split, which choose no checkpoint"
    if not len(pool.test):
        scored = f"its {split} split has no masks, so it has no score"
    elif not pool.scored_by:
        scored = "it has no score, since no labeled domain has all of its classes"
    return f"{name} has no labels: only cross, full and direct train on its {len(pool.unlabeled)} images; {scored}"
