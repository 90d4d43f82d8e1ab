"""The label embeddings of a run: their source, the pass that writes their file, and how its networks read it."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from usss_jax.data.pools import Pools, with_labels
from usss_jax.engine.job import Pass
from usss_jax.methods.training import Run
from usss_jax.methods.usss import label_embeddings, label_sources
from usss_jax.parallel import hosts
from usss_jax.runs import logs
from usss_jax.runs.networks import load_best

Embeddings = tuple[Mapping[str, Any], dict[str, Any]]  # by domain, and the metadata of their file


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
    """Label embeddings that need no network; None if the run has them already, or takes them from networks.

    Raises:
      InputError: if their file cannot be read or does not fit the domains.
    """
    if of_networks(config) or has_embeddings(workdir):
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
        label_embeddings.save(path, made, {**meta, **logs.environment()})

    return Pass(path, make)


def read_embeddings(run: Run) -> tuple[dict[str, np.ndarray], dict[str, tuple[int, ...]]]:
    """Read the workdir's label embeddings by domain, and the train id of each.

    Raises:
      InputError: if they are damaged, or do not fit the domains.
    """
    path = embeddings_file(run.workdir)
    hosts.from_writer(label_embeddings.verify, path)
    content = hosts.broadcast(path.read_bytes() if hosts.is_writer() else b"")
    names = {name: pool.domain.class_names for name, pool in with_labels(run.pools).items()}
    remedy = f"restore the domain's classes, or remove {path.parent} to make them again"
    rows, meta = label_sources.read_rows(path, names, run.config.usss.embed_dim, remedy, content)
    if not (path.parent / "cosines.json").exists():
        label_embeddings.write_cosines(path)
    embeddings = {name: found.embeddings for name, found in rows.items()}
    classes = {name: tuple(map(int, found.class_ids)) for name, found in rows.items()}
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
