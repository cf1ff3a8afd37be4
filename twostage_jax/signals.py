"""Signals that stop a run: exit at once, or after the current step while a run trains.

Ctrl-C, `kill`, a closed terminal and the schedulers of clusters send different signals; all of them
are handled alike.

Outside training nothing is lost, so the process exits where it is. Every run survives that, as it
survives `kill -9`. We do not raise an exception there: inside C code, during an import or a
compilation, an exception can be delayed, replaced or lost. For the same reason a second thread also
listens, and ends the process if the main thread does not react.
"""

import contextlib
import errno
import os
import select
import signal
import termios
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

# A closed terminal or connection sends SIGHUP; schedulers send SIGUSR1 or SIGUSR2 before the end.
REPEATED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
SIGNALS = (signal.SIGINT, signal.SIGTERM, *REPEATED)
TICK = 0.5  # seconds
PATIENCE = 2  # ticks that the main thread may take if nothing has to be saved


class Interrupted(KeyboardInterrupt):
    """A signal that stopped the program.

    `signum` is its number; `resume` is the command that resumes the run, None if nothing was saved.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        # The first one is the command that the user started. It can start a run of its own.
        self.resume = _resume_commands[0] if _resume_commands else None


# Signals belong to the process, so their state is global. Each list is a stack of active blocks.
_pending: list[int] = []  # the signal that waits for the end of `deferred`
_deferring: list[bool] = []
_raising: list[bool] = []
_resume_commands: list[str] = []
_exit_actions: list[Callable[[], None]] = []


def farewell(interrupt: Interrupted) -> str:
    """Text that an interrupted command prints before it exits."""
    remedy = "nothing was saved: run it again"
    if interrupt.resume:
        remedy = f"resume with: {interrupt.resume}"
    return f"twostage: stopped by {interrupt}\n{remedy}\n"


@contextlib.contextmanager
def handled(message: Callable[[Interrupted], str] = farewell) -> Iterator[None]:
    """Exit with status 128 + signal number on one of `SIGNALS` within the block.

    A second SIGINT or SIGTERM ends the process immediately; the other signals often come twice,
    from a shell and from the system. A SIGHUP that is ignored, as after `nohup`, stays ignored.
    Only the main thread can use this block. `message` makes the text for standard error.
    """
    once = threading.Lock()

    def leave(signum: int) -> None:
        # Both threads can arrive here, and another signal can interrupt them: only one exits.
        if not once.acquire(blocking=False):
            return
        try:
            # The terminal may be closed. The actions below are still needed.
            with contextlib.suppress(OSError):
                os.write(2, message(Interrupted(signum)).encode())
            for action in reversed(_exit_actions):
                action()
        finally:
            os._exit(128 + signum)

    def handle(signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGHUP:
            _leave_terminal()
        if _pending and signum in REPEATED:
            return
        if _pending or not (_deferring or _raising):
            leave(signum)
        elif _deferring:
            _pending.append(signum)
        else:
            raise Interrupted(signum)

    ignored = [signum for signum in (signal.SIGHUP,) if signal.getsignal(signum) == signal.SIG_IGN]
    previous = {
        signum: signal.signal(signum, handle) for signum in SIGNALS if signum not in ignored
    }
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    previous_writer = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=(reader, leave), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous_writer)
        os.close(writer)  # ends the thread
        _pending.clear()
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def _listen(reader: int, leave: Callable[[int], None]) -> None:
    """Read the number of each signal, even if the main thread is busy, and exit if it stays so."""
    signum = 0
    ticks = 0
    try:
        while ticks < PATIENCE:
            if signum and not select.select([reader], [], [], TICK)[0]:
                # While a state is being saved, only a second signal counts.
                ticks = 0 if _deferring or _raising else ticks + 1
                continue
            byte = os.read(reader, 1)
            if not byte:
                return
            if byte[0] not in SIGNALS or (signum and byte[0] in REPEATED):
                continue
            ticks = PATIENCE if signum else 0
            signum = byte[0]
        leave(signum)
    finally:
        os.close(reader)


def _leave_terminal() -> None:
    """Discard standard output and standard error if their terminal is closed.

    Otherwise the next line that is printed would raise an error before the state is saved.
    """
    for stream in (1, 2):
        try:
            termios.tcgetattr(stream)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Defer the first signal to the end of the block, and raise `Interrupted` there.

    The block receives a function that returns True after a signal, so that a loop can save its
    state and end. A second SIGINT or SIGTERM is not deferred.
    """
    with _within(_deferring, True):
        yield lambda: bool(_pending)
    if _pending:
        raise Interrupted(_pending.pop())


def interrupt_as_exception() -> contextlib.AbstractContextManager[None]:
    """Raise `Interrupted` on a signal within the block, for code that must end its children."""
    return _within(_raising, True)


def resumable(command: str) -> contextlib.AbstractContextManager[None]:
    """Print `command` as the way to resume if a signal arrives within the block."""
    return _within(_resume_commands, command)


def run_before_exit(action: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
    """Call `action` before a signal within the block ends the process."""
    return _within(_exit_actions, action)


@contextlib.contextmanager
def _within(stack: list[T], value: T) -> Iterator[None]:
    stack.append(value)
    try:
        yield
    finally:
        stack.pop()
