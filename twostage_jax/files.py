"""Bounded reading of text, JSON and bytes from untrusted files."""

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
READ_SIZE = MIB


def read_text(path: Path | str, limit: int = TEXT_LIMIT, *, regular: bool = False) -> str:
    """Read a text file in UTF-8.

    Raises:
        UserError: as `read_bytes`, or if the content is not UTF-8.
    """
    content = read_bytes(path, limit, regular=regular)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"cannot read {path}: byte {error.start} is not UTF-8; give an undamaged text file"
        ) from error


def read_json(path: Path | str, limit: int = TEXT_LIMIT, *, regular: bool = False) -> Any:
    """Read a JSON file and return its value.

    Raises:
        UserError: as `read_text`, or if the text is not JSON.
    """
    text = read_text(path, limit, regular=regular)
    try:
        return as_json(text)
    except RecursionError as error:
        raise UserError(f"cannot read {path}: its values are nested too deeply") from error
    except ValueError as error:
        raise UserError(f"cannot read {path}: it is not JSON: {error}") from error


def as_json(text: str | bytes) -> Any:
    """Parse JSON in which all numbers are finite.

    Raises:
        ValueError: if the text is not JSON; `NaN` and `1e999`, which Python accepts, are rejected.
        RecursionError: if the values are nested too deeply.
    """
    return json.loads(text, parse_constant=_finite, parse_float=_finite)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is not a finite number")
    return number


def read_bytes(path: Path | str, limit: int, *, regular: bool = False) -> bytes:
    """Read all bytes of a file, or of a pipe such as `<(command)`.

    Args:
        path: file to read.
        limit: maximum size in bytes.
        regular: reject pipes and devices. Required for folders that a stranger may have made: a
            pipe that nobody writes to blocks the reader forever.

    Raises:
        UserError: if there are more than `limit` bytes, or the file cannot be read.
    """
    content = bytearray()
    try:
        with open_regular(path) if regular else open(path, "rb", buffering=0) as file:
            # Read in pieces: a pipe has no size, and `read(n)` allocates n bytes at once.
            while len(content) <= limit:
                piece = file.read(READ_SIZE)
                if not piece:
                    return bytes(content)
                content += piece
    except UserError:
        raise
    except (OSError, ValueError) as error:  # ValueError: the path contains a zero byte
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {path}: {reason}; give a readable file") from error
    raise UserError(
        f"{path} has more than {limit:,} bytes, the limit for such a file: give a smaller file"
    )


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file as hexadecimal digits, computed in pieces; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_regular(path: Path | str) -> BinaryIO:
    """Open a regular file, or a link to one, for reading bytes.

    Raises:
        UserError: if the path is a directory, pipe or device.
        OSError, ValueError: as `open`.
    """
    # O_NONBLOCK: opening a pipe must not wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    # Check the open file, not the path: nobody can replace it between check and use.
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    kinds = {stat.S_IFDIR: "directory", stat.S_IFIFO: "pipe"}
    kind = kinds.get(stat.S_IFMT(mode), "device")
    raise UserError(f"cannot read {path}: it is a {kind}; give a regular file")


# Photographs shrink by 2, scans of digits by 5, drawings by 30; deflate reaches 1,032 on zeros.
RATIO_LIMIT = 100
ALWAYS_EXPANDED = 64 * MIB  # any machine has this much memory


def check_expanded(where: Path | str, announced: int, compressed: int, remedy: str) -> None:
    """Reject a compressed file that announces an implausible size, before it is expanded.

    Args:
        where: file, for the message.
        announced: size in bytes after expansion, from the file's header.
        compressed: size of the file in bytes.
        remedy: next step for a user who trusts the file.

    Raises:
        UserError: if `announced` is above 64 MiB and above 100 times `compressed`.
    """
    if announced > max(ALWAYS_EXPANDED, RATIO_LIMIT * compressed):
        raise UserError(
            f"{where} has {compressed:,} bytes and announces {announced:,}, more than "
            f"{RATIO_LIMIT} times its size: if you trust it, {remedy}"
        )


def open_standard_streams() -> None:
    """Open closed standard streams, so that no file of ours becomes standard output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # closed, for instance by `>&-`
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
