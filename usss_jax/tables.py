"""Entry point: print tables of the paper beside our numbers, from the summaries of sweeps or runs.

python -m usss_jax.tables docs/results --table=3 --pair=cs256_cvd --out=tables/table3
python -m usss_jax.tables runs/mine --table=3

Arguments: the folder of all results, folders of experiments in it, or workdirs; without any, only the paper's numbers
are shown. Prints Markdown; --out also writes OUT.md and OUT.csv.
"""

from absl import flags

from usss_jax import cli
from usss_jax.errors import InputError
from usss_jax.experiments import layout, paper, render, rows
from usss_jax.experiments.collect import Found, read_folders
from usss_jax.local_files import local_path

TABLE = flags.DEFINE_list("table", ["3"], "Tables of the paper, from 2 to 8.")
PAIR = flags.DEFINE_string("pair", "", "Only this pair (name of a config); for a workdir, the pair that it trained.")
SCALE = flags.DEFINE_enum("scale", "", ("", *layout.SCALES), "Of a workdir; full shows the paper's numbers beside it.")
OUT = flags.DEFINE_string("out", "", "Write OUT.md and OUT.csv.")


def nothing_run(table: int) -> list[Found]:
    """Return the paper's experiments of a table, without any summaries."""
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
        rows.check_table(table)
    if PAIR.value and not folders:
        raise InputError(
            f"--pair={PAIR.value}: without results only the paper's pair is shown; give a folder of results"
        )
    found = read_folders(folders, PAIR.value, SCALE.value)
    if folders and not found:
        of_pair = f" of {PAIR.value}" if PAIR.value else ""
        raise InputError(f"{', '.join(map(str, folders))}: no results{of_pair}; give folders of results or workdirs")
    sections = [(table, one) for table in tables for one in (found or nothing_run(table))]
    text = "\n".join(render.markdown(table, one) for table, one in sections)
    print(text)
    if OUT.value:
        out = cli.folder_of(OUT)
        layout.write_whole(out.with_name(f"{out.name}.md"), text)
        layout.write_whole(out.with_name(f"{out.name}.csv"), render.csv_text(sections))
        print(f"wrote {out}.md and {out}.csv")


if __name__ == "__main__":
    cli.run(main)
