"""Heads that are computed in one call rather than trained step by step."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from twostage_jax.engine.compile import as_function, compiler_options
from twostage_jax.engine.members import Numbers, TrialData
from twostage_jax.engine.placement import Placement, abstract, map_chunks, spread, take
from twostage_jax.stages.stage import Batch, Head, Key, Params, new_key
from twostage_jax.trees import PyTree

PREPARED = "prepared."  # prefix of the names of prepared arrays in a batch
FEATURES = "features"


class SolvePrograms(NamedTuple):
    """The program that solves the heads of a chunk.

    Attributes:
        placement: members on devices.
        axes: axes of `(numbers, key, batch)`.
        solve: `(numbers, key, batch) -> params`.
    """

    placement: Placement
    axes: PyTree
    solve: Callable[..., Params]


def solution(head: Head, key: Key, batch: Batch) -> tuple[Params, Params]:
    """Return the parameters of a solved head: those of the trial, and those that all trials share.

    Args:
        head: solved head.
        key: key of the trial.
        batch: all examples. Prepared arrays are called `prepared.NAME` in it.
    """
    assert head.solve is not None, "a trained head has no solution"
    arrays = {name: x for name, x in batch.items() if not name.startswith(PREPARED)}
    if head.prepare is None:
        return head.solve(key, batch), {}
    prepared = {name.removeprefix(PREPARED): x for name, x in batch.items() if name not in arrays}
    everything: PyTree = {**arrays, "prepared": prepared}
    params = head.solve(key, everything)
    # Otherwise each trial would store all features.
    shared = {name: x for name, x in params.items() if name == FEATURES}
    return {name: x for name, x in params.items() if name not in shared}, shared


def lower_solve(
    make_head: Callable[[Numbers], Head],
    numbers: Numbers,
    batch: Mapping[str, PyTree],
    axes: PyTree,
    placement: Placement,
) -> SolvePrograms:
    """Lower the solution of a head for `compile_all`.

    Args:
        make_head: `numbers -> Head` of one member.
        numbers: swept numbers of one member, any values.
        batch: shapes of all examples of one member.
        axes: axes of `batch`.
        placement: members on devices.
    """
    key = jax.eval_shape(new_key)

    def solve(numbers: Numbers, key: Key, batch: Batch) -> Params:
        return solution(make_head(numbers), key, batch)[0]

    # Some solutions are loops, so they get the options of a training loop.
    all_axes = (0, 0, axes)
    program = jax.jit(spread(solve, placement, all_axes), compiler_options=compiler_options())
    shapes = abstract(placement, all_axes, (dict(numbers), key, dict(batch)))
    return SolvePrograms(placement, all_axes, as_function(program.lower(*shapes)))


def solve_heads(programs: SolvePrograms, numbers: Numbers, keys: Key, data: TrialData) -> Params:
    """Return the parameters `[M, ...]` of all heads, on the host.

    Args:
        programs: compiled.
        numbers: swept numbers, `[M]` each.
        keys: `[M]`.
        data: all examples of all members.
    """

    def rows(members: np.ndarray) -> PyTree:
        chosen = take(members, 0, (dict(numbers), keys))
        return *chosen, data.rows(members)

    return map_chunks(programs.solve, programs.placement, programs.axes, rows)
