"""Entry point: train the rows of a table of the paper, with several seeds, one command after another.

python -m usss_jax.sweep --table=3 --pair=cs256_cvd --scale=cpu --n=50,100 --seeds=0,1,2 --data_root=DATA
python -m usss_jax.sweep --rows=table3/n100/full,table7/n50/k3 --data_root=DATA
python -m usss_jax.sweep --list

What is finished is not run again, what was interrupted resumes, what fails is told and the next one follows (exit code
1 at the end). --config.FIELD=VALUE goes to every command. A seed changes weights and order of the images; the labeled
images are those of split_seed, which stays. usss_jax/report.py makes the table.
"""

import functools
import re
import sys

from absl import flags

from usss_jax import cli
from usss_jax.config import check_seed
from usss_jax.errors import InputError
from usss_jax.experiments import commands, execute, layout, rows
from usss_jax.local_files import check_paths

TABLE = flags.DEFINE_list("table", ["3"], "Tables of the paper, of 2 to 8.")
PAIR = flags.DEFINE_string("pair", None, "Config: its name in configs/ or its path. Default: the table's.")
SCALE = flags.DEFINE_enum("scale", "full", layout.SCALES, "cpu: with the config's argument of that name.")
N = flags.DEFINE_list("n", [], "Numbers of labeled images per domain. Default: the table's.")
SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds.")
ROWS = flags.DEFINE_list("rows", [], "Rows: basic, full ..., or full names as of --list. Default: the table's.")
EXTRA = flags.DEFINE_multi_string("extra", [], "A further row, NAME:FIELD=VALUE,FIELD=VALUE: Univ-full with these.")
WORDS = flags.DEFINE_string("words", "", "File of word vectors for the row of that name.")
DATA_ROOT = flags.DEFINE_string("data_root", "", "As the config's field of that name.")
RUNS = flags.DEFINE_string("runs", "runs", "Folder for the workdirs.")
RESULTS = flags.DEFINE_string("results", "docs/results", "Folder for the summaries.")
DRY_RUN = flags.DEFINE_boolean("dry_run", False, "Print the commands alone.")
LIST = flags.DEFINE_boolean("list", False, "Print every row of the paper with its config, variants and overrides.")


def say(text: str):
    """Print at once, also into a file."""
    print(text, flush=True)


def numbers(flag: str, items: list[str]) -> list[int]:
    """Read a flag's list of whole numbers."""
    if wrong := [item for item in items if not item.isdecimal()]:
        raise InputError(f"--{flag}: {wrong[0]!r} is not a whole number")
    return [int(item) for item in items]


def list_rows():
    """Print the named settings."""
    domains = {pair: commands.domain_names(commands.config_file(pair), "", {}) for pair in rows.PAPER_PAIR.values()}
    for name, (config, row) in rows.named_rows(domains).items():
        fields = [f"--config.{field}={value}" for field, value in row.overrides.items()]
        given = " ".join([f"--config={config}", f"--config.variants={','.join(row.variants)}", *fields])
        say(f"{name:40}{given if row.variants else '(cited by the paper)'}")


def asked_tables() -> list[tuple[int, list[int], list[str]]]:
    """Tables, their N and rows that the flags ask for; a row's full name, table3/n100/full, says all three."""
    full = [re.fullmatch(r"table(\d+)/n(\d+)/(.+)", row) for row in ROWS.value]
    if not any(full):
        return [(table, numbers("n", N.value), ROWS.value) for table in numbers("table", TABLE.value)]
    if not all(full) or flags.FLAGS["table"].present or N.value:
        raise InputError(f"--rows={','.join(ROWS.value)}: full names say table and N; no other rows, --table and --n")
    return [(int(match[1]), [int(match[2])], [match[3]]) for match in full if match]


def plan(overrides: dict[str, str]) -> list[commands.Command]:
    """All commands that the flags ask for: seed after seed, N after N."""
    check_paths(DATA_ROOT.value, "--data_root")
    planned: list[commands.Command] = []
    for seed in numbers("seeds", SEEDS.value):
        check_seed("--seeds", seed)
        for table, given, chosen in asked_tables():
            rows.check_table(table)
            pair = commands.config_file(PAIR.value or rows.PAPER_PAIR[table])
            for n in given or list(rows.ENCODERS[table]):
                setting = layout.Setting(pair.stem, n, SCALE.value)
                argument = rows.config_argument(table, n, SCALE.value)
                domains = tuple(commands.domain_names(pair, argument, overrides))
                sweep = commands.Sweep(
                    setting,
                    f"{pair}:{argument}",
                    domains,
                    cli.folder_of(RUNS),
                    cli.folder_of(RESULTS),
                    DATA_ROOT.value,
                    overrides,
                )
                asked = rows.asked_rows(table, domains, chosen, EXTRA.value, WORDS.value)
                planned += commands.commands_of(sweep, [row for row in asked if not row.missing], seed)
                for row in asked:
                    if row.missing:
                        say(f"not run: {setting.folder}/seed{seed}/{row.name}: {row.missing}")
    return commands.each_once(planned)  # two tables may share rows


def main(argv: list[str], overrides: list[str]) -> int:
    """Run what is missing; return the exit code."""
    if len(argv) > 1:
        raise InputError(f"{argv[1]!r} is not a flag")
    if flags.FLAGS["config"].present:
        raise InputError("--config: a sweep takes its config as --pair=NAME (of configs/) or --pair=FILE")
    if LIST.value:
        list_rows()
        return 0
    planned = plan(commands.read_overrides(overrides))
    missing = commands.missing_commands(planned)
    finished = len(planned) - len(missing)
    say(f"{len(planned)} commands, {finished} of them finished; data.split_seed is the same for all seeds")
    if DRY_RUN.value:
        for command in missing:
            say(command.printed())
        return 0
    failed = execute.run_commands(missing, say)
    if failed:
        say(f"{len(failed)} of {len(missing)} commands failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    given = [word for word in sys.argv[1:] if word.startswith(("--config.", "-config."))]
    cli.run(
        functools.partial(main, overrides=given),
        [word for word in sys.argv if word not in given],
        ended="told to end; the same command resumes",
    )
