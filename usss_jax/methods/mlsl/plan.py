"""The plan of MLSL: a source network, rounds of pseudo-labels and training, baselines, then a table and a picture."""

import dataclasses
import pathlib
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from usss_jax.config import names
from usss_jax.config.mlsl import ROUNDS
from usss_jax.data import class_map as class_maps
from usss_jax.data.domain import Domain
from usss_jax.data.examples import Examples
from usss_jax.data.mining import MiningCropFlip
from usss_jax.data.options import domain_root, read_options
from usss_jax.data.pools import LABELED, Pools, open_pools
from usss_jax.engine.job import Fit, Job, Pass
from usss_jax.errors import InputError
from usss_jax.local_files import local_path, write_whole
from usss_jax.methods import hung
from usss_jax.methods.mlsl import adversarial, labelling, results, target_statistics, terms
from usss_jax.methods.mlsl.image_labels import mean_sizes
from usss_jax.methods.mlsl.round_images import ImageClasses, Labeled, RoundCrop, Together
from usss_jax.methods.mlsl.schedule import Ramp, Round, schedule, source_subset
from usss_jax.methods.mlsl.spatial_prior import class_frequencies, spatial_prior
from usss_jax.methods.mlsl.terms import Supervision
from usss_jax.methods.opening import claimed, open_run
from usss_jax.methods.run import run_plan
from usss_jax.methods.segmentation import Run, fit
from usss_jax.parallel import hosts
from usss_jax.runs import logs
from usss_jax.runs.networks import describe_network, load_best, read_network
from usss_jax.runs.workdir import read_summary, written_summaries

IMAGES = "target_images.txt"


@dataclasses.dataclass(frozen=True)
class Kind:
    """What distinguishes the variants with rounds.

    Attributes:
      policy: of the thresholds, see `class_thresholds`.
      patches: whether scores come from patches (SISC).
      prior: whether scores are multiplied by the spatial prior; None: as `mlsl.prior` says.
      image_labels: whether training has the image-level loss (PWL).
    """

    policy: str = "cb"
    patches: bool = False
    prior: bool | None = False
    image_labels: bool = False


KINDS = {
    "st": Kind(policy="global"),
    "cbst": Kind(),
    "cbst_sp": Kind(prior=True),
    "cbst_pwl": Kind(image_labels=True),
    "sisc": Kind(patches=True, prior=None),
    "sisc_pwl": Kind(patches=True, prior=None, image_labels=True),
}


@dataclasses.dataclass(frozen=True)
class Adaptation:
    """A run and its two domains.

    Attributes:
      run: its pools have the classes of the target.
      source, target: names of the domains; the decoder has the name of the target.
    """

    run: Run
    source: str
    target: str

    @property
    def config(self) -> ConfigDict:
        """Config of the run."""
        return self.run.config

    @property
    def domain(self) -> Domain:
        """The target."""
        return self.pools(self.target).domain

    def pools(self, name: str) -> Pools:
        """Images of a domain."""
        return self.run.pools[name]

    def fit(self, name: str, compute, **arguments) -> Fit:
        """`methods.segmentation.fit` of a network with the target's decoder, selected on the source's val split."""
        settings = {
            "decoders": {self.target: self.domain},
            "selected_by": [self.source],
            **arguments,
        }
        return fit(self.run, name, compute, **settings)


def run(config: ConfigDict, workdir: pathlib.Path, devices=None) -> dict[str, dict[str, Any]]:
    """Run every variant of the config, write table and picture, and return the summaries by job.

    Args:
      config: a checked config.
      workdir: of the run.
      devices: to train on; None: all.

    Raises:
      InputError: if config, data or workdir cannot be used; finished work is kept.
    """
    opened = open_run(config, workdir, devices)
    adaptation = pair(opened)
    check_source_from(adaptation)
    print(describe(adaptation), flush=True)
    if "oracle" in config.variants:
        hosts.together(oracle_pools, adaptation)  # before hours of training, if it has no masks
    with claimed(opened):
        summaries = run_plan(plan(adaptation))
        for name, summary in hosts.from_writer(written_summaries, workdir).items():  # of earlier commands, too
            summaries.setdefault(name, summary)
        results.write(opened, adaptation.source, adaptation.target, summaries)
    return summaries


def plan(adaptation: Adaptation) -> Iterator[Job]:
    """Yield the jobs of the config's variants, in order."""
    config, variants = adaptation.config, adaptation.config.variants
    with_rounds = [v for v in variants if v in ROUNDS]
    from_source = config.mlsl.image_head_start == "source"
    starts = {v: "source_pwl" if from_source and KINDS[v].image_labels else "source" for v in with_rounds}
    if not config.mlsl.source_from and ("source" in variants or "source" in starts.values()):
        yield from with_statistics(adaptation, source_fit(adaptation, "source"))
    if not config.mlsl.source_from and "source_pwl" in starts.values():
        yield from with_statistics(adaptation, source_fit(adaptation, "source_pwl"))
    for variant in variants:
        if variant in ("minent", "minent_prior"):
            yield from with_statistics(adaptation, entropy_fit(adaptation, variant))
        elif variant == "adversarial":
            yield from with_statistics(adaptation, adversarial_fit(adaptation))
        elif variant in ROUNDS:
            yield from rounds(adaptation, variant, source_network(adaptation, starts[variant]))
        elif variant == "oracle":
            yield oracle_fit(adaptation)


def with_statistics(adaptation: Adaptation, job: Fit) -> Iterator[Job]:
    """Yield a training, then the pass that measures its network on the target's images, without labels."""
    yield job
    yield target_statistics.statistics_pass(adaptation.run, adaptation.target, job.folder)


# ---- Source and baselines ----


def supervision(config: ConfigDict, image_labels: bool = False, loss: str = "ce") -> Supervision:
    """Loss of labeled images, by the config."""
    weight = config.mlsl.image_weight if image_labels else 0.0
    return Supervision(loss=loss, at=config.mlsl.loss_at, image_weight=weight)


def source_fit(adaptation: Adaptation, name: str) -> Fit:
    """Source training, as "source", or with the image-level head as "source_pwl"."""
    config = adaptation.config
    if name == "source":
        return adaptation.fit(name, partial(terms.compute, supervision=supervision(config)))
    pool = adaptation.pools(adaptation.source)
    present = ImageClasses(adaptation.domain.num_classes)
    labeled = Labeled(pool.labeled, pool.transform, present, config.mlsl.image_scope == "image")
    return adaptation.fit(
        name,
        partial(terms.compute, supervision=supervision(config, image_labels=True)),
        train_on={adaptation.source: dataclasses.replace(pool, mapped=RoundCrop({adaptation.source: labeled}))},
        image_head=image_head(config),
    )


def image_head(config: ConfigDict) -> dict[str, Any]:
    """Arguments of `describe_network` for the image-level head."""
    return {"image_head": config.mlsl.image_head, "image_head_width": config.mlsl.image_head_width}


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
        unlabeled_batches={adaptation.target: 1},
    )


def adversarial_fit(adaptation: Adaptation) -> Fit:
    """Adversarial adaptation of the predictions, as "adversarial"."""
    config, train = adaptation.config, adaptation.config.train
    fields = config.mlsl
    objective = hung.Adversarial(
        adversarial=0.0,
        adversarial_unlabeled=fields.adversarial_weight,
        semi=0.0,
        threshold=1.0,
        semi_start=1.0,
        lr=fields.discriminator_lr,
        power=config.optim.poly_power,
        width=fields.discriminator_width,
        precision=config.model.precision,
    )
    shared: dict[str, Any] = {"objective": objective, "steps": train.steps}
    return adaptation.fit(
        "adversarial",
        partial(adversarial.compute, supervision=supervision(config), sees=fields.adversarial_input, **shared),
        unlabeled_batches={adaptation.target: 1},
        make_extra=partial(
            hung.create_discriminator,
            mesh=adaptation.run.mesh,
            seed=train.seed,
            split=train.shard_parameters,
            **shared,
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
        train_on={name: pool},
        selected_by=[name],
        about_data={"labels of the target": pool.labels[LABELED].digest},
    )


# ---- Rounds ----


def source_network(adaptation: Adaptation, name: str) -> pathlib.Path:
    """Folder of the finished network that round 0 starts from."""
    other = adaptation.config.mlsl.source_from
    return local_path(other, "mlsl.source_from") if other else adaptation.run.workdir / name


def check_source_from(adaptation: Adaptation):
    """Raise InputError if `mlsl.source_from` is no finished network like that of the config."""
    field = f"mlsl.source_from={adaptation.config.mlsl.source_from}"
    if not adaptation.config.mlsl.source_from:
        return
    folder = source_network(adaptation, "")
    summary = hosts.from_writer(read_summary, folder / "summary.json")
    if summary is None:
        raise InputError(f"{field}: is not the folder of a finished job, such as RUN/source")
    theirs = read_network(folder, summary["best_step"])
    ours = describe_network(adaptation.config, {adaptation.target: adaptation.domain})
    for key in ("encoder", "width", "stride", "lateral", "head"):
        if theirs[key] != ours[key]:
            raise InputError(f"{field}: model.{key} was {theirs[key]} there and is {ours[key]} here")
    decoders = {name: decoder["classes"] for name, decoder in theirs["decoders"].items()}
    if decoders != {adaptation.target: list(adaptation.domain.class_names)}:
        raise InputError(
            f"{field}: has decoders with the classes {decoders}, but {adaptation.target} has "
            f"{', '.join(adaptation.domain.class_names)}"
        )
    uses_head = any(v in KINDS and KINDS[v].image_labels for v in adaptation.config.variants)
    needs_head = adaptation.config.mlsl.image_head_start == "source" or theirs.get("image_head", "none") != "none"
    for key, value in image_head(adaptation.config).items() if uses_head and needs_head else ():
        if theirs.get(key) != value:
            raise InputError(
                f"{field}: {key} is {theirs.get(key)} there and {value} here; give a network with that head, such as "
                "RUN/source_pwl, or one without head, such as RUN/source, with mlsl.image_head_start=random"
            )


def rounds(adaptation: Adaptation, variant: str, network: pathlib.Path) -> Iterator[Job]:
    """Yield the passes and trainings of all rounds, as VARIANT_roundR, starting from a finished network."""
    config, kind, workdir = adaptation.config, KINDS[variant], adaptation.run.workdir
    uses_prior = config.mlsl.prior if kind.prior is None else kind.prior
    if config.mlsl.target_images:
        yield images_pass(adaptation, network)
    prior_file = workdir / "spatial_prior.npy"
    if uses_prior:
        yield Pass(prior_file, partial(write_prior, adaptation, prior_file))
    for part in plan_of_rounds(config):
        name = f"{variant}_round{part.index}"
        folder = workdir / "pseudo_labels" / name
        yield labels_pass(adaptation, kind, part, folder, network, prior_file if uses_prior else None)
        yield from with_statistics(adaptation, round_fit(adaptation, kind, part, name, folder, network))
        network = workdir / name


def images_pass(adaptation: Adaptation, network: pathlib.Path) -> Pass:
    """Describe the choice of `mlsl.target_images` images by the network that the first rounds start from."""
    path, images = adaptation.run.workdir / IMAGES, adaptation.pools(adaptation.target).unlabeled
    settings = labelling.labelling(adaptation.config.rounds, portion=1.0, policy="cb", patches=False, seed=0, round=0)

    def make():
        scorer, _ = labelling.load_scorer(network, adaptation.target, settings, adaptation.run.mesh)
        count = adaptation.config.mlsl.target_images
        chosen = hosts.from_writer(labelling.choose_images, scorer, images, count, "choice of target images")
        if hosts.is_writer():
            write_whole(path, "\n".join(chosen) + "\n")

    return Pass(path, make)


def target_images(adaptation: Adaptation) -> Examples:
    """The target images that are labelled: all, or those of `images_pass`."""
    images = adaptation.pools(adaptation.target).unlabeled
    if not adaptation.config.mlsl.target_images:
        return images
    return images.select(hosts.from_writer((adaptation.run.workdir / IMAGES).read_text).splitlines())


def plan_of_rounds(config: ConfigDict) -> list[Round]:
    """Learning rate and portions of every round, by the config."""
    fields = config.mlsl
    return schedule(
        config.rounds.count,
        config.rounds.lr,
        Ramp(config.rounds.portion, config.rounds.portion_step, config.rounds.portion_max),
        Ramp(fields.source_portion, fields.source_step, fields.source_max),
    )


def write_prior(adaptation: Adaptation, path: pathlib.Path):
    """Write the spatial prior of the source at the target's size, float32 [H, W, C]."""
    labeled, domain = adaptation.pools(adaptation.source).labeled, adaptation.domain
    labels = (labeled.label(i) for i in range(len(labeled)))
    counts = class_frequencies(labels, domain.num_classes, domain.size)
    logs.write_array(path, spatial_prior(counts, adaptation.config.mlsl.prior_sigma))


def labels_settings(adaptation: Adaptation, kind: Kind, part: Round) -> labelling.Labelling:
    """How the pseudo-labels of a round are made."""
    return labelling.labelling(
        adaptation.config.rounds,
        portion=part.portion,
        policy=kind.policy,
        patches=kind.patches,
        seed=adaptation.config.train.seed,
        round=part.index,
    )


def labels_pass(
    adaptation: Adaptation,
    kind: Kind,
    part: Round,
    folder: pathlib.Path,
    network: pathlib.Path,
    prior: pathlib.Path | None,
) -> Pass:
    """Describe the labelling of all target images by a network; damaged labels of an earlier command are made again."""
    images = target_images(adaptation)
    if not hosts.from_writer((adaptation.run.workdir / folder.name / "summary.json").exists):
        hosts.from_writer(labelling.reopen_if_damaged, folder, adaptation.domain, images)
    make = partial(
        labelling.label_images,
        folder,
        network=network,
        decoder=adaptation.target,
        domain=adaptation.domain,
        images=images,
        settings=labels_settings(adaptation, kind, part),
        mesh=adaptation.run.mesh,
    )
    return Pass(folder / labelling.REPORT, lambda: make(prior=None if prior is None else np.load(prior)))


def round_fit(
    adaptation: Adaptation, kind: Kind, part: Round, name: str, folder: pathlib.Path, network: pathlib.Path
) -> Fit:
    """Describe the training of a round, which starts from the network that made its pseudo-labels."""
    config, rounds = adaptation.config, adaptation.config.rounds
    source, target = (adaptation.pools(d) for d in (adaptation.source, adaptation.target))
    settings = labels_settings(adaptation, kind, part)
    pseudo, report = labelling.open_labels(folder, adaptation.domain, target_images(adaptation), settings)
    mine = partial(MiningCropFlip, rare=report["rare"], priority=report["priority"], share=rounds.mine_share)
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
            mine(source.crop, source.scale, source.flip),
        ),
        adaptation.target: Labeled(pseudo, mine(target.crop, target.scale, target.flip)),
    }
    if kind.image_labels:
        origins = with_image_labels(adaptation, origins)
    parts = {d: origin.source for d, origin in origins.items()}
    if rounds.pairing == "shuffled":
        both = dataclasses.replace(target, labeled=Together(parts), mapped=RoundCrop(origins))
        train_on, images = {adaptation.target: both}, sum(map(len, parts.values()))
    else:
        train_on = {
            d: dataclasses.replace(adaptation.pools(d), labeled=parts[d], mapped=RoundCrop({d: origins[d]}))
            for d in origins
        }
        images = len(pseudo)
    steps = max(1, int(rounds.epochs * (images // rounds.batch_size)))
    return adaptation.fit(
        name,
        partial(terms.compute, supervision=supervision(config, kind.image_labels, rounds.loss)),
        train_on=train_on,
        batch_size=rounds.batch_size,
        steps=steps,
        eval_every=steps,
        lr=part.learning_rate,
        seed=zlib.crc32(f"{config.train.seed}:{part.index}".encode()),
        image_head=image_head(config) if kind.image_labels else None,
        initial=lambda: load_best(network, adaptation.run.mesh)[1],
        about_data={"pseudo-labels": report["digest"], "source images": [str(i) for i in sorted(chosen)]},
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


# ---- Domains ----


def pair(run: Run) -> Adaptation:
    """Source and target of a run, both scored by the target's decoder.

    Raises:
      InputError: if the domains cannot be a source and a target.
    """
    target = run.config.mlsl.target
    if target not in run.pools:
        raise InputError(f"mlsl.target={target} is not one of {', '.join(run.pools)}")
    (source,) = (name for name in run.pools if name != target)
    if len(run.pools[target].labeled):
        raise InputError(
            f"data.labeled_per_domain: {target} is the target, whose labels are not used; set {source}=all,{target}=0"
        )
    if not len(run.pools[source].labeled):
        raise InputError(f"data.labeled_per_domain: {source} is the source, which needs labels; set {source}=all")
    of_source, of_target = (run.pools[d].domain.class_names for d in (source, target))
    if of_source != of_target:
        raise InputError(
            f"data.class_map is empty, but {source} and {target} have different classes; give a class map from "
            f"{source} to {target} (docs/data.md)"
        )
    for name in names(run.config.mlsl.without):
        if name not in of_target:
            raise InputError(f"mlsl.without: {name!r} is not a class of {target}, which has {', '.join(of_target)}")
    pools = {name: dataclasses.replace(pool, scored_by=target) for name, pool in run.pools.items()}
    return Adaptation(dataclasses.replace(run, pools=pools), source, target)


def describe(adaptation: Adaptation) -> str:
    """Lines to print before training: the class map, what cannot be learnt, and how the target is scored."""
    target, name = adaptation.pools(adaptation.target), adaptation.config.data.class_map
    class_map = class_maps.find_class_map(name) if name else None
    lines = [class_maps.table(class_map)] if class_map else []
    if class_map and class_map.unlearnable and class_map.target.name == adaptation.target:
        lines.append(f"{adaptation.source} cannot teach {', '.join(class_map.unlearnable)} of {adaptation.target}")
    splits = [f"{use} ({len(of)} images)" for use, of in (("val", target.val), ("test", target.test)) if len(of)]
    scored = f"scored on its {' and '.join(splits)}" if splits else "has no masks in val or test, so it has no score"
    lines.append(f"{adaptation.target} is the target: no label of its {len(target.unlabeled)} images is used; {scored}")
    return "\n".join(lines)
