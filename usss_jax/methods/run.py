"""Running a method's plan: job after job, each skipped when its result is there."""

from collections.abc import Iterable
from typing import Any

from usss_jax.engine import loop
from usss_jax.engine.job import Fit, Job
from usss_jax.parallel import hosts
from usss_jax.runs.logs import say


def run_plan(plan: Iterable[Job]) -> dict[str, dict[str, Any]]:
    """Run the jobs of a plan in their order, those that are not finished; return the summaries of its Fits by name."""
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
