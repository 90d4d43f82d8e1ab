"""The whole method: single-domain networks -> label embeddings -> universal variants -> table and picture.

Every stage has its own folder in the workdir. A stage with a summary.json is finished and not run again; one with
checkpoints goes on from the last.
"""

import itertools
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from usss_jax import config as config_lib
from usss_jax.config import per_domain, read_count
from usss_jax.data.pools import Pools, open_all
from usss_jax.data.streams import epoch_steps, micro_batches
from usss_jax.errors import InputError
from usss_jax.evaluation.evaluate import predict
from usss_jax.models import pretrained
from usss_jax.models.universal import UniversalModel, create_model
from usss_jax.training import label_embeddings, label_sources, logs, sharding
from usss_jax.training.adversarial_state import Adversarial
from usss_jax.training.checkpoint import Checkpoints
from usss_jax.training.loop import Stage, check_same_data, device_augment, train_and_evaluate
from usss_jax.training.results import TITLES, draw_comparison, results_table
from usss_jax.training.state import abstract_variables
from usss_jax.training.step import Objective

WITHOUT_EMBEDDINGS = ("basic", "direct")  # variants without the entropy module

# Fields that may change between two runs of the same workdir: they alter no number.
FREE_FIELDS = ("variants", "single_from", "data_root", "checkpoint_every", "log_every", "cache_gb", "loader_threads")

# Fields that single-domain networks do not depend on: they may differ between a run and that of its `single_from`.
NOT_OF_SINGLES = (
    *FREE_FIELDS,
    *("label_embeddings", "embeddings_per_class", "embed_dim", "theta", "alpha", "beta", "similarity_scale"),
    *("embedding_supervision", "diversity", "normalize_embedding", "embedding_lr_scale", "embedding_bias"),
    *("entropy_warmup", "steps", "unlabeled_batch_size", "unlabeled_batches", "unlabeled_splits", "unlabeled_list"),
    *("unlabeled_includes_labeled", "hung_adversarial", "hung_adversarial_unlabeled", "hung_semi", "hung_threshold"),
    *("hung_semi_start", "hung_lr"),
)


def run(config: ConfigDict, workdir: pathlib.Path, devices=None) -> dict[str, dict[str, Any]]:
    """Run every stage that the config asks for; return the summaries by stage.

    Raises:
      InputError: for whatever is wrong with config, data or workdir; nothing already computed is lost.
    """
    config = config_lib.checked(config)
    if jax.process_count() > 1:
        raise InputError("several hosts are not supported yet: start one process, with all its devices")
    mesh = sharding.widest_mesh(devices or jax.devices(), config.batch_size, config.unlabeled_batch_size)
    channels = create_model_of(config, {"any": 1}, 0).encoder.out_channels  # a wrong name is seen before data is read
    label_sources.check_field(config.label_embeddings, config.embeddings_per_class)
    of_networks = config.label_embeddings == label_sources.PROTOTYPES
    if of_networks and set(config.variants) & {"cross", "full"} and not 1 <= config.embed_dim <= channels:
        raise InputError(f"embed_dim={config.embed_dim} must be from 1 to the encoder's {channels} channels (PCA)")
    device_augment(config)  # a wrong value is seen before data is read
    pools = open_all(config)
    unlabeled_passes(config, pools, list(pools))  # likewise
    weights = pretrained.load_file(config.pretrained) if config.pretrained else None
    given = None
    if not of_networks and set(config.variants) & {"cross", "full"} and not embeddings_file(workdir).exists():
        # Before the workdir is claimed: another file may be needed.
        classes = {name: pool.domain.class_names for name, pool in pools.items()}
        given = label_sources.make(
            config.label_embeddings, classes, config.embed_dim, config.seed, config.embeddings_per_class
        )
    singles = singles_folder(config, workdir, list(pools))
    claim_workdir(config, workdir)
    if weights is None:
        print("pretrained is empty: the encoder starts from random weights, which departs from the paper (ImageNet's)")

    universal = [v for v in config.variants if v in TITLES]
    unsupervised = [v for v in universal if v not in WITHOUT_EMBEDDINGS]
    summaries = {}
    if set(config.variants) & {"single", "frozen", "finetune"} or (unsupervised and of_networks):
        for name, pool in pools.items():
            stage = Stage(f"single_{name}", {name: pool}, config.single_steps, Objective(0, 0), {}, {})
            summaries[stage.name] = run_stage(config, stage, singles, mesh, weights)
    for stage in (*transfer_stages(config, pools, singles, mesh), *adversarial_stages(config, pools)):
        summaries[stage.name] = run_stage(config, stage, workdir, mesh, weights)
    embeddings: dict[str, np.ndarray] = {}
    label_classes: dict[str, tuple[int, ...]] = {}
    if unsupervised:
        embeddings, label_classes = make_label_embeddings(config, pools, workdir, singles, mesh, given)
    for variant in universal:
        stage = universal_stage(config, variant, pools, embeddings, label_classes)
        summaries[variant] = run_stage(config, stage, workdir, mesh, weights)

    for finished in sorted(workdir.glob("*/summary.json")):  # those of earlier commands on the same workdir
        summaries.setdefault(finished.parent.name, json.loads(finished.read_text()))
    table = results_table(summaries, list(pools))
    (workdir / "table.md").write_text(table)
    if universal:
        draw_predictions(config, pools, universal, workdir, mesh)
    print(f"\n{table}")
    return summaries


def claim_workdir(config: ConfigDict, workdir: pathlib.Path):
    """Write the config into a fresh workdir; raise InputError if the workdir belongs to another one."""
    path = workdir / "config.json"
    mine = json.loads(json.dumps(config.to_dict()))
    try:
        theirs = json.loads(path.read_text()) if path.exists() else None
        logs.write_json(path, theirs or mine)
    except (OSError, json.JSONDecodeError) as e:
        raise InputError(f"workdir {workdir}: {path} cannot be used ({e}); give another --workdir") from e
    if theirs:
        theirs = {**config_lib.default_config().to_dict(), **theirs}  # a field that came later had its default then
        changed = [f for f in mine if f not in FREE_FIELDS and theirs[f] != mine[f]]
        if changed:
            text = ", ".join(f"{f} was {theirs[f]!r}, is now {mine[f]!r}" for f in changed)
            raise InputError(f"workdir {workdir} belongs to another config: {text}; give another --workdir")


def singles_folder(config: ConfigDict, workdir: pathlib.Path, domains: Sequence[str]) -> pathlib.Path:
    """Workdir of the single-domain networks: this one, or that of `single_from`.

    Raises:
      InputError: if that one has no finished networks, or its config makes other ones.
    """
    if not config.single_from:
        return workdir
    folder = pathlib.Path(config.single_from).expanduser()
    try:
        theirs = json.loads((folder / "config.json").read_text())
    except (OSError, json.JSONDecodeError) as e:
        raise InputError(f"single_from={folder}: no workdir of a run ({e})") from e
    mine = json.loads(json.dumps(config.to_dict()))
    for field in sorted(set(mine) - set(NOT_OF_SINGLES)):
        if theirs.get(field, mine[field]) != mine[field]:
            raise InputError(f"single_from={folder}: {field} was {theirs[field]!r} there and is {mine[field]!r} here")
    for name in domains:
        if not (folder / f"single_{name}" / "summary.json").exists():
            raise InputError(f"single_from={folder}: single_{name} is not finished there; run it with variants=single")
    return folder


def create_model_of(config: ConfigDict, num_classes: Mapping[str, int], embed_dim: int) -> UniversalModel:
    """Model by the config's fields."""
    return create_model(
        config.encoder,
        num_classes,
        embed_dim=embed_dim,
        width=config.width,
        precision=config.precision,
        upsample=config.upsample,
        normalize=config.normalize,
        embed_bias=config.embedding_bias,
    )


def stage_model(config: ConfigDict, pools: Mapping[str, Pools], embed_dim: int) -> UniversalModel:
    """Model with the decoders of the given domains."""
    return create_model_of(config, {d: p.domain.num_classes for d, p in pools.items()}, embed_dim)


def universal_stage(
    config: ConfigDict, variant: str, pools: Mapping[str, Pools], embeddings: Mapping, classes: Mapping
) -> Stage:
    """Univ-basic, -cross or -full (section 4.2 of the paper), or the direct entropy of the decoders (appendix C)."""
    if variant == "basic":
        return Stage(variant, pools, config.steps, Objective(0, 0), {}, {})
    passes = unlabeled_passes(config, pools, list(pools))
    beta = 0.0 if variant == "cross" else config.beta
    if variant == "direct":
        objective = Objective(config.alpha, beta, diversity=config.diversity, direct=True, warmup=config.entropy_warmup)
        return Stage(variant, pools, config.steps, objective, {}, passes)
    objective = Objective(
        config.alpha,
        beta,
        config.similarity_scale,
        config.diversity,
        config.embedding_supervision,
        config.normalize_embedding,
        config.theta,
        warmup=config.entropy_warmup,
    )
    return Stage(variant, pools, config.steps, objective, embeddings, passes, classes)


def transfer_stages(
    config: ConfigDict, pools: Mapping[str, Pools], singles: pathlib.Path, mesh: Mesh
) -> Iterator[Stage]:
    """The variants "frozen" and "finetune": every single-domain network, trained on for every other domain.

    frozen_X_Y: a decoder for Y on the frozen encoder of X ("train on X" of the paper's tables). finetune_X_Y: encoder
    and a decoder for Y are trained on Y; X is evaluated too, which tells what was forgotten.
    """
    for variant, (source, target) in itertools.product(("frozen", "finetune"), itertools.permutations(pools, 2)):
        if variant not in config.variants:
            continue
        initial, _ = best_variables(singles / f"single_{source}", stage_model(config, {source: pools[source]}, 0), mesh)
        evaluated = [target] if variant == "frozen" else [source, target]
        yield Stage(
            f"{variant}_{source}_{target}",
            {domain: pools[domain] for domain in evaluated},
            config.single_steps,
            Objective(0, 0, frozen_encoder=variant == "frozen"),
            {},
            {},
            trained=(target,),
            initial=initial,
        )


def adversarial_stages(config: ConfigDict, pools: Mapping[str, Pools]) -> Iterator[Stage]:
    """The variant "hung": every domain alone, by Hung et al. (2018)."""
    if "hung" not in config.variants:
        return
    objective = Adversarial(
        config.hung_adversarial,
        config.hung_adversarial_unlabeled,
        config.hung_semi,
        config.hung_threshold,
        config.hung_semi_start,
        config.hung_lr,
        config.poly_power,
        config.width,
        config.precision,
    )
    for name, pool in pools.items():
        passes = unlabeled_passes(config, pools, [name])
        yield Stage(f"hung_{name}", {name: pool}, config.single_steps, objective, {}, passes)


def unlabeled_passes(config: ConfigDict, pools: Mapping[str, Pools], domains: Sequence[str]) -> dict[str, int]:
    """U_k: unlabeled micro-batches per step for the domains that are trained together, by the config's rule."""
    rules = per_domain(config.unlabeled_batches, list(pools), "unlabeled_batches", read_count("pool"))
    epoch = epoch_steps({d: pools[d] for d in domains}, config.batch_size)
    return {d: micro_batches(rules[d] or "pool", pools[d], epoch, config.unlabeled_batch_size) for d in domains}


def run_stage(config: ConfigDict, stage: Stage, workdir: pathlib.Path, mesh: Mesh, weights) -> dict[str, Any]:
    """Train a stage unless it is finished."""
    finished = workdir / stage.name / "summary.json"
    if finished.exists():
        summary = json.loads(finished.read_text())
        classes = {name: list(d["iou"]) for name, d in summary["domains"].items()}
        check_same_data(stage, {**summary, "classes": classes})
        print(f"[{stage.name}] finished earlier", flush=True)
        return summary
    model = stage_model(config, stage.pools, config.embed_dim if stage.label_embeddings else 0)
    return train_and_evaluate(config, stage, model, workdir, mesh, weights)


def embeddings_file(workdir: pathlib.Path) -> pathlib.Path:
    """Where a workdir keeps its label embeddings, wherever they are from."""
    return workdir / "prototypes" / "label_embeddings.npz"


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
    """
    path = embeddings_file(workdir)
    folder = path.parent
    if not path.exists():
        logs.write_json(folder / "config.json", {"stage": "prototypes", **config.to_dict()})
        made, meta = given or prototypes_of_networks(config, pools, singles, mesh)
        meta = {**meta, **logs.environment()}
        logs.write_json(folder / "label_embeddings.json", meta)  # what the file below says, to read
        label_embeddings.save(path, made, meta)
    if not (folder / "report.json").exists():
        label_embeddings.write_report(path)
    embeddings, meta = label_embeddings.load(path)
    for name, about in meta["domains"].items():
        absent = f"; left out, without a labeled pixel: {', '.join(about['absent'])}" if about["absent"] else ""
        print(f"[prototypes] {name}: {len(about['classes'])} label embeddings{absent}", flush=True)
    names = {domain: pools[domain].domain.class_names for domain in embeddings}
    classes = {d: tuple(names[d].index(c) for c in about["classes"]) for d, about in meta["domains"].items()}
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
            config.embed_dim,
            batch_size=config.eval_batch_size,
            mesh=mesh,
            embeddings_per_class=config.embeddings_per_class,
            seed=config.seed,
        )
        about[name] = label_embeddings.describe(made[name], pool.domain.class_names, checkpoint)
    method = label_embeddings.method(config.embeddings_per_class)
    return made, {"method": method, "dim": config.embed_dim, "domains": about}


def best_variables(folder: pathlib.Path, model: UniversalModel, mesh: Mesh) -> tuple[dict, str]:
    """Variables of a finished stage's best checkpoint, and the checkpoint's name."""
    step = json.loads((folder / "summary.json").read_text())["best_step"]
    with Checkpoints(folder / "best") as checkpoints:
        variables = checkpoints.restore(step, variables=abstract_variables(model, mesh))["variables"]
    return variables, f"{folder.name}/best/{step}"


def draw_predictions(
    config: ConfigDict, pools: Mapping[str, Pools], variants: Sequence[str], workdir: pathlib.Path, mesh: Mesh
):
    """Write predictions.png: image, truth and every variant's prediction (best checkpoint), two images per domain."""
    examples = {d: [p.report[i] for i in sorted({0, len(p.report) // 2})] for d, p in pools.items()}
    predictions = {}
    for variant in variants:
        model = stage_model(config, pools, 0 if variant in WITHOUT_EMBEDDINGS else config.embed_dim)
        variables, _ = best_variables(workdir / variant, model, mesh)
        for domain, chosen in examples.items():
            images = np.stack([e["image"] for e in chosen])
            predictor = jax.jit(partial(predict, domain=domain, model=model))
            predictions[variant, domain] = np.asarray(predictor(variables, images))
    draw_comparison(workdir / "predictions.png", pools, examples, predictions, variants)
