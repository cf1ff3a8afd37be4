"""SIGINT and SIGTERM: at once where nothing is lost, at the next safe moment while training."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """A signal asked the program to stop.

    Attributes:
        signum: the signal.
        folder: where the run can be resumed, if anywhere.
        imports_code: whether the config of that run imports a user's code.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        self.folder: str | None = None
        self.imports_code = False


# Signals belong to the process, so this is where they are noted: what came, and whether to wait.
_pending: list[int] = []
_deferring: list[bool] = []


def _note(signum: int, frame: FrameType | None) -> None:
    if _pending or not _deferring:
        _pending.clear()
        raise Interrupted(signum)
    _pending.append(signum)


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into `Interrupted` for as long as the block runs (main thread)."""
    before = {signum: signal.signal(signum, _note) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        _pending.clear()
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Hold the first signal back within the block, and raise it at the end of the block.

    The function given says whether one has come, so that a loop can save its state and leave. A
    second signal does not wait.
    """
    _deferring.append(True)
    try:
        yield lambda: bool(_pending)
    finally:
        _deferring.pop()
    if _pending:
        raise Interrupted(_pending.pop())
