"""Run by hosts_test.py: an entry point of the project as it is, but in float64 and with a shallow encoder.

python hosts_run.py {main,prototypes} FLAGS

In float64 sums in another order agree to 1e-10, so that one device, eight, and two processes must.
"""

import importlib
import sys
from functools import partial

import jax
import numpy as np

from usss_jax import multihost
from usss_jax.models import universal
from usss_jax.models.drn import DRN
from usss_jax.training import loop, networks


def wide(array):
    """float32 -> float64, where it lies; a shape likewise."""
    if array.dtype != np.float32:
        return array
    if isinstance(array, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(array.shape, np.float64, sharding=array.sharding)
    return jax.jit(lambda a: a.astype(np.float64), out_shardings=array.sharding)(array)


def create_state(*args, **options):
    state, report = narrow_state(*args, **options)
    return jax.tree.map(wide, state), report


def abstract_variables(*args):
    return jax.tree.map(wide, narrow_variables(*args))


narrow_state, narrow_variables = loop.create_state, networks.abstract_variables

if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    loop.create_state, networks.abstract_variables = create_state, abstract_variables
    multihost.HEARTBEAT = 3600  # a machine that runs tests may be busy
    universal.ENCODERS["drn_d_22"] = partial(DRN, blocks=(1, 1, 1, 1))
    entry_point = importlib.import_module(f"usss_jax.{sys.argv.pop(1)}")
    multihost.run(entry_point.main)
