"""Entry point: a table of the paper with our numbers, from the summaries that a sweep or a run left.

python -m usss_jax.tables docs/results --table=3 --pair=cs256_cvd --out=tables/table3
python -m usss_jax.tables runs/mine --table=3

Arguments: the folder of all results, folders of one pair in it, or workdirs; none: the paper's numbers alone. Prints
Markdown and writes it with a CSV to --out (OUT.md, OUT.csv).
"""

from absl import flags

from usss_jax import cli
from usss_jax.errors import InputError
from usss_jax.experiments import layout, paper, render, rows
from usss_jax.experiments.collect import Found, read_folders
from usss_jax.local_files import local_path

TABLE = flags.DEFINE_list("table", ["3"], "Tables of the paper, of 2 to 8.")
PAIR = flags.DEFINE_string("pair", "", "Only this pair (the name of a config); of a workdir: what it is a run of.")
SCALE = flags.DEFINE_enum("scale", "", ("", *layout.SCALES), "Of a workdir: full puts the paper's numbers beside it.")
OUT = flags.DEFINE_string("out", "", "Write OUT.md and OUT.csv.")


def nothing_run(table: int) -> list[Found]:
    """The settings of a table without any result."""
    settings = (layout.Setting(rows.PAPER_PAIR[table], n, "full") for n in rows.ENCODERS[table])
    return [Found(setting, empty_domains=paper.domains_of(table)) for setting in settings]


def main(argv: list[str]):
    """Print the report and write it."""
    if flags.FLAGS["config"].present:
        raise InputError("--config: a report takes folders of results, not a config")
    folders = [local_path(word, "folder") for word in argv[1:]]
    if wrong := [item for item in TABLE.value if not item.isdecimal()]:
        raise InputError(f"--table: {wrong[0]!r} is not a whole number")
    tables = [int(item) for item in TABLE.value]
    for table in tables:
        rows.check_table(table)
    if PAIR.value and not folders:
        raise InputError(f"--pair={PAIR.value}: without a folder of results there is only the paper's pair; give one")
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
