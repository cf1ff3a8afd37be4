"""Content of the checkpoints of a stage, and the checks of those that it resumes from."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from twostage_jax.engine.state import TrainState
from twostage_jax.errors import UserError
from twostage_jax.stages.stage import Params
from twostage_jax.store.checkpoint import Loaded, Store
from twostage_jax.store.epochs import CheckpointFacts
from twostage_jax.trees import PyTree

BEST = "best"  # tree with the parameters of the best epoch, if the stage keeps them


def load_or_start(
    store: Store,
    start: dict[str, PyTree],
    facts: CheckpointFacts,
    frozen: Sequence[str],
    notice: Callable[[str], None],
) -> Loaded:
    """Return the newest intact checkpoint; without one, `start`, saved as checkpoint 0.

    Args:
        store: checkpoints of the stage.
        start: trees of the initial state.
        facts: identity of the stage, without records.
        frozen: groups that come from another stage.
        notice: prints a message.

    Raises:
        UserError: if the checkpoint belongs to another run.
    """
    existing = bool(store.steps)
    loaded = store.load_newest(start, notice)
    if loaded is None:
        if existing:
            notice(f"stage {facts.stage} restarts: no checkpoint is intact")
        store.save(0, start, facts)
        return Loaded(0, start, facts)
    check_identity(store.path(loaded.step), loaded.facts, facts)
    if not np.array_equal(loaded.trees["training"]["key"], start["training"]["key"]):
        raise UserError(_other_run(store.path(loaded.step), "another key"))
    params = loaded.trees["params"]
    if not all(is_equal(params[name], start["params"][name]) for name in frozen):
        # Stage 1 was trained again, because its checkpoint was lost, and has other bits.
        notice(f"stage {facts.stage} restarts: its encoder has changed since")
        for step in store.steps:
            store.retire(step)
        store.save(0, start, facts)
        return Loaded(0, start, facts)
    return loaded


def start_best(params: Params, members: int) -> dict[str, PyTree]:
    """Return the tree of the best parameters so far, before the first epoch."""
    return {
        "params": jax.tree.map(np.array, jax.device_get(params)),
        "probe": np.full(members, -1, np.float32),
        "epoch": np.zeros(members, np.int32),
    }


def keep_better(
    best: Mapping[str, PyTree],
    params: Params,
    figures: Mapping[str, np.ndarray],
    epoch: int,
) -> None:
    """Replace the parameters of members whose probe has become better; ties keep the earlier ones.

    Args:
        best: tree of `start_best`, changed in place.
        params: `[M, ...]` on the host.
        figures: of the epoch, `[M]` each.
        epoch: its number, from 1.
    """
    better = np.flatnonzero(figures["probe"] > best["probe"])  # False for NaN
    for target, values in zip(
        jax.tree.leaves(best["params"]), jax.tree.leaves(params), strict=True
    ):
        target[better] = values[better]
    best["probe"][better] = figures["probe"][better]
    best["epoch"][better] = epoch


def best_shapes(params: Params, members: int) -> dict[str, PyTree]:
    """Return the shapes of the tree of `start_best`, from those of `params` `[M, ...]`."""
    return {
        "params": params,
        "probe": jax.ShapeDtypeStruct((members,), np.float32),
        "epoch": jax.ShapeDtypeStruct((members,), np.int32),
    }


def is_equal(tree: PyTree, other: PyTree) -> bool:
    """Return True if two trees of arrays are equal."""
    return all(map(np.array_equal, jax.tree.leaves(tree), jax.tree.leaves(other)))


def check_identity(path: Path, stored: CheckpointFacts, expected: CheckpointFacts) -> None:
    """Raise `UserError` if a checkpoint belongs to a run with another config or other data."""
    names = ("config", "data", "stage", "member_count")
    other = [
        name.replace("_", " ") for name in names if getattr(stored, name) != getattr(expected, name)
    ]
    if other:
        raise UserError(_other_run(path, f"another {' and '.join(other)}"))


def _other_run(path: Path, difference: str) -> str:
    return f"the checkpoint {path} has {difference}: start a new run in a new --out"


def checkpoint_trees(
    state: TrainState,
    sums: Mapping[str, np.ndarray],
    key_data: np.ndarray,
    best: PyTree | None = None,
) -> dict[str, PyTree]:
    """Return the trees of a checkpoint; `best` has the parameters of the best epoch so far."""
    training = {
        "opt_state": state.opt_state,
        "step": state.step,
        "sums": dict(sums),
        "key": key_data,
    }
    trees = {"params": state.params, "training": training}
    return trees if best is None else {**trees, BEST: best}
