"""Loads a domain from a YAML file."""

import os
import posixpath
import re

from usss_jax.data import patterns
from usss_jax.data.checked_yaml import check_distinct, check_keys, read_integers, read_list, read_mapping
from usss_jax.data.domain import ENCODINGS, UNKNOWN, Domain, Files, LabelClass, Layout
from usss_jax.errors import InputError

_KEYS = (
    *("name", "title", "root", "classes", "encoding", "ignore_ids", "ignore_colors", "other_colors", "size", "crop"),
    *("splits", "holdout", "val_split", "test_split", "unlabeled_splits", "how_to_get"),
)


def load_yaml(path: str) -> Domain:
    """Load a domain from a YAML file; raise InputError, naming the file and the key, for any mistake.

    Required keys: `name`, `size` [h, w], `classes` (a list of {name, color: [r, g, b], ids: raw id or list of them}),
    `splits`. Optional ones, with their defaults: `root` (relative to this file; without it the domain's folder is
    data.root), `title` (the name), `encoding` (ids: class ids, as grey levels, palette indices or three equal channels;
    color: the classes' colours, which then have no ids; ids16: the first channel of a colour PNG; see data/masks.py),
    `ignore_ids` (none), `ignore_colors` (black, unless a class is black), `other_colors` (error; or ignore: all colours
    without a class), `crop` (size), `val_split` (val), `test_split` (val_split), `unlabeled_splits` (train and
    unlabeled, if they exist), `holdout`, `how_to_get`.

    `splits` maps names to one of the following, below root:

      {images: train/images, masks: train/masks}                  folders with all files in them; the mask of
                                                                  a/b.jpg is a/b.png, its id a/b
      {images: "train/{id}.jpg", masks: "labels/{id}_gt.png"}     {id} matches any text, including folders
      {images: "img/*/*_rgb.jpg", masks: "gt/*/*_labels.png"}     * matches text within one name, **/ any folders;
                                                                  the id is the text matched in images, as in a/b
      {list: train.txt}                                           a text file with a line "image" or "image mask" per
                                                                  image: paths below root, separated by a tab or
                                                                  blanks; the id is the image's path without
                                                                  extension; lines with # are comments
      {list: train.txt, images: JPEGImages, masks: SegmentationClass}   the images that a list names by id or path

    A split without masks has no labels; {id} in masks is the image's id in either form. Images end with .png, .jpg or
    .jpeg (any of these if the pattern has no extension), masks with .png. With `holdout: k`, train and val share their
    images, and every k-th is val.
    """
    spec = read_mapping(path, _KEYS, required=("name", "classes", "size", "splits"))
    name = spec["name"]
    if not isinstance(name, str) or not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise InputError(f"{path}: name: {name!r} must be lower-case letters, digits and _, starting with a letter")
    for key in ("title", "root", "how_to_get"):
        if not isinstance(spec.get(key, ""), str):
            raise InputError(f"{path}: {key}: {spec[key]!r} must be a string")
    layout, classes = _yaml_layout(spec, path)
    val = _yaml_split(spec, "val_split", "val", path)
    size = read_integers(spec["size"], f"{path}: size", 2, 1, 65535)
    crop = read_integers(spec["crop"], f"{path}: crop", 2, 1, 65535) if "crop" in spec else size
    if (size[0] - size[1]) * (crop[0] - crop[1]) < 0:
        raise InputError(
            f"{path}: crop: {list(crop)} is {'portrait' if crop[0] > crop[1] else 'landscape'}, but size {list(size)} "
            f"is not; both are [height, width]: did you mean {list(crop[::-1])}?"
        )
    return Domain(
        name,
        spec.get("title", name),
        classes,
        (layout,),
        folder=os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(path)), os.path.expanduser(spec["root"])))
        if "root" in spec
        else "",
        size=size,
        crop=crop,
        val_split=val,
        test_split=_yaml_split(spec, "test_split", val, path),
        unlabeled_splits=_yaml_unlabeled(spec, path),
        how_to_get=spec.get("how_to_get") or _how_to_get(spec, path),
    )


def _how_to_get(spec, path):
    """Remedy for missing images."""
    folder = "root" if "root" in spec else "the path of its folder"
    return f"correct {folder}{', splits or holdout' if 'holdout' in spec else ' or splits'} in {path}"


def _yaml_layout(spec, path):
    encoding = spec.get("encoding", "ids")
    if encoding not in ENCODINGS:
        raise InputError(f"{path}: encoding: {encoding!r} must be one of {', '.join(ENCODINGS)}")
    for unused in ("ignore_ids",) if encoding == "color" else ("ignore_colors", "other_colors"):
        if unused in spec:
            raise InputError(f"{path}: {unused}: has no meaning with encoding {encoding}; remove it")
    other_colors = spec.get("other_colors", "error")
    if other_colors not in ("error", "ignore"):
        raise InputError(f"{path}: other_colors: {other_colors!r} must be error or ignore")
    classes, raw_ids = _yaml_classes(spec["classes"], f"{path}: classes", encoding)
    colors = [c.color for c in classes]
    ignore_colors = () if encoding != "color" or (0, 0, 0) in colors else ((0, 0, 0),)
    if "ignore_colors" in spec:
        ignore_colors = tuple(
            read_integers(color, f"{path}: ignore_colors", 3, 0, 255)
            for color in read_list(spec["ignore_colors"], f"{path}: ignore_colors")
        )
    ignore_ids = read_integers(spec.get("ignore_ids", []), f"{path}: ignore_ids", None, 0, 65535)
    if encoding == "color":
        check_distinct(colors + list(ignore_colors), f"{path}: classes, ignore_colors", "colour")
    else:
        check_distinct([i for raw in raw_ids for i in raw] + list(ignore_ids), f"{path}: ids, ignore_ids", "raw id")
    splits = _yaml_splits(spec["splits"], f"{path}: splits", spec.get("holdout"))
    return (
        Layout(splits, raw_ids, ignore_ids, ignore_colors, encoding, other_colors == "ignore", spec.get("holdout")),
        classes,
    )


def _yaml_classes(entries, where, encoding):
    entries = read_list(entries, where)
    if not 1 <= len(entries) <= UNKNOWN:
        raise InputError(f"{where}: {len(entries)} classes, must be 1 to {UNKNOWN}")
    keys = ("name", "color") if encoding == "color" else ("name", "color", "ids")
    classes, raw_ids = [], []
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise InputError(f"{where}: entry {number} must be a mapping with {', '.join(keys)}, the name a string")
        inside = f"{where}: {entry['name']}"
        check_keys(entry, inside, keys, required=keys)
        classes.append(LabelClass(entry["name"], read_integers(entry["color"], f"{inside}: color", 3, 0, 255)))
        if "ids" in keys:
            ids = entry["ids"] if isinstance(entry["ids"], list) else [entry["ids"]]
            raw_ids.append(read_integers(ids, f"{inside}: ids", None, 0, 65535))
    check_distinct([c.name for c in classes], where, "class name")
    return tuple(classes), tuple(raw_ids)


def _yaml_splits(entries, where, holdout):
    if not isinstance(entries, dict) or not entries:
        raise InputError(f"{where}: must be a mapping such as train: {{images: train/images, masks: train/masks}}")
    splits = {}
    for split, entry in entries.items():
        inside = f"{where}: {split}"
        if not isinstance(split, str) or not isinstance(entry, dict):
            raise InputError(f"{inside}: must be a mapping with images and, if it has labels, masks; or with list")
        splits[split] = _yaml_files(entry, inside)
    sources = {split: files.list_file or files.images for split, files in splits.items()}
    if holdout is None:
        _check_own_images(sources, where)
    elif type(holdout) is not int or holdout < 2:
        raise InputError(f"{where.removesuffix('splits')}holdout: {holdout!r} must be a whole number from 2")
    elif not {"train", "val"} <= set(splits) or sources["train"] != sources["val"]:
        raise InputError(f"{where}: with holdout, train and val must both exist and have the same images")
    return splits


def _check_own_images(sources, where):
    """Raise InputError for two splits with the same images."""
    first = {source: split for split, source in reversed(sources.items())}
    for split, source in sources.items():
        other = first[source]
        if other != split:
            divide = "set holdout: 10, which makes every tenth of them val"
            remedy = divide if {split, other} == {"train", "val"} else f"remove {split}"
            raise InputError(f"{where}: {other} and {split} have the same images; change one of them, or {remedy}")


def _yaml_files(entry, where):
    check_keys(entry, where, ("images", "masks", "list"), required=() if "list" in entry else ("images",))
    list_file = _below_root(entry["list"], f"{where}: list") if "list" in entry else None
    if "images" not in entry:
        if "masks" in entry:
            raise InputError(f"{where}: masks with list also needs images, which maps the list's ids to files")
        return Files(list_file=list_file)
    images = _yaml_pattern(entry["images"], f"{where}: images", patterns.EXTENSIONS)
    if "masks" not in entry:
        return Files(images, list_file=list_file)
    masks = _yaml_pattern(entry["masks"], f"{where}: masks", (".png",))
    stars = patterns.stars(masks)
    if stars and stars != patterns.stars(images):
        raise InputError(
            f"{where}: masks: {entry['masks']!r} has {stars} stars but {entry['images']!r} of images has "
            f"{patterns.stars(images)}; give masks the stars of images, or {{id}}"
        )
    if patterns.match_id(images, patterns.fill(masks, "x", "x" * stars)):
        raise InputError(f"{where}: images: also matches the masks; give its extension or another folder")
    return Files(images, masks, list_file=list_file)


def _yaml_pattern(text, where, extensions):
    """Check a folder, a path with {id} or a path with stars, and convert it to a pattern."""
    text = _below_root(text, where)
    literal = text.replace("{id}", "", 1)
    if re.search("[{}]", literal) or ("*" in literal and literal != text):
        raise InputError(f"{where}: {text!r} must have {{id}} once, or stars, or neither (a folder); no other braces")
    if any("**" in name and name != "**" for name in text.split("/")) or re.search(r"\*\*$|\.\*$", text):
        raise InputError(f"{where}: {text!r}: use ** only for folders, as in a/**/*.png, and no star in the extension")
    ending = posixpath.splitext(text)[1].lower()
    if literal == text and "*" not in text:
        if ending in patterns.EXTENSIONS:
            raise InputError(f"{where}: {text!r} is one file; give its folder, or {{id}} or stars in place of its name")
        return posixpath.normpath(f"{text}/{{id}}{'.png' if len(extensions) == 1 else ''}")
    if len(extensions) == 1 and ending not in extensions:
        raise InputError(f"{where}: {text!r} must end with .png; convert masks of other formats")
    if ending in patterns.OTHER_FORMATS:
        raise InputError(f"{where}: {text!r}: this image format is not supported; convert to PNG or JPEG")
    return text


def _below_root(text, where):
    """Check and normalize a path below root."""
    if not isinstance(text, str) or not text or "\\" in text:
        raise InputError(f"{where}: {text!r} must be a path, with / between folders")
    if os.path.isabs(text) or ".." in text.split("/"):
        raise InputError(f"{where}: {text!r} must stay below root: no absolute path and no ..")
    return posixpath.normpath(text)


def _yaml_unlabeled(spec, path):
    where, splits = f"{path}: unlabeled_splits", list(spec["splits"])
    if "unlabeled_splits" not in spec:
        return tuple(split for split in ("train", "unlabeled") if split in splits) or ("train",)
    chosen = read_list(spec["unlabeled_splits"], where)
    if not chosen:
        raise InputError(f"{where}: names no split; name some of {', '.join(splits)}, or remove the key")
    for split in chosen:
        if split not in splits:
            raise InputError(f"{where}: {split!r} is not one of the splits {', '.join(splits)}")
    check_distinct(chosen, where, "split")
    return tuple(chosen)


def _yaml_split(spec, key, default, path):
    if key not in spec:
        return default  # may not exist: a domain without labels needs none
    split = spec[key]
    if not isinstance(split, str) or split not in spec["splits"]:
        raise InputError(f"{path}: {key}: {split!r} is not one of the splits {', '.join(spec['splits'])}")
    return split
