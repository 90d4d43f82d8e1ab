"""Text files that list images, one per line: the list of a split, or labeled.txt of other projects."""

import difflib
import os
import re
from collections.abc import Iterable, Sequence

from usss_jax.data import patterns
from usss_jax.data.domain import Domain
from usss_jax.errors import InputError

# An image ends with its extension, so its path may have blanks and commas; a tab always separates two paths.
_ENDING = "|".join(map(re.escape, patterns.EXTENSIONS))
_COLUMNS = re.compile(rf"[\"']?(.+?(?:{_ENDING}))[\"']?\s*[\s,;]\s*(.+)", re.IGNORECASE)


def read_lines(path: str | os.PathLike) -> list[tuple[int, str]]:
    """Read the lines of a list with their numbers, without empty lines and comments (#).

    Line ends of Windows, a byte order mark, UTF-16 and backslashes between folders are accepted.

    Raises:
      InputError: if the file cannot be read or has no line.

    >>> import pathlib
    >>> _ = pathlib.Path("list.txt").write_text("# comment\\na/1.png\\n")
    >>> read_lines("list.txt")
    [(2, 'a/1.png')]
    """
    try:
        with open(os.path.expanduser(path), "rb") as file:
            data = file.read()
        if b"\0" in data and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise InputError(f"{path}: this list is not UTF-8 text, perhaps UTF-16; save it as UTF-8")
        text = data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
        rows = (line.lstrip().rstrip(" ").replace("\\", "/") for line in re.split("\r\n|\r|\n", text))
        lines = list(enumerate(rows, start=1))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: this list is not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{path}: this list cannot be read ({error.strerror}); correct its path") from error
    lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not lines:
        raise InputError(f"{path}: this list has no image; write one per line")
    return lines


def columns(line: str) -> tuple[str, str | None]:
    """Split a line "image [mask]" at a tab, or at blanks or a comma after the image's extension.

    >>> columns("my images/1.jpg masks/1.png"), columns("images/1.jpg")
    (('my images/1.jpg', 'masks/1.png'), ('images/1.jpg', None))
    """
    if "\t" in line:
        image, _, mask = line.partition("\t")
    elif match := _COLUMNS.fullmatch(line):
        image, mask = match.groups()
    else:
        image, mask = line, ""
    return image.strip(" \t\"'"), mask.strip(" \t\"',;") or None


def read_ids(
    path: str | os.PathLike, domain: Domain, ids: Iterable[str], splits: Sequence[str] = ("train",)
) -> list[str]:
    """Read which of `ids`, all from `splits` of the domain, a list names, in its order.

    A line is an id, a path of the image (with leading folders added or removed), or an unambiguous end of one of these;
    the extension may differ or be missing. A second column, the mask, is ignored: the domain defines the masks.

    Raises:
      InputError: for a line that fits no image, several, or one of an earlier line.
    """
    index = _Index(domain, ids, splits)
    lines: dict[str, int] = {}
    for number, text in read_lines(path):
        found = index.find(text) or index.find(columns(text)[0]) or index.find(re.split(r"[\s,;]", text)[0])
        if not found:
            close = difflib.get_close_matches(patterns.stem(columns(text)[0]), index.ids, n=1)
            hint = f"; closest is {close[0]!r}" if close else ""
            raise InputError(
                f"{path}:{number}: {text!r} is not an image of {domain.name} ({', '.join(splits)}){hint}; correct or "
                "remove this line"
            )
        if len(found) > 1:
            raise InputError(
                f"{path}:{number}: {text!r} may be {found[0]!r} or {found[1]!r} of {domain.name}; write the whole id"
            )
        if found[0] in lines:
            raise InputError(f"{path}:{number}: repeats the image {found[0]!r} of line {lines[found[0]]}; remove one")
        lines[found[0]] = number
    return list(lines)


class _Index:
    """Finds ids by the names that a list may use, without a search through all ids for every line."""

    def __init__(self, domain, ids, splits):
        self.ids = dict.fromkeys(ids)
        self._paths = {}  # whole paths, without extension
        self._ends = {}  # ends of paths and ids, starting at any folder
        files = [layout.splits[s] for layout in domain.layouts for s in splits if s in layout.splits]
        forms = dict.fromkeys(f.images or "{id}" for f in files)
        for key in self.ids:
            _add_ends(self._ends, key, key)
            for form in forms:
                name = patterns.path_of_id(form, key)
                if name is not None:
                    name = patterns.stem(name)
                    _add(self._paths, name, key)
                    _add_ends(self._ends, name, key)

    def find(self, text: str) -> tuple[str, ...]:
        """Return the ids that match a text: none, one, or two if it is ambiguous."""
        name = patterns.stem(text).lstrip("/")
        for key in (text, name):
            if key in self.ids:
                return (key,)
        found = self._paths.get(name) or self._ends.get(name)
        while not found and "/" in name:
            name = name.partition("/")[2]
            found = self._paths.get(name)
        return found or ()


def _add_ends(index, name, key):
    while True:
        _add(index, name, key)
        _, slash, name = name.partition("/")
        if not slash:
            return


def _add(index, name, key):
    known = index.get(name, ())
    if len(known) < 2 and key not in known:  # two show that it is ambiguous
        index[name] = (*known, key)
