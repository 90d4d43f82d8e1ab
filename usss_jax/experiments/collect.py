"""Summaries of one setting: read from result folders or workdirs, refused where they must not be mixed."""

import dataclasses
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from usss_jax.config import fields, flat
from usss_jax.errors import InputError
from usss_jax.experiments.layout import Setting, read_json, read_setting
from usss_jax.experiments.paper import TABLES
from usss_jax.experiments.rows import SAME_ENCODER, Row, field_text, universal_rows

ONE_DOMAIN = ("single", "frozen", "finetune", "hung")  # jobs trained on one domain: <this>_..._<domain>
NEEDED = ("job", "domains", "steps", "split_hash", "config")
NEEDED_FIELDS = ("train.seed", "model.encoder", "model.width")


@dataclasses.dataclass(frozen=True)
class Found:
    """Summaries of one setting.

    Attributes:
      setting: pair, N and scale.
      summaries: job (or row) -> seed -> summary.
      files: the same, with the files that they are from.
      empty_domains: domains of a setting without summaries.
    """

    setting: Setting
    summaries: dict[str, dict[int, dict[str, Any]]] = dataclasses.field(default_factory=dict)
    files: dict[str, dict[int, pathlib.Path]] = dataclasses.field(default_factory=dict)
    empty_domains: tuple[str, ...] = ()

    def add(self, job: str, path: pathlib.Path, summary: dict[str, Any]):
        """Take in one summary; InputError if there is one of the same job and seed."""
        seed = value(summary, "train.seed")
        if seed in self.files.get(job, {}):
            raise InputError(f"{path} and {self.files[job][seed]} are of the same row and seed; give one of them")
        self.summaries.setdefault(job, {})[seed] = summary
        self.files.setdefault(job, {})[seed] = path

    def all(self) -> Iterator[tuple[str, pathlib.Path, dict[str, Any]]]:
        """Yield job, file and summary of each."""
        for job, by_seed in self.summaries.items():
            for seed, summary in sorted(by_seed.items()):
                yield job, self.files[job][seed], summary

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of all domains, in the order of the config where a summary tells it, else of the paper."""
        if not self.summaries:
            return self.empty_domains
        found = [tuple(summary["domains"]) for _, _, summary in self.all()]
        names = {name for domains in found for name in domains}
        universal = [tuple(s["domains"]) for job, _, s in self.all() if kind(job) == "universal"]
        known = [*universal, *(table.domains for table in TABLES.values()), *found]
        return next((domains for domains in known if set(domains) == names), tuple(sorted(names)))


def kind(job: str) -> str:
    """Kind of a job by its name."""
    return next((word for word in ONE_DOMAIN if job.startswith(f"{word}_")), "universal")


def read_folders(folders: Iterable[pathlib.Path], pair: str, scale: str) -> list[Found]:
    """Read result folders (of one setting or of many) and workdirs; InputError for one that is neither.

    Args:
      folders: RESULTS, RESULTS/<pair>_n<N>_<scale>, or a workdir with job folders.
      pair: only settings of this pair; what a workdir, whose name does not tell, is a run of. Empty: all.
      scale: of a workdir; empty: not known.
    """
    found: dict[Setting, Found] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: there is no such folder; give result folders or workdirs")
        inside = [path for path in sorted(folder.iterdir()) if path.is_dir() and read_setting(path.name)]
        for one in inside or [folder]:
            files = sorted(one.glob("*/seed*.json")) or sorted(one.glob("*/summary.json"))
            if not files and not inside:
                raise InputError(f"{one}: no */seed0.json and no */summary.json in it; give result folders or workdirs")
            for path in files:
                summary = read_summary(path)
                setting = read_setting(one.name)
                if setting:
                    name = path.parent.name
                    check_named(setting, name, path, summary)
                else:
                    setting = Setting(pair or one.resolve().name, labeled(summary), scale)
                    name, summary = named_by_content(summary)
                if not pair or setting.pair == pair:
                    found.setdefault(setting, Found(setting)).add(name, path, summary)
    for together in found.values():
        check_comparable(together)
    return sorted(found.values(), key=lambda f: (f.setting.pair, f.setting.scale, f.setting.n))


def read_summary(path: pathlib.Path) -> dict[str, Any]:
    """Read a summary.json or seed<k>.json; InputError if something is missing or its name tells another seed."""
    summary = read_json(path)
    if missing := [key for key in NEEDED if key not in summary]:
        raise InputError(f"{path} is no summary of a job: {missing[0]!r} is missing; move it away")
    if missing := [name for name in NEEDED_FIELDS if value(summary, name) is None]:
        raise InputError(f"{path} is no summary of a job: its config lacks {missing[0]}; move it away")
    seed = value(summary, "train.seed")
    match = re.fullmatch(r"seed(\d+)", path.stem)
    if match and int(match[1]) != seed:
        raise InputError(f"{path}: it is of seed {seed}, not of the seed in its name; rename it seed{seed}.json")
    return summary


def value(summary: Mapping, name: str) -> Any:
    """Value of a field of the config, by dotted name; None if the summary does not say."""
    return flat(summary["config"]).get(name)


def changed_fields(summary: Mapping) -> dict[str, str]:
    """Fields in which the setting of a universal job differs from the paper's, as text; empty for other jobs."""
    values = flat(summary["config"])
    makes = {name: field.default for name, field in fields().items() if summary["job"] in field.makes}
    return {
        name: field_text(type(default)(values[name]))
        for name, default in makes.items()
        if values.get(name, default) != default
    }


def row_of_content(summary: Mapping) -> str:
    """Short name of the row of ours that has this setting; empty if none has."""
    changed = changed_fields(summary)
    if changed.get("usss.label_embeddings", "").startswith("words:"):
        changed["usss.label_embeddings"] = "words:FILE"
    rows = universal_rows(()).values()
    same = (row.name for row in rows if row.variants == (summary["job"],) and dict(row.overrides) == changed)
    return next(same, "")


def named_by_content(summary: Mapping) -> tuple[str, dict[str, Any]]:
    """Row of a job of a workdir, whose folder tells the variant alone; with its fields if it is none of ours."""
    changed, name = changed_fields(summary), row_of_content(summary)
    if not changed or name:
        return name or summary["job"], dict(summary)
    text = ",".join(f"{name}={new}" for name, new in changed.items())
    return f"{summary['job']}:{text}", {**summary, "row": {"overrides": changed}}


def check_named(setting: Setting, name: str, path: pathlib.Path, summary: Mapping):
    """Raise InputError if a summary is not what its place says: its row, or N."""
    row = universal_rows(()).get(name)
    if row and row_of_content(summary) != name:
        text = ", ".join(f"{field}={new}" for field, new in changed_fields(summary).items()) or "nothing else"
        raise InputError(f"{path} is no {name!r}: it is {summary['job']} with {text}; rename its folder")
    count = labeled(summary)
    if count > setting.n or (kind(name) == "universal" and count != setting.n):
        raise InputError(
            f"{path}: it has {count} labeled images per domain, its folder says {setting.n}; move it to "
            "the folder of its own setting"
        )


def labeled(summary: Mapping) -> int:
    """Number of labeled images of a summary, the most of all domains."""
    return max(about["images"]["labeled"] for about in summary["domains"].values())


def check_comparable(found: Found):
    """Raise InputError, naming two files, where summaries differ in what rows beside each other must share."""
    seen: dict[tuple, tuple[Any, pathlib.Path]] = {}
    for job, path, summary in found.all():
        for key, mine in comparable(job, summary).items():
            other, where = seen.setdefault(key, (mine, path))
            if other != mine:
                what = " of ".join(map(str, key))
                raise InputError(
                    f"{where} and {path} must not be mixed: {what} is {other} and {mine}; report one of them alone"
                )


def comparable(job: str, summary: Mapping) -> dict[tuple, Any]:
    """What must be the same in all summaries of a setting: by what it is of, such as ("steps", "universal")."""
    of_kind = kind(job)
    trained = tuple(sorted(summary["domains"]))
    if of_kind == "finetune":  # which evaluates the other domain too
        trained = tuple(d for d in trained for e in trained if job == f"finetune_{e}_{d}")
    values: dict[tuple, Any] = {
        ("steps", of_kind): summary["steps"],
        ("split_hash", " and ".join(trained)): summary["split_hash"],
        ("model.pretrained",): weights(summary),
    }
    if summary.get("unlabeled_hash"):
        values["unlabeled_hash", " and ".join(trained)] = summary["unlabeled_hash"]
    encoder = value(summary, "model.encoder")
    values["model.encoder",] = SAME_ENCODER.get(encoder, encoder)
    for name in ("model.width", "data.normalize", "model.upsample"):
        values[name,] = value(summary, name)
    for domain, about in summary["domains"].items():
        values["image size", domain] = about.get("image_size")
        values["split", domain] = about.get("split")
    return values


def weights(summary: Mapping) -> str:
    """What the encoder started from: the file with its folder, which tell apart the files of one name."""
    return "/".join(pathlib.Path(value(summary, "model.pretrained") or "").parts[-2:])


def scores(found: Found, row: Row, domain: str, which: str) -> dict[int, float]:
    """MIoU in % of a row on a domain by seed. Empty: not run.

    `which` is best or last, on the test split; or select: of the best checkpoint on the split that it was chosen on.
    """
    by_seed = found.summaries.get(row.jobs.get(domain, ""), {})
    key = "val_miou_best" if which == "val" else f"miou_{which}"
    found_in = {seed: summary["domains"][domain].get(key) for seed, summary in by_seed.items()}
    return {seed: 100 * value for seed, value in found_in.items() if value is not None}


def averages(found: Found, row: Row, which: str) -> dict[int, float]:
    """Mean over the domains of every seed that has all of them."""
    by_domain = [scores(found, row, domain, which) for domain in found.domains]
    if not by_domain or set(row.jobs) != set(found.domains):
        return {}
    seeds = set.intersection(*(set(values) for values in by_domain))
    return {seed: sum(values[seed] for values in by_domain) / len(by_domain) for seed in sorted(seeds)}


def class_scores(found: Found, row: Row, domain: str, which: str) -> dict[str, dict[int, float]]:
    """IoU in % per class and seed; a class that is absent from the split has none."""
    by_seed = found.summaries.get(row.jobs.get(domain, ""), {})
    key = "iou" if which == "best" else "iou_last"
    out: dict[str, dict[int, float]] = {}
    for seed, summary in by_seed.items():
        for name, value in summary["domains"][domain].get(key, {}).items():
            out.setdefault(name, {}).update({} if value is None else {seed: 100 * value})
    return out


def extra_rows(found: Found, known: Sequence[Row]) -> list[Row]:
    """Rows of the user's own that were run, in the order of their names."""
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
