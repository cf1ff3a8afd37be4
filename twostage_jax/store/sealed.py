"""What was written to a folder of files, recorded in it, so that damage is told from trouble.

Another library's reader fails in as many ways as there are; what it says of a file that is not
whole looks like what it says of a machine without memory. So the sha256 of every file is written
beside them, with the caller's values, sealed by a checksum of its own. What is not as recorded is
damaged; whatever else fails says nothing about the files.
"""

import contextlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from twostage_jax.errors import Corrupted, UserError
from twostage_jax.files import as_json, digest_of_file, read_bytes
from twostage_jax.store.layout import is_whole, sealed

RECORD = "checkpoint.json"
# The figures of all members and epochs are in it: 20 bytes each, so 200 million of them.
LIMIT = 4 * 2**30


def write(folder: Path, values: Mapping[str, Any]) -> None:
    """Seal `values` and the sha256 of every file in a folder, in a file beside them.

    Raises:
        OSError: what kept it from being written.
        UserError: more bytes than `read` takes.
    """
    files = {name: digest_of_file(path) for name, path in files_below(folder).items()}
    text = json.dumps(sealed({**values, "files": files}))
    if len(text) > LIMIT:
        raise UserError(
            f"{folder / RECORD} would have {len(text):,} bytes, more than the {LIMIT:,} that are "
            "read of it: train fewer members or epochs"
        )
    (folder / RECORD).write_text(text)


def read(folder: Path, where: str, types: Mapping[str, type]) -> dict[str, Any]:
    """What was written.

    Args:
        folder: of the files.
        where: the name of it all, for messages.
        types: of the values, by name; a stranger can seal anything.

    Raises:
        UserError: what keeps it from being read.
        Corrupted: where it is missing, not as it was written, or not of these types.
    """
    types = {**types, "files": dict}
    with readable(where):
        if not _is_file(folder / RECORD):
            raise Corrupted(f"{where} is damaged: {RECORD} is missing")
        content = read_bytes(folder / RECORD, LIMIT)
        try:
            values = as_json(content)
            whole = (
                isinstance(values, dict)
                and is_whole(values)
                and all(type(values.get(name)) is kind for name, kind in types.items())
            )
        except (ValueError, RecursionError):  # no JSON, or nested too deep to be ours
            whole = False
        if not whole:
            raise Corrupted(f"{where} is damaged: {RECORD} changed since it was saved")
        return values


def check_files(
    folder: Path, where: str, recorded: Mapping[str, Any], wanted: Callable[[str], bool]
) -> None:
    """Hold the files that are wanted, by name, against what was recorded of them.

    Raises:
        UserError: what keeps them from being read.
        Corrupted: every file that is missing or not as it was written.
    """
    with readable(where):
        there = files_below(folder)
        damaged = [
            f"{name} {'changed since it was saved' if name in there else 'is missing'}"
            for name, digest in recorded.items()
            if wanted(name) and (name not in there or digest_of_file(there[name]) != digest)
        ]
    if damaged:
        raise Corrupted(f"{where} is damaged: {', '.join(damaged)}")


def files_below(top: Path) -> dict[str, Path]:
    """The regular files below a folder, by their names relative to it, `params/_METADATA`.

    Raises:
        OSError: a folder that cannot be read; it is not taken for an empty one.
    """

    def refuse(error: OSError) -> None:
        raise error

    paths = [
        Path(folder, name)
        for folder, _, names in os.walk(top, onerror=refuse)
        for name in sorted(names)
    ]
    return {path.relative_to(top).as_posix(): path for path in paths if _is_file(path)}


def remove(path: Path) -> None:
    """Remove a file, a folder or a link, if it is there; what a link leads to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def readable(where: str) -> Iterator[None]:
    """Turn whatever keeps files from being read into one sentence, and let damage pass."""
    try:
        yield
    except UserError:
        raise
    # Nobody knows all that an accelerator without memory or a lost network disk leads to.
    except Exception as error:
        raise UserError(
            f"{where} cannot be read: {reason(error)}; nothing was removed: try again"
        ) from error


def reason(error: BaseException) -> str:
    """What the system says, out of the pages that TensorStore makes of it."""
    text = str(error)
    if number := re.search(r"(?:Errno |OS error |os_error_code=')(\d{1,4})\b", text):
        return os.strerror(int(number[1]))
    return " ".join(text.split())[:200] or type(error).__name__


def _is_file(path: Path) -> bool:
    """Whether a regular file is there; a pipe would keep a reader waiting.

    Raises:
        OSError: where that cannot be told.
    """
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
