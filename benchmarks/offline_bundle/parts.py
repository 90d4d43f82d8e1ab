"""Files to parts: one compressed tar, cut at a size, and the hash of every file and part.

This module and run.py, cells.py and keep.py beside it need nothing but the standard library.
"""

import gzip
import hashlib
import io
import pathlib
import tarfile
from collections.abc import Iterable
from typing import Any

MB = 1_000_000


class Slices(io.RawIOBase):
    """A file to write to that becomes FOLDER/STEM.part01, .part02, ... of at most `max_bytes` each."""

    def __init__(self, folder: pathlib.Path, stem: str, max_bytes: int):
        self._folder, self._stem, self._max = folder, stem, max_bytes
        self._file: Any = None
        self._left = 0
        self._hash = hashlib.sha256()
        self.parts: list[dict[str, Any]] = []

    def writable(self) -> bool:
        """Whether it can be written to."""
        return True

    def write(self, data) -> int:
        """Write bytes, starting further parts as needed."""
        view = memoryview(data)
        while view:
            if not self._left:
                self._finish()
                self.parts.append({"name": f"{self._stem}.part{len(self.parts) + 1:02d}", "bytes": 0, "sha256": ""})
                self._file, self._left = (self._folder / self.parts[-1]["name"]).open("wb"), self._max
                self._hash = hashlib.sha256()
            piece, view = view[: self._left], view[self._left :]
            self._file.write(piece)
            self._hash.update(piece)
            self._left -= len(piece)
            self.parts[-1]["bytes"] += len(piece)
        return len(memoryview(data))

    def _finish(self):
        if self._file:
            self._file.close()
            self.parts[-1]["sha256"] = self._hash.hexdigest()
            self._file = None

    def close(self):
        """Close the last part."""
        self._finish()
        super().close()


def write_parts(
    files: Iterable[tuple[str, pathlib.Path]], folder: pathlib.Path, stem: str, max_bytes: int
) -> tuple[list[dict[str, Any]], dict[str, list]]:
    """Write (name, path) as parts of one tar.gz; the same files give the same bytes.

    Returns:
      Parts as {"name", "bytes", "sha256"}, and [bytes, sha256] of every file by its name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{stem}.part*"):
        old.unlink()
    slices, hashes = Slices(folder, stem, max_bytes), {}
    # Level 1: images and wheels do not shrink, headers of small files do.
    zipped = gzip.GzipFile("", "wb", 1, slices, mtime=0)
    with slices, zipped, tarfile.open(fileobj=zipped, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for name, path in files:
            data = path.read_bytes()
            hashes[name] = [len(data), hashlib.sha256(data).hexdigest()]
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o644
            tar.addfile(entry, io.BytesIO(data))
    return slices.parts, hashes
