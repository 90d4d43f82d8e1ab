"""Contents of a domain, as far as a check has opened it."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence

from usss_jax.data.check.files import Facts
from usss_jax.data.domain import IGNORE, Domain
from usss_jax.data.examples import Examples

_MAX_UNKNOWN = 1000  # raw values counted separately: a smoothed colour mask has millions


@dataclasses.dataclass
class SplitReport:
    """Contents of one split.

    Attributes:
      name: of the split.
      uses: a subset of USES.
      ids: of its images; `images` and `masks` are their files (empty for records and synthetic domains).
      error: why it could not be listed, or ""; `no_masks`: why it has no masks, or "".
      missing: images of its list that do not exist.
      unread: image files in unsupported formats.
      others: files among the images that are not images.
      without_mask: ids of images whose mask is missing; `without_image`: masks whose image is missing.
      looked_for: the expected mask of the first of `without_mask`, and similar names.
      companions: unused files next to the masks.
      by_color: palette masks whose colours contradict their indices, and decide.
      same_as: splits that contain all of its files, which were not opened again.
      sizes: number of images of each (h, w).
      raw: (raw value, train id) -> pixels; train id 255: ignore, None: not in the class table.
      colors: whether raw values are colours, red + 2**8 * green + 2**16 * blue.
      digests: id -> digest of each opened image.
      classes: id -> train ids of each opened mask.
      faults: (id, kind, file, message) of each faulty file.
      examined: number of opened ids.
    """

    name: str
    uses: tuple[str, ...] = ()
    ids: list[str] = dataclasses.field(default_factory=list)
    images: dict[str, str] = dataclasses.field(default_factory=dict)
    masks: dict[str, str] = dataclasses.field(default_factory=dict)
    error: str = ""
    no_masks: str = ""
    missing: list[str] = dataclasses.field(default_factory=list)
    unread: Sequence[str] = ()
    others: Sequence[str] = ()
    without_mask: Sequence[str] = ()
    looked_for: str = ""
    without_image: list[str] = dataclasses.field(default_factory=list)
    companions: list[str] = dataclasses.field(default_factory=list)
    by_color: list[str] = dataclasses.field(default_factory=list)
    same_as: tuple[str, ...] = ()
    sizes: Counter[tuple[int, int]] = dataclasses.field(default_factory=Counter)
    raw: Counter[tuple[int, int | None]] = dataclasses.field(default_factory=Counter)
    colors: bool = False
    digests: dict[str, bytes] = dataclasses.field(default_factory=dict)
    classes: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    faults: list[tuple[str, str, str, str]] = dataclasses.field(default_factory=list)
    examined: int = 0

    @property
    def has_masks(self) -> bool:
        """Whether some image has a mask."""
        return not self.error and not self.no_masks

    def pixels(self) -> Counter[int | None]:
        """Count the pixels of each train id, of ignore (255) and of unknown raw values (None)."""
        out: Counter[int | None] = Counter()
        for (_, target), count in self.raw.items():
            out[target] += count
        return out

    def add(self, key: str, facts: Facts, target: Callable[[int], int | None]):
        """Add the contents of an opened example; `target`: raw value -> train id, as in `Listing`."""
        self.examined += 1
        self.faults += [(key, *fault) for fault in facts.faults]
        if facts.by_color:
            self.by_color.append(self.masks[key])
        if facts.digest is not None:
            self.digests[key] = facts.digest
        if facts.size is not None:
            self.sizes[facts.size] += 1
        if facts.raw is not None:
            meanings = {value: target(value) for value in facts.raw}
            self.classes[key] = tuple(sorted({t for t in meanings.values() if t is not None and t != IGNORE}))
            for value, count in facts.raw.items():
                meaning = meanings[value]
                if meaning is None and (value, None) not in self.raw and len(self.raw) > _MAX_UNKNOWN:
                    value = -1  # all others
                self.raw[value, meaning] += count

    def usable(self) -> list[str]:
        """Return the ids opened without a fault, and with a mask if the split has masks."""
        wrong = {fault[0] for fault in self.faults}
        opened = self.classes if self.has_masks else self.digests
        return [key for key in self.ids if key in opened and key not in wrong]


@dataclasses.dataclass
class DomainReport:
    """Contents of a domain.

    `splits` are in the order of their use; `error`: why it could not be opened, or ""; `pictured`: the examples of the
    contact sheet, None for those of the splits.
    """

    domain: Domain
    root: str | None
    size: tuple[int, int]
    splits: dict[str, SplitReport]
    error: str = ""
    limit: int | None = None
    seconds: float = 0.0
    pictured: Examples | None = None
