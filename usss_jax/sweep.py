"""Entry point: train the rows of tables of the papers, with several seeds, one command after another.

python -m usss_jax.sweep --table=3 --pair=cs256_cvd --scale=cpu --n=50,100 --seeds=0,1,2 --data_root=DATA
python -m usss_jax.sweep --rows=table3/n100/full,table7/n50/k3 --data_root=DATA
python -m usss_jax.sweep --pair=cs256_cvd_uda --scale=light --rows=source,cbst_sp,sisc,sisc_pwl --data_root=DATA
python -m usss_jax.sweep --rows=mlsl/table4/eta0,mlsl/table4/eta01 --data_root=DATA
python -m usss_jax.sweep --list

Finished commands are skipped, interrupted ones resume, and a failing one does not stop the others (exit code 1 at the
end). --config.SECTION.FIELD=VALUE goes to every command. A seed changes the weights and the order of the images; the
labeled images are fixed by data.split_seed, but with --scale=lite0 they change with the seed. usss_jax/tables.py prints
the tables.

A config of method=mlsl as --pair has the rows of MLSL's Tables 1 to 4, which share a network of the source per seed.
"""

import functools
import re
import sys

from absl import flags

from usss_jax import cli
from usss_jax.config import check_seed
from usss_jax.config.files import read_config
from usss_jax.errors import InputError
from usss_jax.experiments import arguments, commands, execute, layout, rows, rows_mlsl
from usss_jax.local_files import check_paths

TABLE = flags.DEFINE_list("table", ["3"], "Tables of the paper, from 2 to 8; of MLSL, from 1 to 4.")
PAIR = flags.DEFINE_string("pair", None, "Config of the domains: name in configs/ or path. Default: the table's.")
SCALE = flags.DEFINE_enum(
    "scale", "full", layout.SCALES, "cpu: for two cores; light: and a light encoder; lite0: and longer."
)
N = flags.DEFINE_list("n", [], "Numbers of labeled images per domain. Default: the table's. Not for MLSL.")
SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds.")
ROWS = flags.DEFINE_list("rows", [], "Rows: basic, full ..., or full names as in --list. Default: the table's.")
EXTRA = flags.DEFINE_multi_string("extra", [], "Custom row, NAME:FIELD=VALUE,FIELD=VALUE: Univ-full with these fields.")
WORDS = flags.DEFINE_string("words", "", "File of word vectors for the row words.")
DATA_ROOT = flags.DEFINE_string("data_root", "", "The config field data.root.")
RUNS = flags.DEFINE_string("runs", "runs", "Folder for the workdirs.")
RESULTS = flags.DEFINE_string("results", "docs/results", "Folder for the summaries.")
DRY_RUN = flags.DEFINE_boolean("dry_run", False, "Print the commands without running them.")
LIST = flags.DEFINE_boolean("list", False, "Print every row of the paper with its config, variants and overrides.")


def log(text: str):
    """Print without buffering."""
    print(text, flush=True)


def numbers(flag: str, items: list[str]) -> list[int]:
    """Parse a flag's list of whole numbers."""
    if wrong := [item for item in items if not item.isdecimal()]:
        raise InputError(f"--{flag}: {wrong[0]!r} is not a whole number")
    return [int(item) for item in items]


def list_rows():
    """Print every row of the papers with its config, variants and overrides."""
    domains = {pair: arguments.domain_names(arguments.config_file(pair), "", {}) for pair in rows.PAPER_PAIR.values()}
    for name, (config, row) in (rows.named_rows(domains) | rows_mlsl.named_rows()).items():
        fields = [f"--config.{field}={value}" for field, value in row.overrides.items()]
        given = " ".join([f"--config={config}", f"--config.variants={','.join(row.variants)}", *fields])
        log(f"{name:40}{given if row.variants else '(cited by the paper)'}")


def requested_tables() -> list[tuple[int, list[int], list[str]]]:
    """Return the requested tables with their N and rows; a full name such as table3/n100/full gives all three."""
    full = [re.fullmatch(r"table(\d+)/n(\d+)/(.+)", row) for row in ROWS.value]
    if not any(full):
        return [(table, numbers("n", N.value), ROWS.value) for table in numbers("table", TABLE.value)]
    if not all(full) or flags.FLAGS["table"].present or N.value:
        raise InputError(
            f"--rows={','.join(ROWS.value)}: full names include table and N; remove other rows, --table, --n"
        )
    return [(int(match[1]), [int(match[2])], [match[3]]) for match in full if match]


def seeds() -> list[int]:
    """Return the requested seeds, checked."""
    given = numbers("seeds", SEEDS.value)
    for seed in given:
        check_seed("--seeds", seed)
    return given


def requested_of_mlsl() -> list[tuple[int, str, list[str]]]:
    """Return the requested tables of MLSL with pair and rows; empty if USSS's are requested."""
    full = [re.fullmatch(r"mlsl/table(\d+)/(.+)", row) for row in ROWS.value]
    if any(full):
        if not all(full) or flags.FLAGS["table"].present:
            raise InputError(f"--rows={','.join(ROWS.value)}: full names include the table; remove other rows, --table")
        tables = [(int(match[1]), match[2]) for match in full if match]
        for table, _ in tables:
            rows_mlsl.check_table(table)
        return [(table, PAIR.value or rows_mlsl.PAPER_PAIRS[table][0], [row]) for table, row in tables]
    if not PAIR.value or read_config(arguments.config_file(PAIR.value)).method != "mlsl":
        return []
    main = rows_mlsl.MAIN.get(arguments.config_file(PAIR.value).stem, 1)
    tables_given = numbers("table", TABLE.value) if flags.FLAGS["table"].present else [main]
    return [(table, PAIR.value, ROWS.value) for table in tables_given]


def plan_mlsl(requested: list[tuple[int, str, list[str]]], overrides: dict[str, str]) -> list[commands.Command]:
    """Return the commands of MLSL's rows, seed after seed."""
    check_paths(DATA_ROOT.value, "--data_root")
    for flag, given in (("n", N.value), ("extra", EXTRA.value), ("words", WORDS.value)):
        if given:
            raise InputError(f"--{flag}: is of USSS; remove it, since MLSL's rows use all labels of the source")
    planned: list[commands.Command] = []
    by_pair: dict[str, dict[str, rows.Row]] = {}
    for table, name, chosen in requested:
        of_table = {row.name: row for row in rows_mlsl.requested_rows(table, arguments.config_file(name).stem, chosen)}
        by_pair[name] = by_pair.get(name, {}) | of_table
    for name, by_name in by_pair.items():
        pair = arguments.config_file(name)
        argument = rows_mlsl.config_argument("source", SCALE.value)
        sweep = commands.Sweep(
            layout.Experiment(pair.stem, None, SCALE.value),
            f"{pair}:{argument}",
            tuple(arguments.domain_names(pair, argument, overrides)),
            cli.folder_of(RUNS),
            cli.folder_of(RESULTS),
            DATA_ROOT.value,
            overrides,
        )
        for seed in seeds():
            planned += commands.commands_of_mlsl(sweep, [row for row in by_name.values() if not row.missing], seed)
            for row in by_name.values():
                if row.missing:
                    log(f"not run: {sweep.experiment.folder}/seed{seed}/{row.name}: {row.missing}")
    return planned


def plan(overrides: dict[str, str]) -> list[commands.Command]:
    """Return the commands of USSS's rows: seed after seed, N after N."""
    check_paths(DATA_ROOT.value, "--data_root")
    planned: list[commands.Command] = []
    for seed in seeds():
        for table, given, chosen in requested_tables():
            rows.check_table(table)
            pair = arguments.config_file(PAIR.value or rows.PAPER_PAIR[table])
            for n in given or list(rows.ENCODERS[table]):
                experiment = layout.Experiment(pair.stem, n, SCALE.value)
                argument = rows.config_argument(table, n, SCALE.value)
                domains = tuple(arguments.domain_names(pair, argument, overrides))
                sweep = commands.Sweep(
                    experiment,
                    f"{pair}:{argument}",
                    domains,
                    cli.folder_of(RUNS),
                    cli.folder_of(RESULTS),
                    DATA_ROOT.value,
                    overrides,
                )
                requested = arguments.requested_rows(table, domains, chosen, EXTRA.value, WORDS.value)
                planned += commands.commands_of(sweep, [row for row in requested if not row.missing], seed)
                for row in requested:
                    if row.missing:
                        log(f"not run: {experiment.folder}/seed{seed}/{row.name}: {row.missing}")
    return commands.each_once(planned)  # two tables may share rows


def main(argv: list[str], overrides: list[str]) -> int:
    """Run the unfinished commands; return the exit code."""
    if len(argv) > 1:
        raise InputError(f"{argv[1]!r} is not a flag")
    if flags.FLAGS["config"].present:
        raise InputError("--config: a sweep takes its config as --pair=NAME (of configs/) or --pair=FILE")
    if LIST.value:
        list_rows()
        return 0
    of_mlsl = requested_of_mlsl()
    fields = arguments.read_overrides(overrides, "mlsl" if of_mlsl else "usss")
    planned = plan_mlsl(of_mlsl, fields) if of_mlsl else plan(fields)
    missing = commands.missing_commands(planned)
    finished = len(planned) - len(missing)
    by_seed = any(command.sweep.experiment.splits_by_seed for command in planned)
    labeled = "is the seed" if by_seed else "is the same for all seeds"
    log(f"{len(planned)} commands, {finished} of them finished; data.split_seed {labeled}")
    if DRY_RUN.value:
        for command in missing:
            log(command.printed())
        return 0
    failed = execute.run_commands(missing, log)
    if failed:
        log(f"{len(failed)} of {len(missing)} commands failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    given = [word for word in sys.argv[1:] if word.startswith(("--config.", "-config."))]
    cli.run(
        functools.partial(main, overrides=given),
        [word for word in sys.argv if word not in given],
        ended="stopped; run the same command again to resume",
    )
