"""Files that are written completely or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from twostage_jax.errors import UserError
from twostage_jax.store.layout import PART


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file atomically and sync it to the disk.

    Raises:
        UserError: if the disk is full, or the folder is missing or not writable.
    """
    part = path.with_name(path.name + PART)
    with _write_errors(path):
        # A stranger's folder may contain a link with this name; never write to its target.
        part.unlink(missing_ok=True)
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)


def append_text(path: Path, text: str) -> None:
    """Append to a file; unlike `write_bytes`, a kill may leave a part of the text."""
    with _write_errors(path), path.open("a") as file:
        file.write(text)


@contextlib.contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    """Convert a write error into a `UserError` with the remedy."""
    try:
        yield
    except OSError as error:
        with contextlib.suppress(OSError):
            path.with_name(path.name + PART).unlink(missing_ok=True)
        kept = "its previous content is unchanged" if path.is_file() else "nothing else is lost"
        remedy = "free disk space or make the folder writable"
        if isinstance(error, FileNotFoundError):
            remedy = f"create the folder {path.parent}"
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; {kept}: {remedy}, then try again"
        ) from error


def remove(path: Path) -> None:
    """Remove a file, folder or link if it exists; the target of a link stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
