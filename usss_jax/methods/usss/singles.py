"""Single-domain networks of another workdir, by `usss.single_from`."""

import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from usss_jax.config import fields
from usss_jax.data.content import differences
from usss_jax.errors import InputError
from usss_jax.local_files import local_path, read_object, reason
from usss_jax.parallel import hosts
from usss_jax.runs.workdir import check_summary, read_data, their_values, values_of


def singles_folder(config: ConfigDict, workdir: pathlib.Path, data: Mapping[str, Any]) -> pathlib.Path:
    """Workdir of the single-domain networks: this one, or that of `usss.single_from`; `data` as for `claim_workdir`.

    Raises:
      InputError: if the networks of that workdir are not finished, or its config or data differs.
    """
    if not config.usss.single_from:
        return workdir
    folder = local_path(config.usss.single_from, "usss.single_from")
    hosts.from_writer(check_singles, config, folder, data)
    return folder


def check_singles(config: ConfigDict, folder: pathlib.Path, data: Mapping[str, Any]):
    """Raise InputError unless a workdir has finished networks of these domains, of the same config and data."""
    try:
        theirs = read_object(folder / "config.json")
    except (OSError, ValueError) as e:
        text = f"usss.single_from={folder}: not a workdir of a run ({reason(e)}); correct it, or leave it empty"
        raise InputError(text) from e
    before = read_data(folder / "data.json")
    mine = values_of(config.to_dict())
    theirs = their_values(theirs, mine, folder / "config.json")
    for name, field in fields(config.method).items():
        by_content = before and field.is_compared_by_content
        if field.is_of_singles and not by_content and theirs[name] != mine[name]:
            raise InputError(
                f"usss.single_from={folder}: {name} was {theirs[name]!r} there and is {mine[name]!r} here; set it to "
                f"{theirs[name]!r}, or leave usss.single_from empty"
            )
    for name, content in data.items():
        if before:
            check_domain(folder, name, before["domains"], content)
        check_finished(folder, name)


def check_domain(folder: pathlib.Path, name: str, theirs: Mapping[str, Any], content: Mapping[str, Any]):
    """Raise InputError if the network of a domain is missing in a workdir with the data `theirs`, or of other data."""
    if name not in theirs:
        raise InputError(
            f"usss.single_from={folder}: it has no network of {name}, only of {', '.join(theirs)}; leave "
            "usss.single_from empty, or give the workdir of a run with that domain"
        )
    without = {"unlabeled images": None}  # single-domain networks do not use them
    changed = differences({**theirs[name], **without}, {**content, **without}, name)
    if changed:
        raise InputError(
            f"usss.single_from={folder}: was trained on other data of {name}: {changed[0]}; restore the data, or leave "
            "usss.single_from empty"
        )


def check_finished(folder: pathlib.Path, name: str):
    """Raise InputError if the network of a domain is not finished."""
    path = folder / f"single_{name}" / "summary.json"
    if not path.exists():
        raise InputError(
            f"usss.single_from={folder}: single_{name} is not finished there; run its command again with "
            "--config.variants=single"
        )
    try:
        check_summary(read_object(path))
    except (OSError, ValueError) as e:
        raise InputError(
            f"{path} is damaged ({reason(e)}); run that workdir's command again with --config.variants=single"
        ) from e
