"""A network as an artefact of `jax.export`: StableHLO for any image size on CPU, GPU and TPU, run by JAX alone."""

import pathlib
from collections.abc import Callable, Sequence

import jax
import jax.export

from usss_jax.export.program import any_images, bound
from usss_jax.inference.predictor import Predictor
from usss_jax.local_files import write_whole

PLATFORMS = ("cpu", "cuda", "tpu")
FILE = "model.stablehlo"


def write_stablehlo(predictor: Predictor, domains: Sequence[str], out: pathlib.Path) -> Callable:
    """Write the network, and return what was written as a function of images, read back from the file."""
    program = jax.jit(bound(predictor, predictor.model, domains))
    exported = jax.export.export(program, platforms=PLATFORMS)(any_images(predictor.model))
    write_whole(out / FILE, bytes(exported.serialize()))
    return jax.jit(jax.export.deserialize(bytearray((out / FILE).read_bytes())).call)
