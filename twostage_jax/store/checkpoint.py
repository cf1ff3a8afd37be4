"""Checkpoints of a stage: Orbax stores the arrays, and we verify them.

Orbax notices neither a flipped bit nor a changed dtype. So each checkpoint contains a sealed table:
shape, dtype and SHA-256 of every array, SHA-256 of every file, and the caller's facts. The table is
compared with the expected trees, with the files on disk and with the loaded arrays.

A checkpoint is never overwritten. A new one is written under another name beside the older ones,
and renamed when it is complete. Only then is the oldest one renamed and removed. So a process may
be killed at any moment, and the newest complete checkpoint still exists.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from twostage_jax.errors import Corrupted, UserError
from twostage_jax.files import check_expanded, digest_of_file
from twostage_jax.store import orbax
from twostage_jax.store.atomic import remove
from twostage_jax.store.epochs import CheckpointFacts
from twostage_jax.store.records import describe_groups
from twostage_jax.store.table import (
    Table,
    check_arrays,
    check_files,
    check_fit,
    files_below,
    read_errors,
    read_table,
    write_table,
)
from twostage_jax.trees import PyTree, size_of

KEPT = 2  # the newest checkpoint, and one to fall back to
NEW = ".new"  # suffix of a checkpoint that is being written
GONE = ".gone"  # suffix of a checkpoint that is being removed


class Loaded(NamedTuple):
    """A verified checkpoint: trees of NumPy arrays by name, and the facts saved with them."""

    step: int
    trees: dict[str, PyTree]
    facts: CheckpointFacts


class Store:
    """Checkpoints of one stage, numbered by training steps; the newest two are kept.

    A test may replace `save`, which writes trees to a new folder, and `load`, which reads them.
    """

    def __init__(
        self,
        folder: Path,
        save: Callable[[Path, Mapping[str, PyTree]], None] = orbax.save,
        load: Callable[[Path, Mapping[str, PyTree]], dict[str, PyTree]] = orbax.load,
    ) -> None:
        self._folder = folder
        self._save = save
        self._load = load
        self._writer = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None
        self._identity: os.stat_result | None = None

    @property
    def steps(self) -> list[int]:
        """Numbers of the checkpoints on disk, ascending; they are not verified."""
        if not self._folder.is_dir():
            return []
        paths = [path for path in self._folder.iterdir() if _is_step(path.name) and path.is_dir()]
        return sorted(int(path.name) for path in paths)

    def path(self, step: int) -> Path:
        """Folder of the checkpoint with this number."""
        return self._folder / str(step)

    def clean(self) -> None:
        """Create the folder, and remove unfinished checkpoints of a killed process."""
        self._folder.mkdir(exist_ok=True)
        self._identity = self._folder.stat()
        for path in self._folder.iterdir():
            step = path.name.partition(".")[0]
            suffix = path.name.removeprefix(step)
            leftover = suffix in (NEW, GONE) or suffix.startswith(NEW + orbax.UNFINISHED)
            # Folders with other names are not ours.
            if _is_step(step) and leftover:
                remove(path)

    def save(self, step: int, trees: Mapping[str, PyTree], facts: CheckpointFacts) -> None:
        """Start to write trees of arrays, by name, in the background.

        The checkpoint exists once it is completely on disk, at the latest after `wait`.

        Raises:
            UserError: if the previous checkpoint could not be written.
        """
        self.wait()
        # Copy the arrays: the next training step reuses their buffers.
        copies = jax.tree.map(np.array, jax.device_get(dict(trees)))
        self._pending = self._writer.submit(self._write, step, copies, facts)

    def wait(self) -> None:
        """Wait until the last `save` has finished.

        Raises:
            UserError: if the checkpoint could not be written, for example on a full disk.
        """
        pending = self._pending
        # An error is reported once; the run may then save another checkpoint.
        self._pending = None
        if pending:
            pending.result()

    def close(self) -> None:
        """Wait for the last `save`, as `wait` does, and end the writing thread."""
        with self._writer:
            self.wait()

    def _write(self, step: int, trees: Mapping[str, PyTree], facts: CheckpointFacts) -> None:
        """Write a checkpoint, make it visible, and remove the oldest."""
        with self._write_errors(step):
            new = self.path(step).with_name(f"{step}{NEW}")
            self._check_same_folder(new)
            remove(new)
            self._save(new, trees)
            self._check_same_folder(new)
            orbax.check_complete(new)
            files = {name: digest_of_file(path) for name, path in files_below(new).items()}
            # The arrays in memory are described, not those in the files: Orbax may have erred.
            write_table(new, Table(step, describe_groups(trees), facts, files))
            if os.path.lexists(self.path(step)):  # a repeated step, or a file with this name
                self.retire(step)
            os.rename(new, self.path(step))
            for old in self.steps[:-KEPT]:
                self.retire(old)

    def _check_same_folder(self, new: Path) -> None:
        """Raise `UserError` if the folder was renamed or removed since `clean`."""
        with contextlib.suppress(FileNotFoundError):
            if self._identity is None or os.path.samestat(self._identity, self._folder.stat()):
                return
        # Orbax creates missing folders, so the run would continue in two folders.
        remove(new)
        for folder in (self._folder, self._folder.parent):
            with contextlib.suppress(OSError):  # not empty, so Orbax has not created it
                folder.rmdir()
        raise UserError(
            f"{self._folder} was renamed or removed during training: move it back, then resume "
            "with --resume"
        )

    def retire(self, step: int) -> None:
        """Remove a checkpoint; a kill leaves it complete or invisible."""
        gone = self.path(step).with_name(f"{step}{GONE}")
        remove(gone)
        os.rename(self.path(step), gone)
        remove(gone)

    def load(self, expected: Mapping[str, PyTree], step: int | None = None) -> Loaded:
        """Load and verify some trees of a checkpoint, by default of the newest.

        Args:
            expected: trees of arrays or of their shapes, by name.
            step: number of the checkpoint.

        Raises:
            UserError: if arrays are missing, unexpected or have another shape or dtype; if an
                intact checkpoint cannot be read.
            Corrupted: if there is no checkpoint, or files or arrays differ from what was saved.
        """
        self.wait()
        step = self._newest() if step is None else step
        folder = self.path(step)
        with read_errors(folder):
            table = read_table(folder)
            check_fit(folder, table, expected)
            # Orbax keeps each tree in a folder of its name; the other trees are not read.
            check_files(folder, table, lambda n: "/" not in n or n.split("/")[0] in expected)
            size = sum(path.stat().st_size for path in files_below(folder).values())
            check_expanded(f"the checkpoint {folder}", size_of(expected), size, "train again")
            trees = self._load(folder, expected)
        check_arrays(folder, table, trees)
        return Loaded(step, trees, table.facts)

    def check(self) -> None:
        """Compare all files of the newest checkpoint with its table.

        Raises:
            UserError: if a file cannot be read.
            Corrupted: if there is no checkpoint, or a file is missing or has changed.
        """
        folder = self.path(self._newest())
        with read_errors(folder):
            check_files(folder, read_table(folder), lambda name: True)

    def load_newest(
        self, expected: Mapping[str, PyTree], notice: Callable[[str], None]
    ) -> Loaded | None:
        """Load the newest intact checkpoint; None if there is none.

        Corrupted checkpoints are removed, because the resumed training reuses their numbers.

        Args:
            expected: as for `load`.
            notice: prints a message about each corrupted checkpoint.

        Raises:
            UserError: if an intact checkpoint does not fit; if a checkpoint that may be intact
                cannot be read. Then no checkpoint is removed.
        """
        corrupted = []
        loaded = None
        for step in reversed(self.steps):
            try:
                loaded = self.load(expected, step)
                break
            except Corrupted as error:
                corrupted.append(step)
                notice(f"{error}; falling back to an older one")
        for step in corrupted:
            self.retire(step)
        return loaded

    def _newest(self) -> int:
        if not self.steps:
            raise Corrupted(f"{self._folder} has no complete checkpoint: train the stage again")
        return self.steps[-1]

    @contextlib.contextmanager
    def _write_errors(self, step: int) -> Iterator[None]:
        """Convert any error of Orbax and TensorStore into a `UserError` with the remedy."""
        try:
            yield
        except Exception as error:
            for path in self._folder.glob(f"{step}{NEW}*"):
                shutil.rmtree(path, ignore_errors=True)  # it may fill the disk
            if isinstance(error, UserError):
                raise
            reason = orbax.reason(error)
            intact = f"; {self.path(self.steps[-1])} is intact" if self.steps else ""
            raise UserError(
                f"cannot write the checkpoint {self.path(step)}: {reason}{intact}; free disk "
                "space, then resume with --resume"
            ) from error


def _is_step(name: str) -> bool:
    """Return True for a plain number such as 7, but not for 007 or digits of other scripts."""
    return name.isdecimal() and name == str(int(name))


@contextlib.contextmanager
def open_store(folder: Path) -> Iterator[Store]:
    """Open the checkpoints in `folder`, create it if missing, and finish writing at the end."""
    store = Store(folder)
    store.clean()
    try:
        yield store
    finally:
        store.close()
