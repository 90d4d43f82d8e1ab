"""Which images are labeled: a seeded rule on the images' ids, and the hash that goes into every result."""

import hashlib
import json
from collections.abc import Mapping, Sequence

from usss_jax.errors import InputError


def choose_labeled(ids: Sequence[str], n: int | str, seed: int, domain: str) -> list[str]:
    """Choose `n` of the pool's ids ("all": every one), sorted.

    Ids are ranked by the SHA-256 of "seed:domain:id" and the first n taken, so that the choice depends neither on the
    order of a listing nor on a random generator's version, and a smaller n is a subset of a larger one.

    Raises:
      InputError: if n is larger than the pool or not positive.
    """
    if isinstance(n, str):
        if n != "all":
            raise InputError(f"labeled_per_domain: {domain}={n} is neither a number nor all")
        return sorted(ids)
    if not 1 <= n <= len(ids):
        raise InputError(
            f"labeled_per_domain: {domain} asks for {n} labeled images, its training pool has {len(ids)}; "
            f"give 1 to {len(ids)}, or {domain}=all"
        )
    ranked = sorted(ids, key=lambda i: hashlib.sha256(f"{seed}:{domain}:{i}".encode()).digest())
    return sorted(ranked[:n])


def split_hash(labeled: Mapping[str, Sequence[str]]) -> str:
    """Hash of the labeled ids of every domain: first 16 hex digits of a SHA-256."""
    text = json.dumps({domain: sorted(ids) for domain, ids in labeled.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
