"""How a field and a method are declared, and the usual ranges of fields."""

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any


@dataclasses.dataclass(frozen=True)
class Range:
    """Values that a field may have.

    Attributes:
      text: which, as in "must be at least 1".
      holds: whether a value is one of them. Fields per domain are read, and checked, where the domains are known.
    """

    text: str
    holds: Callable[[Any], bool] = lambda value: True


class Changes(enum.Enum):
    """Whether a field changes the numbers of a training; the text is for docs/config.md."""

    NUMBERS = "yes"
    DATA = "by content"  # of the data that it selects
    FILE = "by content of the file"
    NOTHING = "no"
    HOST = "no, also between hosts"


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a config.

    Attributes:
      default: a method may have another one for a shared field (`Method.defaults`).
      range: its values.
      meaning: one line.
      per_domain: it takes one value for all domains, or "name=value,name=value".
      mixed: values of several types, such as 100 and "camvid=all,cityscapes=375".
      path: it may name a file or folder.
      changes: whether two runs with different values have different numbers.
      singles: whether the single-domain networks depend on it (if it changes anything).
      makes: variants of which another value makes another row of the paper's tables.
      sweep: "set" if a sweep has a flag of its own for it, "shared" if all rows of a sweep have the same; else empty.
    """

    default: Any
    range: Range
    meaning: str
    per_domain: bool = False
    mixed: bool = False
    path: bool = False
    changes: Changes = Changes.NUMBERS
    singles: bool = True
    makes: tuple[str, ...] = ()
    sweep: str = ""

    @property
    def is_free(self) -> bool:
        """Whether it may change between two runs of the same workdir: it changes no number."""
        return self.changes in (Changes.NOTHING, Changes.HOST)

    @property
    def is_compared_by_content(self) -> bool:
        """Whether what it names is compared, and not the value."""
        return self.changes in (Changes.DATA, Changes.FILE)

    @property
    def is_of_singles(self) -> bool:
        """Whether a run must agree in it with the run of its `usss.single_from`."""
        return self.singles and not self.is_free


@dataclasses.dataclass(frozen=True)
class Method:
    """A method that `config.method` selects; usss_jax/methods/NAME/plan.py runs it.

    Attributes:
      sections: title of each section of its own, by the section's name.
      own: fields outside of the shared sections, by dotted name.
      shared: names of the shared fields (config/shared.py) that it has.
      defaults: of shared fields, where they differ from the shared default.
      tiny: values of its smallest run, by dotted name.
      variants: names that its field `variants` may list, if it has that field.
      check: raises InputError for values, by dotted name, that do not go together.
    """

    sections: Mapping[str, str]
    own: Mapping[str, Field]
    shared: Sequence[str]
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tiny: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    variants: Sequence[str] = ()
    check: Callable[[Mapping[str, Any]], None] = lambda values: None


def one_of(*words: str) -> Range:
    """One of some words."""
    return Range(f"one of {', '.join(words)}", lambda value: value in words)


INFINITY = float("inf")
AT_LEAST_1 = Range("at least 1", lambda value: value >= 1)
POSITIVE = Range("positive", lambda value: 0 < value < INFINITY)
NOT_NEGATIVE = Range("a number from 0 on", lambda value: 0 <= value < INFINITY)
SHARE = Range("from 0 to 1", lambda value: 0 <= value <= 1)
POSITIVE_SHARE = Range("above 0, at most 1", lambda value: 0 < value <= 1)
SEED = Range(f"from 0 to {2**32 - 1}", lambda value: 0 <= value < 2**32)  # grain's; JAX would leave out upper bits
BOOL = Range("True or False")
NAMES = Range("names, each once")
SIZE = Range("HEIGHTxWIDTH, or empty")
PATH = Range("a path, or empty")
ENCODER = Range("see docs/encoders.md")

NUMBERS, DATA, FILE, NOTHING, HOST = Changes

universal = partial(Field, singles=False)  # of the training of one network for all domains
