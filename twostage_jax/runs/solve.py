"""A solved head to its end: from its features, or from its checkpoint."""

import jax.numpy as jnp
import numpy as np

from twostage_jax.engine.health import any_diverged, describe_diverged, find_diverged
from twostage_jax.engine.members import Numbers, TrialData
from twostage_jax.engine.solve import SolvePrograms, solve_heads
from twostage_jax.engine.state import TrainState
from twostage_jax.errors import UserError
from twostage_jax.runs.checkpoints import check_identity, is_equal
from twostage_jax.runs.train import StagePlan, StageResult
from twostage_jax.stages.stage import Key, Params
from twostage_jax.store.checkpoint import open_store
from twostage_jax.store.epochs import write_epochs


def solve_stage(
    programs: SolvePrograms,
    data: TrialData,
    numbers: Numbers,
    keys: Key,
    frozen: Params,
    expected: Params,
    plan: StagePlan,
) -> StageResult:
    """Solve all heads in one call, or load them from their checkpoint.

    Args:
        programs: compiled.
        data: all examples of all trials.
        numbers: swept numbers, `[M]` each.
        keys: `[M]`.
        frozen: groups that are saved beside the head.
        expected: shapes of all groups of all trials.
        plan: folder, terminal.

    Raises:
        UserError: if no head is finite, or the checkpoint belongs to another run.
    """
    with open_store(plan.folder / plan.name) as store:
        loaded = store.load_newest({"params": expected}, plan.terminal.notice)
        if loaded is not None and not is_equal(
            {name: loaded.trees["params"][name] for name in frozen}, frozen
        ):
            plan.terminal.notice(f"stage {plan.name} restarts: its encoder has changed since")
            store.retire(loaded.step)
            loaded = None
        if loaded is None:
            params = {**frozen, "head": solve_heads(programs, numbers, keys, data)}
            store.save(1, {"params": params}, plan.facts([]))
        else:
            check_identity(store.path(loaded.step), loaded.facts, plan.facts([]))
            params = loaded.trees["params"]
    write_epochs(plan.folder, plan.before)
    solved = TrainState({"head": params["head"]}, (), jnp.zeros((), jnp.int32))
    masks = find_diverged(solved, None)
    diverged = any_diverged(masks, programs.placement.members)
    if diverged.all():
        raise UserError(f"stage {plan.name} has no finite solution: {describe_diverged(masks)}")
    for member in np.flatnonzero(diverged):
        plan.terminal.notice(f"{plan.names[int(member)]} has no finite solution: it is left out")
    return StageResult(params, [], ~diverged)
