"""Rounds of self-training: each domain's own decoder labels its images, then all domains are trained together on them.

A training has one batch with labels and one with pseudo-labels of every domain with labels. The decoders of the other
domains can label the same images, too; the student's decoders learn their labels on the same features.
"""

import pathlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ml_collections import ConfigDict

from usss_jax.config import per_domain, read_count
from usss_jax.config.reading import names
from usss_jax.data.pools import Pools, with_labels
from usss_jax.data.pseudo_labels import LabeledByAll, PseudoLabeled
from usss_jax.data.splits import split_hash
from usss_jax.data.unlabeled import WithoutMasks
from usss_jax.engine.job import Fit, Job, Pass
from usss_jax.errors import InputError
from usss_jax.local_files import local_path
from usss_jax.methods.self_training import labelling
from usss_jax.methods.self_training.image_choice import chosen, images_pass
from usss_jax.methods.self_training.round_images import Labeled, RoundCrop, mining_crop
from usss_jax.methods.self_training.schedule import Round, round_steps, rounds_of
from usss_jax.methods.self_training.settings import Labelling, labelling_of_round, never_labeled
from usss_jax.methods.supervised import labeled_batches
from usss_jax.methods.training import Images, Recipe, Run, Start
from usss_jax.methods.usss.views import strong_augment
from usss_jax.parallel import hosts
from usss_jax.runs.networks import load_best, read_network
from usss_jax.runs.workdir import read_summary


def rounds(run: Run, variant: str, networks: Sequence[pathlib.Path], train: Callable[..., Fit]) -> Iterator[Job]:
    """Yield the passes and trainings of all rounds, as VARIANT_roundR.

    Args:
      run: the run.
      variant: "self", "self_own" (its control, whose unlabeled images are the labeled ones) or "self_full".
      networks: folders of the finished jobs that label in round 0, together.
      train: (name, *, use, and arguments of `methods.segmentation.fit`) -> the training of a round, a
        `usss.plan.universal_fit`.
    """
    pools = with_labels(run.pools)
    if variant == "self_own":
        pools = {d: replace(pool, unlabeled=WithoutMasks(pool.labeled)) for d, pool in pools.items()}
    for part in rounds_of(run.config):
        name = f"{variant}_round{part.index}"
        reliable = yield from reliable_images(run, pools, part, name, networks)
        for domain, decoder in labelled(run.config, pools):
            yield labels_pass(run, reliable[domain], reliable[decoder], part, name, networks)
        yield round_fit(run, reliable, part, name, networks, train)
        networks = [run.workdir / name]


def reliable_images(
    run: Run, pools: Mapping[str, Pools], part: Round, name: str, networks: Sequence[pathlib.Path]
) -> Generator[Job, None, dict[str, Pools]]:
    """Yield the passes that choose `rounds.images` of the unlabeled images; return the pools with those alone."""
    counts = per_domain(run.config.rounds.images, list(run.pools), "rounds.images", read_count("all"))
    reliable = dict(pools)
    for domain, pool in pools.items():
        count = counts[domain]
        if isinstance(count, int) and count < len(pool.unlabeled):
            path = run.workdir / "pseudo_labels" / name / f"{domain}_images.txt"
            yield images_pass(
                path,
                networks=networks,
                decoder=domain,
                images=pool.unlabeled,
                count=count,
                settings=settings_of(run.config, part, pool),
                mesh=run.mesh,
            )
            reliable[domain] = replace(pool, unlabeled=chosen(path, pool.unlabeled))
    return reliable


def given_networks(config: ConfigDict) -> list[pathlib.Path]:
    """Folders in `rounds.networks`."""
    return [local_path(path, "rounds.networks") for path in names(config.rounds.networks)]


def labelled(config: ConfigDict, domains: Iterable[str]) -> list[tuple[str, str]]:
    """Domains whose images get pseudo-labels, each with the domain of the decoder that labels them.

    >>> from usss_jax.config import default_config
    >>> config = default_config()
    >>> config.rounds.across_weight = 1.0
    >>> labelled(config, ["city", "town"])
    [('city', 'city'), ('city', 'town'), ('town', 'city'), ('town', 'town')]
    """
    domains = list(domains)
    return [(d, by) for d in domains for by in domains if d == by or config.rounds.across_weight]


def labels_folder(run: Run, name: str, domain: str, decoder: str) -> pathlib.Path:
    """Folder of the pseudo-labels of a domain by a decoder for the training `name`."""
    return run.workdir / "pseudo_labels" / name / (domain if domain == decoder else f"{domain}_by_{decoder}")


def labels_pass(run: Run, pool: Pools, by: Pools, part: Round, name: str, networks: Sequence[pathlib.Path]) -> Pass:
    """Describe the labelling of all unlabeled images of a domain by the decoder of the same or another one."""
    domain, decoder = pool.domain.name, by.domain.name
    return labelling.labels_pass(
        labels_folder(run, name, domain, decoder),
        run.workdir / name,
        networks=networks,
        decoder=decoder,
        domain=classes_of(pool, by).domain,
        images=pool.unlabeled,
        settings=settings_of(run.config, part, by),
        mesh=run.mesh,
    )


def settings_of(config: ConfigDict, part: Round, by: Pools) -> Labelling:
    """Settings of the labelling of a round by the decoder of a domain."""
    return labelling_of_round(config, part, threshold=config.rounds.threshold, never=never_labeled(by))


def classes_of(pool: Pools, by: Pools) -> Pools:
    """The pool of a domain with the classes of another one."""
    return replace(pool, domain=replace(by.domain, size=pool.domain.size))


def round_fit(
    run: Run,
    pools: Mapping[str, Pools],
    part: Round,
    name: str,
    networks: Sequence[pathlib.Path],
    train: Callable[..., Fit],
) -> Fit:
    """Describe the training of a round on the labeled images and pseudo-labels of some pools."""
    config = run.config
    pseudo: dict[str, Pools] = {}
    digests: dict[str, str] = {}
    for domain in pools:
        found = {
            by: open_round(run, part, pools[domain], pools[by], name, networks)
            for d, by in labelled(config, pools)
            if d == domain
        }
        digests |= {f"{domain} by {by}": summary["digest"] for by, (_, summary) in found.items()}
        pseudo[domain] = pseudo_labeled(config, pools[domain], found)
    count = max(len(pool.labeled) for pool in pseudo.values())
    continues = config.rounds.start == "network"
    called = {domain: f"{domain} pseudo" for domain in pools}  # no domain has a name with a space
    weight, across = config.rounds.pseudo_weight, config.rounds.across_weight
    return train(
        name,
        use=replace(
            labeled_batches(run),
            decoders={called[d]: d for d in pools},
            weights={called[d]: weight for d in pools}
            | {f"{called[d]} by {by}": weight * across for d, by in labelled(config, pools) if d != by},
            views={called[d]: strong_augment(config.teacher) for d in pools if config.rounds.strong},
        ),
        images=Images(train_on={**pools, **{called[d]: pool for d, pool in pseudo.items()}}, selected_by=list(pools)),
        recipe=Recipe(
            steps=round_steps(config, count, config.train.batch_size),
            lr=part.learning_rate,
            seed=part.seed(config.train.seed),
        ),
        start=Start(initial=lambda: load_best(networks[0], run.mesh)[1]) if continues else Start(),
        # The hash of the labeled images alone, as for the other jobs of the run.
        about_data={"split_hash": split_hash({d: p.labeled_ids for d, p in pools.items()}), "pseudo-labels": digests},
    )


def open_round(
    run: Run, part: Round, pool: Pools, by: Pools, name: str, networks: Sequence[pathlib.Path]
) -> tuple[PseudoLabeled, dict[str, Any]]:
    """Open the pseudo-labels of a domain by a decoder for the training `name`, and their summary."""
    folder = labels_folder(run, name, pool.domain.name, by.domain.name)
    settings = settings_of(run.config, part, by)
    return labelling.open_labels(folder, classes_of(pool, by), pool.unlabeled, settings, networks)


def pseudo_labeled(
    config: ConfigDict, pool: Pools, found: Mapping[str, tuple[PseudoLabeled, Mapping[str, Any]]]
) -> Pools:
    """The pool of a domain's images with the labels of every decoder, cropped around rare classes by its own one."""
    name = pool.domain.name
    own, summary = found[name]
    source = LabeledByAll(own, {by: labels for by, (labels, _) in found.items() if by != name})
    crop = mining_crop(pool, summary, config.rounds.mine_share)
    return replace(pool, labeled=source, mapped=RoundCrop({name: Labeled(source, crop)}), rare_temperature=None)


def check(config: ConfigDict, pools: Mapping[str, Pools]):
    """Raise InputError, before anything is trained, if networks cannot label, or images are smaller than a patch.

    `pools` are the domains with labels.
    """
    for folder in given_networks(config):
        field = f"rounds.networks: {folder}"
        summary = hosts.from_writer(read_summary, folder / "summary.json")
        if summary is None:
            raise InputError(f"{field} is not the folder of a finished job, such as RUN/basic")
        theirs = read_network(folder, summary["best_step"])["decoders"]
        for name, pool in pools.items():
            if name not in theirs or theirs[name]["classes"] != list(pool.domain.class_names):
                raise InputError(f"{field} has no decoder of {name} with its classes; it has {', '.join(theirs)}")
    for name, pool in pools.items():
        if config.rounds.patches and config.rounds.patch_size > min(pool.domain.size):
            height, width = pool.domain.size
            raise InputError(
                f"rounds.patch_size={config.rounds.patch_size} exceeds the images of {name}, {height}x{width}; set at "
                f"most {min(pool.domain.size)}, or rounds.patches=0"
            )
