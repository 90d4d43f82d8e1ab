"""How a run uses the images of each domain, according to its config."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from usss_jax.config import (
    fields,
    per_domain,
    per_domain_paths,
    read_count,
    read_one_of,
    read_range,
    read_size,
    read_splits,
    read_whole,
)
from usss_jax.data import splits
from usss_jax.data.domain import Domain
from usss_jax.data.records import RECORDS
from usss_jax.data.sizes import check_orientation
from usss_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Options:
    """How the images of one domain are used.

    Attributes:
      labeled: number of labeled images, or "all"; 0: no labels, so that no mask is needed and none of train opened.
      labeled_list: text file of the labeled images (data/lists.py), instead of `labeled`; only these need masks.
      split_seed: chooses the labeled images (data/splits.py).
      unlabeled_splits: splits whose images are unlabeled; None: the domain's.
      unlabeled_list: text file that selects from these images.
      unlabeled_includes_labeled: whether the labeled images are also unlabeled ones, as in the paper, even if
        `unlabeled_splits` or `unlabeled_list` leave them out.
      size: (h, w) at which images are loaded; None: the domain's.
      crop: (h, w) of training examples; None: the domain's, or the whole image if `size` is given.
      scale: range of the random factor before the crop; None: 1.
      flip: whether to flip half of the training examples.
      rare_temperature: of rare-class sampling of the labeled images; None: uniform sampling.
      on_bad_example: "error": a missing mask raises at the start, an unreadable file on access. "skip": all files are
        read at the start, and examples without mask or with an unreadable file are skipped and listed.
      threads: that read the files then.
    """

    labeled: int | str | None = None
    labeled_list: str = ""
    split_seed: int = 0
    unlabeled_splits: Sequence[str] | None = None
    unlabeled_list: str = ""
    unlabeled_includes_labeled: bool = True
    size: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    scale: tuple[float, float] | None = None
    flip: bool = True
    rare_temperature: float | None = None
    on_bad_example: str = "error"
    threads: int = 4

    @property
    def without_labels(self) -> bool:
        """Whether the run uses no labels of the domain."""
        return self.labeled == 0 and not self.labeled_list


def unlabeled_sizes(config: ConfigDict, domains: Sequence[str]) -> dict[str, int]:
    """Number of images of an unlabeled micro-batch, by domain; raises InputError for a wrong value.

    >>> from usss_jax.config import default_config
    >>> config = default_config()
    >>> config.train.unlabeled_batch_size = "camvid=4"
    >>> unlabeled_sizes(config, ["camvid", "mine"])
    {'camvid': 4, 'mine': 10}
    """
    field = "train.unlabeled_batch_size"
    given = per_domain(config.train.unlabeled_batch_size, domains, field, read_whole)
    return {d: fields(config.method)[field].default if size is None else size for d, size in given.items()}


def read_options(config: ConfigDict, domains: Mapping[str, Domain]) -> dict[str, Options]:
    """Read the options of each domain from a config, by name; raise InputError for a wrong field."""
    c, names = config.data, list(domains)

    def read(field, reader):
        return per_domain(c[field], names, f"data.{field}", reader)

    labeled = read("labeled_per_domain", read_count("all", least=0))
    listed = per_domain_paths(c.labeled_list, names, "data.labeled_list")
    unlabeled_splits = read("unlabeled_splits", read_splits)
    unlabeled_list = per_domain_paths(c.unlabeled_list, names, "data.unlabeled_list")
    size, crop = read("image_size", read_size), read("crop_size", read_size)
    scale = read("scale", read_range)
    sampling = read("sampling", read_one_of("uniform", "rare"))
    check_orientation(domains, size, "data.image_size")
    check_orientation(domains, crop, "data.crop_size")
    splits.check_given(str(c.labeled_per_domain), labeled, listed)
    return {
        name: Options(
            labeled=labeled[name],
            labeled_list=listed[name],
            split_seed=c.split_seed,
            unlabeled_splits=unlabeled_splits[name],
            unlabeled_list=unlabeled_list[name],
            unlabeled_includes_labeled=c.get("unlabeled_includes_labeled", True),  # mlsl has no such field
            size=size[name],
            crop=crop[name],
            scale=scale[name],
            flip=c.flip,
            rare_temperature=c.rare_temperature if sampling[name] == "rare" else None,
            on_bad_example=c.on_bad_example,
            threads=c.loader_threads,
        )
        for name in names
    }


def domain_root(data_root: str, domain: Domain, names: Sequence[str]) -> str | None:
    """Return the folder of a domain, or "tfds:DIR" for records (data/records.py); None for a synthetic domain.

    Args:
      data_root: data.root: the folder that holds all domains, or DOMAIN=FOLDER entries.
      domain: whose folder is returned.
      names: of all domains.

    Raises:
      InputError: if data_root is empty but needed, or wrong.

    >>> from usss_jax.data.domains import get_domain
    >>> domain_root("data", get_domain("camvid"), ["camvid"])
    'data/camvid'
    """
    if domain.synthetic:
        return None
    root = per_domain_paths(data_root, names, "data.root")[domain.name]
    if root.startswith(RECORDS):
        return RECORDS + str(pathlib.Path(root.removeprefix(RECORDS)).expanduser())
    if root and root != data_root.strip():  # given as DOMAIN=FOLDER
        return str(pathlib.Path(root).expanduser())
    folder = pathlib.Path(root).expanduser() / domain.folder  # domain.folder is absolute for a YAML file with root
    if not root and not folder.is_absolute():
        holder = f"that holds {domain.folder!r}" if domain.folder else "of its images"
        raise InputError(
            f"data.root is not set for {domain.name}: give the folder {holder} as --config.data.root=PATH, or its own "
            f"as {domain.name}=PATH; to get the data: {domain.how_to_get}"
        )
    return str(folder)
