"""Rounds of pseudo-labels and training, for every variant that has some."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping
from functools import partial

from usss_jax.config.mlsl import VARIANTS, Variant
from usss_jax.data.examples import Examples
from usss_jax.engine.job import Fit, Job, Pass
from usss_jax.methods.mlsl import terms
from usss_jax.methods.mlsl.adaptation import Adaptation, supervision
from usss_jax.methods.mlsl.target_statistics import measured
from usss_jax.methods.self_training import labelling
from usss_jax.methods.self_training.image_choice import chosen, images_pass
from usss_jax.methods.self_training.image_labels import mean_sizes
from usss_jax.methods.self_training.round_images import ImageClasses, Labeled, RoundCrop, Together, mining_crop
from usss_jax.methods.self_training.schedule import Ramp, Round, round_steps, rounds_of, source_subset
from usss_jax.methods.self_training.settings import Labelling, labelling_of, labelling_of_round, never_labeled
from usss_jax.methods.self_training.spatial_prior import class_frequencies, spatial_prior
from usss_jax.methods.training import Images, Recipe, Start
from usss_jax.runs import logs
from usss_jax.runs.networks import load_best

IMAGES = "target_images.txt"


def rounds(adaptation: Adaptation, variant: str, network: pathlib.Path) -> Iterator[Job]:
    """Yield the passes and trainings of all rounds, as VARIANT_roundR, starting from a finished network."""
    config, kind, workdir = adaptation.config, VARIANTS[variant], adaptation.run.workdir
    uses_prior = config.mlsl.prior if kind.prior is None else kind.prior
    if config.mlsl.target_images:
        yield images_pass(
            workdir / IMAGES,
            networks=[network],
            decoder=adaptation.target,
            images=adaptation.pools(adaptation.target).unlabeled,
            count=config.mlsl.target_images,
            settings=labelling_of(config.rounds, portion=1.0, policy="cb", patches=False, seed=0, round=0),
            mesh=adaptation.run.mesh,
        )
    prior_file = workdir / "spatial_prior.npz"
    if uses_prior:
        yield Pass(prior_file, partial(write_prior, adaptation, prior_file))
    fields = config.mlsl
    for part in rounds_of(config, Ramp(fields.source_portion, fields.source_step, fields.source_max)):
        name = f"{variant}_round{part.index}"
        folder = workdir / "pseudo_labels" / name
        settings = labelling_of_round(
            config,
            part,
            kind.policy,
            kind.patches,
            prior=prior_file if uses_prior else None,
            never=never_labeled(adaptation.pools(adaptation.source)),
        )
        yield labels_pass(adaptation, settings, folder, network)
        fit = round_fit(adaptation, kind, part, settings, folder, network)
        yield from measured(adaptation.run, adaptation.target, fit)
        network = workdir / name


def target_images(adaptation: Adaptation) -> Examples:
    """The target images that are labelled: all, or those that `images_pass` has chosen."""
    images = adaptation.pools(adaptation.target).unlabeled
    return chosen(adaptation.run.workdir / IMAGES, images) if adaptation.config.mlsl.target_images else images


def write_prior(adaptation: Adaptation, path: pathlib.Path):
    """Write the spatial prior of the source at the target's size, float32 [H, W, C]."""
    labeled, domain = adaptation.pools(adaptation.source).labeled, adaptation.domain
    labels = (labeled.label(i) for i in range(len(labeled)))
    counts = class_frequencies(labels, domain.num_classes, domain.size)
    logs.write_array(path, spatial_prior(counts, adaptation.config.mlsl.prior_sigma))


def labels_pass(adaptation: Adaptation, settings: Labelling, folder: pathlib.Path, network: pathlib.Path) -> Pass:
    """Describe the labelling of all target images by a network; damaged labels of an earlier command are made again."""
    return labelling.labels_pass(
        folder,
        adaptation.run.workdir / folder.name,
        networks=[network],
        decoder=adaptation.target,
        domain=adaptation.domain,
        images=target_images(adaptation),
        settings=settings,
        mesh=adaptation.run.mesh,
    )


def round_fit(
    adaptation: Adaptation,
    kind: Variant,
    part: Round,
    settings: Labelling,
    folder: pathlib.Path,
    network: pathlib.Path,
) -> Fit:
    """Describe the training of a round, which starts from the network that made its pseudo-labels."""
    config, rounds = adaptation.config, adaptation.config.rounds
    source, target = (adaptation.pools(d) for d in (adaptation.source, adaptation.target))
    pseudo, summary = labelling.open_labels(folder, target, target_images(adaptation), settings, [network])
    chosen = source_subset(
        len(source.labeled),
        part.source_portion,
        seed=config.train.seed,
        round=part.index,
        policy=config.mlsl.source_policy,
    )
    origins = {
        adaptation.source: Labeled(
            source.labeled.select([source.labeled.ids[i] for i in sorted(chosen)]),
            mining_crop(source, summary, rounds.mine_share),
        ),
        adaptation.target: Labeled(pseudo, mining_crop(target, summary, rounds.mine_share)),
    }
    if kind.image_labels:
        origins = with_image_labels(adaptation, origins)
    parts = {d: origin.source for d, origin in origins.items()}
    if rounds.pairing == "shuffled":
        both = dataclasses.replace(target, labeled=Together(parts), mapped=RoundCrop(origins))
        train_on, count = {adaptation.target: both}, sum(map(len, parts.values()))
    else:
        train_on = {
            d: dataclasses.replace(adaptation.pools(d), labeled=parts[d], mapped=RoundCrop({d: origins[d]}))
            for d in origins
        }
        count = len(pseudo)
    steps = round_steps(config, count, rounds.batch_size)
    return adaptation.fit(
        folder.name,
        partial(terms.compute, supervision=supervision(config, kind.image_labels, rounds.loss)),
        images=Images(train_on=train_on),
        image_labels=kind.image_labels,
        recipe=Recipe(
            steps=steps,
            batch_size=rounds.batch_size,
            eval_every=steps,
            lr=part.learning_rate,
            seed=part.seed(config.train.seed),
        ),
        start=Start(initial=lambda: load_best(network, adaptation.run.mesh)[1]),
        about_data={"pseudo-labels": summary["digest"], "source images": [str(i) for i in sorted(chosen)]},
    )


def with_image_labels(adaptation: Adaptation, origins: Mapping[str, Labeled]) -> dict[str, Labeled]:
    """Add image-level labels to the images of a round (section 3.3 of MLSL)."""
    fields, count = adaptation.config.mlsl, adaptation.domain.num_classes
    pool = adaptation.pools(adaptation.source)
    sizes = mean_sizes(pool.label_counts, pool.domain.size[0] * pool.domain.size[1])
    by_size = ImageClasses(count, sizes, fields.eta)
    rules = {
        adaptation.source: by_size if fields.source_rule == "threshold" else ImageClasses(count),
        adaptation.target: by_size,
    }
    of_image = fields.image_scope == "image"
    return {d: dataclasses.replace(origin, classes=rules[d], of_image=of_image) for d, origin in origins.items()}
