"""Random access to the images of one split, at one size: from a folder, from records, or synthetic."""

import difflib
import operator
import os
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from usss_jax.data import synthetic
from usss_jax.data.decode import check_same_size, decode_image, read_file, resize_image, resize_label
from usss_jax.data.domain import Domain, Layout
from usss_jax.data.examples import Source, pick
from usss_jax.data.files import find_images
from usss_jax.data.headers import read_header
from usss_jax.data.mask_files import match_masks
from usss_jax.data.masks import decode_mask
from usss_jax.data.palettes import Palettes
from usss_jax.data.records import RECORDS, open_records
from usss_jax.errors import InputError


def open_source(
    domain: Domain,
    root: str | os.PathLike | None,
    split: str,
    *,
    size: tuple[int, int] | None = None,
    with_masks: bool = True,
    ids: Iterable[str] | None = None,
    skip: Callable[[str, str], None] | None = None,
) -> Source:
    """Open one split of a domain.

    Args:
      domain: whose split is opened.
      root: the domain's folder, or "tfds:DIR" (data/records.py); ignored for a synthetic domain.
      split: its name.
      size: (h, w) of all images; None: domain.size.
      with_masks: whether examples have labels; otherwise masks are neither needed nor opened.
      ids: restricts the source, in that order, before masks are searched.
      skip: called as skip(id, message) for an image without mask, which is then left out; None: such images raise.

    Raises:
      InputError: if anything is missing; the message explains how to get it.

    >>> from usss_jax.data.domains import get_domain
    >>> source = open_source(get_domain("city_street"), None, "val", size=(32, 48))
    >>> len(source), source.ids[0], source[0]["label"].shape
    (48, '00000', (32, 48))
    """
    size = domain.size if size is None else size
    if len(size) != 2 or min(map(operator.index, size)) < 1:
        raise InputError(f"size {size!r} for domain {domain.name!r} must be (height, width) in pixels")
    if split not in domain.splits:
        close = difflib.get_close_matches(split, domain.splits, n=1)
        hint = f", did you mean {close[0]!r}?" if close else ";"
        remedy = "name one of them as val_split, test_split or unlabeled_splits, or add it to the domain's file"
        if split == "train":  # the labeled images
            remedy = "add it to the domain's file, or rename one of them"
        raise InputError(
            f"domain {domain.name!r} has no split {split!r}{hint} it has {', '.join(domain.splits)}; {remedy}"
        )
    if domain.synthetic is not None:
        source = SyntheticSource(domain, split, size, with_masks)
        return source if ids is None else source.select(ids)
    if isinstance(root, str) and root.startswith(RECORDS):
        return open_records(domain, root, split, size=size, with_masks=with_masks, ids=ids, skip=skip)
    if root is None or not os.path.isdir(root):
        raise InputError(f"no folder {str(root)!r} for domain {domain.name!r}; to get it: {domain.how_to_get}")
    found = find_images(domain, root, split, with_masks)
    images = found.images
    if ids is not None:
        images = pick(images, ids, f"split {split!r} of domain {domain.name!r} in {root}")
    masks = None
    if with_masks:
        masks, missing = match_masks(domain, root, found.files, images)
        for key, message in missing.items():
            if skip is None:
                raise InputError(message)
            skip(key, message)
        images = {key: images[key] for key in masks}
    paths = {key: image.path for key, image in images.items()}
    return FolderSource(domain, found.layout, paths, masks, size, Palettes(), tuple(found.others))


class FolderSource:
    """Images, and masks unless `masks` is None, of a data set in a folder, sorted by id.

    `others` are files among the images that are not images.
    """

    def __init__(
        self,
        domain: Domain,
        layout: Layout,
        images: dict[str, str],
        masks: dict[str, str] | None,
        size: tuple[int, int],
        palettes: Palettes,
        others: Sequence[str] = (),
    ):
        self.ids, self.others = list(images), others
        self._domain, self._layout, self._size = domain, layout, size
        self._images, self._masks, self._palettes = images, masks, palettes

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        key = self.ids[index]
        image = decode_image(read_file(self._images[key]), self._images[key])
        example = {"image": resize_image(image, self._size)}
        if self._masks is not None:
            label = self._decode_mask(self._masks[key])
            check_same_size(label, image, self._masks[key], self._images[key])
            example["label"] = resize_label(label, self._size)
        return example

    def label(self, index) -> np.ndarray:
        """Decode only the label of an example."""
        assert self._masks is not None
        return resize_label(self._decode_mask(self._masks[self.ids[index]]), self._size)

    def file_size(self, index) -> tuple[int, int]:
        """Return (h, w) of the image file."""
        path = self._images[self.ids[index]]
        return read_header(read_file(path), path).size

    def _decode_mask(self, path):
        return decode_mask(read_file(path), path, self._domain, self._layout, self._palettes)

    def select(self, ids: Iterable[str]) -> "FolderSource":
        """Restrict to the given ids, in their order; raise InputError for an unknown id."""
        images = pick(self._images, ids, f"this source of domain {self._domain.name!r}")
        masks = None if self._masks is None else {key: self._masks[key] for key in images}
        return FolderSource(self._domain, self._layout, images, masks, self._size, self._palettes, self.others)


class SyntheticSource:
    """Images of a synthetic domain, rendered on access; ids are "00000", "00001", ..."""

    def __init__(self, domain: Domain, split: str, size: tuple[int, int], with_masks: bool = True):
        self.ids = [f"{index:05d}" for index in range((domain.synthetic or {})[split])]
        self._domain, self._split, self._size, self._with_masks = domain, split, size, with_masks

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        image, label = synthetic.render(self._domain, self._split, int(self.ids[index]), self._size)
        return {"image": image, "label": label} if self._with_masks else {"image": image}

    def label(self, index) -> np.ndarray:
        """Render an example and return its label."""
        return synthetic.render(self._domain, self._split, int(self.ids[index]), self._size)[1]

    def file_size(self, index) -> tuple[int, int]:
        """Return (h, w) of the examples: they are rendered at that size."""
        return self._size

    def select(self, ids: Iterable[str]) -> "SyntheticSource":
        """Restrict to the given ids, in their order; raise InputError for an unknown id."""
        known = dict.fromkeys(self.ids)
        source = SyntheticSource(self._domain, self._split, self._size, self._with_masks)
        source.ids = list(pick(known, ids, f"split {self._split!r} of domain {self._domain.name!r}"))
        return source
