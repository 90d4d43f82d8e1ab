"""Image sizes as text, and a check for exchanged height and width."""

from collections.abc import Mapping, Sequence

from usss_jax.data.domain import Domain
from usss_jax.errors import InputError


def height_width(size: Sequence[int]) -> str:
    """Format a size (h, w), or the shape of an image [h, w, ...], as HEIGHTxWIDTH, the order of all flags and fields.

    >>> height_width((360, 480, 3))
    '360x480'
    """
    return f"{size[0]}x{size[1]}"


def check_orientation(domains: Mapping[str, Domain], sizes: Mapping[str, tuple[int, int] | None], field: str):
    """Raise InputError for a portrait size of a domain whose own size is landscape, or vice versa.

    Args:
      domains: by name.
      sizes: (h, w) by name; None: not given.
      field: config field or flag of the sizes.
    """
    wrong = [name for name, size in sizes.items() if size and _turned(domains[name].size, size)]
    if not wrong:
        return
    meant = {n: height_width(s[::-1] if n in wrong else s) for n, s in sizes.items() if s}
    one_for_all = len(meant) == len(sizes) and len(set(meant.values())) == 1
    remedy = meant[wrong[0]] if one_for_all else ",".join(f"{name}={size}" for name, size in meant.items())
    (height, width), (own_height, own_width) = sizes[wrong[0]] or (0, 0), domains[wrong[0]].size
    raise InputError(
        f"{field}={height}x{width} is HEIGHTxWIDTH, {height} rows of {width} pixels, but images of {wrong[0]} are "
        f"{own_width} wide and {own_height} high; did you mean {remedy}?"
    )


def _turned(own, size):
    return (own[0] - own[1]) * (size[0] - size[1]) < 0
