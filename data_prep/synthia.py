"""SYNTHIA-RAND-CITYSCAPES with its 16-bit masks, 16 classes, as records.

python -m data_prep.synthia --source=DIR --data_dir=DIR [--size=608x1024] [--workers=N]
"""

from data_prep import prepare
from data_prep.builder import DomainBuilder


class Synthia(DomainBuilder):
    """SYNTHIA-RAND-CITYSCAPES with its 16-bit masks, 16 classes."""

    domains = ("synthia",)


if __name__ == "__main__":
    prepare.run(Synthia)
