"""Signals: they end the process at once, or after a state is saved."""

import os
import pty
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
    ("body", "signum"),
    [
        ("time.sleep(60)", signal.SIGINT),
        (IN_C, signal.SIGTERM),
        (IN_C, signal.SIGHUP),
        ("time.sleep(60)", signal.SIGUSR1),
    ],
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


@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_that_the_shell_and_the_system_both_send_is_deferred_twice(signum):
    process = start(SAVING.format(then="time.sleep(1.5)"))
    process.send_signal(signum)
    assert process.stdout.readline() == "saving\n"
    out, _, seconds = stop(process, signum)
    assert (process.returncode, out) == (128 + signum, "raised resume\n")
    assert seconds >= 1


def test_the_state_is_saved_although_the_terminal_is_closed(tmp_path):
    """The message after the signal would raise an error on a terminal that is gone."""
    saved = tmp_path / "saved"
    body = SAVING.format(then=f"open({str(saved)!r}, 'w').close()")
    reader, writer = pty.openpty()
    process = subprocess.Popen(
        # `setsid -c` makes the terminal that of the session, as a login does.
        ["setsid", "-c", sys.executable, "-c", PROGRAM.format(body=body)],
        stdin=writer,
        stdout=writer,
        stderr=writer,
    )
    os.close(writer)
    assert os.read(reader, 100).strip() == b"ready"
    os.close(reader)
    assert process.wait(30) == 129
    assert saved.exists()


def test_a_hangup_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does; children inherit it
    try:
        process = start(f"{READY}; time.sleep(1); print('still there', flush=True)")
    finally:
        signal.signal(signal.SIGHUP, before)
    out, _, _ = stop(process, signal.SIGHUP)
    assert (process.returncode, out) == (0, "still there\n")


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
