"""The state of a training, and its start."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from twostage_jax.engine.compile import options_for_once
from twostage_jax.errors import UserError
from twostage_jax.stages.freezing import frozen_groups, split_constants
from twostage_jax.stages.stage import Batch, Key, Params, Stage, as_batch, as_labels
from twostage_jax.trees import PyTree, size_of, tree_differences, tree_signature


class TrainState(NamedTuple):
    """Everything that a step changes.

    Attributes:
        params: dict of parameter groups.
        opt_state: state of the optimiser.
        step: int32, number of steps taken.

    >>> import optax, twostage_jax as ts
    >>> params = {"encoder": jnp.zeros(2)}
    >>> state = ts.TrainState(params, optax.sgd(0.1).init(params), jnp.int32(0))
    >>> state._replace(step=state.step + 1).step.item()
    1
    """

    params: Params
    opt_state: PyTree
    step: jax.Array


def group_sizes(state: TrainState) -> list[tuple[str, str, int, int]]:
    """`(name, status, number of values, bytes)` for each parameter group.

    The status is "frozen", "trained" or "constant"; constants of a trained group have a row of
    their own.
    """
    frozen = frozen_groups(state.opt_state)
    variables, constants = split_constants(state.params)
    rows = []
    for name, tree in state.params.items():
        if name in frozen:
            rows.append((name, "frozen", *_size(tree)))
            continue
        rows.append((name, "trained", *_size(variables[name])))
        if jax.tree.leaves(constants[name]):
            rows.append((name, "constant", *_size(constants[name])))
    return rows


def _size(tree: PyTree) -> tuple[int, int]:
    """Return the number of values, and of bytes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree)), size_of(tree)


def make_init(
    stage: Stage, tx: optax.GradientTransformation
) -> Callable[[Key, Batch, Params], TrainState]:
    """Return `(key, batch, pretrained) -> state`: `init_state` without its checks, pure."""

    def init(key: Key, batch: Batch, pretrained: Params) -> TrainState:
        params = {**stage.init(key, as_batch(batch)), **pretrained}
        return TrainState(params, tx.init(split_constants(params)[0]), jnp.zeros((), jnp.int32))

    return init


def init_state(
    stage: Stage,
    tx: optax.GradientTransformation,
    key: Key,
    batch: Mapping[str, PyTree],
    **pretrained_groups: PyTree,
) -> TrainState:
    """Return the state before the first step.

    Args:
        stage: stage to train.
        tx: optimiser, for instance `freeze(optax.adam(1e-3), "encoder")`.
        key: key for the initial values.
        batch: examples of the right shape, uint8 or normalised. The values of images do not matter;
            labels that count must be classes of the head, unless they are traced.
        **pretrained_groups: parameter groups that replace the initial ones, by name, for instance
            `encoder=…` from another state.

    Raises:
        UserError: lists every missing, unexpected, misshaped or wrongly typed leaf of the groups;
            labels that are no class of the head; a module that updates a collection in its forward
            pass (see `stages.modules`).

    >>> import jax, optax, twostage_jax as ts
    >>> data = ts.load("digits")
    >>> stage = ts.placeholder(ts.MLP((16, 8)))
    >>> state = ts.init_state(stage, optax.sgd(0.1), jax.random.key(0), data.train)
    >>> int(state.step), list(state.params)
    (0, ['encoder'])
    """
    # Shapes are compared before anything is computed, so that all problems are in one message.
    labels = as_labels(batch)  # outside of the trace: a head can check them

    def traced_init(key: Key, batch: Batch) -> Params:
        return stage.init(key, {**as_batch(batch), **labels})

    expected = jax.eval_shape(traced_init, key, dict(batch))
    unknown = sorted(set(pretrained_groups) - set(expected))
    if unknown:
        raise UserError(f"cannot take over {unknown}: the groups are {sorted(expected)}")
    replaced = {name: expected[name] for name in pretrained_groups}
    problems = tree_differences(tree_signature(replaced), tree_signature(pretrained_groups))
    if problems:
        raise UserError(f"the pretrained groups do not fit this stage: {'; '.join(problems)}")

    # One program: dozens of small ones would each be compiled.
    init = jax.jit(make_init(stage, tx), compiler_options=options_for_once())
    return init(key, dict(batch), pretrained_groups)
