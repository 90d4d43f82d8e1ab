"""To which config a workdir belongs, and which networks may come from another one."""

import contextlib
import json
import pathlib
from collections.abc import Iterator, Sequence

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from ml_collections import ConfigDict

from usss_jax.config import default_config
from usss_jax.errors import InputError
from usss_jax.training import logs

# Fields that may change between two runs of the same workdir: they alter no number.
FREE_FIELDS = ("variants", "single_from", "data_root", "checkpoint_every", "log_every", "cache_gb", "loader_threads")

# Fields that single-domain networks do not depend on: they may differ between a run and that of its `single_from`.
NOT_OF_SINGLES = (
    *FREE_FIELDS,
    *("label_embeddings", "embeddings_per_class", "embed_dim", "theta", "alpha", "beta", "similarity_scale"),
    *("embedding_supervision", "diversity", "normalize_embedding", "embedding_lr_scale", "embedding_bias"),
    *("entropy_warmup", "steps", "unlabeled_batch_size", "unlabeled_batches", "unlabeled_splits", "unlabeled_list"),
    *("unlabeled_includes_labeled", "hung_adversarial", "hung_adversarial_unlabeled", "hung_semi", "hung_threshold"),
    *("hung_semi_start", "hung_lr"),
)


def claim_workdir(config: ConfigDict, workdir: pathlib.Path):
    """Write the config into a fresh workdir; raise InputError if the workdir belongs to another one."""
    path = workdir / "config.json"
    mine = json.loads(json.dumps(config.to_dict()))
    try:
        theirs = json.loads(path.read_text()) if path.exists() else None
        logs.write_json(path, theirs or mine)
    except (OSError, json.JSONDecodeError) as e:
        raise InputError(f"workdir {workdir}: {path} cannot be used ({e}); give another --workdir") from e
    if theirs:
        theirs = {**default_config().to_dict(), **theirs}  # a field that came later had its default then
        changed = [f for f in mine if f not in FREE_FIELDS and theirs[f] != mine[f]]
        if changed:
            text = ", ".join(f"{f} was {theirs[f]!r}, is now {mine[f]!r}" for f in changed)
            raise InputError(f"workdir {workdir} belongs to another config: {text}; give another --workdir")


@contextlib.contextmanager
def alone_in(workdir: pathlib.Path) -> Iterator[None]:
    """Keep other processes from training the same workdir meanwhile; a process that dies lets go of it.

    A file system that knows no locks does not stop the run.

    Raises:
      InputError: if another process trains it.
    """
    with (workdir / ".lock").open("w") as file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise InputError(f"workdir {workdir}: another process trains it now; wait for it or give another") from e
        except OSError as e:
            print(f"workdir {workdir} cannot be locked ({e}): see to it that no other process trains it")
        yield


def singles_folder(config: ConfigDict, workdir: pathlib.Path, domains: Sequence[str]) -> pathlib.Path:
    """Workdir of the single-domain networks: this one, or that of `single_from`.

    Raises:
      InputError: if that one has no finished networks, or its config makes other ones.
    """
    if not config.single_from:
        return workdir
    folder = pathlib.Path(config.single_from).expanduser()
    try:
        theirs = json.loads((folder / "config.json").read_text())
    except (OSError, json.JSONDecodeError) as e:
        raise InputError(f"single_from={folder}: no workdir of a run ({e})") from e
    mine = json.loads(json.dumps(config.to_dict()))
    theirs = {**default_config().to_dict(), **theirs}
    for field in sorted(set(mine) - set(NOT_OF_SINGLES)):
        if theirs[field] != mine[field]:
            raise InputError(f"single_from={folder}: {field} was {theirs[field]!r} there and is {mine[field]!r} here")
    for name in domains:
        if not (folder / f"single_{name}" / "summary.json").exists():
            raise InputError(f"single_from={folder}: single_{name} is not finished there; run it with variants=single")
    return folder
