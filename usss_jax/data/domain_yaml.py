"""A domain of one's own from a YAML file."""

import difflib
import os
import re

import yaml

from usss_jax.data.domain import ENCODINGS, IGNORE, Domain, Files, LabelClass, Layout, match_id
from usss_jax.errors import InputError

_YAML_KEYS = (
    *("name", "title", "root", "classes", "encoding", "ignore_ids", "ignore_colors", "size", "crop"),
    *("splits", "holdout", "select_split", "report_split", "how_to_get"),
)


def load_yaml(path: str) -> Domain:
    """Load a domain from a YAML file; raises InputError, naming the file and the key, for whatever is wrong.

    `root` is relative to the file; without it the templates of `splits` are relative to data_root. Defaults:
    title is the name, encoding is ids, crop is size, select_split is val, report_split is select_split, and
    black is ignored in colour masks unless a class is black.
    """
    spec = _read_yaml(path)
    _check_keys(spec, path, _YAML_KEYS, required=("name", "classes", "size", "splits"))
    name = spec["name"]
    if not isinstance(name, str) or not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise InputError(f"{path}: name: {name!r} must be small letters, digits and _, starting with a letter")
    for key in ("title", "root", "how_to_get"):
        if not isinstance(spec.get(key, ""), str):
            raise InputError(f"{path}: {key}: {spec[key]!r} must be a text")
    layout, classes = _yaml_layout(spec, path)
    select = _yaml_split(spec, "select_split", "val", path)
    size = _ints(spec["size"], f"{path}: size", 2, 1, 65535)
    return Domain(
        name,
        spec.get("title", name),
        classes,
        (layout,),
        folder=os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(path)), spec["root"]))
        if "root" in spec
        else "",
        size=size,
        crop=_ints(spec["crop"], f"{path}: crop", 2, 1, 65535) if "crop" in spec else size,
        select_split=select,
        report_split=_yaml_split(spec, "report_split", select, path),
        how_to_get=spec.get("how_to_get", f"correct root or splits in {path}"),
    )


def _read_yaml(path):
    try:
        with open(path, encoding="utf-8") as file:
            spec = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"{path}: cannot read this domain file ({reason}); check the path") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(spec, dict):
        raise InputError(f"{path}: must be a mapping with the keys {', '.join(_YAML_KEYS)}")
    return spec


def _yaml_layout(spec, path):
    encoding = spec.get("encoding", "ids")
    if encoding not in ENCODINGS:
        raise InputError(f"{path}: encoding: {encoding!r} must be one of {', '.join(ENCODINGS)}")
    unused = "ignore_ids" if encoding == "color" else "ignore_colors"
    if unused in spec:
        raise InputError(f"{path}: {unused}: has no meaning with encoding {encoding}; remove it")
    classes, raw_ids = _yaml_classes(spec["classes"], f"{path}: classes", encoding)
    colors = [c.color for c in classes]
    ignore_colors = () if encoding != "color" or (0, 0, 0) in colors else ((0, 0, 0),)
    if "ignore_colors" in spec:
        ignore_colors = tuple(
            _ints(color, f"{path}: ignore_colors", 3, 0, 255)
            for color in _list(spec["ignore_colors"], f"{path}: ignore_colors")
        )
    ignore_ids = _ints(spec.get("ignore_ids", []), f"{path}: ignore_ids", None, 0, 65535)
    if encoding == "color":
        _check_distinct(colors + list(ignore_colors), f"{path}: classes, ignore_colors", "colour")
    else:
        _check_distinct([i for raw in raw_ids for i in raw] + list(ignore_ids), f"{path}: ids, ignore_ids", "raw id")
    splits = _yaml_splits(spec["splits"], f"{path}: splits", spec.get("holdout"))
    return Layout(splits, raw_ids, ignore_ids, ignore_colors, encoding, spec.get("holdout")), classes


def _yaml_classes(entries, where, encoding):
    entries = _list(entries, where)
    if not 1 <= len(entries) <= IGNORE:
        raise InputError(f"{where}: {len(entries)} classes, must be 1 to {IGNORE}")
    keys = ("name", "color") if encoding == "color" else ("name", "color", "ids")
    classes, raw_ids = [], []
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise InputError(f"{where}: entry {number} must be a mapping with {', '.join(keys)}, the name a text")
        inside = f"{where}: {entry['name']}"
        _check_keys(entry, inside, keys, required=keys)
        classes.append(LabelClass(entry["name"], _ints(entry["color"], f"{inside}: color", 3, 0, 255)))
        if "ids" in keys:
            ids = entry["ids"] if isinstance(entry["ids"], list) else [entry["ids"]]
            raw_ids.append(_ints(ids, f"{inside}: ids", None, 0, 65535))
    _check_distinct([c.name for c in classes], where, "class name")
    return tuple(classes), tuple(raw_ids)


def _yaml_splits(entries, where, holdout):
    if not isinstance(entries, dict) or not entries:
        raise InputError(f"{where}: must be a mapping such as train: {{images: 'train/{{id}}.png', masks: ...}}")
    splits = {}
    for split, entry in entries.items():
        inside = f"{where}: {split}"
        if not isinstance(split, str) or not isinstance(entry, dict):
            raise InputError(f"{inside}: must be a mapping with images and, if it has labels, masks")
        _check_keys(entry, inside, ("images", "masks"), required=("images",))
        for key, template in entry.items():
            _check_template(template, f"{inside}: {key}", needs_png=key == "masks")
        splits[split] = Files(entry["images"], entry.get("masks"))
        if splits[split].masks and match_id(splits[split].images, splits[split].masks.replace("{id}", "x")):
            raise InputError(f"{inside}: images: would also match the masks; give its extension or another folder")
    if holdout is None:
        _check_distinct([files.images for files in splits.values()], f"{where}: images (set holdout?)", "template")
    elif type(holdout) is not int or holdout < 2:
        raise InputError(f"{where.removesuffix('splits')}holdout: {holdout!r} must be a whole number from 2")
    elif not {"train", "val"} <= set(splits) or splits["train"].images != splits["val"].images:
        raise InputError(f"{where}: with holdout, train and val must both be there and have the same images")
    return splits


def _yaml_split(spec, key, default, path):
    split = spec.get(key, default)
    if not isinstance(split, str) or split not in spec["splits"]:
        raise InputError(f"{path}: {key}: {split!r} is not one of the splits {', '.join(spec['splits'])}")
    return split


def _check_template(template, where, needs_png):
    good = isinstance(template, str) and template.count("{id}") == 1
    if not good or re.search(r"[{}\\]", template.replace("{id}", "")):
        raise InputError(f"{where}: {template!r} must have {{id}} once, / between folders and no other braces")
    if os.path.isabs(template) or ".." in template.split("/"):
        raise InputError(f"{where}: {template!r} must stay below root: no absolute path and no ..")
    if needs_png and not template.lower().endswith(".png"):
        raise InputError(f"{where}: {template!r} must end with .png, masks of other formats are not read")


def _check_keys(entry, where, allowed, required):
    for key in entry:
        if key not in allowed:
            close = difflib.get_close_matches(str(key), allowed, n=1)
            hint = f"did you mean {close[0]}?" if close else f"allowed are {', '.join(allowed)}"
            raise InputError(f"{where}: unknown key {key!r}; {hint}")
    for key in required:
        if key not in entry:
            raise InputError(f"{where}: the key {key!r} is missing; add it")


def _check_distinct(values, where, what):
    seen = set()
    for value in values:
        if value in seen:
            raise InputError(f"{where}: {what} {value!r} is there twice; it must be there once")
        seen.add(value)


def _list(value, where):
    if not isinstance(value, list):
        raise InputError(f"{where}: {value!r} must be a list")
    return value


def _ints(value, where, length, low, high):
    """Check a list of whole numbers in low..high and make it a tuple; with length None any number of them."""
    right = isinstance(value, list) and all(type(v) is int and low <= v <= high for v in value)
    if not right or (length is not None and len(value) != length):
        count = "" if length is None else f"{length} "
        raise InputError(f"{where}: {value!r} must be a list of {count}whole numbers from {low} to {high}")
    return tuple(value)
