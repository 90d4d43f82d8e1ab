"""Checksums of files, kept in a JSON object beside them (local_files.py) and verified before the files are used."""

import pathlib
from collections.abc import Iterable, Mapping

from usss_jax.local_files import checksum


def checksums_of(folder: pathlib.Path, files: Iterable[pathlib.Path]) -> dict[str, str]:
    """Read files below a folder; return their checksums by relative path.

    Raises:
      OSError: if a file cannot be read.

    >>> folder = pathlib.Path("checked")
    >>> folder.mkdir()
    >>> _ = (folder / "a.txt").write_text("road")
    >>> kept = checksums_of(folder, folder.glob("*"))
    >>> damage(folder, kept)
    ''
    >>> _ = (folder / "a.txt").write_text("roae")
    >>> damage(folder, kept)
    'the checksum of a.txt differs'
    """
    found = {}
    for path in sorted(files):
        with path.open("rb") as file:
            found[path.relative_to(folder).as_posix()] = checksum(file)
    return found


def damage(folder: pathlib.Path, checksums: Mapping[str, str]) -> str:
    """Say which file below a folder is absent, unreadable or changed; empty if all are whole."""
    for name, kept in checksums.items():
        try:
            with (folder / name).open("rb") as file:
                if checksum(file) != kept:
                    return f"the checksum of {name} differs"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as e:
            return f"{name} cannot be read: {e.strerror}"
    return ""
