"""File names in the folders of a data set: which are data, and which match a name despite case or Unicode form."""

import difflib
import os
import posixpath
import unicodedata
from collections.abc import Iterator, Sequence

from usss_jax.errors import InputError

# Left by desktops, NAS systems, version control and archives; in lower case.
_NOT_DATA = {
    *("@eadir", "@__thumb", "@recycle", "@tmp", "#recycle", "#snapshot", "$recycle.bin", "system volume information"),
    *("lost+found", "__macosx", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini", "icon\r"),
    *("zbthumbnail.info", "thumbs.db:encryptable", "folder.jpg:encryptable"),
}


def is_data(name: str) -> bool:
    """Return whether a file or folder of this name may be data: thumbnails, trash and hidden names are not.

    >>> is_data("frame_01.png"), is_data("Thumbs.db"), is_data(".hidden.png")
    (True, False, False)
    """
    return not name.startswith((".", "SYNOFILE_THUMB", "SYNOPHOTO_THUMB")) and name.lower() not in _NOT_DATA


def normal(text: str) -> str:
    r"""Normalize to composed letters (NFC), since macOS writes an umlaut as two characters and others as one.

    >>> normal("Zu\u0308rich") == "Z\u00fcrich"
    True
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def below(root: str | os.PathLike, path: str) -> str:
    """Return the path of a file below root, with "/" between folders and composed letters.

    >>> below("data", os.path.join("data", "train", "a.png"))
    'train/a.png'
    """
    return normal(path[len(os.path.join(root, "")) :].replace(os.sep, "/"))


def walk(folder: str, parents: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield all files below a folder that may be data; links to a parent folder are not followed.

    Raises:
      InputError: for a folder that cannot be read.
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
        else:  # also broken links, so that reading them raises
            yield entry.path


def _is_folder(entry):
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


class Names:
    """Finds files below a root whose names may differ in case or Unicode form; lists each folder once, on demand."""

    def __init__(self, root: str | os.PathLike):
        self._root = os.fspath(root)
        self._listed: dict[str, dict[str, list[str]]] = {}

    def folder(self, name: str) -> str:
        """Return the path of folder `name` ("/" between folders) below root, spelled as on disk if it exists."""
        path = self._root
        for part in filter(None, name.split("/")):
            exact = os.path.join(path, part)
            if not os.path.lexists(exact):
                alike = [n for n in self._names(path).get(_key(part), []) if normal(n) == normal(part)]
                exact = os.path.join(path, alike[0]) if len(alike) == 1 else exact
            path = exact
        return path

    def alike(self, name: str) -> list[str]:
        """Return the paths of files named `name` up to case and Unicode form.

        If some differ only in the case of the extension, only these are returned.
        """
        folder, _, base = name.rpartition("/")
        path = self.folder(folder)
        found = self._names(path).get(_key(base), [])
        close = [n for n in found if _small_ending(normal(n)) == _small_ending(normal(base))]
        return [os.path.join(path, n) for n in close or found]

    def nearest(self, name: str, count: int = 3) -> list[str]:
        """Return the names most similar to `name` in its folder, or in its nearest existing parent."""
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
        """Names in a folder by their `_key`."""
        if folder not in self._listed:
            names: dict[str, list[str]] = {}
            try:
                for name in sorted(filter(is_data, os.listdir(folder))):
                    names.setdefault(_key(name), []).append(name)
            except OSError:  # it does not exist
                pass
            self._listed[folder] = names
        return self._listed[folder]


def _key(name):
    return normal(name).casefold()


def _small_ending(name):
    stem, ending = posixpath.splitext(name)
    return stem + ending.lower()


def similar_names(names: Sequence[str]) -> str:
    """Format similar names for an error message.

    >>> similar_names(["trian", "val"])
    '; similar names: trian, val'
    """
    return f"; similar names: {', '.join(names)}" if names else ""
