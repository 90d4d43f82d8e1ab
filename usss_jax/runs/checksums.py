"""Checksums of files, kept in a JSON object beside them (local_files.py) and verified before the files are used."""

import pathlib
from collections.abc import Mapping

from usss_jax.local_files import checksum, read_object, reason, write_object

CHECKSUMS = "checksums.json"  # in the folder of a checkpoint: {"step", "checksums": those of all other files}


def write_checksums(folder: pathlib.Path, step: int):
    """Write CHECKSUMS of all files in the folder of a checkpoint, to be called once.

    Raises:
      OSError: if a file cannot be read, or CHECKSUMS not be written.

    >>> folder = pathlib.Path("20")
    >>> folder.mkdir()
    >>> _ = (folder / "state").write_text("road")
    >>> write_checksums(folder, 20)
    >>> damage_of(folder)
    ''
    >>> _ = (folder / "state").write_text("roae")
    >>> damage_of(folder)
    'the checksum of state differs'
    """
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            found[path.relative_to(folder).as_posix()] = checksum(file)
    write_object(folder / CHECKSUMS, {"step": step, "checksums": found})


def damage_of(folder: pathlib.Path) -> str | None:
    """Say what is damaged in the folder of a checkpoint; empty if nothing is, None if it has no CHECKSUMS."""
    if not folder.is_dir():
        return "it is missing"
    if not any(folder.iterdir()):
        return "it is empty"
    try:
        kept = read_object(folder / CHECKSUMS)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as e:
        return f"{CHECKSUMS}: {reason(e)}"
    if str(kept.get("step")) != folder.name:
        return f"it is that of step {kept.get('step')}"
    return damage(folder, kept.get("checksums", {}))


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
            return f"{name} cannot be read: {reason(e)}"
    return ""
