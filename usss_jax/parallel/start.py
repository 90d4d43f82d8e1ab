"""Start and end of several processes that train together: they meet, and when one fails the others end too."""

import os
import re
import socket
import sys
import threading
import time
from typing import Any

from usss_jax.errors import InputError

FAILED = "usss_jax/failed"  # key under which a process that fails leaves its line
HEARTBEAT = 100  # seconds after which JAX ends all processes if one is silent: killed, or its host is down
POLL = 1.0  # seconds between two looks at that key
GRACE = 1.0  # seconds that a process whose neighbour failed has to say what it knows itself
LINGER = 3.0  # seconds that a process which fails stays, so that the others read its line before a connection closes
LAST = 6.0  # seconds that process 0, which keeps the keys, stays: JAX aborts the others as soon as it is gone

_connected = threading.Event()
_ending = threading.Event()  # this process has begun to end by itself
_told = threading.Event()  # another process has failed: whatever this one runs into now follows from that


def check_address(coordinator: str, num_processes: int, process_id: int):
    """Raise InputError for what can be seen to be wrong before anything is connected."""
    match = re.fullmatch(r"(.+):(\d{1,5})", coordinator)
    if not match or not 0 < int(match[2]) < 65536:
        raise InputError(f"--coordinator={coordinator}: give HOST:PORT of process 0, such as node1:9876")
    if process_id >= num_processes:
        raise InputError(f"--process_id={process_id} must be below --num_processes={num_processes}")
    host, port = match[1].strip("[]"), int(match[2])
    try:
        socket.getaddrinfo(host, port)
    except OSError as e:
        raise InputError(f"--coordinator={coordinator}: there is no host {host!r} ({e})") from e
    if process_id == 0:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError as e:
                raise InputError(f"--coordinator={coordinator}: port {port} cannot be used here ({e})") from e


def connect(given: dict[str, Any], timeout: int):
    """Call jax.distributed.initialize, which alone would end with a long text if not all processes come."""
    import jax  # after the flags: a typo should not wait for JAX

    def give_up():
        where = f"coordinator {given['coordinator']}" if given["coordinator"] else "the coordinator"
        what = f"not all of {given['num_processes']} processes" if given["num_processes"] else "not all processes"
        say_error(f"--multihost: {what} met at {where} within {timeout} s (--multihost_timeout); are all started?")
        os._exit(2)

    alarm = threading.Timer(timeout, give_up)
    alarm.daemon = True
    alarm.start()
    try:
        jax.distributed.initialize(
            given["coordinator"],
            given["num_processes"],
            given["process_id"],
            initialization_timeout=timeout + 60,
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except ValueError as e:
        if "coordinator_address should be defined" not in str(e):
            raise InputError(f"--multihost: {e}") from e
        raise InputError(
            "--multihost: JAX detects no cluster here (SLURM, Open MPI, Kubernetes, Cloud TPU); give "
            "--coordinator=HOST:PORT, --num_processes=N and --process_id=I"
        ) from e
    except Exception as e:  # whatever the detection of a cluster and the connection raise
        raise InputError(f"--multihost: {type(e).__name__}: {str(e).strip().splitlines()[0]}") from e
    finally:
        alarm.cancel()
    _connected.set()
    threading.Thread(target=watch, daemon=True).start()
    if jax.process_index() > 0:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (for the rest of the process)
    print(f"{jax.process_count()} processes with {jax.device_count()} devices train together", flush=True)


def client():
    """Key-value store of all processes; None if there is just this one."""
    from jax._src import distributed  # no public name for it; Orbax takes it from there too

    return distributed.global_state.client


def watch():
    """End this process soon after another one has failed: a collective would wait for that one for ever."""
    store = client()
    while not _ending.wait(POLL):
        try:
            failed = store.key_value_try_get(FAILED)
        except Exception:  # there is no such key yet, or the store is gone, which JAX itself notices
            continue
        if _ending.wait(GRACE):
            return
        _told.set()
        say_error(failed)
        leave(2, 0.0)


def fail(text: str, code: int):
    """End this process, and let the others know why."""
    _ending.set()
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        import jax

        client().key_value_set(FAILED, f"process {jax.process_index()} failed: {text}")
    except Exception:  # another one was first
        pass
    leave(code, LINGER)


def leave(code: int, linger: float):
    """End this process, process 0 last; sys.exit would wait at JAX's barrier for processes that hang."""
    import jax

    time.sleep(LAST if jax.process_index() == 0 else linger)
    os._exit(code)


def say_error(text: str):
    """Print the one line of bad input."""
    print(f"usss_jax: error: {text}", file=sys.stderr, flush=True)


def tell_others(code: int):
    """End this process, which was told to by a signal, and let the others know."""
    if connected():
        fail("it was told to end", code)


def wait_if_told():
    """Let `watch` end this process if it is about to."""
    if _told.is_set():
        time.sleep(2 * LAST)


def connected() -> bool:
    """Whether `connect` has connected this process to others."""
    return _connected.is_set()


def leave_alone():
    """Say that this process ends by itself, as all others do: `watch` is not to end it."""
    _ending.set()
