"""A data set of your own, described by a YAML file, as records.

python -m data_prep.own --domain=FILE.yaml --data_dir=DIR [--source=DIR] [--size=HEIGHTxWIDTH] [--workers=N]
"""

from data_prep import prepare
from data_prep.builder import DomainBuilder


class Own(DomainBuilder):
    """Any domain file; the folder is its `root` unless --source is given."""


if __name__ == "__main__":
    prepare.run(Own)
