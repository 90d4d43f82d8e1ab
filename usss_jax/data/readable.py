"""Which examples of a source can be read: the pass behind on_bad_example="skip"."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

from usss_jax.data.sources import Source
from usss_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class BadExample:
    """An example that was left out: where it belongs, its id, and the error that names its file."""

    use: str
    id: str
    error: str


def readable(source: Source, use: str, threads: int) -> tuple[Source, list[BadExample]]:
    """Read every example of a source once; return the source without those that raise InputError, and these.

    Each is printed. Raises InputError if none is left.
    """

    def error_of(index: int) -> str | None:
        try:
            source[index]
        except InputError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(threads) as pool:
        errors = dict(zip(source.ids, pool.map(error_of, range(len(source))), strict=True))
    bad = [BadExample(use, i, error) for i, error in errors.items() if error]
    for example in bad:
        print(f"[{use}] skipped {example.id}: {example.error}", flush=True)
    print(f"[{use}] {len(source) - len(bad)} of {len(source)} examples can be used", flush=True)
    if bad and len(bad) == len(source):
        raise InputError(f"{use}: none of the {len(bad)} examples can be used; the first: {bad[0].error}")
    return (source.select([i for i, error in errors.items() if not error]) if bad else source), bad
