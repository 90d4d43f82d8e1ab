"""The plan of MLSL: a source network, rounds of pseudo-labels and training, baselines, then a table and a picture."""

import pathlib
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from usss_jax.config.mlsl import VARIANTS
from usss_jax.engine.job import Job
from usss_jax.errors import InputError
from usss_jax.local_files import local_path
from usss_jax.methods.mlsl import results
from usss_jax.methods.mlsl.adaptation import Adaptation, describe, image_head, pair
from usss_jax.methods.mlsl.baselines import adversarial_fit, entropy_fit, oracle_fit, oracle_pools, source_fit
from usss_jax.methods.mlsl.rounds import rounds
from usss_jax.methods.mlsl.target_statistics import measured
from usss_jax.methods.opening import claimed, open_run
from usss_jax.methods.run import run_plan
from usss_jax.parallel import hosts
from usss_jax.runs.networks import describe_network, read_network
from usss_jax.runs.workdir import read_summary, written_summaries


def run(config: ConfigDict, workdir: pathlib.Path, devices=None) -> dict[str, dict[str, Any]]:
    """Run every variant of the config, write table and picture, and return the summaries by job.

    Args:
      config: a checked config.
      workdir: of the run.
      devices: to train on; None: all.

    Raises:
      InputError: if config, data or workdir cannot be used; finished work is kept.
    """
    opened = open_run(config, workdir, devices)
    adaptation = pair(opened)
    check_source_from(adaptation)
    print(describe(adaptation), flush=True)
    if "oracle" in config.variants:
        hosts.together(oracle_pools, adaptation)  # before hours of training, if it has no masks
    with claimed(opened):
        summaries = run_plan(plan(adaptation))
        for name, summary in hosts.from_writer(written_summaries, workdir).items():  # of earlier commands, too
            summaries.setdefault(name, summary)
        results.write(opened, adaptation.source, adaptation.target, summaries)
    return summaries


def plan(adaptation: Adaptation) -> Iterator[Job]:
    """Yield the jobs of the config's variants, in order."""
    config, variants = adaptation.config, adaptation.config.variants
    with_rounds = [v for v in variants if VARIANTS[v].rounds]
    from_source = config.mlsl.image_head_start == "source"
    starts = {v: "source_pwl" if from_source and VARIANTS[v].image_labels else "source" for v in with_rounds}
    if not config.mlsl.source_from and ("source" in variants or "source" in starts.values()):
        yield from measured(adaptation.run, adaptation.target, source_fit(adaptation, "source"))
    if not config.mlsl.source_from and "source_pwl" in starts.values():
        yield from measured(adaptation.run, adaptation.target, source_fit(adaptation, "source_pwl"))
    for variant in variants:
        if variant in ("minent", "minent_prior"):
            yield from measured(adaptation.run, adaptation.target, entropy_fit(adaptation, variant))
        elif variant == "adversarial":
            yield from measured(adaptation.run, adaptation.target, adversarial_fit(adaptation))
        elif VARIANTS[variant].rounds:
            yield from rounds(adaptation, variant, source_network(adaptation, starts[variant]))
        elif variant == "oracle":
            yield oracle_fit(adaptation)


def source_network(adaptation: Adaptation, name: str) -> pathlib.Path:
    """Folder of the finished network that round 0 starts from."""
    other = adaptation.config.mlsl.source_from
    return local_path(other, "mlsl.source_from") if other else adaptation.run.workdir / name


def check_source_from(adaptation: Adaptation):
    """Raise InputError if `mlsl.source_from` is no finished network like that of the config."""
    field = f"mlsl.source_from={adaptation.config.mlsl.source_from}"
    if not adaptation.config.mlsl.source_from:
        return
    folder = source_network(adaptation, "")
    summary = hosts.from_writer(read_summary, folder / "summary.json")
    if summary is None:
        raise InputError(f"{field}: is not the folder of a finished job, such as RUN/source")
    theirs = read_network(folder, summary["best_step"])
    ours = describe_network(adaptation.config, {adaptation.target: adaptation.domain})
    for key in ("encoder", "width", "stride", "lateral", "head"):
        if theirs[key] != ours[key]:
            raise InputError(f"{field}: model.{key} was {theirs[key]} there and is {ours[key]} here")
    decoders = {name: decoder["classes"] for name, decoder in theirs["decoders"].items()}
    if decoders != {adaptation.target: list(adaptation.domain.class_names)}:
        raise InputError(
            f"{field}: has decoders with the classes {decoders}, but {adaptation.target} has "
            f"{', '.join(adaptation.domain.class_names)}"
        )
    uses_head = any(VARIANTS[v].image_labels for v in adaptation.config.variants)
    needs_head = adaptation.config.mlsl.image_head_start == "source" or theirs.get("image_head", "none") != "none"
    for key, value in image_head(adaptation.config).items() if uses_head and needs_head else ():
        if theirs.get(key) != value:
            raise InputError(
                f"{field}: {key} is {theirs.get(key)} there and {value} here; give a network with that head, such as "
                "RUN/source_pwl, or one without head, such as RUN/source, with mlsl.image_head_start=random"
            )
