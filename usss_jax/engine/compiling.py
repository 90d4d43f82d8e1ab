"""Compilation of the step before the loop, with its time and memory in the log."""

import contextlib
import ctypes
import time
from collections.abc import Callable

import jax

from usss_jax.runs.logs import say


def compiled(train_step: jax.stages.Wrapped, state, batch, job: str) -> Callable:
    """Compile the step for these shapes and log time and memory; the program raises for other shapes."""
    began = time.monotonic()
    program = train_step.lower(state, batch).compile()
    return_freed_memory()
    text = f"step compiled in {time.monotonic() - began:.0f} s"
    if memory := program.memory_analysis():  # not on every backend
        needed = memory.temp_size_in_bytes + memory.argument_size_in_bytes
        needed += memory.output_size_in_bytes - memory.alias_size_in_bytes
        text += f", needs {needed / 1e9:.2f} GB on each device"
    say(job, text)
    return program


def return_freed_memory():
    """Return memory that the compiler has freed to the system; glibc would keep half a gigabyte."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
