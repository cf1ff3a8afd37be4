"""One process at a time in a run's folder."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from twostage_jax.errors import UserError
from twostage_jax.signals import run_before_exit
from twostage_jax.store.layout import LOCK

NAME_TRIES = 50
LONGEST = 4096  # bytes of the lock's file that are read


@contextlib.contextmanager
def locked(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Keep other processes out of a run's folder within the block.

    The kernel holds the lock for as long as the process lives, so nobody has to guess whether one
    that is gone still has it; the file says who has, and is gone after the block.

    Args:
        folder: of the run.
        say: is told of a process that ended without giving its lock back.

    Raises:
        UserError: where another process, or this one, is at it already; a folder that cannot be
            written to; a lock that is a link, a pipe or anything else than a file.
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
        me = Holder(os.getpid(), socket.gethostname(), time.strftime("%F %T"))
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(me._asdict()).encode(), 0)
        with run_before_exit(lambda: _remove(path)):
            yield
    finally:
        # While it is still held: who opens the file from now on makes a new one.
        _remove(path)
        os.close(descriptor)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _open(path: Path) -> int:
    """The lock's file, made where there is none; what a link leads to is not ours to overwrite."""
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
        descriptor = os.open(path, flags, 0o644)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):  # link, folder, socket
            raise
    else:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
    raise UserError(f"{path} is a link, a pipe or the like and no lock of ours: remove it")


def _take(path: Path) -> tuple[int, "Holder | None"]:
    """The locked file, and who had it before without giving it back."""
    for left in range(NAME_TRIES, -1, -1):
        descriptor = _open(path)
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
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


class Holder(NamedTuple):
    """Who has a lock: what its file says, as JSON.

    Attributes:
        pid: of the process.
        host: it runs on.
        since: local time it got the lock.
    """

    pid: int
    host: str
    since: str


def _read(descriptor: int) -> Holder | None:
    """Who has written the lock's file; None where it is empty, or says nothing of the kind."""
    try:
        holder = Holder(**json.loads(os.pread(descriptor, LONGEST, 0)))
    except (ValueError, TypeError, RecursionError):
        return None
    known = all(type(value) is kind for value, kind in zip(holder, (int, str, str), strict=True))
    return holder if known else None


def _who(holder: Holder | None) -> str:
    if holder is None:
        return "another process"
    return f"process {holder.pid} on {holder.host} (since {holder.since})"
