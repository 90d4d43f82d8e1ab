"""The commands of a sweep: one per seed and row, or per seed and job that several rows share."""

import dataclasses
import pathlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from usss_jax.config.files import read_config, split_argument
from usss_jax.config.mlsl import JOBS
from usss_jax.errors import InputError
from usss_jax.experiments import rows_mlsl
from usss_jax.experiments.layout import Experiment, read_json, result_file
from usss_jax.experiments.rows import SINGLES, Row, universal_rows


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What all commands of a sweep share.

    Attributes:
      experiment: pair, N and scale.
      config: file and argument, as in --config.
      domains: names, in the config's order.
      runs, results: folders.
      data_root: `data.root` of the config; empty: not set.
      overrides: config fields of every command.
    """

    experiment: Experiment
    config: str
    domains: tuple[str, ...]
    runs: pathlib.Path
    results: pathlib.Path
    data_root: str = ""
    overrides: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Start:
    """Finished networks of another command of the same seed, which a command starts from.

    Attributes:
      command: name of that command.
      field: config field that gets the folder of the networks.
      jobs: jobs of that command, all of which it needs.
      folder: of the networks, in the workdir of that command; empty: the workdir.
    """

    command: str
    field: str
    jobs: tuple[str, ...]
    folder: str = ""


@dataclasses.dataclass(frozen=True)
class Command:
    """One training command.

    Attributes:
      sweep: what all commands share.
      name: of the row, or of jobs that several rows share: single, frozen, finetune, hung, teacher_single.
      seed: `train.seed`.
      variants: `variants` of the config.
      overrides: config fields that define the row.
      jobs: result (folder in the results) -> job (folder in the workdir).
      start: networks that it starts from.
    """

    sweep: Sweep
    name: str
    seed: int
    variants: tuple[str, ...]
    overrides: Mapping[str, str]
    jobs: Mapping[str, str]
    start: Start | None = None

    @property
    def title(self) -> str:
        """Experiment, seed and name."""
        return f"{self.sweep.experiment.folder}/seed{self.seed}/{self.name}"

    @property
    def workdir(self) -> pathlib.Path:
        """Always the same folder, so that an interrupted command resumes; transfers share that of their encoders."""
        shared = self.name in (SINGLES, "frozen", "finetune")
        seed_folder = self.sweep.runs / self.sweep.experiment.folder / f"seed{self.seed}"
        return seed_folder / (SINGLES if shared else self.name)

    @property
    def log(self) -> pathlib.Path:
        """File that receives the command's output."""
        return self.workdir.with_name(f"{self.workdir.name}.log")

    @property
    def requested(self) -> dict[str, Any]:
        """Config, variants and overrides, without folders of this machine."""
        overrides = {field: file_name(value) for field, value in {**self.sweep.overrides, **self.overrides}.items()}
        config = pathlib.Path(self.sweep.config).name
        return {"config": config, "variants": list(self.variants), "overrides": overrides}

    def results(self) -> dict[str, pathlib.Path]:
        """Return the file of every result."""
        sweep = self.sweep
        return {result: result_file(sweep.results, sweep.experiment, result, self.seed) for result in self.jobs}

    def absent_networks(self) -> list[pathlib.Path]:
        """Return the missing summaries of the networks that it starts from."""
        if not self.start:
            return []
        folder = self.workdir.with_name(self.start.command)
        summaries = [folder / job / "summary.json" for job in self.start.jobs]
        return [path for path in summaries if not path.exists()]

    def words(self) -> list[str]:
        """Return the arguments of Python."""
        values = {"variants": ",".join(self.variants), "train.seed": str(self.seed)}
        if self.sweep.experiment.splits_by_seed:
            values["data.split_seed"] = str(self.seed)
        if self.start:
            values[self.start.field] = str(self.workdir.with_name(self.start.command) / self.start.folder)
        if self.sweep.data_root:
            values["data.root"] = self.sweep.data_root
        values |= {**self.sweep.overrides, **self.overrides}
        given = [f"--config.{field}={value}" for field, value in values.items()]
        return ["-m", "usss_jax.main", f"--config={self.sweep.config}", f"--workdir={self.workdir}", *given]

    def printed(self) -> str:
        """Return the command as a line for a shell."""
        return shlex.join(["python", *self.words()])


def file_name(value: str) -> str:
    """Remove the folders from a path in a field's value.

    >>> file_name("words:/data/glove.txt"), file_name("0.5")
    ('words:glove.txt', '0.5')
    """
    words, colon, path = value.rpartition(":")
    return f"{words}{colon}{pathlib.PurePath(path).name}" if "/" in path else value


def commands_of(sweep: Sweep, rows: Iterable[Row], seed: int) -> list[Command]:
    """Return the commands of one seed: the single-domain networks, then the rows, then other shared jobs."""
    rows, domains = list(rows), sweep.domains
    starts = {row.start for row in rows if row.start}
    rows = [row for name, row in universal_rows(domains).items() if name in starts - {r.name for r in rows}] + rows
    requested = {variant for row in rows for variant in row.variants}
    transfers = [f"{source}_{target}" for source in domains for target in domains if source != target]
    jobs_of = {
        SINGLES: [f"single_{d}" for d in domains],
        "frozen": [f"frozen_{transfer}" for transfer in transfers],
        "finetune": [f"finetune_{transfer}" for transfer in transfers],
        "hung": [f"hung_{d}" for d in domains],
        "teacher_single": [f"teacher_single_{d}" for d in domains],
    }

    def shared(name: str, *variants: str) -> Command:
        return Command(sweep, name, seed, variants, {}, {job: job for job in jobs_of[name]})

    start = Start(SINGLES, "usss.single_from", tuple(jobs_of[SINGLES]))
    commands = []
    if SINGLES in requested or any(row.needs_singles for row in rows):
        commands.append(shared(SINGLES, SINGLES))
    for row in rows:
        if not set(row.variants) & set(jobs_of):
            jobs = {row.name: row.variants[0]}
            needed = start if row.needs_singles else None
            if row.start:
                needed = Start(row.start, "rounds.networks", (row.start,), row.start)
            commands.append(Command(sweep, row.name, seed, row.variants, row.overrides, jobs, needed))
    commands += [shared(name, SINGLES, name) for name in ("frozen", "finetune") if name in requested]
    commands += [shared(name, name) for name in ("hung", "teacher_single") if name in requested]
    return commands


def commands_of_mlsl(sweep: Sweep, rows: Iterable[Row], seed: int) -> list[Command]:
    """Return the commands of one seed of MLSL: a network of the source, then the rows that start from it.

    If the config trains the image-level head with the source, the row sisc_pwl does so, and other rows with that head
    start from its network: they differ in their rounds alone.
    """
    path, given = split_argument(sweep.config)
    config = read_config(pathlib.Path(path), given)
    joint = sweep.overrides.get("mlsl.image_head_start", config.mlsl.image_head_start) == "source"

    def start(row: Row) -> Start | None:
        (variant,) = row.variants
        if joint and variant.endswith("_pwl"):
            jobs = ("source_pwl",)
            return None if row.name == "sisc_pwl" else Start("sisc_pwl", "mlsl.source_from", jobs, "source_pwl")
        return Start("source", "mlsl.source_from", ("source",), "source") if JOBS[variant].rounds else None

    by_name = {row.name: row for row in rows}
    first = dict.fromkeys(needed.command for row in by_name.values() if (needed := start(row)))
    commands = []
    for name in dict.fromkeys([*first, *by_name]):
        row = by_name.get(name, rows_mlsl.ROWS[name])
        (variant,) = row.variants
        argument = rows_mlsl.config_argument(variant, sweep.experiment.scale)
        of_row = dataclasses.replace(sweep, config=f"{path}:{argument}")
        jobs = {name: variant} | ({"source_pwl": "source_pwl"} if joint and name == "sisc_pwl" else {})
        commands.append(Command(of_row, name, seed, row.variants, row.overrides, jobs, start(row)))
    return commands


def each_once(commands: Iterable[Command]) -> list[Command]:
    """Remove repeated commands; raise InputError if two different ones have the same title."""
    kept: dict[str, Command] = {}
    for command in commands:
        other = kept.setdefault(command.title, command)
        if other.words() != command.words():
            raise InputError(
                f"{command.title} needs both --config={other.sweep.config} and --config={command.sweep.config}; run "
                "one table at a time, each with its own --runs and --results"
            )
    return list(kept.values())


def missing_commands(commands: Sequence[Command]) -> list[Command]:
    """Return the unfinished commands, and those whose networks one of them needs and that are lost."""
    missing = [command for command in commands if not is_finished(command)]
    lost = {
        path.parent.parent: command.start.command
        for command in missing
        if command.start
        for path in command.absent_networks()
    }

    def is_lost(command: Command) -> bool:
        return lost.get(command.workdir) == command.name

    return [command for command in commands if command in missing or is_lost(command)]


def is_finished(command: Command) -> bool:
    """Return whether all results of a command exist; raise InputError if one has another config or overrides."""
    results = command.results().values()
    for path in results:
        requested = read_json(path).get("row") if path.exists() else None
        for field in ("config", "overrides"):
            if requested and requested.get(field) != command.requested[field]:
                raise InputError(
                    f"{path} was made with {field} {requested.get(field)}, not {command.requested[field]}; give other "
                    "--results and --runs, or another name"
                )
    return all(path.exists() for path in results)
