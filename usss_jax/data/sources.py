"""Random access to the images of one split, at one size: from a folder or drawn, cached or not."""

import difflib
import operator
import os
import threading
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from usss_jax.data import synthetic
from usss_jax.data.decode import decode_image, decode_mask, read_file, resize_image, resize_label, width_height
from usss_jax.data.domain import Domain, Files, Layout, match_id, split_template
from usss_jax.errors import InputError


class Source(Protocol):
    """What all sources have in common; nothing is decoded before an example is asked for."""

    @property
    def ids(self) -> Sequence[str]:
        """Names of the images, in order."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index) -> dict[str, np.ndarray]:
        """Example {"image": uint8 [h, w, 3]}, with masks "label": uint8 [h, w] of train ids, 255 = ignore."""
        ...

    def select(self, ids: Iterable[str]) -> "Source":
        """Restrict to the given ids, in their order; raises InputError naming an id that is not there."""
        ...


def open_source(
    domain: Domain,
    root: str | os.PathLike | None,
    split: str,
    *,
    size: tuple[int, int] | None = None,
    with_masks: bool = True,
    ids: Iterable[str] | None = None,
) -> Source:
    """Open one split of a domain, at `size` (h, w) or at domain.size.

    `root` is the domain's folder; a synthetic domain needs none. `ids` restricts the source, in that order,
    before masks are looked for: a split of which only some images have masks opens with the ids of those.
    Without masks none is needed or opened. Raises InputError for whatever is missing, saying how to get it.
    """
    size = domain.size if size is None else size
    if len(size) != 2 or min(map(operator.index, size)) < 1:
        raise InputError(f"size {size!r} for domain {domain.name!r} must be (height, width) in pixels")
    if split not in domain.splits:
        close = difflib.get_close_matches(split, domain.splits, n=1)
        hint = f", did you mean {close[0]!r}?" if close else ";"
        raise InputError(f"domain {domain.name!r} has no split {split!r}{hint} it has {', '.join(domain.splits)}")
    if domain.synthetic is not None:
        source = SyntheticSource(domain, split, size, with_masks)
        return source if ids is None else source.select(ids)
    layout, files, images = _find_layout(domain, root, split, with_masks)
    if ids is not None:
        images = _pick(images, ids, f"split {split!r} of domain {domain.name!r} in {root}")
    masks = _find_masks(files, root, images, domain) if with_masks else None
    return FolderSource(domain, layout, images, masks, size)


class FolderSource:
    """Images, and masks unless `masks` is None, of a data set in a plain folder; ids are sorted as text."""

    def __init__(self, domain: Domain, layout: Layout, images: dict, masks: dict | None, size: tuple[int, int]):
        self.ids = list(images)
        self._domain, self._layout, self._size = domain, layout, size
        self._images, self._masks = images, masks

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        key = self.ids[index]
        image = decode_image(read_file(self._images[key]), self._images[key])
        example = {"image": resize_image(image, self._size)}
        if self._masks is not None:
            path = self._masks[key]
            label = decode_mask(read_file(path), path, self._domain, self._layout)
            if label.shape != image.shape[:2]:
                raise InputError(
                    f"{path}: the mask is {width_height(label)} but its image {self._images[key]} is "
                    f"{width_height(image)}; replace the wrong one or leave this id out"
                )
            example["label"] = resize_label(label, self._size)
        return example

    def select(self, ids: Iterable[str]) -> "FolderSource":
        """Restrict to the given ids, in their order; raises InputError naming an id that is not there."""
        images = _pick(self._images, ids, f"this source of domain {self._domain.name!r}")
        masks = None if self._masks is None else {key: self._masks[key] for key in images}
        return FolderSource(self._domain, self._layout, images, masks, self._size)


class SyntheticSource:
    """Images of an embedded domain, drawn when they are asked for; ids are "00000", "00001", ..."""

    def __init__(self, domain: Domain, split: str, size: tuple[int, int], with_masks: bool = True):
        self.ids = [f"{index:05d}" for index in range((domain.synthetic or {})[split])]
        self._domain, self._split, self._size, self._with_masks = domain, split, size, with_masks

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        image, label = synthetic.render(self._domain, self._split, int(self.ids[index]), self._size)
        return {"image": image, "label": label} if self._with_masks else {"image": image}

    def select(self, ids: Iterable[str]) -> "SyntheticSource":
        """Restrict to the given ids, in their order; raises InputError naming an id that is not there."""
        known = dict.fromkeys(self.ids)
        source = SyntheticSource(self._domain, self._split, self._size, self._with_masks)
        source.ids = list(_pick(known, ids, f"split {self._split!r} of domain {self._domain.name!r}"))
        return source


class CachedSource:
    """Keeps the decoded examples of a source in memory, up to `max_bytes`; what it returns is read-only.

    Threads may share it. When it is full, further examples are decoded again each time: nothing is thrown
    out. A copy in another process starts empty.
    """

    def __init__(self, source, max_bytes: int):
        self.ids = source.ids
        self.cached_bytes = 0
        self._source, self._max_bytes = source, max_bytes
        self._examples: dict[int, dict[str, np.ndarray]] = {}
        self._lock = threading.Lock()

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        key = self.ids[index]
        example = self._examples.get(key)
        if example is None:
            example = self._source[index]
            for array in example.values():
                array.flags.writeable = False
            self._keep(key, example)
        return dict(example)

    def _keep(self, key, example):
        count = sum(array.nbytes for array in example.values())
        with self._lock:
            if key not in self._examples and self.cached_bytes + count <= self._max_bytes:
                self._examples[key] = example
                self.cached_bytes += count

    def select(self, ids: Iterable[str]) -> "CachedSource":
        """Restrict to the given ids, with an empty cache of its own under the same bound."""
        return CachedSource(self._source.select(ids), self._max_bytes)

    def __reduce__(self):
        return CachedSource, (self._source, self._max_bytes)


# ---- which files ---------------------------------------------------------------------------------------


def _find_layout(domain, root, split, with_masks):
    """Return the first layout that has images, and masks if wanted, with its files and sorted images."""
    if root is None or not os.path.isdir(root):
        raise InputError(f"no folder {str(root)!r} for domain {domain.name!r}; to get it: {domain.how_to_get}")
    found_images, looked_for = False, []
    for layout in domain.layouts:
        files = layout.splits.get(split)
        if files is None:
            continue
        images = _find_images(root, files.images)
        found_images |= bool(images)
        if images and (not with_masks or (files.masks and any(True for _ in _matches(root, files.masks)))):
            return layout, files, _hold_out(images, layout.holdout, split, domain)
        looked_for.append((files.images, files.masks))
    if not found_images:
        patterns = ", ".join(dict.fromkeys(_pattern(images) for images, _ in looked_for))
        what, remedy = f"no images; looked for {patterns}", f"to get them: {domain.how_to_get}"
    elif not any(masks for _, masks in looked_for):
        what, remedy = "it has no labels", "use a split that has, or open it without masks"
    else:
        patterns = ", ".join(dict.fromkeys(_pattern(masks) for _, masks in looked_for if masks))
        what, remedy = f"images but no masks; looked for {patterns}", f"to get them: {domain.how_to_get}"
    raise InputError(f"{root}: split {split!r} of domain {domain.name!r}: {what}; {remedy}")


def _find_images(root, template):
    images = {}
    for key, path in _matches(root, template):
        if key in images:
            both = " and ".join(sorted((images[key], path)))
            raise InputError(f"{both} are two images with the same id {key!r}; remove one")
        images[key] = path
    return dict(sorted(images.items()))


def _find_masks(files: Files, root, images, domain):
    masks = {}
    for key, image in images.items():
        name = key
        if files.mask_shift:
            if not (key.isascii() and key.isdigit()):
                raise InputError(f"{image}: {key!r} must be a number to find its mask; rename or remove the image")
            name = f"{int(key) + files.mask_shift:0{len(key)}d}"
        masks[key] = os.path.join(root, (files.masks or "").replace("{id}", name))
        if not os.path.isfile(masks[key]):
            raise InputError(
                f"{image} has no mask: looked for {masks[key]}; add it, remove the image, or open only the "
                f"ids that have masks. To get all masks of {domain.name}: {domain.how_to_get}"
            )
    return masks


def _hold_out(images, every, split, domain):
    if every is None or split not in ("train", "val"):
        return images
    keys = list(images)
    held_out = set(keys[every - 1 :: every])
    chosen = {key: path for key, path in images.items() if (key in held_out) == (split == "val")}
    if not chosen:
        raise InputError(
            f"split {split!r} of domain {domain.name!r} is empty: val is every {every}th image and there are "
            f"{len(keys)}; to get the others: {domain.how_to_get}"
        )
    return chosen


def _matches(root, template):
    """Yield (id, path) of the files below root that match the template."""
    base = os.path.join(root, "")
    folder = os.path.join(base, split_template(template)[0])
    for path in _walk(folder) if os.path.isdir(folder) else ():
        key = match_id(template, path[len(base) :].replace(os.sep, "/"))
        if key is not None:
            yield key, path


def _walk(folder, parents=()):
    """Yield all files below a folder but hidden ones; a link back to a folder it lies in is not followed."""
    real = os.path.realpath(folder)
    if real in parents:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):  # a desktop's or an editor's files, such as ._0001.png
                continue
            if entry.is_dir():
                yield from _walk(entry.path, (*parents, real))
            else:  # broken links too: reading them is an error, leaving them out would be silent
                yield entry.path


def _pattern(template):
    extensions = split_template(template)[3]
    ending = f".{{{','.join(e[1:] for e in extensions)}}}" if len(extensions) > 1 else ""
    return template.replace("{id}", "*") + ending


def _pick(known, ids, where):
    ids = list(ids)
    chosen = {}
    for key in ids:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f" (closest is {close[0]!r})" if close else ""
            raise InputError(f"id {key!r} is not in {where}{hint}; correct the list of ids or add the image")
        if key in chosen:
            raise InputError(f"id {key!r} is twice in the list of ids for {where}; remove one")
        chosen[key] = known[key]
    return chosen
