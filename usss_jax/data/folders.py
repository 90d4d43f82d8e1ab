"""Names in folders of a data set: which are data at all, and one that differs from what was asked for in form alone."""

import difflib
import os
import posixpath
import unicodedata
from collections.abc import Iterator, Sequence

from usss_jax.errors import InputError

# What desktops, NAS systems, version control and archives leave beside data; hidden names too. In small letters.
_NOT_DATA = {
    *("@eadir", "@__thumb", "@recycle", "@tmp", "#recycle", "#snapshot", "$recycle.bin", "system volume information"),
    *("lost+found", "__macosx", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini", "icon\r"),
    *("zbthumbnail.info", "thumbs.db:encryptable", "folder.jpg:encryptable"),
}


def is_data(name: str) -> bool:
    """Whether a file or folder of this name may be data: thumbnails, trash and hidden ones never are."""
    return not name.startswith((".", "SYNOFILE_THUMB", "SYNOPHOTO_THUMB")) and name.lower() not in _NOT_DATA


def normal(text: str) -> str:
    """Text with composed letters: a Mac writes the letter u and its dots as two characters, others as one."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def below(root: str | os.PathLike, path: str) -> str:
    """Path of a file below root, with "/" between folders and composed letters."""
    return normal(path[len(os.path.join(root, "")) :].replace(os.sep, "/"))


def walk(folder: str, parents: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield all files below a folder that may be data; a link back to a folder it lies in is not followed.

    Raises InputError for a folder that cannot be read.
    """
    real = os.path.realpath(folder)
    if real in parents:
        return
    try:
        with os.scandir(folder) as opened:
            entries = [entry for entry in opened if is_data(entry.name)]
    except OSError as error:
        raise InputError(f"{folder}: this folder cannot be read ({error.strerror}); correct its permissions") from error
    for entry in entries:
        if _is_folder(entry):
            yield from walk(entry.path, (*parents, real))
        else:  # broken links too: reading them is an error, leaving them out would be silent
            yield entry.path


def _is_folder(entry):
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


class Names:
    """Finds files below a root by names that may differ in form; lists each folder once, when that is first needed."""

    def __init__(self, root: str | os.PathLike):
        self._root = os.fspath(root)
        self._listed: dict[str, dict[str, list[str]]] = {}

    def folder(self, name: str) -> str:
        """Path of the folder `name` ("/" between folders) below root, as it is spelled on disk if it is there."""
        path = self._root
        for part in filter(None, name.split("/")):
            exact = os.path.join(path, part)
            if not os.path.lexists(exact):
                alike = [n for n in self._names(path).get(_key(part), []) if normal(n) == normal(part)]
                exact = os.path.join(path, alike[0]) if len(alike) == 1 else exact
            path = exact
        return path

    def alike(self, name: str) -> list[str]:
        """Paths of the files that are called `name` but for the case of letters and composed or decomposed ones.

        Those that differ in the ending's case alone come before, and in place of, those that differ more.
        """
        folder, _, base = name.rpartition("/")
        path = self.folder(folder)
        found = self._names(path).get(_key(base), [])
        close = [n for n in found if _small_ending(normal(n)) == _small_ending(normal(base))]
        return [os.path.join(path, n) for n in close or found]

    def nearest(self, name: str, count: int = 3) -> list[str]:
        """Names in the folder of `name`, or in the nearest parent that there is, that are most like it."""
        while True:
            folder, _, base = name.rpartition("/")
            path = self.folder(folder)
            if os.path.isdir(path) or not folder:
                break
            name = folder
        names = [n for entries in self._names(path).values() for n in entries if n != base]
        close = difflib.get_close_matches(base, names[:5000], count, cutoff=0.3)
        return [posixpath.join(folder, n) for n in close]

    def _names(self, folder: str) -> dict[str, list[str]]:
        """Names in a folder by their form without case."""
        if folder not in self._listed:
            names: dict[str, list[str]] = {}
            try:
                for name in sorted(filter(is_data, os.listdir(folder))):
                    names.setdefault(_key(name), []).append(name)
            except OSError:  # it is not there
                pass
            self._listed[folder] = names
        return self._listed[folder]


def _key(name):
    return normal(name).casefold()


def _small_ending(name):
    stem, ending = posixpath.splitext(name)
    return stem + ending.lower()


def there_are(names: Sequence[str]) -> str:
    """Text for messages: the names that come nearest to what was looked for."""
    return f"; nearest there: {', '.join(names)}" if names else ""
