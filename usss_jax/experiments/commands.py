"""Commands of a sweep: one command each, for one row (or the networks that rows share) and one seed."""

import dataclasses
import pathlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from usss_jax.config import fields, names, no_such_field
from usss_jax.config.files import find_config, read_config
from usss_jax.data.domains import get_domain
from usss_jax.errors import InputError
from usss_jax.experiments.layout import Setting, read_json, result_file, seed_folder
from usss_jax.experiments.rows import SINGLES, Row, check_value


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What all commands of a sweep share.

    Attributes:
      setting: pair, N and scale.
      config: file with argument, as --config takes it.
      domains: their names, in the config's order.
      runs, results: folders.
      data_root: `data.root` of the config; empty: not set.
      overrides: fields given for every command.
    """

    setting: Setting
    config: str
    domains: tuple[str, ...]
    runs: pathlib.Path
    results: pathlib.Path
    data_root: str = ""
    overrides: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
      sweep: what it shares with the others.
      name: of the row, or of what several rows share: single, frozen, finetune, hung.
      seed: of the run.
      variants: of the config.
      overrides: fields that make the row what it is.
      jobs: result (folder in the results) -> job (folder in the workdir).
      needs_singles: whether it uses the single-domain networks of its seed.
    """

    sweep: Sweep
    name: str
    seed: int
    variants: tuple[str, ...]
    overrides: Mapping[str, str]
    jobs: Mapping[str, str]
    needs_singles: bool = False

    @property
    def title(self) -> str:
        """Its place in the results."""
        return f"{self.sweep.setting.folder}/seed{self.seed}/{self.name}"

    @property
    def workdir(self) -> pathlib.Path:
        """Fixed, so that a command half done goes on; what is trained from the single networks lives beside them."""
        shared = self.name in (SINGLES, "frozen", "finetune")
        return seed_folder(self.sweep.runs, self.sweep.setting, self.seed) / (SINGLES if shared else self.name)

    @property
    def log(self) -> pathlib.Path:
        """File of what the command prints."""
        return self.workdir.with_name(f"{self.workdir.name}.log")

    @property
    def asked(self) -> dict[str, Any]:
        """What was asked for, without the folders of this machine."""
        overrides = {field: file_name(value) for field, value in {**self.sweep.overrides, **self.overrides}.items()}
        config = pathlib.Path(self.sweep.config).name
        return {"config": config, "variants": list(self.variants), "overrides": overrides}

    def results(self) -> dict[str, pathlib.Path]:
        """File of every result."""
        sweep = self.sweep
        return {result: result_file(sweep.results, sweep.setting, result, self.seed) for result in self.jobs}

    def absent_singles(self) -> list[pathlib.Path]:
        """Summaries of the single-domain networks of its seed that are not there."""
        folder = self.workdir.with_name(SINGLES)
        summaries = [folder / f"single_{domain}" / "summary.json" for domain in self.sweep.domains]
        return [path for path in summaries if not path.exists()]

    def words(self) -> list[str]:
        """Command line of the training."""
        values = {"variants": ",".join(self.variants), "train.seed": str(self.seed)}
        if self.needs_singles:
            values["usss.single_from"] = str(self.workdir.with_name(SINGLES))
        if self.sweep.data_root:
            values["data.root"] = self.sweep.data_root
        values |= {**self.sweep.overrides, **self.overrides}
        given = [f"--config.{field}={value}" for field, value in values.items()]
        return ["-m", "usss_jax.main", f"--config={self.sweep.config}", f"--workdir={self.workdir}", *given]

    def printed(self) -> str:
        """The same to read, and to give to a shell."""
        return shlex.join(["python", *self.words()])


def file_name(value: str) -> str:
    """Value of a field without the folders of a path: words:/data/glove.txt -> words:glove.txt."""
    words, colon, path = value.rpartition(":")
    return f"{words}{colon}{pathlib.PurePath(path).name}" if "/" in path else value


def commands_of(sweep: Sweep, rows: Iterable[Row], seed: int) -> list[Command]:
    """Commands of one seed for the rows: first the networks that they share, then the rows in their order."""
    rows, domains = list(rows), sweep.domains
    asked = {variant for row in rows for variant in row.variants}
    pairs = [(a, b) for a in domains for b in domains if a != b]
    jobs_of = {
        SINGLES: [f"single_{d}" for d in domains],
        "frozen": [f"frozen_{a}_{b}" for a, b in pairs],
        "finetune": [f"finetune_{a}_{b}" for a, b in pairs],
        "hung": [f"hung_{d}" for d in domains],
    }

    def shared(name: str, *variants: str) -> Command:
        return Command(sweep, name, seed, variants, {}, {job: job for job in jobs_of[name]})

    commands = []
    if SINGLES in asked or any(row.needs_singles for row in rows):
        commands.append(shared(SINGLES, SINGLES))
    for row in rows:
        if not set(row.variants) & set(jobs_of):
            jobs = {row.name: row.variants[0]}
            commands.append(Command(sweep, row.name, seed, row.variants, row.overrides, jobs, row.needs_singles))
    commands += [shared(name, SINGLES, name) for name in ("frozen", "finetune") if name in asked]
    commands += [shared("hung", "hung")] if "hung" in asked else []
    return commands


def each_once(commands: Iterable[Command]) -> list[Command]:
    """Commands without repetition; InputError where two would have the same place and are not the same."""
    kept: dict[str, Command] = {}
    for command in commands:
        other = kept.setdefault(command.title, command)
        if other.words() != command.words():
            raise InputError(
                f"{command.title} is wanted with --config={other.sweep.config} and --config={command.sweep.config}; "
                "sweep one table at a time, each with its own --runs and --results"
            )
    return list(kept.values())


def missing_commands(commands: Sequence[Command]) -> list[Command]:
    """Commands that are not finished, and that of the single networks where one needs these and they are gone."""
    missing = [command for command in commands if not is_finished(command)]
    for_singles = {command.workdir.with_name(SINGLES) for command in missing if command.needs_singles}

    def is_gone(command: Command) -> bool:
        return command.name == SINGLES and command.workdir in for_singles and bool(command.absent_singles())

    return [command for command in commands if command in missing or is_gone(command)]


def is_finished(command: Command) -> bool:
    """Whether all results of a command are there; InputError if one was made with other settings."""
    results = command.results().values()
    for path in results:
        asked = read_json(path).get("row") if path.exists() else None
        for field in ("config", "overrides"):
            if asked and asked.get(field) != command.asked[field]:
                raise InputError(
                    f"{path} was made with {field} {asked.get(field)}, now it would be {command.asked[field]}; "
                    "give another --results and --runs, or another name"
                )
    return all(path.exists() for path in results)


def read_overrides(arguments: Sequence[str]) -> dict[str, str]:
    """Read --config.FIELD=VALUE arguments, which go to every command."""
    overrides = {}
    for argument in arguments:
        field, equals, value = argument.lstrip("-").removeprefix("config.").partition("=")
        if not equals:
            raise InputError(f"{argument}: give --config.FIELD=VALUE")
        if field not in fields():
            raise InputError(f"{argument}: {no_such_field(field, fields())}")
        if fields()[field].sweep == "set":
            raise InputError(f"{argument}: {field} is set by the sweep (--pair, --n, --seeds, --rows, --data_root)")
        overrides[field] = check_value(argument, field, value)
    return overrides


def config_file(pair: str) -> pathlib.Path:
    """File of a pair: its path, or its name in configs/; InputError if it is not there."""
    try:
        return find_config(pair if pair.endswith(".py") else f"configs/{pair}.py")
    except InputError as e:
        raise InputError(f"pair={pair}: {e}") from e


def domain_names(path: pathlib.Path, argument: str, overrides: Mapping[str, str]) -> list[str]:
    """Names of the domains of a config; InputError if the file or its argument cannot be used."""
    domains = names(overrides.get("data.domains", read_config(path, argument).data.domains))
    return [get_domain(domain).name for domain in domains]
