"""A data set of your own, described by a YAML file, as records.

python -m data_prep.own --domain=FILE.yaml --data_dir=DIR [--source=DIR] [--size=HEIGHTxWIDTH] [--workers=N]
"""

from data_prep import prepare
from data_prep.builder import DomainBuilder


class Own(DomainBuilder):
    """A data set of one's own; its folder is the `root` of the YAML file unless --source is given."""


if __name__ == "__main__":
    prepare.run(Own)
