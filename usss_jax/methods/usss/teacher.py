"""Jobs of variants teacher, teacher_own and teacher_single: networks that their average teaches on unlabeled images."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from usss_jax.config.usss import VARIANTS
from usss_jax.data.options import unlabeled_sizes
from usss_jax.data.pools import Pools, with_labels
from usss_jax.data.unlabeled import WithoutMasks
from usss_jax.engine.job import Fit
from usss_jax.errors import InputError
from usss_jax.methods.segmentation import fit
from usss_jax.methods.supervised import labeled_batches
from usss_jax.methods.training import Images, Network, Run, Start
from usss_jax.methods.usss import average, consistency, terms
from usss_jax.methods.usss.embeddings_pass import read_embeddings
from usss_jax.methods.usss.teaching import Similarity, create_teaching


def teacher_fit(run: Run, variant: str, unlabeled_batches: Mapping[str, int], name: str = "", **arguments) -> Fit:
    """Describe the training of a student and its teacher.

    Args:
      run: the run.
      variant: "teacher": one network for all domains; "teacher_own": its control, whose unlabeled images are the
        labeled ones, in as many batches; "teacher_single": a network of one domain, as teacher_single_DOMAIN.
      unlabeled_batches: micro-batches per step of the domains that are trained on, all with labels.
      name: of the job; empty: the variant.
      arguments: more of `methods.segmentation.fit`.
    """
    labeled = with_labels(run.pools)
    teaching = create_teaching(run.config, list(labeled))
    classes = {d: pool.domain.class_names for d, pool in labeled.items()}
    extra: dict[str, Any] = {}
    similarity = None
    if teaching.threshold_kind == "adaptive":
        of_classes = {d: len(classes[d]) for d in unlabeled_batches}
        extra["confidence"] = {d: np.full(n, 1 / n, np.float32) for d, n in of_classes.items()}
    if teaching.similarity_weight:
        extra["label_embeddings"], rows = read_embeddings(run)
        similarity = Similarity(terms.create_objective(run.config.usss), rows, extra["label_embeddings"])
    pools, job = dict(run.pools), name or variant
    if variant == "teacher_own":
        pools |= {d: replace(pool, unlabeled=WithoutMasks(pool.labeled)) for d, pool in labeled.items()}
    if variant == "teacher_single":
        pools = {d: pools[d] for d in unlabeled_batches}
        job = "_".join([job, *pools])
    return fit(
        run,
        job,
        partial(
            consistency.compute,
            teaching=teaching,
            class_names=classes,
            similarity=similarity,
            use=labeled_batches(run),
        ),
        images=Images(pools=pools, unlabeled_batches=unlabeled_batches, validity=True),
        network=Network(entropy_module=similarity is not None),
        start=Start(make_extra=lambda model: extra, begin=average.begin),
        teacher=lambda state: state.extra["teacher"],
        export=run.config.teacher.export,
        warnings=terms.warn_of_collapse,
        **arguments,
    )


def check_teacher(config: ConfigDict, pools: Mapping[str, Pools]):
    """Raise InputError if the fields do not fit the domains with labels, before anything is trained."""
    labeled, mix, sizes = with_labels(pools), config.teacher.mix, unlabeled_sizes(config, list(pools))
    create_teaching(config, list(labeled))
    check_across(config, labeled)
    if single := [d for d in labeled if sizes[d] == 1 and mix != "none"]:
        raise InputError(
            f"{single[0]}: teacher.mix={mix} needs two images per batch, but train.unlabeled_batch_size is 1; give at "
            "least 2, or teacher.mix=none"
        )
    for name, pool in labeled.items():
        needs = [v for v in config.variants if VARIANTS[v].teacher and v != "teacher_own"]
        if needs and not len(pool.unlabeled):
            raise InputError(
                f"{name}: variant {needs[0]} needs unlabeled images of every domain with labels, but this one has "
                "none; add some, or train teacher_own, which uses the labeled images"
            )


def check_across(config: ConfigDict, labeled: Mapping[str, Pools]):
    """Raise InputError if what teaches across domains does not fit the domains, the variants or the other fields."""
    teacher = config.teacher
    asked = {f"teacher.{name}": teacher[name] for name in ("across", "cross_weight", "similarity_weight")}
    for name, value in asked.items():
        if value in ("none", 0):
            continue
        off = f"{name}={'none' if name == 'teacher.across' else 0}"
        if "teacher_single" in config.variants:
            raise InputError(f"{name}={value}: the networks of teacher_single have one domain; train it with {off}")
        if len(labeled) == 1:
            raise InputError(
                f"{name}={value} needs two domains with labels, but {next(iter(labeled))} is the only one; set {off}, "
                "or add a domain"
            )
    if teacher.across != "none" and teacher.mix == "none":
        raise InputError(
            f"teacher.across={teacher.across} pastes the parts that teacher.mix cuts, but teacher.mix=none; give "
            "cutmix or classmix"
        )
    if teacher.similarity_weight and not config.usss.embedding_supervision:
        raise InputError(
            f"teacher.similarity_weight={teacher.similarity_weight:g} needs usss.embedding_supervision above 0, "
            "since nothing else trains the entropy module by labels"
        )
