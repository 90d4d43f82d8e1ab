"""The domains that a finished network can predict, and their images with masks."""

import dataclasses

from usss_jax.data.class_map import run_domains
from usss_jax.data.domain import Domain
from usss_jax.data.domains import BUILTIN, get_domain
from usss_jax.data.examples import Source
from usss_jax.data.options import domain_root, read_options
from usss_jax.data.readable import BadExample, readable, report_skipped
from usss_jax.data.sources import open_source
from usss_jax.errors import InputError
from usss_jax.runs.finished import FinishedJob, check_labels


@dataclasses.dataclass(frozen=True)
class Target:
    """A domain as a network predicts it.

    Attributes:
      domain: whose images are evaluated, with their size.
      decoder: name of the decoder that predicts them.
      classes: train ids of the decoder, in the order of the domain's classes, if it is that of another domain.
    """

    domain: Domain
    decoder: str
    classes: tuple[int, ...] | None = None


def targets_of_run(job: FinishedJob) -> dict[str, Target]:
    """The domains of a job's run that its network can predict, with its decoders or, by the classes, one of them.

    Raises:
      InputError: if the job has no network for segmentation, or the file of a domain is missing.
    """
    if lacking := [name for name, of in job.network["decoders"].items() if "colors" not in of]:
        raise InputError(f"{job.folder}: {lacking[0]} has no colours, so it is no network for segmentation")
    domains = {d.name: d for d in _run_domains(job)}
    sizes = {name: of.size for name, of in read_options(job.config, domains).items()}
    found = {}
    for name, domain in domains.items():
        sized = dataclasses.replace(domain, size=sizes[name] or domain.size)
        if target := _as_target(job, sized):
            found[name] = target
    return found


def find_target(job: FinishedJob, name: str) -> Target:
    """Find a domain that a job's network can predict: one of its run, a built-in one, or a YAML file.

    Raises:
      InputError: if there is none; lists those of the run.
    """
    known = targets_of_run(job)
    if name in known:
        return known[name]
    target = None
    if name in BUILTIN or name.lower().endswith((".yaml", ".yml")):
        target = _as_target(job, get_domain(name))
    if target is None:
        raise InputError(
            f"domain={name}: {job.folder} has no decoder for {name}; give one of {', '.join(known)}, or the .yaml file "
            "of a domain with classes of theirs"
        )
    return target


def _as_target(job: FinishedJob, domain: Domain) -> Target | None:
    """The domain with its own decoder, or with the first one that has all of its classes."""
    check_labels(job, domain)
    own = job.network["decoders"].get(domain.name)
    if own:
        if tuple(own["classes"]) != domain.class_names:
            raise InputError(
                f"domain={domain.name}: {job.folder} was trained with other classes of it; restore the domain's file"
            )
        return Target(dataclasses.replace(domain, size=tuple(own["size"])), domain.name)
    for decoder, classes in job.class_names.items():
        if {*domain.class_names} <= {*classes}:
            return Target(domain, decoder, tuple(map(classes.index, domain.class_names)))
    return None


def root_of(job: FinishedJob, domain: Domain, data_root: str = "") -> str | None:
    """The domain's folder by `data_root`, or if that is empty by data.root of the job's config.

    Raises:
      InputError: if neither tells it.
    """
    names = dict.fromkeys([*(d.name for d in _run_domains(job)), domain.name])
    try:
        return domain_root(data_root or job.config.data.root, domain, list(names))
    except InputError as e:
        raise InputError(str(e).replace("--config.data.root", "--data_root")) from e


def _run_domains(job: FinishedJob) -> list[Domain]:
    return run_domains(job.config.data.domains, job.config.data.class_map)


def open_images(job: FinishedJob, domain: Domain, split: str, root: str | None) -> Source:
    """Open the images of a split with their masks; bad ones are skipped, and printed, if the run skips them.

    Raises:
      InputError: if images or masks are missing.
    """
    if job.config.data.on_bad_example != "skip":
        return open_source(domain, root, split)
    use, bad = f"{domain.name}, {split}", list[BadExample]()
    source = open_source(domain, root, split, skip=lambda key, error: bad.append(BadExample(use, key, error)))
    report_skipped(bad)
    return readable(source, use, job.config.data.loader_threads)[0]
