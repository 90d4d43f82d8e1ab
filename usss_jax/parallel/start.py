"""Start and end of several processes that train together; when one fails, the others end too."""

import os
import re
import socket
import sys
import threading
import time
from typing import Any

from usss_jax.errors import InputError
from usss_jax.local_files import reason

FAILED = "usss_jax/failed"  # key under which a failing process stores its error message
HEARTBEAT = 100  # seconds after which JAX ends all processes if one is silent: killed, or its host is down
POLL = 1.0  # seconds between two reads of the key
GRACE = 1.0  # seconds that a process has to report its own error after another process failed
LINGER = 3.0  # seconds before a failing process exits, so that the others read its message before connections close
LAST = 6.0  # seconds before process 0 exits, which holds the keys: JAX aborts the others as soon as it is gone

_connected = threading.Event()
_ending = threading.Event()  # this process is about to exit
_other_failed = threading.Event()  # another process has failed: errors of this one are consequences


def check_address(coordinator: str, num_processes: int, process_id: int):
    """Raise InputError for flags that cannot work, before connecting."""
    match = re.fullmatch(r"(.+):(\d{1,5})", coordinator)
    if not match or not 0 < int(match[2]) < 65536:
        raise InputError(f"--coordinator={coordinator}: give HOST:PORT of process 0, such as node1:9876")
    if process_id >= num_processes:
        raise InputError(f"--process_id={process_id} must be below --num_processes={num_processes}")
    host, port = match[1].strip("[]"), int(match[2])
    try:
        socket.getaddrinfo(host, port)
    except OSError as e:
        raise InputError(f"--coordinator={coordinator}: unknown host {host!r} ({e})") from e
    if process_id == 0:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError as e:
                raise InputError(f"--coordinator={coordinator}: port {port} cannot be used here ({e})") from e


def connect(given: dict[str, Any], timeout: int):
    """Call jax.distributed.initialize; exits with one line if not all processes connect within `timeout` seconds."""
    import jax  # after the flags: a typo should not wait for JAX

    def give_up():
        where = f"coordinator {given['coordinator']}" if given["coordinator"] else "the coordinator"
        what = f"not all of {given['num_processes']} processes" if given["num_processes"] else "not all processes"
        say_error(f"--multihost: {what} connected to {where} within {timeout} s (--multihost_timeout); start them all")
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
    except Exception as e:  # from the detection of a cluster or the connection
        raise InputError(f"--multihost: {type(e).__name__}: {reason(e)}") from e
    finally:
        alarm.cancel()
    _connected.set()
    threading.Thread(target=watch, daemon=True).start()
    if jax.process_index() > 0:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (for the rest of the process)
    print(f"{jax.process_count()} processes with {jax.device_count()} devices train together", flush=True)


def client():
    """Key-value store of all processes; None for a single process."""
    from jax._src import distributed  # has no public name; Orbax uses it, too

    return distributed.global_state.client


def watch():
    """Exit soon after another process has failed; collectives would wait for it forever."""
    store = client()
    while not _ending.wait(POLL):
        try:
            failed = store.key_value_try_get(FAILED)
        except Exception:  # the key does not exist yet, or the store is gone, which JAX itself notices
            continue
        if _ending.wait(GRACE):
            return
        _other_failed.set()
        say_error(failed)
        leave(2, 0.0)


def fail(text: str, code: int):
    """Store the error for the other processes, and exit."""
    _ending.set()
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        import jax

        client().key_value_set(FAILED, f"process {jax.process_index()} failed: {text}")
    except Exception:  # another process was first
        pass
    leave(code, LINGER)


def leave(code: int, linger: float):
    """Exit after `linger` seconds, process 0 last; sys.exit would wait at JAX's barrier for processes that hang."""
    import jax

    time.sleep(LAST if jax.process_index() == 0 else linger)
    os._exit(code)


def say_error(text: str):
    """Print an error in one line."""
    print(f"usss_jax: error: {text}", file=sys.stderr, flush=True)


def fail_on_signal(code: int):
    """End the other processes as well when a signal ends this one."""
    if connected():
        fail("interrupted", code)


def wait_if_other_failed():
    """Leave it to `watch` to end this process if another one has failed."""
    if _other_failed.is_set():
        time.sleep(2 * LAST)


def connected() -> bool:
    """Whether `connect` has connected this process to others."""
    return _connected.is_set()


def stop_watching():
    """Keep `watch` from ending this process, which is about to exit like all others."""
    _ending.set()
