"""Signals: they end the process at once, or after a state is saved."""

import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import hashlib, os, sys, time
from twostage_jax.signals import (
    Interrupted,
    deferred,
    handled,
    interrupt_as_exception,
    resumable,
    run_before_exit,
)

def farewell(stop):
    return f"stopped by {{stop}}, {{stop.resume}}\\n"

try:
    unlock = run_before_exit(lambda: print("unlocked", flush=True))
    with handled(farewell), resumable("resume"), unlock:
        {body}
except Interrupted as stop:
    print("raised", stop.resume, flush=True)
    sys.exit(128 + stop.signum)
"""
READY = "print('ready', flush=True)"
IN_C = "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"  # C code that runs for minutes
SAVING = """
        with deferred() as interrupted:
            print("ready", flush=True)
            while not interrupted():
                time.sleep(0.01)
            print("saving", flush=True)
            {then}
"""


def start(body):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


def stop(process, signum=signal.SIGTERM):
    """Send a signal; return output, errors and seconds until the exit."""
    began = time.monotonic()
    process.send_signal(signum)
    out, err = process.communicate(timeout=30)
    return out, err, time.monotonic() - began


@pytest.mark.parametrize(
    ("body", "signum"), [("time.sleep(60)", signal.SIGINT), (IN_C, signal.SIGTERM)]
)
def test_the_process_exits_at_once_if_nothing_has_to_be_saved(body, signum):
    process = start(f"{READY}; {body}")
    out, err, seconds = stop(process, signum)
    assert process.returncode == 128 + signum
    assert (out, err) == ("unlocked\n", f"stopped by {signal.Signals(signum).name}, resume\n")
    assert seconds < 10  # one second, plus time for a busy machine


def test_a_state_is_saved_before_the_exit():
    process = start(SAVING.format(then="time.sleep(1.5)"))
    out, _, seconds = stop(process)
    assert process.returncode == 143
    assert out == "saving\nraised resume\n"
    assert seconds >= 1.5  # longer than the second thread waits


def test_a_second_signal_is_not_deferred():
    process = start(SAVING.format(then=IN_C))
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "saving\n"
    out, err, seconds = stop(process, signal.SIGTERM)
    assert process.returncode == 143
    assert (out, err) == ("unlocked\n", "stopped by SIGTERM, resume\n")
    assert seconds < 10


def test_many_signals_run_the_exit_actions_once():
    process = start(f"{READY}; time.sleep(60)")
    for _ in range(50):
        process.send_signal(signal.SIGTERM)
    out, err, seconds = stop(process)
    assert process.returncode == 143
    assert (out, err) == ("unlocked\n", "stopped by SIGTERM, resume\n")
    assert seconds < 10


def test_code_with_child_processes_receives_an_exception():
    process = start(
        f"\n        with interrupt_as_exception():\n            {READY}; time.sleep(60)"
    )
    out, _, _ = stop(process)
    assert (process.returncode, out) == (143, "raised resume\n")
