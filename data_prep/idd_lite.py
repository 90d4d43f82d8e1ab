"""IDD-Lite, 7 classes, as records.

python -m data_prep.idd_lite --source=DIR --data_dir=DIR [--size=227x320] [--workers=N]
"""

from data_prep import prepare
from data_prep.builder import DomainBuilder


class IddLite(DomainBuilder):
    """IDD-Lite, 7 classes."""

    domains = ("idd_lite",)


if __name__ == "__main__":
    prepare.run(IddLite)
