"""Trainings without rounds: source, MinEnt, adversarial, oracle."""

import dataclasses
from functools import partial

from usss_jax.data.options import domain_root, read_options
from usss_jax.data.pools import LABELED, Pools, open_pools
from usss_jax.data.streams import transform_of
from usss_jax.engine.job import Fit
from usss_jax.methods.discriminator import Opponent
from usss_jax.methods.mlsl import adversarial, terms
from usss_jax.methods.mlsl.adaptation import Adaptation, supervision
from usss_jax.methods.self_training.round_images import ImageClasses, Labeled, RoundCrop
from usss_jax.methods.training import Images, Start


def source_fit(adaptation: Adaptation, name: str) -> Fit:
    """Source training, as "source", or with the image-level head as "source_pwl"."""
    config = adaptation.config
    if name == "source":
        return adaptation.fit(name, partial(terms.compute, supervision=supervision(config)))
    pool = adaptation.pools(adaptation.source)
    present = ImageClasses(adaptation.domain.num_classes)
    labeled = Labeled(pool.labeled, transform_of(pool), present, config.mlsl.image_scope == "image")
    return adaptation.fit(
        name,
        partial(terms.compute, supervision=supervision(config, image_labels=True)),
        images=Images(
            train_on={adaptation.source: dataclasses.replace(pool, mapped=RoundCrop({adaptation.source: labeled}))}
        ),
        image_labels=True,
    )


def entropy_fit(adaptation: Adaptation, name: str) -> Fit:
    """MinEnt, as "minent", or with the class ratios of the source as "minent_prior"."""
    fields = adaptation.config.mlsl
    term = partial(terms.entropy_term, weight=fields.entropy_weight)
    if name == "minent_prior":
        counts = adaptation.pools(adaptation.source).label_counts.sum(0)
        ratios = tuple((counts / counts.sum()).tolist())
        term = partial(term, ratios=ratios, ratio_weight=fields.class_ratio_weight, mu=fields.class_ratio_mu)
    return adaptation.fit(
        name,
        partial(terms.compute, supervision=supervision(adaptation.config), on_target=term),
        images=Images(unlabeled_batches={adaptation.target: 1}),
    )


def adversarial_fit(adaptation: Adaptation) -> Fit:
    """Adversarial adaptation of the predictions, as "adversarial"."""
    config, train = adaptation.config, adaptation.config.train
    fields = config.mlsl
    opponent = Opponent(
        lr=fields.discriminator_lr,
        power=config.optim.poly_power,
        steps=train.steps,
        width=fields.discriminator_width,
        precision=config.model.precision,
    )
    return adaptation.fit(
        "adversarial",
        partial(
            adversarial.compute,
            supervision=supervision(config),
            opponent=opponent,
            weight=fields.adversarial_weight,
            sees=fields.adversarial_input,
        ),
        images=Images(unlabeled_batches={adaptation.target: 1}),
        start=Start(
            make_extra=partial(opponent.create, mesh=adaptation.run.mesh, seed=train.seed, split=train.shard_parameters)
        ),
    )


def oracle_pools(adaptation: Adaptation) -> Pools:
    """Images of the target with the labels of its training images, which no other job opens."""
    config, name = adaptation.config, adaptation.target
    options = read_options(config, {d: pool.domain for d, pool in adaptation.run.pools.items()})[name]
    root = domain_root(config.data.root, adaptation.domain, list(adaptation.run.pools))
    return open_pools(adaptation.domain, root, dataclasses.replace(options, labeled="all"))


def oracle_fit(adaptation: Adaptation) -> Fit:
    """Supervised training on all labels of the target, as "oracle"."""
    pool, name = oracle_pools(adaptation), adaptation.target
    return adaptation.fit(
        "oracle",
        partial(terms.compute, supervision=supervision(adaptation.config)),
        images=Images(train_on={name: pool}, selected_by=[name]),
        about_data={"labels of the target": pool.labels[LABELED].digest},
    )
