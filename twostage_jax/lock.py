"""One process at a time in a run's folder."""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from twostage_jax.errors import UserError
from twostage_jax.folder import LOCK
from twostage_jax.interrupt import first

NAME_TRIES = 50


@contextlib.contextmanager
def held(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Keep other processes out of a run's folder within the block.

    The kernel holds the lock for as long as the process lives, so nobody has to guess whether one
    that is gone still has it; the file says who has, and is gone after the block.

    Args:
        folder: of the run.
        say: is told of a process that ended without giving its lock back.

    Raises:
        UserError: where another process, or this one, is at it already; a folder that cannot be
            written to.
    """
    path = folder / LOCK
    try:
        descriptor, before = _take(path)
    except OSError as error:
        raise UserError(
            f"cannot write in {folder}: {error.strerror}; make it writable, or copy the run"
        ) from error
    try:
        if before:
            say(f"the lock of {folder} is taken over from {_who(before)}, which is gone")
        me = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T")}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(me).encode(), 0)
        with first(lambda: _remove(path)):
            yield
    finally:
        # While it is still held: who opens the file from now on makes a new one.
        _remove(path)
        os.close(descriptor)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _take(path: Path) -> tuple[int, Any]:
    """The locked file, and who had it before without giving it back."""
    for left in range(NAME_TRIES, -1, -1):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(path, descriptor):
                return descriptor, _read(descriptor)
        except BlockingIOError:
            holder = _read(descriptor)
            os.close(descriptor)
            if not holder and left:
                time.sleep(0.02)  # it has only just got the lock and will say who it is
                continue
            raise UserError(
                f"{path.parent} is in use by {_who(holder)}: wait for it, or stop it"
            ) from None
        except BaseException:
            os.close(descriptor)
            raise
        # Whoever held it has removed the file since it was opened.
        os.close(descriptor)
    raise UserError(f"{path.parent} changes hands all the time: try again")


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _read(descriptor: int) -> Any:
    try:
        return json.loads(os.pread(descriptor, 4096, 0) or "null")
    except ValueError:
        return {}


def _who(holder: Any) -> str:
    if not isinstance(holder, dict) or not holder:
        return "another process"
    return f"process {holder.get('pid')} on {holder.get('host')} (since {holder.get('since')})"
