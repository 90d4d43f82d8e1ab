"""Less compiling, which takes nearly all of the tests' time; also in the processes that tests start.

One cache of compiled programs for the whole session, since many tests run the same tiny programs, and LLVM's quick
mode. A test of several devices adds their number to XLA_FLAGS for its process.
"""

import importlib.metadata
import os
import shutil
import tempfile

CACHE = "JAX_COMPILATION_CACHE_DIR"
QUICK = ["--xla_backend_optimization_level=0"]
if importlib.metadata.version("jaxlib").startswith("0.10."):  # another version may not know it, and XLA would abort
    QUICK.append("--xla_cpu_use_fusion_emitters=false")  # compiles the programs of a run in half the time


def pytest_configure(config):
    """Before anything imports JAX; workers of xdist inherit what their controller has set."""
    if CACHE not in os.environ:
        os.environ[CACHE] = config.usss_jax_cache = tempfile.mkdtemp(prefix="usss_jax_tests_")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    os.environ.setdefault("XLA_FLAGS", " ".join(QUICK))


def pytest_unconfigure(config):
    """Remove the cache that this process made."""
    if cache := getattr(config, "usss_jax_cache", None):
        shutil.rmtree(cache, ignore_errors=True)
