"""Scores of a segmentation network: on val during training, and for the summary of its job."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from usss_jax.data.pools import Pools
from usss_jax.engine.job import Evaluation
from usss_jax.engine.state import TrainState
from usss_jax.errors import InputError
from usss_jax.evaluation import metrics
from usss_jax.evaluation.evaluate import create_evaluator
from usss_jax.methods.training import Images
from usss_jax.models.universal import UniversalModel
from usss_jax.parallel import sharding
from usss_jax.runs.logs import say

VAL = {"student": "val_miou", "teacher": "val_miou_teacher"}  # scalars of the networks that are evaluated


def evaluate(
    state: TrainState,
    *,
    score: Callable,
    selected_by: Sequence[str],
    networks: Mapping[str, Callable[[TrainState], Mapping[str, Any]]],
    export: str,
) -> Evaluation:
    """Score all networks of a state on val.

    Args:
      state: the state.
      score: see `create_scorer`.
      selected_by: domains whose average mIoU selects the best checkpoint.
      networks: "student", and "teacher" if there is one: state -> variables.
      export: the one of them whose scores select.
    """
    found = {
        who: evaluation(score(variables(state), "val"), selected_by, VAL[who]) for who, variables in networks.items()
    }
    scalars = {name: value for one in found.values() for name, value in one.scalars.items()}
    text = "  ".join(one.text if who == "student" else f"{who} {one.text}" for who, one in found.items())
    return Evaluation(found[export].value, scalars, text)


def student(state: TrainState) -> Mapping[str, Any]:
    """Variables of the network that is trained."""
    return state.variables


def create_scorer(pools: Mapping[str, Pools], model: UniversalModel, mesh: Mesh, batch_size: int) -> Callable:
    """Return score(variables, "val" or "test") -> {domain: confusion matrix int64 [C, C]}, for domains with masks.

    A decoder of another domain, `Pools.scored_by`, is matched by the names of the classes.
    """
    evaluators = {}
    for name, pool in pools.items():
        decoder = pool.scored_by or (name if len(pool.labeled) else None)
        if not decoder:
            continue
        classes = None
        if decoder != name:
            decoder_classes = pools[decoder].domain.class_names
            classes = [decoder_classes.index(c) for c in pool.domain.class_names]
        evaluators[name] = create_evaluator(mesh, decoder, model=model, classes=classes)

    def score(variables, split: str) -> dict[str, np.ndarray]:
        variables = sharding.whole(variables, mesh)
        sources = {d: getattr(pools[d], split) for d in evaluators}
        return {d: evaluators[d](variables, source, batch_size) for d, source in sources.items() if len(source)}

    return score


def evaluation(confusions: Mapping[str, np.ndarray], labeled: Iterable[str], name: str = "val_miou") -> Evaluation:
    """Mean IoU of every domain on val as NAME/DOMAIN; its average over `labeled` domains selects the best checkpoint.

    Raises:
      InputError: if the val split of a domain has no labeled pixel.

    >>> evaluation({"city": np.array([[3, 1], [0, 4]])}, ["city"]).text
    'val mIoU % city 77.50  average 77.50'
    """
    scores = {d: metrics.mean_iou(c) for d, c in confusions.items()}
    if absent := [d for d, value in scores.items() if value is None]:
        raise InputError(f"{absent[0]}: no pixel of its val split is labeled; check the masks of that split")
    scores["average"] = metrics.average(scores[d] for d in labeled)
    text = "val mIoU % " + "  ".join(f"{d} {metrics.percent(v)}" for d, v in scores.items())
    return Evaluation(scores["average"] or 0.0, {f"{name}/{d}": value for d, value in scores.items()}, text)


def summarize(
    name: str,
    images: Images,
    lr: float,
    val_name: str,
    views: Mapping[str, int],
    tests: Mapping[str, Mapping[str, np.ndarray]],
    progress: Mapping[str, Any],
) -> dict[str, Any]:
    """Scores for summary.json, from the confusion matrices of the last and the best checkpoint by domain.

    Args:
      name: of the job.
      images: what it was trained and is scored on.
      lr: learning rate of its first step.
      val_name: begins the names of the scalars on val that selected the best checkpoint.
      views: images that its steps have seen, by the name of a labeled batch or as "unlabeled DOMAIN".
      tests: confusion matrices on test, by "last" and "best", and by domain.
      progress: see `Fit.summarize`.
    """
    domains: dict[str, dict[str, Any]] = {}
    without_labels: dict[str, dict[str, Any]] = {}
    val = progress["best"]["scalars"]
    for domain, pool in images.pools.items():
        scores = domain_scores(pool, {w: tests[w][domain] for w in ("last", "best")}) if domain in tests["best"] else {}
        if not len(pool.labeled):
            scores["scored_by"] = pool.scored_by
        (domains if len(pool.labeled) else without_labels)[domain] = {
            **scores,
            "val_miou_best": val.get(f"{val_name}/{domain}"),
            "image_size": list((pool.test if len(pool.test) else pool.unlabeled)[0]["image"].shape[:2]),
            "images": {"labeled": len(pool.labeled), "unlabeled": len(pool.unlabeled), "test": len(pool.test)},
            "skipped": [dataclasses.asdict(example) for example in pool.skipped],
        }
    budget = next(iter(images.pools.values())).budget  # shared by all domains
    used, allowed = budget.used / 1e9, budget.max_bytes / 1e9
    say(name, f"decoded images use {used:.2f} GB of memory; data.cache_gb allows {allowed:g}")
    return {
        "domains": domains,
        "without_labels": without_labels,
        "average_last": metrics.average(d["miou_last"] for d in domains.values()),
        "average_best": metrics.average(d["miou_best"] for d in domains.values()),
        "val_average_best": val[f"{val_name}/average"],
        "lr": lr,
        "cache_gb": used,
        "unlabeled_batches": dict(images.unlabeled_batches),
        "views": dict(views),
        "convention": metrics.CONVENTION,
    }


def domain_scores(pool: Pools, confusions: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """mIoU and IoU per class of one domain, from its confusion matrices of the "last" and the "best" checkpoint."""
    iou = {w: dict(zip(pool.domain.class_names, metrics.iou(c), strict=True)) for w, c in confusions.items()}
    return {
        "miou_last": metrics.mean_iou(confusions["last"]),
        "miou_best": metrics.mean_iou(confusions["best"]),
        "iou": iou["best"],
        "iou_last": iou["last"],
        "split": pool.domain.test_split,
        "val_split": pool.domain.val_split,
    }
