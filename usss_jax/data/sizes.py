"""Sizes as text, and sizes whose height and width were exchanged."""

from collections.abc import Mapping, Sequence

from usss_jax.data.domain import Domain
from usss_jax.errors import InputError


def height_width(size: Sequence[int]) -> str:
    """Write a size (h, w), or the shape of an image [h, w, ...], as HEIGHTxWIDTH, the order of all flags and fields."""
    return f"{size[0]}x{size[1]}"


def check_orientation(domains: Mapping[str, Domain], sizes: Mapping[str, tuple[int, int] | None], field: str):
    """Raise InputError for a size that is upright where the domain's own images lie, or the other way round.

    Args:
      domains: by their names.
      sizes: (h, w) of each, None where none is given.
      field: config field or flag that gave them.
    """
    wrong = [name for name, size in sizes.items() if size and _turned(domains[name].size, size)]
    if not wrong:
        return
    meant = {n: height_width(s[::-1] if n in wrong else s) for n, s in sizes.items() if s}
    one_for_all = len(meant) == len(sizes) and len(set(meant.values())) == 1
    remedy = meant[wrong[0]] if one_for_all else ",".join(f"{name}={size}" for name, size in meant.items())
    (height, width), (own_height, own_width) = sizes[wrong[0]] or (0, 0), domains[wrong[0]].size
    raise InputError(
        f"{field}={height}x{width} is HEIGHTxWIDTH, so {height} rows of {width} pixels, but by their domain's size "
        f"images of {wrong[0]} are {own_width} wide and {own_height} high; did you mean {remedy}?"
    )


def _turned(own, size):
    return (own[0] - own[1]) * (size[0] - size[1]) < 0
