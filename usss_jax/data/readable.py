"""Finds the readable examples of a source, for data.on_bad_example="skip"."""

import contextlib
import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from usss_jax.data.examples import Examples
from usss_jax.data.progress import Progress
from usss_jax.errors import InputError

AnyExamples = TypeVar("AnyExamples", bound=Examples)


@dataclasses.dataclass(frozen=True)
class BadExample:
    """A skipped example: its domain and use, its id, and the error, which names its file."""

    use: str
    id: str
    error: str


def readable(source: AnyExamples, use: str, threads: int) -> tuple[AnyExamples, list[BadExample]]:
    """Read every example of a source; return the source without those that raise InputError, and these.

    Args:
      source: whose examples are read.
      use: printed with each skipped example, such as "camvid, labeled".
      threads: number of reading threads.

    Raises:
      InputError: if no example is left.
    """

    def error_of(index: int) -> str | None:
        try:
            source[index]
        except InputError as error:
            return str(error)
        return None

    errors = {}
    with contextlib.closing(Progress()) as progress, ThreadPoolExecutor(threads) as pool:
        step = progress.start(use, len(source), 0)
        for key, error in zip(source.ids, pool.map(error_of, range(len(source))), strict=True):
            errors[key] = error
            step()
    bad = [BadExample(use, i, error) for i, error in errors.items() if error]
    report_skipped(bad)
    print(f"[{use}] {len(source) - len(bad)} of {len(source)} examples can be used", flush=True)
    if len(bad) == len(source):
        why = f"; the first: {bad[0].error}" if bad else ": there is none"
        raise InputError(f"{use}: none of the {len(bad)} examples can be used{why}")
    return (source.select([i for i, error in errors.items() if not error]) if bad else source), bad


def report_skipped(bad: Sequence[BadExample]):
    """Print every skipped example."""
    for example in bad:
        print(f"[{example.use}] skipped {example.id}: {example.error}", flush=True)
