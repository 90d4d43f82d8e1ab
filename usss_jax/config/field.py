"""Declarations of fields and methods, and common ranges of fields."""

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any


@dataclasses.dataclass(frozen=True)
class Range:
    """Values that a field may have.

    Attributes:
      text: description, as in "must be at least 1".
      holds: whether a value is in the range. Fields per domain are checked where the domains are known instead.
    """

    text: str
    holds: Callable[[Any], bool] = lambda value: True


class Changes(enum.Enum):
    """Whether a field changes the numbers of a training; the text is for docs/config.md."""

    NUMBERS = "yes"
    DATA = "by content"  # of the selected data
    FILE = "by content of the file"
    NOTHING = "no"
    HOST = "no, also between hosts"


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a config.

    Attributes:
      default: a method may have another one for a shared field (`Method.defaults`).
      range: permitted values.
      meaning: one line for docs/config.md.
      per_domain: whether it takes one value for all domains, or "name=value,name=value".
      mixed: whether values may have several types, such as 100 and "camvid=all,cityscapes=375".
      path: whether it may name a file or folder.
      changes: whether it changes the numbers of a training.
      singles: whether single-domain networks depend on it (if it changes anything).
      makes: variants for which another value is another row of the paper's tables.
      fixed_by: glob of files below a workdir; while none exists, nothing depends on the field, and it may change.
      remedy: whether it may change after a training has diverged (runs/divergence.py).
      sweep: "set" if the sweep has its own flag for it, "shared" if all rows of a sweep share a value; else empty.
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
    fixed_by: str = ""
    remedy: bool = False
    sweep: str = ""

    @property
    def is_free(self) -> bool:
        """Whether it may change when a run resumes in its workdir, since it changes no number."""
        return self.changes in (Changes.NOTHING, Changes.HOST)

    @property
    def is_compared_by_content(self) -> bool:
        """Whether the content of what it names is compared instead of the value."""
        return self.changes in (Changes.DATA, Changes.FILE)

    @property
    def is_of_singles(self) -> bool:
        """Whether a run must agree in it with the run of its `usss.single_from`."""
        return self.singles and not self.is_free


@dataclasses.dataclass(frozen=True)
class Method:
    """A method that `config.method` selects; usss_jax/methods/NAME/plan.py runs it.

    Attributes:
      sections: titles of the method's own sections, by name.
      own: the method's own fields, by dotted name.
      shared: names of the shared fields (config/shared.py) that it has.
      defaults: defaults of shared fields that differ from config/shared.py.
      tiny: what its smallest run changes besides `presets.shrink_to_tiny`, by dotted name.
      variants: permitted names in its field `variants`, if it has that field.
      check: raises InputError for values, by dotted name, that do not fit together.
    """

    sections: Mapping[str, str]
    own: Mapping[str, Field]
    shared: Sequence[str]
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tiny: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    variants: Sequence[str] = ()
    check: Callable[[Mapping[str, Any]], None] = lambda values: None


def one_of(*words: str) -> Range:
    """Range of the given words.

    >>> one_of("sgd", "adamw").text, one_of("sgd", "adamw").holds("adam")
    ('one of sgd, adamw', False)
    """
    return Range(f"one of {', '.join(words)}", lambda value: value in words)


INFINITY = float("inf")
AT_LEAST_1 = Range("at least 1", lambda value: value >= 1)
POSITIVE = Range("positive", lambda value: 0 < value < INFINITY)
NOT_NEGATIVE = Range("finite, at least 0", lambda value: 0 <= value < INFINITY)
SHARE = Range("from 0 to 1", lambda value: 0 <= value <= 1)
POSITIVE_SHARE = Range("above 0, at most 1", lambda value: 0 < value <= 1)
SEED = Range(f"from 0 to {2**32 - 1}", lambda value: 0 <= value < 2**32)  # by grain; JAX would drop upper bits
BOOL = Range("True or False")
NAMES = Range("names, each once")
SIZE = Range("HEIGHTxWIDTH, or empty")
PATH = Range("a path, or empty")
ENCODER = Range("see docs/encoders.md")

NUMBERS, DATA, FILE, NOTHING, HOST = Changes

universal = partial(Field, singles=False)  # no single-domain network depends on it
