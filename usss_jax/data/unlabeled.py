"""The unlabeled images of a domain, from one or several splits."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from usss_jax.data import lists
from usss_jax.data.domain import Domain
from usss_jax.data.examples import Examples, Source
from usss_jax.data.options import Options
from usss_jax.data.sources import open_source
from usss_jax.errors import InputError


def open_unlabeled(domain: Domain, root: str | None, options: Options, labeled: Sequence[str]) -> Examples:
    """Open the unlabeled images of a domain without their masks.

    Args:
      domain, root, options: as in `open_pools`.
      labeled: ids of the labeled images, all in train, which the options include or exclude.

    Raises:
      InputError: for missing data, or if no image is left.
    """

    def open_split(split, ids=None):
        return open_source(domain, root, split, size=options.size, with_masks=False, ids=ids)

    names = options.unlabeled_splits or domain.unlabeled_splits
    parts = {split: open_split(split) for split in names}
    if options.unlabeled_includes_labeled and labeled and "train" not in parts:
        parts["train"] = open_split("train", labeled)
    source = Joined(parts)
    in_train = [source.name("train", i) for i in labeled] if "train" in parts else []
    ids: Sequence[str] = source.ids
    if options.unlabeled_list:
        ids = lists.read_ids(options.unlabeled_list, domain, ids, tuple(parts))
    if options.unlabeled_includes_labeled:
        ids = [*dict.fromkeys([*ids, *in_train])]
    else:
        out = set(in_train)
        ids = [i for i in ids if i not in out]
    if not ids:
        raise InputError(
            f"{domain.name}: data.unlabeled_includes_labeled=False leaves no unlabeled image; set it to True, label "
            "fewer images, or add unlabeled ones"
        )
    return source.select(ids) if len(parts) > 1 else parts[names[0]].select(ids)


class WithoutMasks:
    """The images of a source without their masks, such as labeled images that stand in for unlabeled ones.

    >>> WithoutMasks([{"image": 1, "label": 2}])[0]
    {'image': 1}
    """

    def __init__(self, source: Examples):
        self._source = source

    @property
    def ids(self) -> Sequence[str]:
        """Names of the images, in order."""
        return self._source.ids

    def __len__(self):
        return len(self._source)

    def __getitem__(self, index) -> dict[str, np.ndarray]:
        return {"image": self._source[index]["image"]}

    def select(self, ids: Iterable[str]) -> "WithoutMasks":
        """Restrict to the given ids, in their order."""
        return WithoutMasks(self._source.select(ids))


class Joined:
    """Several splits as one source; if two splits share an id, all ids start with their split."""

    def __init__(self, parts: Mapping[str, Source]):
        ids = [i for part in parts.values() for i in part.ids]
        self._with_split = len(set(ids)) < len(ids)
        self._places = {
            self.name(split, i): (part, index) for split, part in parts.items() for index, i in enumerate(part.ids)
        }
        self.ids = list(self._places)

    def name(self, split: str, key: str) -> str:
        """Return the id in this source of image `key` of a split."""
        return f"{split}/{key}" if self._with_split else key

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index) -> dict[str, np.ndarray]:
        part, inside = self._places[self.ids[index]]
        return part[inside]

    def select(self, ids: Iterable[str]) -> "Joined":
        """Restrict to the given ids, in their order."""
        chosen = Joined({})
        chosen._places = {i: self._places[i] for i in ids}
        chosen.ids = list(chosen._places)
        return chosen
