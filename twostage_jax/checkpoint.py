"""Checkpoints of a stage: Orbax stores, we verify.

Orbax notices neither a flipped bit nor a changed dtype, so a table of shape, dtype and sha256 of
every leaf travels with each checkpoint and is held against what is expected and what is loaded. The
table and the facts beside it are sealed by a checksum of their own.

A checkpoint is never written over: a new one is written beside the older ones under another name,
renamed when it is whole, and only then is the oldest one renamed and removed. So a process may be
killed at any moment, and the newest whole checkpoint is still there.
"""

import contextlib
import copy
import errno
import hashlib
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from twostage_jax.bounds import check_expanded
from twostage_jax.errors import Damaged, UserError
from twostage_jax.folder import is_whole, sealed
from twostage_jax.reading import read_json
from twostage_jax.stage import array_bytes, tree_differences, tree_leaves, tree_signature

KEPT = 2  # the newest, and one to fall back to
# Orbax measures its patience by the wall's clock, which may jump: by less than thirty years.
PATIENT = ocp.options.AsyncOptions(timeout_secs=10**9, create_directories_asynchronously=False)
METADATA = "_CHECKPOINT_METADATA"
UNFINISHED, GONE = ".orbax-checkpoint-tmp", ".gone"
# What keeps a file from being read that says nothing about what is in it.
TRANSIENT = tuple(
    map(os.strerror, (errno.EACCES, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO))
)
FULL = tuple(map(os.strerror, (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS)))


def describe(tree: Any) -> dict[str, dict[str, Any]]:
    """`{path: {"shape": [...], "dtype": "float32", "sha256": "…"}}` for the leaves of a tree."""
    hashes = {
        path: hashlib.sha256(array_bytes(leaf)).hexdigest()
        for path, leaf in tree_leaves(tree).items()
    }
    return {path: {**entry, "sha256": hashes[path]} for path, entry in tree_signature(tree).items()}


class Loaded(NamedTuple):
    """A verified checkpoint.

    Attributes:
        step: its number.
        trees: arrays on the first device, by name.
        facts: what was saved beside them.
    """

    step: int
    trees: dict[str, Any]
    facts: dict[str, Any]


class Store:
    """The checkpoints of one stage, named by the number of steps taken; the newest two are kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pending: Any = None
        if sys.unraisablehook is not _unraisable:
            sys.unraisablehook = _unraisable
            logging.getLogger("asyncio").addFilter(_unretrieved)

    @property
    def steps(self) -> list[int]:
        """Steps of the checkpoints on disk, ascending; that they are whole shows when loaded."""
        if not self._folder.is_dir():
            return []
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdecimal())

    def clean(self) -> None:
        """Make the folder, and remove what a process has left there that was killed."""
        self._folder.mkdir(exist_ok=True)
        for path in self._folder.iterdir():
            if UNFINISHED in path.name or path.name.endswith(GONE):
                shutil.rmtree(path)

    def save(self, step: int, trees: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Begin to write trees of arrays, by name, and JSON facts, while the caller goes on.

        The checkpoint counts once all of it is on disk, at the latest after `wait`.
        """
        self.wait()
        # A copy, because the next step of the training takes the buffers over.
        trees = {name: jax.tree.map(np.array, jax.device_get(tree)) for name, tree in trees.items()}
        table = {name: describe(tree) for name, tree in trees.items()}
        # Orbax turns it into text in the background, when the caller's facts may have grown.
        record: Any = copy.deepcopy(sealed({"step": step, "leaves": table, "facts": dict(facts)}))
        path = str(self.path(step).absolute())  # Orbax takes no relative one
        with self._written(step), ocp.Context(async_options=PATIENT):
            response = ocp.save_checkpointables_async(path, trees, custom_metadata=record)
        self._pending = step, response

    def wait(self) -> None:
        """Return when what was given to `save` is on disk.

        Raises:
            UserError: what kept it from being written, a full disk for instance.
        """
        if self._pending is None:
            return
        (step, response), self._pending = self._pending, None
        with self._written(step):
            response.result()
            self._check_written(step)
        for old in self.steps[:-KEPT]:
            self.retire(old)

    def _check_written(self, step: int) -> None:
        """Remove a checkpoint that Orbax calls written without its metadata, on a full disk."""
        try:
            self._record(step, "the checkpoint")
        except Damaged as error:
            with contextlib.suppress(OSError):
                self.retire(step)
            raise OSError("not all of it was written; the disk may be full") from error

    def retire(self, step: int) -> None:
        """Remove a checkpoint, so that it is there whole or not at all."""
        gone = self.path(step).with_name(f"{step}{GONE}")
        os.rename(self.path(step), gone)
        shutil.rmtree(gone)

    def load(self, expected: Mapping[str, Any], step: int | None = None) -> Loaded:
        """The trees of a checkpoint that `expected` names and gives the structure of.

        Args:
            expected: trees of arrays or of their shapes, by name.
            step: of the checkpoint, by default the newest.

        Raises:
            UserError: where there is no checkpoint; every missing, unexpected, misshaped or wrongly
                typed leaf.
            Damaged: every array whose sha256 is not the one it was saved with; files that cannot be
                read.
        """
        self.wait()
        if step is None and not self.steps:
            raise UserError(f"{self._folder} has no whole checkpoint: run the stage again")
        step = self.steps[-1] if step is None else step
        where = f"the checkpoint {self.path(step)}"
        record = self._record(step, where)
        recorded, problems = record["leaves"], []
        for name, tree in expected.items():
            wrong = tree_differences(tree_signature(tree), recorded.get(name, {}))
            problems += [f"{name}/{problem}" for problem in wrong]
        if problems:
            raise UserError(f"{where} does not fit: {'; '.join(problems)}")
        loaded = self._read(step, expected, where)
        damaged = [
            f"{name}/{path}"
            for name, tree in loaded.items()
            for path, entry in describe(tree).items()
            if entry != recorded[name][path]
        ]
        if damaged:
            raise Damaged(f"{where} is damaged: {', '.join(damaged)} changed since it was saved")
        return Loaded(step, loaded, record["facts"])

    def load_newest(self, expected: Mapping[str, Any], say: Callable[[str], None]) -> Loaded | None:
        """The newest checkpoint that is whole, or None; `say` is told of each that is not.

        Those are removed: what is trained again takes their names.

        Raises:
            UserError: a whole checkpoint that does not fit.
        """
        damaged, found = [], None
        for step in reversed(self.steps):
            try:
                found = self.load(expected, step)
                break
            except Damaged as error:
                damaged.append(step)
                say(f"{error}; falling back to an older one")
        for step in damaged:
            self.retire(step)
        return found

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self._folder / str(step)

    def _record(self, step: int, where: str) -> dict[str, Any]:
        with _readable(where):
            # Orbax's own reader looks at every array as well, which takes as long as a save.
            record = dict(read_json(self.path(step) / METADATA)["custom_metadata"])
        if not is_whole(record) or record["step"] != step:
            raise Damaged(f"{where} is damaged: its metadata changed since it was saved")
        return record

    def _read(self, step: int, expected: Mapping[str, Any], where: str) -> dict[str, Any]:
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])

        def placed(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)

        announced = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(dict(expected)))
        files = [path for path in self.path(step).rglob("*") if path.is_file()]
        stored = sum(path.stat().st_size for path in files)
        check_expanded(where, announced, stored, "train the stage again")
        with _readable(where):
            trees = jax.tree.map(placed, dict(expected))
            loaded = ocp.load_checkpointables(str(self.path(step).absolute()), trees)
            return {name: loaded[name] for name in expected}

    @contextlib.contextmanager
    def _written(self, step: int) -> Iterator[None]:
        """Turn whatever Orbax and TensorStore raise when they cannot write into one sentence."""
        try:
            yield
        except Exception as error:
            for path in self._folder.glob(f"{step}{UNFINISHED}*"):
                shutil.rmtree(path, ignore_errors=True)  # it may be what fills the disk
            older = f"; {self.path(self.steps[-1])} is whole" if self.steps else ""
            raise UserError(
                f"cannot write the checkpoint {self.path(step)}: {_reason(error)}{older}; make "
                "room, then go on with --resume"
            ) from error


def _reason(error: BaseException) -> str:
    """What the system says, out of the pages that TensorStore makes of it."""
    text = str(error)
    for cause in (*TRANSIENT, *FULL):
        if cause in text:
            return cause
    return " ".join(text.split())[:200] or type(error).__name__


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep Orbax from logging pages about what fails; the cause stays with the error."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    nothing = logging.Filter("nothing")
    for logger in loggers:
        logger.addFilter(nothing)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(nothing)


def _unretrieved(record: logging.LogRecord) -> bool:
    # Of many writes that fail the first is raised; the others show when they are collected.
    return "OCDBT" not in f"{record.getMessage()} {record.exc_info}"


def _unraisable(unraisable: Any, before: Any = sys.unraisablehook) -> None:
    # TensorStore reports to Orbax's event loop, which is gone when one of many writes has failed.
    if not (unraisable.object is None and str(unraisable.exc_value) == "Event loop is closed"):
        before(unraisable)


@contextlib.contextmanager
def _readable(where: str) -> Iterator[None]:
    try:
        with _silent():
            yield
    # Whatever it is that Orbax makes of a file that is not what it was.
    except Exception as error:
        if (reason := _reason(error)) in TRANSIENT:
            raise UserError(f"{where} cannot be read: {reason}") from error
        raise Damaged(f"{where} cannot be read: it is damaged or not whole") from error


@contextlib.contextmanager
def open_store(folder: Path) -> Iterator[Store]:
    """The checkpoints in `folder`, which is made if it is not there; all are written at the end."""
    store = Store(folder)
    store.clean()
    with _silent():
        try:
            yield store
        finally:
            store.wait()
