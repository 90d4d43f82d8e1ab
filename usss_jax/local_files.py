"""Local files and folders: paths given by users, JSON objects with checksums, atomic writes, one-line errors."""

import contextlib
import errno
import hashlib
import io
import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from usss_jax.errors import InputError

CHECKSUM = "checksum"  # last entry of a JSON object: of the whole file, with _ZEROS in its place
_ZEROS = f"sha256:{'0' * 64}"


def local_path(text: str, what: str) -> pathlib.Path:
    """Convert a path given by the user, with ~ for the home folder.

    Args:
      text: the path.
      what: its flag or field, for messages.

    Raises:
      InputError: for a URL such as gs://bucket/x, or an unknown home folder.

    >>> local_path("~/runs/demo", "--workdir") == pathlib.Path.home() / "runs" / "demo"
    True
    """
    if match := re.match(r"[A-Za-z][\w+.-]*://", text):
        raise InputError(
            f"{what}={text}: usss_jax reads and writes mounted folders, not {match[0]}; mount it on this machine "
            "(gs:// with gcsfuse, for instance) and give that folder"
        )
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError as e:
        home = text.split("/")[0]
        raise InputError(f"{what}={text}: the home folder {home} is not known; give the absolute path") from e


def read_object(path: pathlib.Path) -> dict[str, Any]:
    """Read a JSON object from a file, and verify its checksum if `write_object` wrote it.

    Raises:
      OSError: if the file cannot be read.
      ValueError: if it does not hold a JSON object, or its checksum differs.
    """
    text = path.read_text(encoding="utf-8")
    if not text.strip("\0 \n"):
        raise ValueError("it is empty")
    try:
        content = json.loads(text)
    except RecursionError as e:
        raise ValueError("it is nested too deeply") from e
    if not isinstance(content, dict):
        raise ValueError("it holds no JSON object")
    found = re.search(r'sha256:[^"\n]{64}(?="\n}\n$)', text)
    if found or CHECKSUM in content:  # either suffices: one of them may be what is damaged
        if not found or found[0] != checksum((text[: found.start()] + _ZEROS + text[found.end() :]).encode()):
            raise ValueError("its checksum differs: it was damaged or edited")
        content.pop(CHECKSUM, None)
    return content


def write_object(path: pathlib.Path, content: Mapping[str, Any]):
    """Write a JSON object atomically, with its checksum.

    Raises:
      OSError: if writing fails; the error names the file.
      ValueError: for NaN.

    >>> write_object(pathlib.Path("run/summary.json"), {"job": "full"})
    >>> read_object(pathlib.Path("run/summary.json"))
    {'job': 'full'}
    """
    text = json.dumps({**content, CHECKSUM: _ZEROS}, indent=2, allow_nan=False) + "\n"
    head, _, tail = text.rpartition(_ZEROS)
    write_whole(path, head + checksum(text.encode()) + tail)


def checksum(content: bytes | io.BufferedReader) -> str:
    """Checksum of bytes, or of the rest of an open file.

    >>> checksum(b"")[:20]
    'sha256:e3b0c44298fc1'
    """
    digest = hashlib.sha256(content) if isinstance(content, bytes) else hashlib.file_digest(content, "sha256")
    return f"sha256:{digest.hexdigest()}"


def write_whole(path: pathlib.Path, content: str | bytes):
    """Write a file atomically: readers see the old or the new content, even after a power loss.

    Text is encoded as UTF-8. The parent folder is created if needed.

    Raises:
      OSError: if writing fails; the error names the file.

    >>> write_whole(pathlib.Path("run/table.md"), "| full |")
    >>> pathlib.Path("run/table.md").read_text()
    '| full |'
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())  # else a power loss may leave an empty file under the final name
        os.replace(partial, path)
    except OSError as e:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise named(e, path) from e


def named(error: OSError, path: pathlib.Path) -> OSError:
    """The same error, naming `path` if it names no file, as for a full disk.

    >>> named(OSError(28, "No space left on device"), pathlib.Path("summary.json")).filename
    'summary.json'
    """
    return OSError(error.errno or 0, reason(error), error.filename2 or error.filename or str(path))


def reason(error: Exception) -> str:
    """The message of an error, in one line.

    >>> reason(OSError(2, "No such file or directory", "a.png")), reason(KeyError())
    ('No such file or directory', 'KeyError')
    """
    text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return text.splitlines()[0]


def line_of(error: OSError) -> str:
    """Error message for an OSError in one line, with its file and, for a full disk, the remedy.

    >>> line_of(OSError(2, "No such file or directory", "a.png"))
    'a.png: No such file or directory'
    """
    name = error.filename2 or error.filename
    text = f"{os.fsdecode(name)}: {reason(error)}" if isinstance(name, str | bytes) else reason(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{text}; files saved before, such as the last checkpoint, remain: free space and run the command again"
    return text


def check_paths(text: str, what: str):
    """Check the paths in PATH or NAME=PATH,NAME=PATH, also after tfds: or words:, as `local_path` does."""
    for part in [text, *re.split("[,=]", text)]:
        path = re.sub("^(tfds|words):(?!//)", "", part.strip())
        if path.startswith("~") or "://" in path:
            local_path(path, what)
