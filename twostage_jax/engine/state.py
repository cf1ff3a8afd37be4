"""A stage is a pair of pure functions, as a gradient transformation is in Optax.

Everything that is trained is a `Stage`: an autoencoder, a classifier on a frozen encoder, your own.
Parameters are a dict of groups (`encoder`, `decoder`, `head`, …); we freeze, save and hand over by
the names of the groups.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from twostage_jax.engine.compile import options_for_once
from twostage_jax.errors import UserError
from twostage_jax.stages.freezing import frozen_groups
from twostage_jax.stages.stage import Key, Params, Stage, as_batch
from twostage_jax.trees import tree_differences, tree_signature


class TrainState(NamedTuple):
    """What a step changes, and nothing else.

    Attributes:
        params: dict of parameter groups.
        opt_state: what the optimiser keeps.
        step: int32, the number of steps taken.
    """

    params: Params
    opt_state: Any
    step: jax.Array


def group_sizes(state: TrainState) -> list[tuple[str, str, int, int]]:
    """`(name, "frozen" or "trained", number of values, bytes)` for each parameter group."""
    rows, frozen = [], frozen_groups(state.opt_state)
    for name, tree in state.params.items():
        leaves = jax.tree.leaves(tree)
        status = "frozen" if name in frozen else "trained"
        rows.append((name, status, sum(x.size for x in leaves), sum(x.nbytes for x in leaves)))
    return rows


def make_init(
    stage: Stage, tx: optax.GradientTransformation
) -> Callable[[Key, Any, Params], TrainState]:
    """`(key, batch, pretrained) -> state`: `init_state` without its checks, pure."""

    def init(key: Key, batch: Mapping[str, Any], pretrained: Params) -> TrainState:
        params = {**stage.init(key, as_batch(batch)), **pretrained}
        return TrainState(params, tx.init(params), jnp.zeros((), jnp.int32))

    return init


def init_state(
    stage: Stage,
    tx: optax.GradientTransformation,
    key: Key,
    batch: Mapping[str, Any],
    **pretrained_groups: Any,
) -> TrainState:
    """The state before the first step; `pretrained_groups` take the place of fresh ones.

    Args:
        stage: what will be trained.
        tx: the optimiser, for instance `freeze(optax.adam(1e-3), "encoder")`.
        key: draws the initial values.
        batch: examples of the right shape, uint8 or normalised; their values do not matter.
        **pretrained_groups: parameter groups by name, for instance `encoder=…` of another state.

    Raises:
        UserError: every missing, unexpected, misshaped or wrongly typed leaf of the groups, by
            path, in one message.
    """
    expected = jax.eval_shape(lambda key, batch: stage.init(key, as_batch(batch)), key, batch)
    unknown = sorted(set(pretrained_groups) - set(expected))
    if unknown:
        raise UserError(f"cannot take over {unknown}: the groups are {sorted(expected)}")
    fresh = {name: expected[name] for name in pretrained_groups}
    problems = tree_differences(tree_signature(fresh), tree_signature(pretrained_groups))
    if problems:
        raise UserError(f"the pretrained groups do not fit this stage: {'; '.join(problems)}")

    # One program: dozens of small ones would each be compiled.
    init = jax.jit(make_init(stage, tx), compiler_options=options_for_once())
    return init(key, dict(batch), pretrained_groups)
