"""NYUv2, 13 or 37 classes, as records.

python -m data_prep.nyuv2 --source=DIR --data_dir=DIR [--domain=nyu37] [--size=480x640] [--workers=N]
"""

from data_prep import prepare
from data_prep.builder import DomainBuilder


class Nyuv2(DomainBuilder):
    """NYUv2, 13 or 37 classes."""

    domains = ("nyu13", "nyu37")


if __name__ == "__main__":
    prepare.run(Nyuv2)
