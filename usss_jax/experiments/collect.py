"""Summaries of an experiment: read from result folders or workdirs, and checked to be comparable."""

import dataclasses
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from usss_jax.config import fields, flat
from usss_jax.config.field import Changes
from usss_jax.config.rounds import variant_of
from usss_jax.config.shared import SHARED
from usss_jax.config.usss import has_rounds, last_job
from usss_jax.errors import InputError
from usss_jax.experiments import rows_mlsl
from usss_jax.experiments.layout import Experiment, read_experiment, read_json, read_result, summary_files
from usss_jax.experiments.paper import TABLES
from usss_jax.experiments.rows import ONE_DOMAIN, SAME_ENCODER, Row, field_text, universal_rows

NEEDED = ("job", "domains", "steps", "split_hash", "config")
NEEDED_FIELDS = ("train.seed", "model.encoder", "model.width")
BY_VARIANT = ("rounds.batch_size", "rounds.label_scale")  # which the configs of MLSL set for some variants


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
            results = list(read_results(one))
            if not results and not inside:
                raise InputError(f"{one}: has no */seed0.json and no */summary.json; give result folders or workdirs")
            for name, path, summary in results:
                experiment = read_experiment(one.name)
                if experiment:
                    check_named(experiment, name, path, summary)
                else:
                    n = None if method_of(summary) == "mlsl" else labeled(summary)
                    experiment = Experiment(pair or one.resolve().name, n, scale)
                    name, summary = named_by_content(summary)
                if not pair or experiment.pair == pair:
                    found.setdefault(experiment, Found(experiment)).add(name, path, summary)
    for together in found.values():
        check_comparable(together)
    return sorted(found.values(), key=lambda f: (f.experiment.pair, f.experiment.scale, f.experiment.n or 0))


def read_results(folder: pathlib.Path) -> Iterator[tuple[str, pathlib.Path, dict[str, Any]]]:
    """Yield name, file and summary of all results of an experiment or, in a workdir, of all its jobs."""
    files = sorted(folder.glob("*/seed*.json"))
    for path in files:
        yield path.parent.name, path, checked(path, read_json(path))
    of_jobs = [] if files else sorted(folder.glob("*/summary.json"))
    for job in dict.fromkeys(variant_of(path.parent.name) for path in of_jobs):
        path = summary_files(folder, job)[-1]
        yield job, path, checked(path, read_result(folder, job))


def checked(path: pathlib.Path, summary: dict[str, Any]) -> dict[str, Any]:
    """Return a summary; raise InputError if a key is missing or the name of its file has another seed."""
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


def method_of(summary: Mapping) -> str:
    """Return the method of a summary.

    >>> method_of({"config": {"method": "mlsl"}})
    'mlsl'
    """
    return value(summary, "method") or "usss"


def changed_fields(summary: Mapping) -> dict[str, str]:
    """Return the method fields that make a row of their own and differ from the paper's, as text."""
    values, variant = flat(summary["config"]), variant_of(summary["job"])
    makes = {name: field.default for name, field in fields(method_of(summary)).items() if variant in field.makes}
    given = {name: of_type(values.get(name, default), default) for name, default in makes.items()}
    return {name: field_text(value) for name, value in given.items() if value != makes[name]}


def of_type(value, default):
    """Convert a value of a field to the type of its default; values by domain remain text.

    >>> of_type(1, 0.5), of_type("0.5", 0.5), of_type("a=0.5", 0.5)
    (1.0, 0.5, 'a=0.5')
    """
    try:
        return type(default)(value)
    except ValueError:
        return value


def row_of_content(summary: Mapping) -> str:
    """Return the short name of the built-in row that a summary's variant and fields make; empty if none."""
    changed = changed_fields(summary)
    if changed.get("usss.label_embeddings", "").startswith("words:"):
        changed["usss.label_embeddings"] = "words:FILE"
    rows = built_in_rows(method_of(summary)).values()
    same = (row.name for row in rows if row.variants == (last_variant(summary),) and dict(row.overrides) == changed)
    return next(same, "")


def built_in_rows(method: str) -> Mapping[str, Row]:
    """Return the rows of a method that are known by their variant and fields, by name."""
    return rows_mlsl.ROWS if method == "mlsl" else universal_rows(())


def last_variant(summary: Mapping) -> str:
    """Return the variant of a job; of a round before the last of USSS, whose row is only the last, its name.

    >>> [last_variant({"job": f"self_round{r}", "config": {"rounds": {"count": 2}}}) for r in range(2)]
    ['self_round0', 'self']
    """
    job = summary["job"]
    unfinished = method_of(summary) == "usss" and job != last_job(variant_of(job), value(summary, "rounds.count") or 1)
    return job if unfinished else variant_of(job)


def named_by_content(summary: Mapping) -> tuple[str, dict[str, Any]]:
    """Name the row of a workdir's job by its variant and fields; add the fields if no built-in row has them."""
    changed, name = changed_fields(summary), row_of_content(summary)
    variant = last_variant(summary)
    if not changed or name:
        return name or variant, dict(summary)
    text = ",".join(f"{name}={new}" for name, new in changed.items())
    return f"{variant}:{text}", {**summary, "row": {"overrides": changed}}


def check_named(experiment: Experiment, name: str, path: pathlib.Path, summary: Mapping):
    """Raise InputError if the method, row or N of a summary differs from its folder's."""
    method = method_of(summary)
    if method != experiment.method:
        raise InputError(f"{path}: is of method={method}, unlike its folder; move it to the folder of its experiment")
    row = built_in_rows(method).get(name)
    if row and row_of_content(summary) != name:
        text = ", ".join(f"{field}={new}" for field, new in changed_fields(summary).items()) or "nothing else"
        raise InputError(f"{path} is not {name!r} but {summary['job']} with {text}; rename its folder")
    if experiment.n is None:
        return
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
        shared = comparable_of_mlsl if found.experiment.method == "mlsl" else comparable
        for key, mine in shared(job, summary).items():
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
    if not has_rounds(variant_of(summary["job"])):  # the steps of a round are by rounds.epochs
        values["steps", of_kind] = summary["steps"]
    values |= {
        ("split_hash", " and ".join(trained)): summary["split_hash"],
        ("model.pretrained",): weights(summary),
    }
    if summary.get("unlabeled_hash") and summary["job"] != "teacher_own":  # whose pool is the labeled images
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


def comparable_of_mlsl(job: str, summary: Mapping) -> dict[tuple, Any]:
    """Return what all summaries of an experiment of MLSL must share: most fields, and the steps of every row."""
    given, overrides = flat(summary["config"]), summary.get("row", {}).get("overrides", {})
    values: dict[tuple, Any] = {("steps", job): summary["steps"], ("model.pretrained",): weights(summary)}
    if "rounds" not in summary:  # whose source images are by the seed
        values["split_hash", job] = summary["split_hash"]
    for name, field in fields("mlsl").items():
        if field.changes is Changes.NUMBERS and name not in ("train.seed", *overrides, *changed_fields(summary)):
            values[(name, job) if name in BY_VARIANT else (name,)] = given.get(name, field.default)
    for domain, about in all_domains(summary).items():
        values["image size", domain] = about.get("image_size")
        values["split", domain] = about.get("split")
    return values


def all_domains(summary: Mapping) -> dict[str, Any]:
    """Return what a summary says of every domain, also of those without labels."""
    return {**summary["domains"], **summary.get("without_labels", {})}


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
