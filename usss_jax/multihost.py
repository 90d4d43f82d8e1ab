"""Flags and start of several processes that train together; without --multihost they have no effect.

On SLURM, Open MPI, Kubernetes and Cloud TPU, JAX detects the processes:

    srun python -m usss_jax.main --multihost --config=configs/cs_cvd.py --workdir=SHARED/cs_cvd

Elsewhere every process needs three more flags:

    python -m usss_jax.main --multihost --coordinator=HOST0:9876 --num_processes=2 --process_id=0 ...

If a process fails, it prints the error, and the others end too (docs/multihost.md).
"""

import traceback
from collections.abc import Callable

from absl import flags

from usss_jax import cli, signals
from usss_jax.errors import InputError
from usss_jax.parallel.start import (
    check_address,
    connect,
    connected,
    fail,
    fail_on_signal,
    stop_watching,
    wait_if_other_failed,
)

MULTIHOST = flags.DEFINE_bool("multihost", False, "Train together with other processes, each of which gets this flag.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, if JAX detects no cluster.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes, if JAX detects no cluster.", 1)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Index of this process from 0 on, likewise.", 0)
TIMEOUT = flags.DEFINE_integer("multihost_timeout", 300, "Seconds to wait for the other processes at the start.", 1)


def start():
    """Connect to the other processes if --multihost is given; call it before any other use of JAX.

    Afterwards all processes but process 0 print errors only. If not all processes connect in time, the process ends
    with one line and exit code 2.

    Raises:
      InputError: for wrong or missing flags, or if they are missing and JAX detects no cluster.
    """
    given = {"coordinator": COORDINATOR.value, "num_processes": NUM_PROCESSES.value, "process_id": PROCESS_ID.value}
    named = [flag for flag, value in given.items() if value is not None]
    if not MULTIHOST.value:
        if named:
            raise InputError(f"--{named[0]} needs --multihost")
        return
    if missing := [flag for flag in given if flag not in named]:
        if named:
            raise InputError(
                f"--{missing[0]} is missing: give --coordinator=HOST:PORT, --num_processes=N and --process_id=I, or "
                "none of them on a cluster that JAX detects"
            )
    else:
        check_address(str(given["coordinator"]), int(given["num_processes"] or 0), int(given["process_id"] or 0))
    connect(given, TIMEOUT.value)


def run(main: Callable[[list[str]], int | None], **options):
    """`cli.run`, with its options, for entry points that call `start`."""
    ended = "interrupted; the same command resumes from the last checkpoint, if there is one"
    try:
        cli.run(main, ended=ended, before=fail_on_signal, **options)
    except SystemExit as e:
        if not e.code or not connected():
            raise
        if isinstance(e.__context__, signals.Ended):  # like all other processes
            stop_watching()
            raise
        wait_if_other_failed()
        fail(str(e.__context__ or "see its output"), e.code if isinstance(e.code, int) else 1)
    except Exception as e:
        if not connected():
            raise
        wait_if_other_failed()
        traceback.print_exc()
        fail(f"{type(e).__name__}: {(str(e).strip() or 'see its output').splitlines()[0]}", 1)
