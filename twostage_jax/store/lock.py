"""Lock that lets one process at a time write to a run's folder."""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from twostage_jax.errors import UserError
from twostage_jax.files import as_json
from twostage_jax.signals import run_before_exit
from twostage_jax.store.decoding import decode, encode
from twostage_jax.store.layout import LOCK

READ_LIMIT = 4096  # bytes of the lock file that are read
RETRY_SECONDS = 0.02


@dataclasses.dataclass(frozen=True)
class LockHolder:
    """Content of the lock file: the process that holds the lock, and the local time."""

    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        """Name the process."""
        return f"process {self.pid} on {self.host} (since {self.since})"


@contextlib.contextmanager
def locked(folder: Path, notice: Callable[[str], None], retries: int = 50) -> Iterator[None]:
    """Keep other processes out of a run's folder within the block.

    The kernel releases the lock when its process ends, so a lock is never stale. The file names the
    process, and is removed after the block.

    Args:
        folder: folder of the run.
        notice: prints a message about a process that ended without removing its lock file.
        retries: number of further attempts while the holder is unknown or the file changes.

    Raises:
        UserError: if another process, or this one, holds the lock; if the folder is not writable;
            if the lock file is a link, pipe or other special file.
    """
    path = folder / LOCK
    try:
        descriptor = _acquire(path, retries)
    except OSError as error:
        raise UserError(
            f"cannot write to {folder}: {error.strerror}; make it writable, or copy the run"
        ) from error
    try:
        previous = _read_holder(descriptor)
        if previous:
            notice(f"the lock of {folder} is taken over from {previous}, which has ended")
        holder = LockHolder(os.getpid(), socket.gethostname(), time.strftime("%F %T"))
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(encode(holder)).encode(), 0)
        with run_before_exit(lambda: _remove(path)):
            yield
    finally:
        # Remove the file before the lock is released: the next process creates a new file.
        _remove(path)
        os.close(descriptor)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _acquire(path: Path, retries: int) -> int:
    """Open and lock the file; return its descriptor."""
    holder = None
    for _ in range(retries + 1):
        with contextlib.ExitStack() as stack:
            descriptor = _open(path)
            stack.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = _read_holder(descriptor)
                if holder:
                    break
                # The holder has only just taken the lock and will write its name.
                time.sleep(RETRY_SECONDS)
                continue
            if _is_same(path, descriptor):
                stack.pop_all()  # keep the file open
                return descriptor
            # The holder removed the file after we opened it: try the new file.
    raise UserError(
        f"{path.parent} is in use by {holder or 'another process'}: wait for it, or stop it"
    )


def _open(path: Path) -> int:
    """Open the lock file, or create it; reject anything but a regular file."""
    # O_NOFOLLOW: the target of a link must not be overwritten. O_NONBLOCK: a pipe has no reader.
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        descriptor = os.open(path, flags, 0o644)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):  # link, folder, socket
            raise
    else:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
    raise UserError(f"{path} is a link, pipe or other special file, not our lock: remove it")


def _is_same(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _read_holder(descriptor: int) -> LockHolder | None:
    """Read the process from the lock file; None if it is empty or malformed."""
    try:
        return decode(LockHolder, as_json(os.pread(descriptor, READ_LIMIT, 0)), LOCK)
    except (ValueError, RecursionError):
        return None
