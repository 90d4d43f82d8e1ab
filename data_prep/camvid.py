"""CamVid in SegNet's layout, 11 classes, as records.

python -m data_prep.camvid --source=DIR --data_dir=DIR [--size=360x480] [--workers=N]
"""

from data_prep import prepare
from data_prep.builder import DomainBuilder


class Camvid(DomainBuilder):
    """CamVid in SegNet's layout, 11 classes."""

    domains = ("camvid",)


if __name__ == "__main__":
    prepare.run(Camvid)
