"""GTA5, 19 classes, as records.

python -m data_prep.gta5 --source=DIR --data_dir=DIR [--size=560x1024] [--workers=N]
"""

from data_prep import prepare
from data_prep.builder import DomainBuilder


class Gta5(DomainBuilder):
    """GTA5, 19 classes."""

    domains = ("gta5",)


if __name__ == "__main__":
    prepare.run(Gta5)
