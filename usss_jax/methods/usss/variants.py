"""What each variant of the config trains, as stages of the loop."""

import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence

from jax.sharding import Mesh
from ml_collections import ConfigDict

from usss_jax.config import per_domain, read_count
from usss_jax.data.pools import Pools, with_labels
from usss_jax.data.streams import epoch_steps, micro_batches
from usss_jax.engine.loop import Stage
from usss_jax.methods.hung.state import Adversarial
from usss_jax.methods.usss.step import Objective
from usss_jax.runs.networks import best_variables, stage_model


def single_stages(config: ConfigDict, pools: Mapping[str, Pools]) -> Iterator[Stage]:
    """Networks of one domain each, on its labeled images alone."""
    for name, pool in with_labels(pools).items():
        yield Stage(f"single_{name}", {name: pool}, config.usss.single_steps, Objective(0, 0), {}, {})


def transfer_stages(
    config: ConfigDict, pools: Mapping[str, Pools], singles: pathlib.Path, mesh: Mesh
) -> Iterator[Stage]:
    """The variants "frozen" and "finetune": every single-domain network, trained on for every other domain.

    frozen_X_Y: a decoder for Y on the frozen encoder of X ("train on X" of the paper's tables). finetune_X_Y: encoder
    and a decoder for Y are trained on Y; X is evaluated too, which tells what was forgotten.
    """
    pairs = itertools.permutations(with_labels(pools), 2)
    for variant, (source, target) in itertools.product(("frozen", "finetune"), pairs):
        if variant not in config.variants:
            continue
        initial, _ = best_variables(singles / f"single_{source}", stage_model(config, {source: pools[source]}, 0), mesh)
        evaluated = [target] if variant == "frozen" else [source, target]
        yield Stage(
            f"{variant}_{source}_{target}",
            {domain: pools[domain] for domain in evaluated},
            config.usss.single_steps,
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
        config.hung.adversarial,
        config.hung.adversarial_unlabeled,
        config.hung.semi,
        config.hung.threshold,
        config.hung.semi_start,
        config.hung.lr,
        config.optim.poly_power,
        config.model.width,
        config.model.precision,
    )
    for name, pool in with_labels(pools).items():
        passes = unlabeled_passes(config, pools, [name])
        yield Stage(f"hung_{name}", {name: pool}, config.usss.single_steps, objective, {}, passes)


def universal_stage(
    config: ConfigDict, variant: str, pools: Mapping[str, Pools], embeddings: Mapping, classes: Mapping
) -> Stage:
    """Univ-basic, -cross or -full (section 4.2 of the paper), or the direct entropy of the decoders (appendix C).

    A domain without labels is only evaluated by Univ-basic; in the others its images have the cross term alone.
    """
    if variant == "basic":
        return Stage(variant, pools, config.train.steps, Objective(0, 0), {}, {})
    passes = unlabeled_passes(config, pools, list(pools))
    beta = 0.0 if variant == "cross" else config.usss.beta
    if variant == "direct":
        objective = Objective(
            config.usss.alpha, beta, diversity=config.usss.diversity, direct=True, warmup=config.usss.entropy_warmup
        )
        return Stage(variant, pools, config.train.steps, objective, {}, passes)
    objective = Objective(
        config.usss.alpha,
        beta,
        config.usss.similarity_scale,
        config.usss.diversity,
        config.usss.embedding_supervision,
        config.usss.normalize_embedding,
        config.usss.theta,
        warmup=config.usss.entropy_warmup,
    )
    return Stage(variant, pools, config.train.steps, objective, embeddings, passes, classes)


def unlabeled_passes(config: ConfigDict, pools: Mapping[str, Pools], domains: Sequence[str]) -> dict[str, int]:
    """U_k: unlabeled micro-batches per step for the domains that are trained together, by the config's rule."""
    rules = per_domain(config.train.unlabeled_batches, list(pools), "train.unlabeled_batches", read_count("pool"))
    epoch = epoch_steps(with_labels({d: pools[d] for d in domains}), config.train.batch_size)
    return {d: micro_batches(rules[d] or "pool", pools[d], epoch, config.train.unlabeled_batch_size) for d in domains}
