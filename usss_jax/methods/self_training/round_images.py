"""The images of a round of self-training: part of the source with its labels, and the target with pseudo-labels."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from usss_jax.data.examples import Source
from usss_jax.data.mining import MiningCropFlip
from usss_jax.data.pools import Pools
from usss_jax.methods.self_training.image_labels import class_counts, labels_by_presence, labels_by_size


@dataclasses.dataclass(frozen=True)
class Labeled:
    """Training images of one origin.

    Attributes:
      source: examples with labels or pseudo-labels.
      crop: their transformation.
      classes: label uint8 [h, w] -> image-level labels float32 [C]; None: there are none.
      of_image: whether `classes` sees the whole label, or that of the crop.
    """

    source: Source
    crop: grain.transforms.RandomMap
    classes: Callable[[np.ndarray], np.ndarray] | None = None
    of_image: bool = False


def mining_crop(pool: Pools, labels: Mapping[str, Any], share: float) -> MiningCropFlip:
    """Crops of a domain's images around the rare classes of pseudo-labels, whose summary is `labels`."""
    rare, priority = labels["rare"], labels["priority"]
    return MiningCropFlip(pool.crop, pool.scale, pool.flip, rare=rare, priority=priority, share=share)


class Together:
    """Images of several origins as one source; an example is {"origin", and the maps of its source}."""

    def __init__(self, parts: Mapping[str, Source]):
        self._parts = dict(parts)
        self._places = [(name, i) for name, part in parts.items() for i in range(len(part))]
        self.ids = [f"{name}/{parts[name].ids[i]}" for name, i in self._places]

    def __len__(self):
        return len(self._places)

    def __getitem__(self, index) -> dict:
        name, i = self._places[index]
        return {"origin": name, **self._parts[name][i]}

    def label(self, index) -> np.ndarray:
        """Read only the label of an example."""
        name, i = self._places[index]
        return self._parts[name].label(i)

    def file_size(self, index) -> tuple[int, int]:
        """Return (h, w) of an image before it is resized."""
        name, i = self._places[index]
        return self._parts[name].file_size(i)

    def select(self, ids: Iterable[str]) -> "Together":
        """Restrict to the given ids, in their order."""
        places = dict(zip(self.ids, self._places, strict=True))
        chosen = Together({})
        chosen._parts, chosen.ids = self._parts, list(ids)
        chosen._places = [places[key] for key in chosen.ids]
        return chosen


@dataclasses.dataclass(frozen=True)
class RoundCrop(grain.transforms.RandomMap):
    """Crops an example as its origin says, to {"image", "label", and "classes" float32 [C] if there are any}.

    Attributes:
      origins: by name; an example without "origin" is of the only one.
    """

    origins: Mapping[str, Labeled]

    def random_map(self, element: dict, rng: np.random.Generator) -> dict:
        """Transform one example."""
        maps = {key: element[key] for key in ("image", "label", "others") if key in element}
        origin = self.origins[element["origin"]] if "origin" in element else next(iter(self.origins.values()))
        cropped = origin.crop.random_map(maps, rng)
        if origin.classes is not None:
            cropped["classes"] = origin.classes((maps if origin.of_image else cropped)["label"])
        return cropped


@dataclasses.dataclass(frozen=True, eq=False)
class ImageClasses:
    """Image-level labels of a label map: the classes with a pixel, or those of a sufficient size (MLSL, section 3.3.1).

    Attributes:
      num_classes: C.
      sizes: h_s of Eq. 4, [C], infinite for a class that is absent from the source; None: any pixel suffices.
      eta: share of its mean size that a class needs.

    >>> ImageClasses(2, np.array([1.0, 0.25]), eta=1.0)(np.array([[0, 0, 1, 255]], np.uint8)).tolist()
    [0.0, 1.0]
    """

    num_classes: int
    sizes: Sequence[float] | np.ndarray | None = None
    eta: float = 0.0

    def __call__(self, label: np.ndarray) -> np.ndarray:
        """Return float32 [C] of a label uint8 [h, w], whose ignored pixels count in its area."""
        counts = class_counts(label, self.num_classes)
        if self.sizes is None:
            return labels_by_presence(counts)
        return labels_by_size(counts, label.size, np.asarray(self.sizes), self.eta)
