"""Sealed table of a checkpoint: digests of its files and arrays, and the facts of the caller.

A reader of another library fails in many ways, and its error for a corrupted file looks like its
error for a machine without memory. So we store the SHA-256 of every file. Files that differ from
the table are corrupted; any other error says nothing about the files.
"""

import contextlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from twostage_jax.errors import Corrupted, UserError
from twostage_jax.files import as_json, digest_of_file, read_bytes
from twostage_jax.store import orbax
from twostage_jax.store.decoding import decode, encode
from twostage_jax.store.epochs import CheckpointFacts
from twostage_jax.store.records import GroupRecord, describe_groups, seal, unseal
from twostage_jax.trees import PyTree, tree_differences, tree_signature

TABLE = "checkpoint.json"
# Every figure of all members and epochs takes 20 bytes, so this is enough for 200 million.
LIMIT = 4 * 2**30


@dataclass(frozen=True)
class Table:
    """Sealed table of one checkpoint."""

    step: int
    trees: dict[str, GroupRecord]
    facts: CheckpointFacts
    files: dict[str, str]  # SHA-256 of every other file, by name such as `params/_METADATA`


def write_table(folder: Path, table: Table, limit: int = LIMIT) -> None:
    """Write the sealed table of a checkpoint.

    Raises:
        OSError: if the file cannot be written.
        UserError: if it would be larger than `limit` bytes, so that nobody could read it.
    """
    text = json.dumps(seal(encode(table)))
    if len(text) > limit:
        raise UserError(
            f"{folder / TABLE} would have {len(text):,} bytes, more than the limit of "
            f"{limit:,}: train fewer members or epochs"
        )
    (folder / TABLE).write_text(text)


def read_table(folder: Path) -> Table:
    """Read the sealed table of a checkpoint.

    Raises:
        OSError, UserError: if the file cannot be read.
        Corrupted: if it is missing or differs from what was written.
    """
    path = folder / TABLE
    if not is_regular(path):
        raise Corrupted(f"the checkpoint {folder} is corrupted: {TABLE} is missing")
    content = read_bytes(path, LIMIT, regular=True)
    try:
        values = as_json(content)
    except (ValueError, RecursionError) as error:
        raise Corrupted(f"{path} is corrupted: it is not JSON") from error
    table = decode(Table, unseal(values, path), path)
    if str(table.step) != folder.name:  # a checkpoint that was renamed
        raise Corrupted(
            f"the checkpoint {folder} is corrupted: {TABLE} belongs to step {table.step}"
        )
    return table


def check_files(folder: Path, table: Table, wanted: Callable[[str], bool]) -> None:
    """Compare those files of a checkpoint that `wanted` selects by name with its table.

    Raises:
        OSError: if a file or folder cannot be read.
        Corrupted: if files are missing or have changed; names all of them.
    """
    existing = files_below(folder)
    problems = []
    for name in filter(wanted, table.files):
        if name not in existing:
            problems.append(f"{name} is missing")
        elif digest_of_file(existing[name]) != table.files[name]:
            problems.append(f"{name} has changed since it was saved")
    if problems:
        raise Corrupted(f"the checkpoint {folder} is corrupted: {', '.join(problems)}")


def files_below(top: Path) -> dict[str, Path]:
    """Regular files below a folder, by relative name.

    Raises:
        OSError: if a folder cannot be read; it does not count as empty.
    """
    files = {}
    for folder, _, names in os.walk(top, onerror=_raise):
        for path in (Path(folder, name) for name in sorted(names)):
            if is_regular(path):
                files[path.relative_to(top).as_posix()] = path
    return files


def _raise(error: OSError) -> None:
    raise error


def is_regular(path: Path) -> bool:
    """Return True for a regular file; a pipe, for example, would block a reader.

    Raises:
        OSError: if the path exists and cannot be examined.
    """
    # `Path.is_file` of newer Python versions returns False for an input/output error, too.
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def check_fit(folder: Path, table: Table, expected: Mapping[str, PyTree]) -> None:
    """Raise `UserError` with every difference between a checkpoint and the expected trees."""
    problems = []
    for name, tree in expected.items():
        saved = encode(table.trees[name])["leaves"] if name in table.trees else {}
        problems += [
            f"{name}/{problem}" for problem in tree_differences(tree_signature(tree), saved)
        ]
    if problems:
        raise UserError(f"the checkpoint {folder} does not fit: {'; '.join(problems)}")


def check_arrays(folder: Path, table: Table, trees: Mapping[str, PyTree]) -> None:
    """Raise `Corrupted` with every loaded array that differs from the table of its checkpoint."""
    changed = [
        f"{name}/{path}"
        for name, group in describe_groups(trees).items()
        for path, leaf in group.leaves.items()
        if leaf != table.trees[name].leaves[path]
    ]
    if changed:
        raise Corrupted(
            f"the checkpoint {folder} is corrupted: {', '.join(changed)} changed since it was saved"
        )


@contextlib.contextmanager
def read_errors(folder: Path) -> Iterator[None]:
    """Convert any read error into a `UserError`; let `UserError` and `Corrupted` through."""
    try:
        yield
    except UserError:
        raise
    # Too many kinds to list: an accelerator without memory, a lost network disk, and so on.
    except Exception as error:
        reason = orbax.reason(error)
        raise UserError(
            f"the checkpoint {folder} cannot be read: {reason}; nothing was removed: try again"
        ) from error
