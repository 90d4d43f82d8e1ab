"""Classes of equal meaning in several domains: by name, by a few synonyms, and by the user's choice."""

import difflib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from usss_jax.errors import InputError

# Different words of the built-in domains for the same things. A class that includes another one (rider and bicyclist,
# drivable and road) is not a synonym; users can match such classes with "=".
SYNONYMS = (("sidewalk", "pavement"), ("vegetation", "tree"), ("traffic sign", "sign"), ("person", "pedestrian"))
_MEANING = {name: words[0] for words in SYNONYMS for name in words}

ClassNames = Mapping[str, Sequence[str]]  # of every domain


class DomainClass(NamedTuple):
    """A class of a domain."""

    domain: str
    name: str

    def __str__(self):
        return f"{self.domain}:{self.name}"


Group = tuple[DomainClass, ...]  # classes that mean the same


def match_all(class_names: ClassNames) -> list[Group]:
    """Group all classes of equal meaning; only groups with classes of two or more domains are kept.

    >>> groups = match_all({"a": ["road", "sidewalk", "car", "sky"], "b": ["sky", "pavement", "road"]})
    >>> [" ".join(map(str, group)) for group in groups]
    ['a:road b:road', 'a:sidewalk b:pavement', 'a:sky b:sky']
    """
    groups: list[Group] = []
    for domain, names in class_names.items():
        for name in names:
            groups = _with(groups, [DomainClass(domain, name)])
    return [group for group in groups if len({c.domain for c in group}) > 1]


def match_classes(text: str, class_names: ClassNames) -> list[Group]:
    """Parse groups of matching classes, such as "building,camvid:sky,cityscapes:road=sun13:floor".

    A bare name stands for the classes of that meaning in every domain, DOMAIN:NAME for one class. Classes match if
    their names are equal or synonyms, or if "=" joins them. A group may have a single class.

    Raises:
      InputError: for an unknown domain or class; the message suggests the closest one, or lists all.

    >>> groups = match_classes("sky,a:road=b:floor", {"a": ["road", "sky"], "b": ["floor", "sky"]})
    >>> [" ".join(map(str, group)) for group in groups]
    ['a:sky b:sky', 'a:road b:floor']
    """
    groups: list[Group] = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        groups = _with(groups, [c for part in item.split("=") for c in _find(part.strip(), class_names)])
    return groups


def _with(groups: list[Group], found: Sequence[DomainClass]) -> list[Group]:
    """Add a group to `groups`, merged with those that have a class of equal meaning."""
    meanings = {_meaning(c.name) for c in found}
    related = [g for g in groups if meanings & {_meaning(c.name) for c in g}]
    merged = tuple(dict.fromkeys([*(c for g in related for c in g), *found]))
    place = groups.index(related[0]) if related else len(groups)
    return [*groups[:place], merged, *(g for g in groups[place:] if g not in related)]


def group_title(group: Group) -> str:
    """Names of a group's classes, each once.

    >>> group_title((DomainClass("a", "sidewalk"), DomainClass("b", "pavement"), DomainClass("c", "sidewalk")))
    'sidewalk / pavement'
    """
    return " / ".join(dict.fromkeys(c.name for c in group))


def _meaning(name: str) -> str:
    return _MEANING.get(name, name)


def _find(text: str, class_names: ClassNames) -> list[DomainClass]:
    """Classes that NAME or DOMAIN:NAME stands for; raises InputError if there are none."""
    domain, colon, name = (part.strip() for part in text.partition(":"))
    if not colon:
        found = [DomainClass(d, n) for d, names in class_names.items() for n in names if _meaning(n) == _meaning(text)]
        known = list(dict.fromkeys(n for names in class_names.values() for n in names))
        where = f"no domain has a class {text!r}"
    elif domain not in class_names:
        raise InputError(f"classes: {text!r}: no domain {domain!r} in these jobs; they have {', '.join(class_names)}")
    else:
        found = [DomainClass(domain, name)] if name in class_names[domain] else []
        known = list(class_names[domain])
        where = f"{domain} has no class {name!r}"
    if not found:
        close = difflib.get_close_matches(name if colon else text, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
        raise InputError(f"classes: {where}; {hint}")
    return found
