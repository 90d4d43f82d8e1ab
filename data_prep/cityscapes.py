"""Cityscapes in 19 or 16 classes, or its version of 256x256 pixels, as records.

python -m data_prep.cityscapes --source=DIR --data_dir=DIR [--domain=cityscapes16] [--size=512x1024] [--workers=N]
"""

from data_prep import prepare
from data_prep.builder import DomainBuilder


class Cityscapes(DomainBuilder):
    """Cityscapes in 19 or 16 classes, or its version of 256x256 pixels."""

    domains = ("cityscapes", "cityscapes16", "cityscapes256")


if __name__ == "__main__":
    prepare.run(Cityscapes)
