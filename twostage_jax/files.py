"""Text and JSON files of whatever size and kind somebody gives, read up to a bound."""

import hashlib
import json
import math
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from twostage_jax.errors import UserError

MIB = 2**20
TEXT_LIMIT = 64 * MIB
_PIECE = MIB


def read_text(path: Path | str, limit: int = TEXT_LIMIT, *, regular: bool = False) -> str:
    """What a text file in UTF-8 holds; a pipe such as `<(command)` will do unless `regular`.

    Raises:
        UserError: more than `limit` bytes, a file that cannot be read, bytes that are no UTF-8;
            with `regular` what is no regular file.
    """
    try:
        content = read_bytes(path, limit, regular=regular)
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"cannot read {path}: byte {error.start} is not UTF-8; it is damaged or no text file"
        ) from error


def read_json(path: Path | str, limit: int = TEXT_LIMIT, *, regular: bool = False) -> Any:
    """The one value that a JSON file holds.

    Raises:
        UserError: as `read_text`, and what is not JSON.
    """
    try:
        return as_json(read_text(path, limit, regular=regular))
    except UserError:
        raise
    except RecursionError as error:
        raise UserError(f"cannot read {path}: it is nested too deep to be one of ours") from error
    except ValueError as error:
        raise UserError(f"cannot read {path}: it is no JSON, {error}") from error


def as_json(text: str | bytes) -> Any:
    """The one value that a text in JSON has; all its numbers are finite.

    Raises:
        ValueError: what is not JSON, `NaN` and `1e999` included, which Python would read.
        RecursionError: what is nested too deep.
    """
    return json.loads(text, parse_constant=_finite, parse_float=_finite)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is no finite number")
    return number


def read_bytes(path: Path | str, limit: int, *, regular: bool = False) -> bytes:
    """All bytes of a file, pipe or device, unless they are more than `limit`.

    They are read in pieces, because neither a pipe nor a device says how much is to come, and
    `read(n)` takes room for n bytes at once.

    Args:
        path: what to read.
        limit: bytes.
        regular: whether a pipe or device is refused, as it must be in a folder that a stranger may
            have made: a pipe that nobody writes to is waited for without end.

    Raises:
        UserError: more than `limit` bytes, or a file that cannot be read; with `regular` what is no
            regular file.
    """
    content = bytearray()
    try:
        with open_regular(path) if regular else open(path, "rb", buffering=0) as file:
            while len(content) <= limit and (piece := file.read(_PIECE)):
                content += piece
    except UserError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {path}: {reason}; give a file that can be read") from error
    if len(content) > limit:
        raise UserError(
            f"{path} has more than {limit:,} bytes, the most that is read of such a file: give the "
            "right one"
        )
    return bytes(content)


def digest_of_file(path: Path) -> str:
    """The sha256 of a file, in hexadecimal digits, read in pieces.

    Raises:
        OSError: what cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_regular(path: Path | str) -> BinaryIO:
    """A regular file, or a link to one, opened for reading its bytes.

    It is looked at once it is open, so nobody can put something else in its place in between, and
    opened without waiting for somebody at the other end of a pipe.

    Raises:
        UserError: a directory, pipe or device.
        OSError: what is not there or cannot be opened.
        ValueError: a zero byte in the path.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    kind = "directory" if stat.S_ISDIR(mode) else "pipe" if stat.S_ISFIFO(mode) else "device"
    raise UserError(f"cannot read {path}: it is a {kind}; give a regular file")


# Photographs shrink by 2, scans of digits by 5, drawings by 30; deflate reaches 1,032 on zeros.
RATIO = 100
ALWAYS = 64 * MIB  # what any machine has room for


def check_expanded(where: Path | str, announced: int, compressed: int, instead: str) -> None:
    """Raise `UserError` where a file announces more bytes than its own size makes credible.

    To be called before anything is allocated.

    Args:
        where: the file.
        announced: bytes after expansion, as its header says.
        compressed: bytes it has.
        instead: how the user can go on if the file is honest.
    """
    if announced > max(ALWAYS, RATIO * compressed):
        raise UserError(
            f"{where} has {compressed:,} bytes and announces {announced:,}, more than {RATIO} "
            f"times as many: if you trust it, {instead}"
        )
