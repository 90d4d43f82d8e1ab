"""Run by tests of several devices and processes: a command as it is, but in float64, with an encoder of three layers.

    python hosts_run.py {main,prototypes} FLAGS

In float64 sums in another order agree to 1e-10, and so must one device, eight, and two processes.
"""

import importlib
import sys

import jax
import numpy as np
from tiny_models import ThreeLayers

from usss_jax import multihost
from usss_jax.methods import segmentation
from usss_jax.methods.imagenet import plan as imagenet
from usss_jax.models import encoders
from usss_jax.parallel import sharding, start
from usss_jax.runs import networks


def wide(array):
    """float32 -> float64, where it lies; a shape likewise."""
    if array.dtype != np.float32:
        return array
    if isinstance(array, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(array.shape, np.float64, sharding=array.sharding)
    return jax.jit(lambda a: a.astype(np.float64), out_shardings=array.sharding)(array)


def in_float64(create, args, options):
    """(state, report) of a function that creates a state."""
    state, report = create(*args, **options)
    return jax.tree.map(wide, state), report


def patch(module, name):
    """Let a module create its states in float64."""
    create = getattr(module, name)
    setattr(module, name, lambda *args, **options: in_float64(create, args, options))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    patch(segmentation, "create_state")
    patch(imagenet, "create_state")
    # Bytes would become float32, whose rounding depends on what XLA fuses it with.
    put = sharding.put
    sharding.put = lambda batch, to: put({k: a / 255.0 if k == "image" else a for k, a in batch.items()}, to)
    narrow = networks.abstract_variables
    networks.abstract_variables = lambda *args: jax.tree.map(wide, narrow(*args))
    start.HEARTBEAT = 3600  # a machine that runs tests may be busy
    encoders.ENCODERS["drn_d_22"] = ThreeLayers
    entry_point = importlib.import_module(f"usss_jax.{sys.argv.pop(1)}")
    multihost.run(entry_point.main)
