"""Text and JSON files of whatever size and kind somebody gives, read up to a bound."""

import json
from pathlib import Path
from typing import Any

from twostage_jax.errors import UserError

MIB = 2**20
TEXT_LIMIT = 64 * MIB
_PIECE = MIB


def read_text(path: Path | str, limit: int = TEXT_LIMIT) -> str:
    """What a text file in UTF-8 holds; a pipe such as `<(command)` will do.

    Raises:
        UserError: more than `limit` bytes, a file that cannot be read, bytes that are no UTF-8.
    """
    try:
        content = read_bytes(path, limit)
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"cannot read {path}: byte {error.start} is not UTF-8; it is damaged or no text file"
        ) from error


def read_json(path: Path | str, limit: int = TEXT_LIMIT) -> Any:
    """The one value that a JSON file holds.

    Raises:
        UserError: as `read_text`, and what is not JSON.
    """
    try:
        return json.loads(read_text(path, limit))
    except UserError:
        raise
    except RecursionError as error:
        raise UserError(f"cannot read {path}: it is nested too deep to be one of ours") from error
    except ValueError as error:
        raise UserError(f"cannot read {path}: it is no JSON, {error}") from error


def read_bytes(path: Path | str, limit: int) -> bytes:
    """All bytes of a file, pipe or device, unless they are more than `limit`.

    They are read in pieces, because neither a pipe nor a device says how much is to come, and
    `read(n)` takes room for n bytes at once.

    Raises:
        UserError: more than `limit` bytes, or a file that cannot be read.
    """
    content = bytearray()
    try:
        with open(path, "rb", buffering=0) as file:
            while len(content) <= limit and (piece := file.read(_PIECE)):
                content += piece
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {path}: {reason}; give a file that can be read") from error
    if len(content) > limit:
        raise UserError(
            f"{path} has more than {limit:,} bytes, the most that is read of such a file: give the "
            "right one"
        )
    return bytes(content)
