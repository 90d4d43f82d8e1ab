"""Cityscapes, or its version of 256x256 pixels, 19 classes, as records.

python -m data_prep.cityscapes --source=DIR --data_dir=DIR [--domain=cityscapes256] [--size=512x1024] [--workers=N]
"""

from data_prep import prepare
from data_prep.builder import DomainBuilder


class Cityscapes(DomainBuilder):
    """Cityscapes, or its version of 256x256 pixels, 19 classes."""

    domains = ("cityscapes", "cityscapes256")


if __name__ == "__main__":
    prepare.run(Cityscapes)
