"""Ctrl-C and SIGTERM as a shell sends them: one line, the usual exit codes, and in a loop one step more."""

import signal
import subprocess
import sys
import threading

import pytest

from usss_jax import signals

# The first: a test that runs after & ignores it, and so would this.
BEGIN = """import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from usss_jax import signals
"""
AT_ONCE = f"""{BEGIN}
signals.end_in_one_line("usss_jax: interrupted")
print("kept", end="")
print("ready", file=sys.stderr, flush=True)
time.sleep(60)
"""
LOOP = f"""{BEGIN}
signals.end_in_one_line("usss_jax: interrupted")
interrupt = signals.Interrupt("full")
interrupt.listen()
print("ready", file=sys.stderr, flush=True)
while not interrupt.code:
    time.sleep(0.01)
if len(sys.argv) > 1:
    time.sleep(60)
interrupt.close()
print("saved", interrupt.code)
"""


def start(code, *words):
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", signals.NUMBERS)
def test_a_process_ends_at_once_in_one_line_and_what_it_printed_is_kept(number):
    process = start(AT_ONCE)
    process.send_signal(number)
    assert process.communicate(timeout=10) == ("kept", "usss_jax: interrupted\n")
    assert process.returncode == 128 + number


@pytest.mark.parametrize("number", signals.NUMBERS)
def test_an_interrupted_loop_ends_by_itself(number):
    process = start(LOOP)
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert out == f"saved {128 + number}\n" and process.returncode == 0
    assert err.count("\n") == 1 and "[full] interrupted: finishes the step" in err


def test_a_second_sigterm_changes_nothing_and_a_second_ctrl_c_ends_the_loop_at_once():
    process = start(LOOP, "hangs")
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
    assert "interrupted: finishes" in process.stderr.readline()
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10) == ("", "usss_jax: interrupted\n")
    assert process.returncode == 130


def test_handlers_are_those_of_before_after_a_loop_and_another_thread_leaves_them_alone():
    before = [signal.getsignal(number) for number in signals.NUMBERS]
    interrupt = signals.Interrupt("full")
    thread = threading.Thread(target=interrupt.listen)
    thread.start()
    thread.join()
    assert [signal.getsignal(number) for number in signals.NUMBERS] == before
    interrupt.listen()
    assert signal.getsignal(signal.SIGTERM) not in before
    interrupt.close()
    assert [signal.getsignal(number) for number in signals.NUMBERS] == before
