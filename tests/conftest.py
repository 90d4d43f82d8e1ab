"""Less compiling, which takes nearly all of the tests' time; also in the processes that tests start.

Compiled programs are kept for the next run of the tests in a folder for these versions and this CPU, and LLVM works in
its quick mode. A test of several devices adds their number to XLA_FLAGS for its process.
"""

import collections
import contextlib
import fcntl
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import time
import types

import pytest

CACHE = "JAX_COMPILATION_CACHE_DIR"
UNUSED = 30 * 24 * 3600.0  # seconds after which a program that no run has asked for goes
QUICK = ["--xla_backend_optimization_level=0", "--xla_cpu_multi_thread_eigen=false"]
if importlib.metadata.version("jaxlib").startswith("0.10."):  # another version may not know it, and XLA would abort
    QUICK.append("--xla_cpu_use_fusion_emitters=false")  # compiles the programs of a run in half the time


def pytest_configure(config):
    """Before anything imports JAX; workers of xdist inherit what their controller has set."""
    if CACHE not in os.environ:
        os.environ[CACHE] = str(programs())
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    os.environ.setdefault("XLA_FLAGS", " ".join(QUICK))


@pytest.fixture(scope="session", autouse=True)
def _synthetic_images_are_rendered_once():
    """Of a process: a run of two domains renders some 300, of 25 ms each."""
    from usss_jax.data import sources, synthetic

    kept = {}

    def render(domain, split, index, size):
        key = domain.name, domain.class_names, split, index, size
        if key not in kept:
            kept[key] = synthetic.render(domain, split, index, size)
        return tuple(array.copy() for array in kept[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "synthetic", types.SimpleNamespace(render=render))
        yield


@pytest.fixture(scope="module")
def scanned_teacher():
    """Micro-batches of a teacher's step are scanned, as on GPUs: it compiles in half the time."""
    from functools import partial

    from usss_jax.engine.accumulate import accumulate
    from usss_jax.methods.usss import consistency

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(consistency, "accumulate", partial(accumulate, unroll=False))
        yield


@pytest.fixture(scope="session")
def toy_encoder():
    """Make the encoder of toy.py known to `create_model`."""
    import toy

    toy.register()


@pytest.fixture(scope="session")
def toy_run(toy_encoder, tmp_path_factory):
    """Workdir of a finished run of toy.config, not to be changed; trained once for all processes of the tests."""
    import toy

    from usss_jax.methods.train import train

    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with (base / "toy_run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (base / "toy_run" / "table.md").exists():
            variants = ["single", "frozen", "finetune", "hung", "basic", "full"]
            train(toy.config(variants=variants, **{"hung.semi_start": 0.5}), base / "toy_run")
    return base / "toy_run"


def pytest_collection_modifyitems(config, items):
    """Leave nightly tests out unless -m asks for them; start with the files that have the most slow ones."""
    for item in items:
        if "toy_run" in item.fixturenames:
            item.add_marker(pytest.mark.slow)
    if "nightly" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("nightly")]
        items[:] = [item for item in items if not item.get_closest_marker("nightly")]
        config.hook.pytest_deselected(items=left_out)
    slow = collections.Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])  # stable: a file's tests keep their order


def programs():
    """Folder of the compiled programs, without those that have not been used for long."""
    cpu = {platform.machine(), platform.processor()}
    with contextlib.suppress(OSError):  # not Linux
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu |= {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    of = f"{sorted(cpu)} {importlib.metadata.version('jaxlib')}"
    key = hashlib.sha256(of.encode()).hexdigest()[:12]
    folder = pathlib.Path(os.path.expanduser("~"), ".cache", "usss_jax", "tests", key)
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        with contextlib.suppress(OSError):  # another run has removed it
            if time.time() - max(file.stat().st_atime, file.stat().st_mtime) > UNUSED:
                file.unlink()
    return folder
