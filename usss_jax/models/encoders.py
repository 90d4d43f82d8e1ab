"""All encoders by name."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import lax

from usss_jax.errors import InputError
from usss_jax.models import convnext, dinov2, drn, mobile, rna
from usss_jax.models.drn import PAPER_NAMES
from usss_jax.models.encoder import Encoder

# Every encoder by its name in the config, made with the fields of models/encoder.py.
ENCODERS: dict[str, Callable[..., Encoder]] = {
    **drn.ENCODERS,
    **convnext.ENCODERS,
    **mobile.ENCODERS,
    **dinov2.ENCODERS,
    **rna.ENCODERS,
}

PRECISIONS = {
    "float32": (None, lax.Precision.HIGHEST),  # HIGHEST: no TF32 on GPUs
    "tf32": (None, lax.Precision.DEFAULT),
    "bfloat16": (jnp.bfloat16, lax.Precision.DEFAULT),
}


def create_encoder(
    name: str, *, stride: int, lateral: int, width: float, remat: str, frozen_levels: int, dtype, precision
) -> Encoder:
    """Build an encoder by its name, with `dtype` and `precision` of its convolutions; the others are of `create_model`.

    Raises:
      InputError: if the name is unknown, or the encoder has no such stride or levels.
    """
    known = (*ENCODERS, *PAPER_NAMES)
    if name not in known:
        raise InputError(f"model.encoder={name!r} is not one of {', '.join(known)}")
    if not width > 0:
        raise InputError(f"model.width={width} must be positive")
    create = ENCODERS[PAPER_NAMES.get(name, name)]
    default = create()
    stride = stride or default.stride
    if stride not in default.strides:
        raise InputError(f"model.stride={stride}: {name} has no such stride; give {one_of(default.strides)}")
    finer = [s for s in default.finer_strides if s < stride]
    if lateral not in (0, *finer):
        text = f"give {one_of(finer)}" if finer else "leave it at 0"
        raise InputError(f"model.lateral={lateral}: {name} of stride {stride} has no such features; {text}")
    if not 0 <= frozen_levels <= default.levels:
        raise InputError(
            f"model.frozen_levels={frozen_levels}: {name} has {default.levels} levels; give a number up to that"
        )
    return create(
        width=width,
        dtype=dtype,
        precision=precision,
        remat=read_levels(remat, default.levels),
        frozen=frozen_levels,
        stride=stride,
        finer=lateral,
    )


def one_of(values: Sequence[int]) -> str:
    """Join values for a message.

    >>> one_of((8, 16, 32))
    '8, 16 or 32'
    """
    *others, last = map(str, values)
    return f"{', '.join(others)} or {last}" if others else last


def read_levels(text: str, count: int) -> tuple[int, ...]:
    """Parse the field `remat`: levels such as "0-2,8" of an encoder with `count` levels, or "all"; empty: none."""
    chosen: set[int] = set(range(count)) if text == "all" else set()
    for part in text.split(",") if text not in ("", "all") else ():
        first, dash, last = (word.strip() for word in part.partition("-"))
        last = last if dash else first
        if not (first.isdigit() and last.isdigit() and int(first) <= int(last) < count):
            raise InputError(f"model.remat={text!r}: {part!r} is invalid; give levels from 0 to {count - 1}, or all")
        chosen |= set(range(int(first), int(last) + 1))
    return tuple(sorted(chosen))
