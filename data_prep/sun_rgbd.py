"""SUN RGB-D, 13 or 37 classes, as records.

python -m data_prep.sun_rgbd --source=DIR --data_dir=DIR [--domain=sun37] [--size=480x640] [--workers=N]
"""

from data_prep import prepare
from data_prep.builder import DomainBuilder


class SunRgbd(DomainBuilder):
    """SUN RGB-D, 13 or 37 classes."""

    domains = ("sun13", "sun37")


if __name__ == "__main__":
    prepare.run(SunRgbd)
