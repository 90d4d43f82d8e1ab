"""Entry point: print tables of the papers beside our numbers, from the summaries of sweeps or runs.

python -m usss_jax.tables docs/results --table=3 --pair=cs256_cvd --out=tables/table3
python -m usss_jax.tables docs/results --table=1,3 --pair=cs256_cvd_uda
python -m usss_jax.tables runs/mine --table=3

Arguments: the folder of all results, folders of experiments in it, or workdirs; without any, only the paper's numbers
are shown. Prints Markdown; --out also writes OUT.md and OUT.csv. The pair decides the paper: experiments of a config of
method=mlsl are shown in MLSL's Tables 1 to 4, others in USSS's Tables 2 to 8.
"""

from absl import flags

from usss_jax import cli
from usss_jax.errors import InputError
from usss_jax.experiments import layout, paper, render, render_mlsl, rows, rows_mlsl
from usss_jax.experiments.collect import read_folders
from usss_jax.experiments.found import Found
from usss_jax.local_files import local_path

TABLE = flags.DEFINE_list("table", ["3"], "Tables of the paper, from 2 to 8; of MLSL, from 1 to 4.")
PAIR = flags.DEFINE_string("pair", "", "Only this pair (name of a config); for a workdir, the pair that it trained.")
SCALE = flags.DEFINE_enum("scale", "", ("", *layout.SCALES), "Of a workdir; full shows the paper's numbers beside it.")
OUT = flags.DEFINE_string("out", "", "Write OUT.md and OUT.csv.")


RENDER = {"usss": render, "mlsl": render_mlsl}
OF_METHOD = {"usss": rows.TABLE_ROWS, "mlsl": rows_mlsl.TABLE_ROWS}


def nothing_run(table: int, pair: str = "") -> list[Found]:
    """Return the paper's experiments of a table, without any summaries; MLSL's if asked for, or if USSS has none."""
    if pair or table not in rows.TABLE_ROWS:
        rows_mlsl.check_table(table)
        pairs = [pair] if pair else rows_mlsl.PAPER_PAIRS[table]
        return [Found(layout.Experiment(name, None, "full")) for name in pairs]
    experiments = (layout.Experiment(rows.PAPER_PAIR[table], n, "full") for n in rows.ENCODERS[table])
    return [Found(experiment, empty_domains=paper.domains_of(table)) for experiment in experiments]


def main(argv: list[str]):
    """Print the tables and write them."""
    if flags.FLAGS["config"].present:
        raise InputError("--config: tables are made from folders of results, not a config")
    folders = [local_path(word, "folder") for word in argv[1:]]
    if wrong := [item for item in TABLE.value if not item.isdecimal()]:
        raise InputError(f"--table: {wrong[0]!r} is not a whole number")
    tables = [int(item) for item in TABLE.value]
    for table in tables:
        if table not in rows_mlsl.TABLE_ROWS:
            rows.check_table(table)
    if PAIR.value and not folders and PAIR.value not in rows_mlsl.MAIN:
        raise InputError(
            f"--pair={PAIR.value}: without results only the paper's pair is shown; give a folder of results"
        )
    found = read_folders(folders, PAIR.value, SCALE.value)
    if folders and not found:
        of_pair = f" of {PAIR.value}" if PAIR.value else ""
        raise InputError(f"{', '.join(map(str, folders))}: no results{of_pair}; give folders of results or workdirs")
    all_of = [(table, one) for table in tables for one in (found or nothing_run(table, PAIR.value))]
    sections = [(table, one) for table, one in all_of if table in OF_METHOD[one.experiment.method]]
    if not sections:
        raise InputError(f"--table={','.join(TABLE.value)}: is not of the paper of {all_of[0][1].experiment.pair}")
    text = "\n".join(RENDER[one.experiment.method].markdown(table, one) for table, one in sections)
    print(text)
    if OUT.value:
        out = cli.folder_of(OUT)
        lines = [line for table, one in sections for line in RENDER[one.experiment.method].csv_lines(table, one)]
        layout.write_whole(out.with_name(f"{out.name}.md"), text)
        layout.write_whole(out.with_name(f"{out.name}.csv"), render.csv_text(lines))
        print(f"wrote {out}.md and {out}.csv")


if __name__ == "__main__":
    cli.run(main)
