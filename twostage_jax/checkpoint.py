"""Checkpoints of a stage: Orbax stores, we verify.

Orbax notices neither a flipped bit nor a changed dtype, so a table of shape, dtype and sha256 of
every leaf travels with each checkpoint and is held against what is expected and what is loaded.
"""

import contextlib
import hashlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from twostage_jax.errors import UserError
from twostage_jax.stage import array_bytes, tree_differences, tree_leaves, tree_signature


def describe(tree: Any) -> dict[str, dict[str, Any]]:
    """`{path: {"shape": [...], "dtype": "float32", "sha256": "…"}}` for the leaves of a tree."""
    hashes = {
        path: hashlib.sha256(array_bytes(leaf)).hexdigest()
        for path, leaf in tree_leaves(tree).items()
    }
    return {path: {**entry, "sha256": hashes[path]} for path, entry in tree_signature(tree).items()}


class Store:
    """The checkpoints of one stage, named by the number of steps taken; the newest is kept."""

    def __init__(self, folder: Path, checkpointer: ocp.training.Checkpointer) -> None:
        self._folder = folder
        self._checkpointer = checkpointer
        self._pending: Any = None

    @property
    def latest(self) -> int | None:
        """Step of the newest checkpoint that is on disk, or None."""
        self.wait()
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, step: int, trees: Mapping[str, Any]) -> None:
        """Begin to write trees of arrays, by name, while the caller goes on.

        The checkpoint counts once all of it is on disk, at the latest after `wait`.
        """
        self.wait()
        # A copy, because the next step of the training takes the buffers over.
        trees = {name: jax.tree.map(np.array, jax.device_get(tree)) for name, tree in trees.items()}
        table: Any = {name: describe(tree) for name, tree in trees.items()}
        self._pending = (
            step,
            self._checkpointer.save_checkpointables_async(
                step, trees, custom_metadata={"leaves": table}, force=True
            ),
        )

    def wait(self) -> None:
        """Return when what was given to `save` is on disk.

        Raises:
            OSError: what kept it from being written, a full disk for instance.
        """
        if self._pending is None:
            return
        (step, response), self._pending = self._pending, None
        if not response.result():
            raise RuntimeError(f"Orbax did not write step {step} of {self._folder}")

    def load(self, expected: Mapping[str, Any]) -> dict[str, Any]:
        """The trees of the newest checkpoint that `expected` names and gives the structure of.

        Raises:
            UserError: where there is no checkpoint; every missing, unexpected, misshaped or wrongly
                typed leaf; every array whose sha256 is not the one it was saved with.
        """
        step = self.latest
        where = f"the checkpoint {self._folder / str(step)}"
        if step is None:
            raise UserError(f"{self._folder} has no whole checkpoint: run the stage again")
        recorded = self._recorded(step, where)
        problems = []
        for name, tree in expected.items():
            found = recorded.get(name, {})
            wrong = tree_differences(tree_signature(tree), found)
            problems += [f"{name}/{problem}" for problem in wrong]
        if problems:
            raise UserError(f"{where} does not fit: {'; '.join(problems)}")
        loaded = self._read(step, expected, where)
        damaged = [
            f"{name}/{path}"
            for name, tree in loaded.items()
            for path, entry in describe(tree).items()
            if entry["sha256"] != recorded[name][path]["sha256"]
        ]
        if damaged:
            raise UserError(f"{where} is damaged: {', '.join(damaged)} changed since it was saved")
        return loaded

    def _recorded(self, step: int, where: str) -> dict[str, Any]:
        with _readable(where):
            metadata: Any = self._checkpointer.checkpointables_metadata(step).custom_metadata
            return dict(metadata["leaves"])

    def _read(self, step: int, expected: Mapping[str, Any], where: str) -> dict[str, Any]:
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])

        def placed(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device)

        with _readable(where):
            trees = jax.tree.map(placed, dict(expected))
            loaded = self._checkpointer.load_checkpointables(step, trees)
            return {name: loaded[name] for name in expected}


@contextlib.contextmanager
def _readable(where: str) -> Iterator[None]:
    # Orbax logs pages about a file that is cut off; the cause stays with the error.
    logging.disable(logging.CRITICAL)
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where} cannot be read: it is damaged or not whole") from error
    finally:
        logging.disable(logging.NOTSET)


@contextlib.contextmanager
def open_store(folder: Path) -> Iterator[Store]:
    """The checkpoints in `folder`, which is made if it is not there; all are written at the end."""
    keep: Any = ocp.training.preservation_policies.LatestN(1)
    path = str(folder.absolute())  # Orbax takes no relative one
    with ocp.training.Checkpointer(path, preservation_policy=keep) as checkpointer:
        store = Store(folder, checkpointer)
        yield store
        store.wait()
