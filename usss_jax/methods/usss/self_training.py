"""Rounds of self-training: each domain's own decoder labels its images, then all domains are trained together on them.

A training has one batch with labels and one with pseudo-labels of every domain with labels.
"""

import pathlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from ml_collections import ConfigDict

from usss_jax.data.pools import Pools, with_labels
from usss_jax.data.splits import split_hash
from usss_jax.engine.job import Fit, Job, Pass
from usss_jax.errors import InputError
from usss_jax.methods.self_training import labelling
from usss_jax.methods.self_training.round_images import Labeled, RoundCrop, mining_crop
from usss_jax.methods.self_training.schedule import Round, round_steps, rounds_of
from usss_jax.methods.self_training.scores import labelling_of_round
from usss_jax.methods.training import Images, Recipe, Run, Start
from usss_jax.runs.networks import load_best


def rounds(run: Run, variant: str, network: pathlib.Path, train: Callable[..., Fit]) -> Iterator[Job]:
    """Yield the passes and trainings of all rounds, as VARIANT_roundR.

    Args:
      run: the run.
      variant: "self" or "self_full".
      network: folder of the finished job that labels in round 0.
      train: (name, *, labels, and arguments of `methods.segmentation.fit`) -> the training of a round, a
        `usss.plan.universal_fit`.
    """
    for part in rounds_of(run.config):
        name = f"{variant}_round{part.index}"
        for domain in with_labels(run.pools):
            yield labels_pass(run, domain, part, labels_folder(run, name, domain), network)
        yield round_fit(run, part, name, network, train)
        network = run.workdir / name


def labels_folder(run: Run, name: str, domain: str) -> pathlib.Path:
    """Folder of the pseudo-labels of a domain for the training `name`."""
    return run.workdir / "pseudo_labels" / name / domain


def labels_pass(run: Run, domain: str, part: Round, folder: pathlib.Path, network: pathlib.Path) -> Pass:
    """Describe the labelling of all unlabeled images of a domain by its decoder of a network."""
    pool = run.pools[domain]
    return labelling.labels_pass(
        folder,
        run.workdir / folder.parent.name,
        network=network,
        decoder=domain,
        domain=pool.domain,
        images=pool.unlabeled,
        settings=labelling_of_round(run.config, part),
        mesh=run.mesh,
    )


def round_fit(run: Run, part: Round, name: str, network: pathlib.Path, train: Callable[..., Fit]) -> Fit:
    """Describe the training of a round, which starts from the network that made its pseudo-labels."""
    config, labeled = run.config, with_labels(run.pools)
    pseudo, digests = {}, {}
    for domain, pool in labeled.items():
        pseudo[domain], summary = pseudo_labeled(run, part, pool, labels_folder(run, name, domain))
        digests[domain] = summary["digest"]
    count = max(len(pool.labeled) for pool in pseudo.values())
    names = {domain: f"{domain} pseudo" for domain in labeled}  # no domain has a name with a space
    return train(
        name,
        labels={
            "decoders": {names[d]: d for d in labeled},
            "weights": {names[d]: config.rounds.pseudo_weight for d in labeled},
        },
        images=Images(
            train_on={**labeled, **{names[d]: pool for d, pool in pseudo.items()}}, selected_by=list(labeled)
        ),
        recipe=Recipe(
            steps=round_steps(config, count, config.train.batch_size),
            lr=part.learning_rate,
            seed=part.seed(config.train.seed),
        ),
        start=Start(initial=lambda: load_best(network, run.mesh)[1]),
        # The hash of the labeled images alone, as for the other jobs of the run.
        about_data={"split_hash": split_hash({d: p.labeled_ids for d, p in labeled.items()}), "pseudo-labels": digests},
    )


def pseudo_labeled(run: Run, part: Round, pool: Pools, folder: pathlib.Path) -> tuple[Pools, dict[str, Any]]:
    """The pool of a domain's images with pseudo-labels, cropped around rare classes, and the summary on the labels."""
    settings = labelling_of_round(run.config, part)
    source, summary = labelling.open_labels(folder, pool, pool.unlabeled, settings)
    crop = mining_crop(pool, summary, run.config.rounds.mine_share)
    mapped = RoundCrop({pool.domain.name: Labeled(source, crop)})
    return replace(pool, labeled=source, mapped=mapped, rare_temperature=None), summary


def check_sizes(config: ConfigDict, pools: Mapping[str, Pools]):
    """Raise InputError if the images of a domain are smaller than a patch, before anything is trained."""
    for name, pool in pools.items():
        if config.rounds.patches and config.rounds.patch_size > min(pool.domain.size):
            height, width = pool.domain.size
            raise InputError(
                f"rounds.patch_size={config.rounds.patch_size} exceeds the images of {name}, {height}x{width}; set at "
                f"most {min(pool.domain.size)}, or rounds.patches=0"
            )
