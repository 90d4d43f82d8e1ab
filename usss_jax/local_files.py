"""Files and folders of this machine: paths as users write them, JSON objects, files that are written in one piece."""

import contextlib
import errno
import json
import os
import pathlib
import re
from typing import Any

from usss_jax.errors import InputError


def local_path(text: str, what: str) -> pathlib.Path:
    """Path with ~ replaced by the home folder.

    Args:
      text: as the user wrote it.
      what: the flag or field that it is from, for messages.

    Raises:
      InputError: for a URL such as gs://bucket/x, or an unknown home folder.
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
        raise InputError(f"{what}={text}: the home folder {home} is not known here; give the whole path") from e


def read_object(path: pathlib.Path) -> dict[str, Any]:
    """Read a JSON file that holds an object; OSError or ValueError if it cannot be read or holds something else."""
    text = path.read_text(encoding="utf-8")
    if not text.strip("\0 \n"):
        raise ValueError("it is empty")
    try:
        content = json.loads(text)
    except RecursionError as e:
        raise ValueError("it is nested too deeply") from e
    if not isinstance(content, dict):
        raise ValueError("it holds no JSON object")
    return content


def write_whole(path: pathlib.Path, content: str | bytes):
    """Write a file in one piece: a reader, also after a power loss, sees the old one or the new one.

    Text is written as UTF-8. The parent folder is made if there is none.

    Raises:
      OSError: if it cannot be written; it names the file.
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
    """The same error, of this file if it names none, as that of a full disk does."""
    return OSError(error.errno or 0, reason(error), error.filename2 or error.filename or str(path))


def reason(error: Exception) -> str:
    """What went wrong, in one line."""
    text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return text.splitlines()[0]


def line_of(error: OSError) -> str:
    """The one line of an error of the system: which file, what, and what to do if the disk is full."""
    name = error.filename2 or error.filename
    text = f"{os.fsdecode(name)}: {reason(error)}" if isinstance(name, str | bytes) else reason(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{text}; what was saved before, the last checkpoint too, stays: make room and run the command again"
    return text


def check_paths(text: str, what: str):
    """Raise InputError as `local_path` does, for the paths in PATH or NAME=PATH,NAME=PATH, also after tfds: or words:.

    Other words are fine.
    """
    for part in [text, *re.split("[,=]", text)]:
        path = re.sub("^(tfds|words):(?!//)", "", part.strip())
        if path.startswith("~") or "://" in path:
            local_path(path, what)
