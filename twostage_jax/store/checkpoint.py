"""Checkpoints of a stage: Orbax stores, we verify.

Orbax notices neither a flipped bit nor a changed dtype. So a sealed record is written into each
checkpoint: shape, dtype and sha256 of every leaf, sha256 of every file, and the caller's facts. It
is held against what is expected, what is on disk and what is loaded.

A checkpoint is never written over: a new one is written beside the older ones under another name,
renamed when it is whole with its record, and only then is the oldest one renamed and removed. So a
process may be killed at any moment, and the newest whole checkpoint is still there.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from twostage_jax.errors import Corrupted, UserError
from twostage_jax.files import check_expanded, read_json
from twostage_jax.store import sealed as records
from twostage_jax.store.orbax import quiet
from twostage_jax.trees import array_bytes, tree_differences, tree_leaves, tree_signature

KEPT = 2  # the newest, and one to fall back to
# Orbax measures its patience by the wall's clock, which may jump: by less than thirty years.
PATIENT = ocp.options.AsyncOptions(timeout_secs=10**9, create_directories_asynchronously=False)
METADATA = "_CHECKPOINT_METADATA"
NEW, GONE = ".new", ".gone"  # what is being written, and removed
UNFINISHED = ".orbax-checkpoint-tmp"  # what Orbax adds to the name until it is done


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
        self._writer = ThreadPoolExecutor(1)
        self._pending: tuple[int, Future[None]] | None = None
        self._place: os.stat_result | None = None

    @property
    def steps(self) -> list[int]:
        """Steps of the checkpoints on disk, ascending; that they are whole shows when loaded."""
        if not self._folder.is_dir():
            return []
        return sorted(
            int(path.name)
            for path in self._folder.iterdir()
            if _is_step(path.name) and path.is_dir()
        )

    def clean(self) -> None:
        """Make the folder, and remove what a process has left there that was killed."""
        self._folder.mkdir(exist_ok=True)
        self._place = self._folder.stat()
        for path in self._folder.iterdir():
            step, dot, kind = path.name.partition(".")
            mine = dot + kind in (NEW, GONE) or (dot + kind).startswith(NEW + UNFINISHED)
            if _is_step(step) and mine:
                records.remove(path)

    def save(self, step: int, trees: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        """Begin to write trees of arrays, by name, and JSON facts, while the caller goes on.

        The checkpoint counts once all of it is on disk, at the latest after `wait`.

        Raises:
            UserError: what kept the one before it from being written.
        """
        self.wait()
        # A copy, because the next step of the training takes the buffers over.
        trees = {name: jax.tree.map(np.array, jax.device_get(tree)) for name, tree in trees.items()}
        text = json.dumps(dict(facts))  # now: the caller's facts may grow while it is written
        with self._written(step):
            self._pending = step, self._writer.submit(self._write, step, trees, text)

    def wait(self) -> None:
        """Return when what was given to `save` is on disk.

        Raises:
            UserError: what kept it from being written, a full disk for instance.
        """
        if self._pending is None:
            return
        (step, written), self._pending = self._pending, None
        with self._written(step):
            written.result()

    def close(self) -> None:
        """Return when all is on disk, and end the thread that writes.

        Raises:
            UserError: as `wait`.
        """
        with self._writer:
            self.wait()

    def _write(self, step: int, trees: Mapping[str, Any], facts: str) -> None:
        """Write a checkpoint beside the others, let it count, and remove those that are too many.

        Raises:
            Exception: whatever Orbax, TensorStore and the system make of a disk.
        """
        new = self.path(step).with_name(f"{step}{NEW}")
        self._check_place(new)
        records.remove(new)
        # Orbax takes no relative path.
        with quiet(), ocp.Context(async_options=PATIENT):
            ocp.save_checkpointables_async(str(new.absolute()), dict(trees)).result()
        self._check_place(new)
        try:
            read_json(new / METADATA)
        except UserError as error:  # on a full disk Orbax may call this written
            raise OSError("not all of it was written; the disk may be full") from error
        table = {name: describe(tree) for name, tree in trees.items()}
        records.write(new, {"step": step, "leaves": table, "facts": json.loads(facts)})
        if os.path.lexists(self.path(step)):  # no checkpoint, or one that the caller gives again
            self.retire(step)
        os.rename(new, self.path(step))
        for old in self.steps[:-KEPT]:
            self.retire(old)

    def _check_place(self, new: Path) -> None:
        """Raise `UserError` where the folder is not the one that `clean` has found.

        Orbax makes folders that are missing, so a run whose folder was renamed would go on in two;
        what it has made is removed.
        """
        try:
            same = self._place is None or os.path.samestat(self._place, self._folder.stat())
        except FileNotFoundError:
            same = False
        if not same:
            records.remove(new)
            for made in (self._folder, self._folder.parent):
                with contextlib.suppress(OSError):  # not empty, so not its own
                    made.rmdir()
            raise UserError(
                f"{self._folder} was renamed or removed while checkpoints were written to it: put "
                "it back, then go on with --resume"
            )

    def retire(self, step: int) -> None:
        """Remove a checkpoint, so that it is there whole or not at all."""
        gone = self.path(step).with_name(f"{step}{GONE}")
        records.remove(gone)
        os.rename(self.path(step), gone)
        records.remove(gone)

    def load(self, expected: Mapping[str, Any], step: int | None = None) -> Loaded:
        """The trees of a checkpoint that `expected` names and gives the structure of.

        Args:
            expected: trees of arrays or of their shapes, by name.
            step: of the checkpoint, by default the newest.

        Raises:
            UserError: every missing, unexpected, misshaped or wrongly typed leaf; what keeps a
                checkpoint from being read that is as it was saved, or that nothing is known of.
            Corrupted: where there is no checkpoint; files that are missing or not as they were
                saved, and arrays.
        """
        self.wait()
        step = self._newest() if step is None else step
        where = f"the checkpoint {self.path(step)}"
        record = self._record(step, where)
        recorded, problems = record["leaves"], []
        for name, tree in expected.items():
            wrong = tree_differences(tree_signature(tree), recorded.get(name, {}))
            problems += [f"{name}/{problem}" for problem in wrong]
        if problems:
            raise UserError(f"{where} does not fit: {'; '.join(problems)}")
        wanted = lambda name: "/" not in name or name.split("/")[0] in expected  # noqa: E731
        records.check_files(self.path(step), where, record["files"], wanted)
        loaded = self._read(step, expected, where)
        damaged = [
            f"{name}/{path}"
            for name, tree in loaded.items()
            for path, entry in describe(tree).items()
            if entry != recorded[name][path]
        ]
        if damaged:
            raise Corrupted(f"{where} is damaged: {', '.join(damaged)} changed since it was saved")
        return Loaded(step, loaded, record["facts"])

    def check(self) -> None:
        """Hold the files of the newest checkpoint against what was recorded of them.

        Raises:
            UserError: what keeps them from being read.
            Corrupted: where one is missing or not as it was saved, or there is no checkpoint.
        """
        step = self._newest()
        where = f"the checkpoint {self.path(step)}"
        record = self._record(step, where)
        records.check_files(self.path(step), where, record["files"], lambda name: True)

    def load_newest(
        self,
        expected: Mapping[str, Any],
        say: Callable[[str], None],
        known: Callable[[Mapping[str, Any]], bool] = lambda facts: True,
    ) -> Loaded | None:
        """The newest checkpoint that is whole, or None.

        Those that are known to be damaged are removed: what is trained again takes their names.

        Args:
            expected: as for `load`.
            say: is told of each that is damaged.
            known: whether facts are what the caller saves; what is not counts as damaged.

        Raises:
            UserError: a whole checkpoint that does not fit; one that cannot be read, and may be
                whole. Then all are left in place.
        """
        damaged, found = [], None
        for step in reversed(self.steps):
            try:
                loaded = self.load(expected, step)
                if known(loaded.facts):
                    found = loaded
                    break
                path = self.path(step) / records.RECORD
                raise Corrupted(f"{path} does not hold what a run writes there")
            except Corrupted as error:
                damaged.append(step)
                say(f"{error}; falling back to an older one")
        for step in damaged:
            self.retire(step)
        return found

    def _newest(self) -> int:
        if not self.steps:
            raise Corrupted(f"{self._folder} has no whole checkpoint: run the stage again")
        return self.steps[-1]

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self._folder / str(step)

    def _record(self, step: int, where: str) -> dict[str, Any]:
        record = records.read(self.path(step), where, {"step": int, "leaves": dict, "facts": dict})
        if record["step"] != step or not all(map(_is_table, record["leaves"].values())):
            raise Corrupted(f"{where} is damaged: {records.RECORD} is not that of step {step}")
        return record

    def _read(self, step: int, expected: Mapping[str, Any], where: str) -> dict[str, Any]:
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])

        def placed(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)

        announced = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(dict(expected)))
        with records.readable(where), quiet():
            files = records.files_below(self.path(step)).values()
            stored = sum(path.stat().st_size for path in files)
            check_expanded(where, announced, stored, "train the stage again")
            trees = jax.tree.map(placed, dict(expected))
            loaded = ocp.load_checkpointables(str(self.path(step).absolute()), trees)
            return {name: loaded[name] for name in expected}

    @contextlib.contextmanager
    def _written(self, step: int) -> Iterator[None]:
        """Turn whatever Orbax and TensorStore raise when they cannot write into one sentence."""
        try:
            yield
        except Exception as error:
            for path in self._folder.glob(f"{step}{NEW}*"):
                shutil.rmtree(path, ignore_errors=True)  # it may be what fills the disk
            older = f"; {self.path(self.steps[-1])} is whole" if self.steps else ""
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"cannot write the checkpoint {self.path(step)}: {records.reason(error)}{older}; "
                "make room, then go on with --resume"
            ) from error


def _is_step(name: str) -> bool:
    """Whether a checkpoint may be called so: 7, and neither 007 nor another script's digits."""
    return name.isdecimal() and name == str(int(name))


def _is_table(table: Any) -> bool:
    """Whether it is what `describe` makes, as far as anything depends on it."""
    return isinstance(table, dict) and all(
        isinstance(leaf, dict) and {"shape", "dtype"} <= leaf.keys() for leaf in table.values()
    )


@contextlib.contextmanager
def open_store(folder: Path) -> Iterator[Store]:
    """The checkpoints in `folder`, which is made if it is not there; all are written at the end."""
    store = Store(folder)
    store.clean()
    try:
        yield store
    finally:
        store.close()
