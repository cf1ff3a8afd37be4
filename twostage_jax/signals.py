"""SIGINT and SIGTERM: at once where nothing is lost, at the next safe moment while training.

At once means that the process ends where it stands, as after `kill -9`, which every run survives:
an exception that is raised in the middle of somebody's C code, while a library is being imported or
a program compiled, can come out as another one or not at all, and may be heard seconds later. So a
second thread listens too, and ends the process where the first one does not.
"""

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Two ticks, one second, are how long the main thread may take where nothing has to be saved.
TICK, PATIENCE = 0.5, 2


class Interrupted(KeyboardInterrupt):
    """A signal asked the program to stop.

    Attributes:
        signum: the signal.
        resume: the command that goes on with what was stopped; None if nothing was saved.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        self.resume = _resume[-1] if _resume else None


# Signals belong to the process, so this is where they are noted: what came and has to wait, whether
# it has to wait or to be raised, how what is running can be resumed, and what has to be done first.
_pending: list[int] = []
_deferring: list[bool] = []
_raising: list[bool] = []
_resume: list[str] = []
_last: list[Callable[[], None]] = []


def farewell(stop: Interrupted) -> str:
    """What an interrupted command prints at its end."""
    then = f"resume with: {stop.resume}" if stop.resume else "nothing was begun: run it again"
    return f"twostage: stopped by {stop}\n{then}\n"


@contextlib.contextmanager
def handled(words: Callable[[Interrupted], str] = farewell) -> Iterator[None]:
    """Let SIGINT and SIGTERM end the process with 128 + their number within the block.

    A second one ends it at once. Only the main thread can use it.

    Args:
        words: what is printed to standard error then.
    """

    once = threading.Lock()

    def leave(signum: int) -> None:
        # Both threads may come here, and a further signal into the middle of it: one goes.
        if not once.acquire(blocking=False):
            return
        try:
            os.write(2, words(Interrupted(signum)).encode())
            for act in reversed(_last):
                act()
        finally:
            os._exit(128 + signum)

    def note(signum: int, frame: FrameType | None) -> None:
        if _pending or not (_deferring or _raising):
            leave(signum)
        elif _deferring:
            _pending.append(signum)
        else:
            raise Interrupted(signum)

    before = {signum: signal.signal(signum, note) for signum in SIGNALS}
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    listening = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_listen, args=(reader, leave), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(listening)
        os.close(writer)  # which ends the thread
        _pending.clear()
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _listen(reader: int, leave: Callable[[int], None]) -> None:
    """Read the number of every signal as it comes, whatever the main thread is doing."""
    signum, ticks = 0, 0
    try:
        while ticks < PATIENCE:
            if signum and not select.select([reader], [], [], TICK)[0]:
                ticks = 0 if _deferring or _raising else ticks + 1
                continue
            byte = os.read(reader, 1)
            if not byte:
                return
            if byte[0] in SIGNALS:
                ticks, signum = (PATIENCE if signum else 0), byte[0]
        leave(signum)
    finally:
        os.close(reader)


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Hold the first signal back within the block, and raise `Interrupted` at the end of the block.

    The function given says whether one has come, so that a loop can save its state and leave. A
    second signal does not wait.
    """
    with _within(_deferring, True):
        yield lambda: bool(_pending)
    if _pending:
        raise Interrupted(_pending.pop())


def interrupt_as_exception() -> contextlib.AbstractContextManager[None]:
    """Within the block a signal raises `Interrupted`, for what has child processes to end."""
    return _within(_raising, True)


def resumable(command: str) -> contextlib.AbstractContextManager[None]:
    """Within the block, `command` is how what is running can be resumed."""
    return _within(_resume, command)


def run_before_exit(act: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
    """Within the block, a signal that ends the process calls `act` before it does."""
    return _within(_last, act)


@contextlib.contextmanager
def _within(stack: list, value: object) -> Iterator[None]:
    stack.append(value)
    try:
        yield
    finally:
        stack.pop()
