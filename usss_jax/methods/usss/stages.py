"""The whole method: single-domain networks -> label embeddings -> universal variants -> table and picture.

Every stage has its own folder in the workdir. A stage with a summary.json is finished and not run again; one with
checkpoints resumes from the last.
"""

import pathlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from usss_jax import config as config_lib
from usss_jax.data.notices import about_data
from usss_jax.data.pools import Pools, open_all, with_labels
from usss_jax.engine.loop import Stage, check_same_data, device_augment, train_and_evaluate
from usss_jax.errors import InputError
from usss_jax.evaluation.evaluate import predict
from usss_jax.local_files import read_object, reason, write_whole
from usss_jax.methods.usss import label_embeddings, label_sources
from usss_jax.methods.usss.results import TITLES, draw_comparison, results_table
from usss_jax.methods.usss.variants import (
    adversarial_stages,
    single_stages,
    transfer_stages,
    universal_stage,
    unlabeled_passes,
)
from usss_jax.parallel import hosts, sharding
from usss_jax.runs import encoder_weights, logs
from usss_jax.runs.networks import WITHOUT_EMBEDDINGS, best_variables, create_model_of, stage_model
from usss_jax.runs.workdir import alone_in, check_summary, claim_workdir, read_summary, singles_folder


def run(config: ConfigDict, workdir: pathlib.Path, devices=None) -> dict[str, dict[str, Any]]:
    """Run every stage that the config asks for; return the summaries by stage.

    Raises:
      InputError: for whatever is wrong with config, data or workdir; nothing already computed is lost.
    """
    config = config_lib.checked(config)
    mesh = sharding.widest_mesh(devices or jax.devices(), config.train.batch_size, config.train.unlabeled_batch_size)
    model = create_model_of(config, {"any": 1}, 0)  # a wrong name is seen before data is read
    channels = model.encoder.out_channels
    label_sources.check_field(config.usss.label_embeddings, config.usss.embeddings_per_class)
    of_networks = config.usss.label_embeddings == label_sources.PROTOTYPES
    if of_networks and set(config.variants) & {"cross", "full"} and not 1 <= config.usss.embed_dim <= channels:
        raise InputError(
            f"usss.embed_dim={config.usss.embed_dim} must be from 1 to the encoder's {channels} channels (PCA)"
        )
    device_augment(config)  # a wrong value is seen before data is read
    pools = hosts.together(open_all, config)
    for line in hosts.together(lambda: list(about_data(pools, config.data.min_classes))):
        print(line, flush=True)
    data = {name: pool.content for name, pool in pools.items()}
    check_same_run(config, pools)
    labeled = with_labels(pools)
    transfers = [v for v in config.variants if v in ("frozen", "finetune")]
    if transfers and len(labeled) == 1:
        raise InputError(
            f"variants: {transfers[0]} trains on every other domain, and {next(iter(labeled))} is the only one with "
            "labels; leave it out, or add a domain"
        )
    unlabeled_passes(config, pools, list(pools))  # a wrong value is seen before anything is trained
    config = config_lib.with_absolute_paths(config, list(pools))
    # Before the workdir is claimed: other weights, or another file, may be needed.
    weights = encoder_weights.load(config.model.pretrained, model, mesh) if config.model.pretrained else None
    given = None
    if not of_networks and set(config.variants) & {"cross", "full"} and not has_embeddings(workdir):
        classes = {name: pool.domain.class_names for name, pool in labeled.items()}
        given = label_sources.make(
            config.usss.label_embeddings,
            classes,
            config.usss.embed_dim,
            config.train.seed,
            config.usss.embeddings_per_class,
            config.usss.theta,
        )
    singles = singles_folder(config, workdir, {name: data[name] for name in labeled})
    claim_workdir(config, workdir, data)
    for pool in (pool for name, pool in pools.items() if name not in labeled):
        print(about_unlabeled(pool))
    if weights is None:
        print(
            "model.pretrained is empty: random weights to start the encoder, which departs from the paper (ImageNet's)"
        )
    if config.model.remat and mesh.devices.flat[0].platform == "cpu":
        print(f"model.remat={config.model.remat} saves no memory on CPU, where XLA computes nothing again")
    with alone_in(workdir):
        return train_all(config, pools, workdir, singles, mesh, weights, given)


def about_unlabeled(pool: Pools) -> str:
    """One line on what a run does with a domain without labels."""
    name, split = pool.domain.name, pool.domain.test_split
    scored = f"the decoder of {pool.scored_by} is scored on the masks of its {split} split, which choose no checkpoint"
    if not len(pool.test):
        scored = f"its {split} split has no masks, so it has no score"
    elif not pool.scored_by:
        scored = "it has no score, since no labeled domain has all of its classes"
    return f"{name} has no labels: only cross, full and direct train on its {len(pool.unlabeled)} images; {scored}"


def check_same_run(config: ConfigDict, pools: Mapping[str, Pools]):
    """Raise InputError unless all hosts have the same config and lists of images: each reads a part of a batch."""
    what = config_lib.same_on_hosts(config)
    for name, pool in pools.items():
        for use in ("labeled", "unlabeled", "val", "test"):
            what[f"list of {use} images of {name}"] = list(getattr(pool, use).ids)
        what[f"content of domain {name}"] = pool.content
    hosts.check_same(what, "give every host the same flags and the same images")


def train_all(
    config: ConfigDict,
    pools: Mapping[str, Pools],
    workdir: pathlib.Path,
    singles: pathlib.Path,
    mesh: Mesh,
    weights: dict[str, np.ndarray] | None,
    given=None,
) -> dict[str, dict[str, Any]]:
    """Run the stages that are not finished; leave table and picture; return all summaries of the workdir."""
    universal = [v for v in config.variants if v in TITLES]
    unsupervised = [v for v in universal if v not in WITHOUT_EMBEDDINGS]
    summaries = {}
    if set(config.variants) & {"single", "frozen", "finetune"} or (
        unsupervised and config.usss.label_embeddings == label_sources.PROTOTYPES
    ):
        for stage in single_stages(config, pools):
            summaries[stage.name] = run_stage(config, stage, singles, mesh, weights)
    for stage in (*transfer_stages(config, pools, singles, mesh), *adversarial_stages(config, pools)):
        summaries[stage.name] = run_stage(config, stage, workdir, mesh, weights)
    embeddings: dict[str, np.ndarray] = {}
    label_classes: dict[str, tuple[int, ...]] = {}
    if unsupervised:
        embeddings, label_classes = make_label_embeddings(config, with_labels(pools), workdir, singles, mesh, given)
    for variant in universal:
        stage = universal_stage(config, variant, pools, embeddings, label_classes)
        summaries[variant] = run_stage(config, stage, workdir, mesh, weights)

    for name, summary in hosts.from_writer(written_summaries, workdir).items():  # of earlier commands too
        summaries.setdefault(name, summary)
    table = results_table(summaries, list(with_labels(pools)))
    if hosts.is_writer():
        write_whole(workdir / "table.md", table)
    if universal:
        draw_predictions(config, pools, universal, workdir, mesh)
    print(f"\n{table}")
    return summaries


def written_summaries(workdir: pathlib.Path) -> dict[str, Any]:
    """Summaries of all finished stages of a workdir by stage; says which files are none."""
    summaries = {}
    for path in sorted(workdir.glob("*/summary.json")):
        try:
            summary = read_object(path)
            check_summary(summary)
            summaries[path.parent.name] = summary
        except (OSError, ValueError) as e:
            print(f"{path} is no summary of a stage ({reason(e)}): left out of the table", flush=True)
    return summaries


def run_stage(config: ConfigDict, stage: Stage, workdir: pathlib.Path, mesh: Mesh, weights) -> dict[str, Any]:
    """Train a stage unless it is finished."""
    if summary := finished_summary(stage, workdir):
        folder = workdir / stage.name
        best = folder / "best" / str(summary.get("best_step"))
        if not hosts.from_writer(best.is_dir):  # before others train to their end, for the picture of all
            raise InputError(f"{best} is missing; restore it, or move {folder} away: the same command trains it again")
        print(f"[{stage.name}] finished earlier", flush=True)
        return summary
    model = stage_model(config, stage.pools, config.usss.embed_dim if stage.label_embeddings else 0)
    return train_and_evaluate(config, stage, model, workdir, mesh, weights)


def finished_summary(stage: Stage, workdir: pathlib.Path) -> dict[str, Any] | None:
    """Summary of a stage, None if it is not finished; InputError if it was trained on other data than there is now."""
    path = workdir / stage.name / "summary.json"
    summary = hosts.from_writer(read_summary, path)
    if summary is None:
        return None
    classes = {name: list(d["iou"]) for name, d in summary["domains"].items()}
    check_same_data(stage, {**summary, "classes": classes})
    return summary


def embeddings_file(workdir: pathlib.Path) -> pathlib.Path:
    """Where a workdir keeps its label embeddings, wherever they are from."""
    return workdir / "prototypes" / "label_embeddings.npz"


def has_embeddings(workdir: pathlib.Path) -> bool:
    """Whether a workdir has its label embeddings already."""
    return hosts.from_writer(embeddings_file(workdir).exists)


def make_label_embeddings(
    config: ConfigDict,
    pools: Mapping[str, Pools],
    workdir: pathlib.Path,
    singles: pathlib.Path,
    mesh: Mesh,
    given=None,
) -> tuple[dict[str, np.ndarray], dict[str, tuple[int, ...]]]:
    """Label embeddings of every domain and the train ids of their rows, kept in the workdir: made once.

    `given` has those of label_sources.make; None: from the best checkpoint of every domain's single-domain network,
    which are in the workdir `singles`.

    Raises:
      InputError: if those kept in the workdir are of other classes than the domains have now.
    """
    path = embeddings_file(workdir)
    folder = path.parent
    if not has_embeddings(workdir):
        logs.write_json(folder / "config.json", {"stage": "prototypes", **config.to_dict()})
        made, meta = given or prototypes_of_networks(config, pools, singles, mesh)
        meta = {**meta, **logs.environment()}
        logs.write_json(folder / "label_embeddings.json", meta)  # what the file below says, to read
        label_embeddings.save(path, made, meta)
    if not (folder / "report.json").exists():
        label_embeddings.write_report(path)
    content = hosts.broadcast(path.read_bytes() if hosts.is_writer() else b"")
    embeddings, meta = label_embeddings.load(path, content=content)
    remedy = "restore the domain's classes, or give another --workdir"
    classes = {
        name: tuple(map(int, label_sources.row_classes(path, meta, name, pool.domain.class_names, remedy)))
        for name, pool in pools.items()
    }
    for name, about in meta["domains"].items():
        absent = f"; left out, without a labeled pixel: {', '.join(about['absent'])}" if about["absent"] else ""
        print(f"[prototypes] {name}: {len(about['classes'])} label embeddings{absent}", flush=True)
    return embeddings, classes


def prototypes_of_networks(config: ConfigDict, pools: Mapping[str, Pools], singles: pathlib.Path, mesh: Mesh):
    """Class prototypes from the best checkpoint of every single-domain network, and what their file says."""
    made, about = {}, {}
    for name, pool in pools.items():
        model = stage_model(config, {name: pool}, 0)
        variables, checkpoint = best_variables(singles / f"single_{name}", model, mesh)
        made[name] = label_embeddings.extract(
            model,
            variables,
            pool.labeled,
            pool.domain.num_classes,
            config.usss.embed_dim,
            batch_size=config.train.eval_batch_size,
            mesh=mesh,
            embeddings_per_class=config.usss.embeddings_per_class,
            seed=config.train.seed,
        )
        about[name] = label_embeddings.describe(made[name], pool.domain.class_names, checkpoint)
    method = label_embeddings.method(config.usss.embeddings_per_class)
    return made, {"method": method, "dim": config.usss.embed_dim, "domains": about}


def draw_predictions(
    config: ConfigDict, pools: Mapping[str, Pools], variants: Sequence[str], workdir: pathlib.Path, mesh: Mesh
):
    """Write predictions.png: image, truth and every variant's prediction (best checkpoint), two images per domain.

    Those of a domain without labels are shown with the prediction of every decoder, and with a truth if there is one.
    """
    examples = {}
    for domain, pool in pools.items():
        source = pool.test if len(pool.test) else pool.unlabeled
        examples[domain] = [source[i] for i in sorted({0, len(source) // 2})]
    labeled = with_labels(pools)
    pairs = [(d, decoder) for d in pools for decoder in ([d] if d in labeled else labeled)]
    predictions = {}
    for variant in variants:
        model = stage_model(config, pools, 0 if variant in WITHOUT_EMBEDDINGS else config.usss.embed_dim)
        variables, _ = best_variables(workdir / variant, model, mesh)
        for domain, decoder in pairs:
            images = np.stack([e["image"] for e in examples[domain]])
            predictor = jax.jit(partial(predict, domain=decoder, model=model), out_shardings=sharding.replicated(mesh))
            predictions[variant, domain, decoder] = np.asarray(predictor(variables, images))
    if hosts.is_writer():
        draw_comparison(workdir / "predictions.png", pools, examples, predictions, variants)
