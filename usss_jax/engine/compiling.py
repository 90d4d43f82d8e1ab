"""Compiles the step once, before the loop, and logs what that took and what the step needs."""

import contextlib
import ctypes
import time
from collections.abc import Callable

import jax

from usss_jax.runs.logs import say


def compiled(train_step: jax.stages.Wrapped, state, batch, job: str) -> Callable:
    """Program of the step for these shapes, which cannot be compiled a second time; says what it took and takes."""
    began = time.monotonic()
    program = train_step.lower(state, batch).compile()
    return_freed_memory()
    text = f"step compiled in {time.monotonic() - began:.0f} s"
    if memory := program.memory_analysis():  # not every backend tells
        needed = memory.temp_size_in_bytes + memory.argument_size_in_bytes
        needed += memory.output_size_in_bytes - memory.alias_size_in_bytes
        text += f", needs {needed / 1e9:.2f} GB on each device"
    say(job, text)
    return program


def return_freed_memory():
    """Give the system what the compiler has freed: the C library of Linux would keep it, half a gigabyte."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
