"""The training of a segmentation network as a job, for any loss: data, evaluation and summary."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from usss_jax.data import streams
from usss_jax.data.augment_device import DeviceAugment
from usss_jax.data.domain import Domain
from usss_jax.data.options import unlabeled_sizes
from usss_jax.data.pools import Pools, with_labels, without_labels
from usss_jax.data.splits import split_hash
from usss_jax.engine import optim
from usss_jax.engine.job import Evaluation, Fit
from usss_jax.engine.state import TrainState, create_state
from usss_jax.engine.step import jit_step
from usss_jax.errors import InputError
from usss_jax.evaluation import metrics
from usss_jax.evaluation.evaluate import create_evaluator
from usss_jax.models.universal import UniversalModel
from usss_jax.parallel import hosts, sharding
from usss_jax.runs.logs import say
from usss_jax.runs.networks import build_network, describe_network, training_arguments

VAL = {"student": "val_miou", "teacher": "val_miou_teacher"}  # scalars of the networks that are evaluated


@dataclasses.dataclass(frozen=True)
class Run:
    """What the jobs of a run share.

    Attributes:
      config: a checked config.
      workdir: parent of the jobs' folders.
      mesh: devices.
      pools: images of every domain.
      weights: state dict of a pretrained encoder, or None.
    """

    config: ConfigDict
    workdir: pathlib.Path
    mesh: Mesh
    pools: Mapping[str, Pools]
    weights: Mapping | None = None


@dataclasses.dataclass(frozen=True)
class Images:
    """Which images a training uses.

    Attributes:
      pools: domains to evaluate on; None: all domains of the run.
      train_on: labeled images to train on, by the name that they have in a batch; None: those of `pools`.
      selected_by: domains whose average mIoU on val selects the best checkpoint; None: those of `train_on` with labels.
      unlabeled_batches: micro-batches per step of each domain whose unlabeled images are used.
      validity: whether unlabeled examples have a map "valid" (`data.streams.step_batches`).
    """

    pools: Mapping[str, Pools] | None = None
    train_on: Mapping[str, Pools] | None = None
    selected_by: Sequence[str] | None = None
    unlabeled_batches: Mapping[str, int] = dataclasses.field(default_factory=dict)
    validity: bool = False


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a training differs from the `train` and `optim` sections of the config.

    Attributes:
      steps: number of steps; None: `train.steps`.
      batch_size: labeled images per step and name of `Images.train_on`; None: `train.batch_size`.
      eval_every: steps between evaluations; None: `train.eval_every`.
      lr: learning rate; None: `optim.lr`.
      seed: of the order of images and of augmentation; None: `train.seed`. The weights are by `train.seed`.
      trainable: whether parameters are trained, by name (`engine.optim.create_optimizer`); None: all are. Frozen levels
        of the encoder never are.
    """

    steps: int | None = None
    batch_size: int | None = None
    eval_every: int | None = None
    lr: float | None = None
    seed: int | None = None
    trainable: Callable[[str], bool] | None = None


@dataclasses.dataclass(frozen=True)
class Network:
    """What a network has beside an encoder.

    Attributes:
      decoders: name of every decoder, and the domain whose classes it has; None: one for each of `Images.pools` with
        labels.
      entropy_module: whether it has the embedding head E, as `usss.embed*` of the config describes it.
      image_head: arguments of `describe_network` for the image-level head; empty: it has none.
    """

    decoders: Mapping[str, Domain] | None = None
    entropy_module: bool = False
    image_head: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Start:
    """The state before the first step.

    Attributes:
      initial: loads the variables of a finished network to start from; None: start from `Run.weights`, or at random.
      make_extra: returns `state.extra`.
      begin: changes the new state, whose variables are known then.
    """

    initial: Callable[[], Mapping[str, Any]] | None = None
    make_extra: Callable[[UniversalModel], Mapping[str, Any]] = lambda model: {}
    begin: Callable[[TrainState], TrainState] = lambda state: state


def fit(
    run: Run,
    name: str,
    compute: Callable,
    *,
    images: Images = Images(),
    recipe: Recipe = Recipe(),
    network: Network = Network(),
    start: Start = Start(),
    workdir: pathlib.Path | None = None,
    teacher: Callable[[TrainState], Mapping[str, Any]] | None = None,
    export: str = "student",
    warnings: Callable[[Mapping[str, float]], Mapping[str, str]] = lambda scalars: {},
    about_data: Mapping[str, Any] | None = None,
) -> Fit:
    """Describe the training of a segmentation network.

    Args:
      run: the run that the job belongs to.
      name: name of the job.
      compute: (state, batch, *, model, augment, seed, mesh) -> `engine.step.Computed`. The batch is one of
        `data.streams.step_batches`; `mesh` is for `accumulate`.
      images, recipe, network, start: what differs from supervised training of all domains by the config.
      workdir: parent of the job's folder; None: that of the run.
      teacher: returns the variables of a second network in a state, which is evaluated beside the first; None: none.
      export: "student" or "teacher", the network whose scores select the best checkpoint, which has its variables.
      warnings: see `Fit`.
      about_data: more about the data, as JSON; if it changes, the job does not resume.
    """
    config, mesh, train = run.config, run.mesh, run.config.train
    seed = train.seed if recipe.seed is None else recipe.seed
    steps, batch_size = recipe.steps or train.steps, recipe.batch_size or train.batch_size
    pools = run.pools if images.pools is None else images.pools
    train_on = pools if images.train_on is None else images.train_on
    selected_by = list(with_labels(train_on) if images.selected_by is None else images.selected_by)
    unlabeled_batches, unlabeled_batch_sizes = images.unlabeled_batches, unlabeled_sizes(config, list(run.pools))
    decoders = network.decoders
    if decoders is None:
        decoders = {d: pool.domain for d, pool in with_labels(pools).items()}
    embeds = network.entropy_module
    head = {"embed_dim": config.usss.embed_dim, "embed_bias": config.usss.embedding_bias} if embeds else {}
    described = describe_network(config, decoders, **head, **network.image_head)
    model = build_network(described, **training_arguments(config))
    lr, lr_line = optim.learning_rate(recipe.lr or config.optim.lr, config.optim.lr_rule, batch_size)
    tx = make_optimizer(config, lr, steps, embeds, is_trained(model, recipe.trainable))
    compute = partial(compute, model=model, augment=device_augment(config), seed=seed, mesh=mesh)
    shardings = sharding.step_batch_shardings(mesh)
    if not unlabeled_batches:
        del shardings["unlabeled"]

    def create():
        weights, initial = (None, start.initial()) if start.initial else (run.weights, None)
        extra = start.make_extra(model)
        state, match = create_state(model, tx, train.seed, mesh, extra, weights, initial, split=train.shard_parameters)
        state = start.begin(state)
        return state, f"{lr_line}; weights: {match}" if match else lr_line

    def make_batches():
        others = {d: without_labels(pools[d]) for d in unlabeled_batches if d not in train_on}
        return streams.step_batches(
            {**train_on, **others},
            batch_size=batch_size,
            unlabeled_batch_size=unlabeled_batch_sizes,
            unlabeled_batches=unlabeled_batches,
            validity=images.validity,
            seed=seed,
            share=hosts.share(),
        )

    score = create_scorer(pools, model, mesh, train.eval_batch_size)
    networks: dict[str, Callable[[TrainState], Mapping[str, Any]]] = {"student": lambda state: state.variables}
    if teacher:
        networks["teacher"] = teacher

    def evaluate(state: TrainState) -> Evaluation:
        found = {who: evaluation(score(of(state), "val"), selected_by, VAL[who]) for who, of in networks.items()}
        scalars = {name: value for one in found.values() for name, value in one.scalars.items()}
        text = "  ".join(one.text if who == "student" else f"{who} {one.text}" for who, one in found.items())
        return Evaluation(found[export].value, scalars, text)

    labeled_images = len(with_labels(train_on)) * batch_size
    return Fit(
        folder=(workdir or run.workdir) / name,
        steps=steps,
        create_state=create,
        make_step=partial(
            jit_step, mesh, compute=compute, tx=tx, batch_shardings=shardings, quick_compile=train.quick_compile
        ),
        make_batches=make_batches,
        batch_shardings=shardings,
        images_per_step=labeled_images + sum(n * unlabeled_batch_sizes[d] for d, n in unlabeled_batches.items()),
        evaluate=evaluate,
        variables=networks[export],
        test=lambda variables: score(variables, "test"),
        data={**describe_data(pools, train_on, unlabeled_batches), **(about_data or {})},
        network=described,
        config=config.to_dict(),
        eval_every=recipe.eval_every or train.eval_every,
        checkpoint_every=train.checkpoint_every,
        log_every=train.log_every,
        loader_threads=config.data.loader_threads,
        summarize=partial(summarize, name, pools, lr=lr, unlabeled_batches=unlabeled_batches, val_name=VAL[export]),
        warnings=warnings,
    )


def is_trained(model: UniversalModel, trainable: Callable[[str], bool] | None) -> Callable[[str], bool] | None:
    """Return whether a parameter is trained, by name: `trainable`, without frozen levels of the encoder."""
    encoder = model.encoder
    if not encoder.frozen:
        return trainable

    def trained(name: str) -> bool:
        part, _, inside = name.partition("/")
        frozen = part == "encoder" and encoder.level_of(inside) < encoder.frozen
        return not frozen and (trainable is None or trainable(name))

    return trained


def make_optimizer(
    config: ConfigDict, lr: float, steps: int, entropy_module: bool, trainable: Callable[[str], bool] | None
) -> optax.GradientTransformation:
    """Create the optimiser and schedule of the config's `optim` section; arguments as for `fit`."""
    fields = config.optim
    lr_scales = {"encoder": fields.encoder_lr_scale, "heads": fields.heads_lr_scale}
    decay_scales = {"encoder": fields.encoder_decay_scale, "heads": fields.heads_decay_scale}
    if entropy_module:
        lr_scales["embedding"] = config.usss.embedding_lr_scale
        decay_scales["embedding"] = config.usss.embedding_decay_scale
    return optim.create_optimizer(
        optim.create_schedule(
            lr, steps, kind=fields.schedule, power=fields.poly_power, warmup_steps=fields.warmup_steps
        ),
        name=fields.name,
        momentum=fields.momentum,
        weight_decay=fields.weight_decay,
        lr_scales=lr_scales,
        decay_scales=decay_scales,
        bias_lr_scale=fields.bias_lr_scale,
        bias_decay_scale=fields.bias_decay_scale,
        trainable=trainable,
    )


def device_augment(config: ConfigDict) -> DeviceAugment:
    """Augmentation inside the step, by the config's `data` section; raises InputError for a value out of range.

    >>> from usss_jax.config import default_config
    >>> device_augment(default_config()).changes_colors
    False
    """
    return DeviceAugment(config.data.color_jitter, config.data.grey, config.data.blur, config.data.mix)


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


def describe_data(
    pools: Mapping[str, Pools], train_on: Mapping[str, Pools], unlabeled_batches: Mapping[str, int]
) -> dict[str, Any]:
    """Classes of every decoder, and hashes of the labeled and unlabeled images that are trained on."""
    unlabeled = {name: pools[name].unlabeled.ids for name in unlabeled_batches}
    return {
        "classes": {name: list(pool.domain.class_names) for name, pool in with_labels(pools).items()},
        "split_hash": split_hash({n: pool.labeled_ids for n, pool in with_labels(train_on).items()}),
        "unlabeled_hash": split_hash(unlabeled) if unlabeled else None,
    }


def summarize(
    name: str,
    pools: Mapping[str, Pools],
    tests: Mapping[str, Mapping[str, np.ndarray]],
    progress: Mapping[str, Any],
    *,
    lr: float,
    unlabeled_batches: Mapping[str, int],
    val_name: str = "val_miou",
) -> dict[str, Any]:
    """Scores for summary.json, from the confusion matrices of the last and the best checkpoint by domain.

    `val_name` begins the names of the scalars on val that selected the best checkpoint.
    """
    domains: dict[str, dict[str, Any]] = {}
    without_labels: dict[str, dict[str, Any]] = {}
    val = progress["best"]["scalars"]
    for domain, pool in pools.items():
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
    budget = next(iter(pools.values())).budget  # shared by all domains
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
        "unlabeled_batches": dict(unlabeled_batches),
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
