"""Runs the jobs of a plan, and skips those that are finished."""

from collections.abc import Iterable
from typing import Any

from usss_jax.engine import loop
from usss_jax.engine.job import Fit, Job
from usss_jax.parallel import hosts
from usss_jax.runs.logs import say


def run_plan(plan: Iterable[Job]) -> dict[str, dict[str, Any]]:
    """Run the unfinished jobs of a plan, in order; return the summary of every Fit by the name of the job."""
    summaries = {}
    for job in plan:
        if isinstance(job, Fit):
            summary = loop.finished(job)
            if summary is not None:
                say(job.name, "finished earlier")
            summaries[job.name] = loop.fit(job) if summary is None else summary
        elif not hosts.from_writer(job.path.exists):
            job.make()
    return summaries
