"""Summaries of an experiment: read from result folders or workdirs, and checked to be comparable."""

import dataclasses
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from usss_jax.config import fields, flat
from usss_jax.config.field import Changes
from usss_jax.config.shared import SHARED
from usss_jax.config.usss import SELF_TRAINING, last_job, variant_of
from usss_jax.errors import InputError
from usss_jax.experiments.layout import Experiment, read_experiment, read_json
from usss_jax.experiments.paper import TABLES
from usss_jax.experiments.rows import SAME_ENCODER, Row, field_text, universal_rows

ONE_DOMAIN = ("single", "frozen", "finetune", "hung")  # jobs trained on one domain: <this>_..._<domain>
NEEDED = ("job", "domains", "steps", "split_hash", "config")
NEEDED_FIELDS = ("train.seed", "model.encoder", "model.width")


@dataclasses.dataclass(frozen=True)
class Found:
    """Summaries of one experiment.

    Attributes:
      experiment: pair, N and scale.
      summaries: job (or row) -> seed -> summary.
      files: job (or row) -> seed -> file of the summary.
      empty_domains: domains of an experiment without summaries.
    """

    experiment: Experiment
    summaries: dict[str, dict[int, dict[str, Any]]] = dataclasses.field(default_factory=dict)
    files: dict[str, dict[int, pathlib.Path]] = dataclasses.field(default_factory=dict)
    empty_domains: tuple[str, ...] = ()

    def add(self, job: str, path: pathlib.Path, summary: dict[str, Any]):
        """Add one summary; raise InputError for a second one of the same job and seed."""
        seed = value(summary, "train.seed")
        if seed in self.files.get(job, {}):
            raise InputError(f"{path} and {self.files[job][seed]} have the same row and seed; give one of them")
        self.summaries.setdefault(job, {})[seed] = summary
        self.files.setdefault(job, {})[seed] = path

    def all(self) -> Iterator[tuple[str, pathlib.Path, dict[str, Any]]]:
        """Yield job, file and summary of every run."""
        for job, by_seed in self.summaries.items():
            for seed, summary in sorted(by_seed.items()):
                yield job, self.files[job][seed], summary

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of all domains, in the config's order if a universal job has all of them, else in the paper's."""
        if not self.summaries:
            return self.empty_domains
        found = [tuple(summary["domains"]) for _, _, summary in self.all()]
        names = {name for domains in found for name in domains}
        universal = [tuple(s["domains"]) for job, _, s in self.all() if kind(job) == "universal"]
        known = [*universal, *(table.domains for table in TABLES.values()), *found]
        return next((domains for domains in known if set(domains) == names), tuple(sorted(names)))


def kind(job: str) -> str:
    """Return the kind of a job: one of ONE_DOMAIN, or "universal".

    >>> kind("frozen_cityscapes_camvid"), kind("full")
    ('frozen', 'universal')
    """
    return next((word for word in ONE_DOMAIN if job.startswith(f"{word}_")), "universal")


def read_folders(folders: Iterable[pathlib.Path], pair: str, scale: str) -> list[Found]:
    """Read the summaries in result folders and workdirs, by experiment.

    Args:
      folders: RESULTS, RESULTS/<pair>_n<N>_<scale>, or a workdir with job folders.
      pair: only experiments of this pair; also the pair of a workdir. Empty: all, a workdir's pair being its name.
      scale: of a workdir; empty: unknown.

    Raises:
      InputError: for a folder without summaries, a damaged summary, or summaries that are not comparable.
    """
    found: dict[Experiment, Found] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder; give result folders or workdirs")
        inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and read_experiment(path.name)]
        for one in inside or [folder]:
            files = sorted(one.glob("*/seed*.json")) or sorted(one.glob("*/summary.json"))
            if not files and not inside:
                raise InputError(f"{one}: has no */seed0.json and no */summary.json; give result folders or workdirs")
            for path in files:
                summary = read_summary(path)
                experiment = read_experiment(one.name)
                if experiment:
                    name = path.parent.name
                    check_named(experiment, name, path, summary)
                else:
                    experiment = Experiment(pair or one.resolve().name, labeled(summary), scale)
                    name, summary = named_by_content(summary)
                if not pair or experiment.pair == pair:
                    found.setdefault(experiment, Found(experiment)).add(name, path, summary)
    for together in found.values():
        check_comparable(together)
    return sorted(found.values(), key=lambda f: (f.experiment.pair, f.experiment.scale, f.experiment.n))


def read_summary(path: pathlib.Path) -> dict[str, Any]:
    """Read a summary.json or seed<k>.json; raise InputError if a key is missing or its name has another seed."""
    summary = read_json(path)
    if missing := [key for key in NEEDED if key not in summary]:
        raise InputError(f"{path} is not a job's summary: {missing[0]!r} is missing; move it away")
    if missing := [name for name in NEEDED_FIELDS if value(summary, name) is None]:
        raise InputError(f"{path} is not a job's summary: its config lacks {missing[0]}; move it away")
    seed = value(summary, "train.seed")
    match = re.fullmatch(r"seed(\d+)", path.stem)
    if match and int(match[1]) != seed:
        raise InputError(f"{path}: has seed {seed}, unlike its name; rename it seed{seed}.json")
    return summary


def value(summary: Mapping, name: str) -> Any:
    """Return a config field of a summary by its dotted name; None if the summary lacks it.

    >>> value({"config": {"train": {"seed": 1}}}, "train.seed")
    1
    """
    return flat(summary["config"]).get(name)


def changed_fields(summary: Mapping) -> dict[str, str]:
    """Return the method fields of a universal job that differ from the paper's, as text; empty for other jobs."""
    values = flat(summary["config"])
    makes = {name: field.default for name, field in fields().items() if variant_of(summary["job"]) in field.makes}
    return {
        name: field_text(type(default)(values[name]))
        for name, default in makes.items()
        if values.get(name, default) != default
    }


def row_of_content(summary: Mapping) -> str:
    """Return the short name of the built-in row that a summary's variant and fields make; empty if none."""
    changed = changed_fields(summary)
    if changed.get("usss.label_embeddings", "").startswith("words:"):
        changed["usss.label_embeddings"] = "words:FILE"
    rows = universal_rows(()).values()
    same = (row.name for row in rows if row.variants == (last_variant(summary),) and dict(row.overrides) == changed)
    return next(same, "")


def last_variant(summary: Mapping) -> str:
    """Return the variant of a universal job; of a round before the last, and of any other job, its name.

    >>> [last_variant({"job": f"self_round{r}", "config": {"rounds": {"count": 2}}}) for r in range(2)]
    ['self_round0', 'self']
    """
    job = summary["job"]
    return variant_of(job) if job == last_job(variant_of(job), value(summary, "rounds.count") or 1) else job


def named_by_content(summary: Mapping) -> tuple[str, dict[str, Any]]:
    """Name the row of a workdir's job by its variant and fields; add the fields if no built-in row has them."""
    changed, name = changed_fields(summary), row_of_content(summary)
    if not changed or name:
        return name or summary["job"], dict(summary)
    text = ",".join(f"{name}={new}" for name, new in changed.items())
    return f"{last_variant(summary)}:{text}", {**summary, "row": {"overrides": changed}}


def check_named(experiment: Experiment, name: str, path: pathlib.Path, summary: Mapping):
    """Raise InputError if the row or N of a summary differs from its folder's."""
    row = universal_rows(()).get(name)
    if row and row_of_content(summary) != name:
        text = ", ".join(f"{field}={new}" for field, new in changed_fields(summary).items()) or "nothing else"
        raise InputError(f"{path} is not {name!r} but {summary['job']} with {text}; rename its folder")
    count = labeled(summary)
    if count > experiment.n or (kind(name) == "universal" and count != experiment.n):
        raise InputError(
            f"{path}: has {count} labeled images per domain, but its folder says {experiment.n}; move it to the "
            "folder of its experiment"
        )


def labeled(summary: Mapping) -> int:
    """Return the largest number of labeled images of a domain in a summary.

    >>> labeled({"domains": {"camvid": {"images": {"labeled": 50}}, "idd": {"images": {"labeled": 0}}}})
    50
    """
    return max(about["images"]["labeled"] for about in summary["domains"].values())


def check_comparable(found: Found):
    """Raise InputError, naming two files, if summaries differ in what all rows of a table must share."""
    seen: dict[tuple, tuple[Any, pathlib.Path]] = {}
    for job, path, summary in found.all():
        for key, mine in comparable(job, summary).items():
            other, where = seen.setdefault(key, (mine, path))
            if other != mine:
                what = " of ".join(map(str, key))
                raise InputError(
                    f"{where} and {path} are not comparable: {what} is {other} and {mine}; show one of them alone"
                )


def comparable(job: str, summary: Mapping) -> dict[tuple, Any]:
    """Return what all summaries of an experiment must share, by keys such as ("steps", "universal")."""
    of_kind = kind(job)
    trained = tuple(sorted(summary["domains"]))
    if of_kind == "finetune":  # also evaluated on the domain of pretraining
        trained = tuple(d for d in trained for e in trained if job == f"finetune_{e}_{d}")
    values: dict[tuple, Any] = {}
    if variant_of(summary["job"]) not in SELF_TRAINING:  # the steps of a round are by rounds.epochs
        values["steps", of_kind] = summary["steps"]
    values |= {
        ("split_hash", " and ".join(trained)): summary["split_hash"],
        ("model.pretrained",): weights(summary),
    }
    if summary.get("unlabeled_hash"):
        values["unlabeled_hash", " and ".join(trained)] = summary["unlabeled_hash"]
    given, overrides = flat(summary["config"]), summary.get("row", {}).get("overrides", {})
    for name, field in SHARED.items():
        # A row may differ in what defines it, the networks of one domain in what they do not depend on.
        matters = field.changes is Changes.NUMBERS and (field.singles or of_kind == "universal")
        if matters and name not in ("train.seed", *overrides):
            values[name,] = given.get(name, field.default)
    encoder = values["model.encoder",]
    values["model.encoder",] = SAME_ENCODER.get(encoder, encoder)
    if values["model.encoder",].startswith("drn_") and values.get(("data.normalize",)) == "encoder":
        values["data.normalize",] = "imagenet"  # the same for these encoders
    for domain, about in summary["domains"].items():
        values["image size", domain] = about.get("image_size")
        values["split", domain] = about.get("split")
    return values


def weights(summary: Mapping) -> str:
    """Return the file of the encoder's initial weights with its folder, since names alone repeat; "" for none.

    >>> weights({"config": {"model": {"pretrained": "runs/imagenet/encoder.safetensors"}}})
    'imagenet/encoder.safetensors'
    """
    return "/".join(pathlib.Path(value(summary, "model.pretrained") or "").parts[-2:])


def scores(found: Found, row: Row, domain: str, which: str) -> dict[int, float]:
    """Return the mIoU in % of a row on a domain, by seed; empty if it was not run.

    `which`: "best" or "last" checkpoint on the test split, or "val": the best checkpoint on the val split.
    """
    by_seed = found.summaries.get(row.jobs.get(domain, ""), {})
    key = "val_miou_best" if which == "val" else f"miou_{which}"
    found_in = {seed: summary["domains"][domain].get(key) for seed, summary in by_seed.items()}
    return {seed: 100 * value for seed, value in found_in.items() if value is not None}


def averages(found: Found, row: Row, which: str) -> dict[int, float]:
    """Return the mean mIoU over the domains, for every seed that has all of them."""
    by_domain = [scores(found, row, domain, which) for domain in found.domains]
    if not by_domain or set(row.jobs) != set(found.domains):
        return {}
    seeds = set.intersection(*(set(values) for values in by_domain))
    return {seed: sum(values[seed] for values in by_domain) / len(by_domain) for seed in sorted(seeds)}


def class_scores(found: Found, row: Row, domain: str, which: str) -> dict[str, dict[int, float]]:
    """Return the IoU in % per class and seed; empty for a class that the split lacks."""
    by_seed = found.summaries.get(row.jobs.get(domain, ""), {})
    key = "iou" if which == "best" else "iou_last"
    out: dict[str, dict[int, float]] = {}
    for seed, summary in by_seed.items():
        for name, value in summary["domains"][domain].get(key, {}).items():
            out.setdefault(name, {}).update({} if value is None else {seed: 100 * value})
    return out


def extra_rows(found: Found, known: Sequence[Row]) -> list[Row]:
    """Return the rows with results that are not among the known ones, sorted by name."""
    names = {job for row in known for job in row.jobs.values()}
    out = []
    for job, by_seed in sorted(found.summaries.items()):
        if job not in names and kind(job) == "universal":
            summary = next(iter(by_seed.values()))
            given = summary.get("row", {}).get("overrides", {})
            name = job.partition(":")[0]
            title = f"{name} ({', '.join(f'{k}={v}' for k, v in given.items())})" if given else job
            out.append(Row(job, title, ("full",), given, dict.fromkeys(summary["domains"], job)))
    return out
