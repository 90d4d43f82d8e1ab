"""Write the committed lists of labeled images: N training ids by a seeded rule, and their classes.

    python -m data_prep.labeled_lists --data_root=DATA [--out=usss_jax/data/labeled_lists]

DATA contains `camvid/`, `cityscapes256/` and `idd_lite/`. The lists depend only on the ids (data/splits.py); masks are
read to count the images with each class.
"""

import argparse
import pathlib

from usss_jax.data.domain import Domain
from usss_jax.data.domains import get_domain
from usss_jax.data.examples import Source
from usss_jax.data.labels import read_labels
from usss_jax.data.sources import open_source
from usss_jax.data.splits import LISTS, rank, spread
from usss_jax.errors import InputError
from usss_jax.local_files import write_whole

DOMAINS = ("camvid", "idd_lite", "cityscapes256")
NUMBERS = (20, 50, 100, 375, 1500)
SPREAD = 50  # lists of so many images or fewer spread over the videos and cities
SEEDS = (0, 1, 2)


def list_text(domain: Domain, train: Source, n: int, seed: int) -> str:
    """Format one list: a header of comments, then the sorted ids."""
    ids, rule = sorted(rank(train.ids, seed, domain.name)[:n]), "the first"
    if n <= SPREAD:
        ids, rule = spread(train.ids, seed, domain.name, n), f"of {n} parts of the sorted ids the first each"
    images = (read_labels(train.select(ids), domain.num_classes).counts > 0).sum(axis=0)
    shown = ", ".join(f"{name} {count}" for name, count in zip(domain.class_names, images, strict=True))
    header = (
        f"# {domain.name}, split_seed {seed}: {n} of {len(train)} training images, {rule} by SHA-256 of",
        '# "split_seed:domain:id".',
        f"# {(images > 0).sum()} of {domain.num_classes} classes are there. Images that show a class: {shown}",
    )
    return "\n".join((*header, *ids)) + "\n"


def main():
    """Write the lists of every domain, for every N up to its number of images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_root", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, default=LISTS)
    flags = parser.parse_args()
    try:
        _write_lists(flags.data_root, flags.out)
    except InputError as error:
        parser.exit(2, f"data_prep: error: {error}\n")


def _write_lists(data_root, out):
    for name in DOMAINS:
        domain = get_domain(name)
        train = open_source(domain, data_root / domain.folder, "train")
        for n in (n for n in NUMBERS if n <= len(train)):
            for seed in SEEDS:
                path = out / name / f"n{n}_seed{seed}.txt"
                write_whole(path, list_text(domain, train, n, seed))
                print(path, path.read_text(encoding="utf-8").splitlines()[2].removeprefix("# "), flush=True)


if __name__ == "__main__":
    main()
