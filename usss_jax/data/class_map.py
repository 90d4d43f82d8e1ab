"""Maps the classes of a source domain to those of a target, by YAML files; some are part of the package."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

from usss_jax.config import nearest
from usss_jax.data.checked_yaml import check_distinct, read_list, read_mapping
from usss_jax.data.domain import IGNORE, Domain, MaskClasses
from usss_jax.data.domains import get_domain
from usss_jax.errors import InputError

SHIPPED = pathlib.Path(__file__).parent / "class_maps"  # SOURCE_to_TARGET.yaml
IGNORED = "ignore"  # in place of a class of the target
_KEYS = ("source", "target", "classes", "although_named_alike")


@dataclasses.dataclass(frozen=True)
class ClassMap:
    """The class of a target that each class of a source becomes.

    Attributes:
      source, target: the domains.
      classes: for each class of the source, in its order, the class of the target; None: its pixels are ignored.
      file: in which it is.
    """

    source: Domain
    target: Domain
    classes: tuple[str | None, ...]
    file: str

    @property
    def unlearnable(self) -> tuple[str, ...]:
        """Classes of the target that no class of the source becomes, so that the source cannot teach them."""
        return tuple(name for name in self.target.class_names if name not in self.classes)


def find_class_map(name_or_path: str) -> ClassMap:
    """Return a class map of the package by its name, or read a YAML file.

    Raises:
      InputError: for an unknown name or a wrong file.

    >>> find_class_map("cityscapes256_to_camvid").classes[:3]
    ('road', 'pavement', 'building')
    """
    if name_or_path.lower().endswith((".yaml", ".yml")):
        return read_class_map(os.path.expanduser(name_or_path))
    shipped = sorted(path.stem for path in SHIPPED.glob("*.yaml"))
    if name_or_path in shipped:
        return read_class_map(str(SHIPPED / f"{name_or_path}.yaml"))
    close = nearest(name_or_path, shipped)
    raise InputError(
        f"unknown class map {name_or_path!r}{f', did you mean {close!r}?' if close else ';'} there are "
        f"{', '.join(shipped)}; for your own class map give the path of a .yaml file"
    )


def read_class_map(path: str) -> ClassMap:
    """Read a class map from a YAML file; raise InputError, naming the file and the key, for any mistake.

    Required keys: `source` and `target`, each the name of a built-in domain or the path of a YAML file, relative to
    this file; `classes`, a mapping from every class of the source to a class of the target or to `ignore`. A class of
    the target may have several classes of the source, or none. If the target has a class of the same name, the class
    becomes that one, unless the optional list `although_named_alike` contains its name.
    """
    spec = read_mapping(path, _KEYS, required=_KEYS[:3])
    source, target = (_domain(spec[key], f"{path}: {key}", path) for key in ("source", "target"))
    if source.name == target.name:
        raise InputError(f"{path}: source and target are both {source.name!r}; give two domains")
    if IGNORED in target.class_names:
        raise InputError(f"{path}: {target.name} has a class {IGNORED!r}, which means no class here; rename it")
    given, where = spec["classes"], f"{path}: classes"
    if not isinstance(given, dict):
        raise InputError(f"{where}: must be a mapping from the classes of {source.name} to those of {target.name}")
    for name, to in given.items():
        _check_class(name, source.class_names, where, source.name)
        _check_class(to, (*target.class_names, IGNORED), f"{where}: {name}", target.name)
    if missing := [name for name in source.class_names if name not in given]:
        raise InputError(
            f"{where}: {', '.join(missing)} of {source.name} {'is' if len(missing) == 1 else 'are'} missing; map "
            f"each class to one of {target.name} or to {IGNORED}"
        )
    _check_namesakes(given, target, spec.get("although_named_alike", []), path)
    classes = tuple(None if given[name] == IGNORED else given[name] for name in source.class_names)
    return ClassMap(source, target, classes, path)


def map_source(class_map: ClassMap) -> Domain:
    """Return the source with the classes of the target; its files, splits and masks stay, their labels are mapped.

    >>> map_source(find_class_map("gta5_to_cityscapes")).class_names[:3]
    ('road', 'sidewalk', 'building')
    """
    source, target = class_map.source, class_map.target
    train_ids = tuple(IGNORE if to is None else target.class_names.index(to) for to in class_map.classes)
    title = f"{source.title}, as the classes of {target.name}"
    return dataclasses.replace(source, title=title, classes=target.classes, mask_classes=MaskClasses(source, train_ids))


def check_domains(class_map: ClassMap, source: Domain, target: Domain):
    """Raise InputError unless the class map is from this source to this target.

    >>> camvid, street = get_domain("camvid"), get_domain("city_street")
    >>> check_domains(find_class_map("city_street_to_camvid"), street, street)
    Traceback (most recent call last):
    usss_jax.errors.InputError: ...city_street_to_camvid.yaml: maps to camvid, but the target is city_street; ...
    """
    for role, word, meant, given in (
        ("source", "from", class_map.source, source),
        ("target", "to", class_map.target, target),
    ):
        if given.name != meant.name:
            raise InputError(
                f"{class_map.file}: maps {word} {meant.name}, but the {role} is {given.name}; choose another class "
                "map or other domains"
            )
        if dataclasses.replace(given, how_to_get=meant.how_to_get) != meant:  # which has the path as it was given
            raise InputError(
                f"{class_map.file}: {role}: {meant.name} differs from the {role} of that name; give the same file"
            )


def run_domains(names: Sequence[str], class_map: str = "") -> list[Domain]:
    """Return the domains of a run; the source of the class map, if there is one, has the classes of its target.

    Args:
      names: `data.domains`.
      class_map: `data.class_map`.

    Raises:
      InputError: for an unknown domain, a wrong class map, or one of other domains.

    >>> [d.num_classes for d in run_domains(["cityscapes256", "camvid"], "cityscapes256_to_camvid")]
    [11, 11]
    """
    domains = [get_domain(name) for name in names]
    if not class_map:
        return domains
    found, by_name = find_class_map(class_map), {domain.name: domain for domain in domains}
    for meant in (found.source, found.target):
        if meant.name not in by_name:
            raise InputError(
                f"{found.file}: maps {found.source.name} to {found.target.name}, but data.domains are "
                f"{', '.join(by_name)}; choose another class map or other domains"
            )
    check_domains(found, by_name[found.source.name], by_name[found.target.name])
    return [map_source(found) if domain.name == found.source.name else domain for domain in domains]


def table(class_map: ClassMap) -> str:
    """Format a line for each class of the source, in its order, then for each class that it cannot teach.

    >>> print(table(find_class_map("city_street_to_camvid")))
    city_street  -> camvid
    road         -> road
    sidewalk     -> pavement
    building     -> building
    wall         -> building
    pole         -> pole
    traffic sign -> sign
    vegetation   -> tree
    sky          -> sky
    person       -> pedestrian
    car          -> car
    none         -> fence
    none         -> bicyclist
    """
    rows = [(class_map.source.name, class_map.target.name)]
    rows += [(name, to or IGNORED) for name, to in zip(class_map.source.class_names, class_map.classes, strict=True)]
    rows += [("none", name) for name in class_map.unlearnable]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}} -> {to}" for name, to in rows)


def _domain(value, where, path):
    if not isinstance(value, str):
        raise InputError(f"{where}: {value!r} must be the name of a domain or the path of its file")
    if value.lower().endswith((".yaml", ".yml")):
        value = os.path.join(os.path.dirname(path), os.path.expanduser(value))
    try:
        return get_domain(value)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _check_class(name, known, where, domain):
    """Raise InputError if `name` is not in `known`."""
    if name not in known:
        close = nearest(str(name), known)
        hint = f"did you mean {close}?" if close else f"there are {', '.join(known)}"
        raise InputError(f"{where}: {name!r} is not a class of {domain}; {hint}")


def _check_namesakes(given, target, meant, path):
    """Raise InputError if a class has a namesake in the target, becomes another class, and is not `meant` to."""
    where = f"{path}: although_named_alike"
    others = [name for name, to in given.items() if name in target.class_names and to != name]
    for name in read_list(meant, where):
        if name not in others:
            raise InputError(f"{where}: {name!r} is not a class that becomes another than its namesake; remove it")
    check_distinct(meant, where, "class")
    if wrong := [name for name in others if name not in meant]:
        raise InputError(
            f"{path}: classes: {wrong[0]}: {given[wrong[0]]!r}, but {target.name} has a class {wrong[0]!r}; map it to "
            f"that, or add although_named_alike: [{', '.join(wrong)}] if this is intended"
        )
