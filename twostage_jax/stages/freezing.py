"""Freezing of parameter groups by name."""

import flax.struct
import jax
import optax

from twostage_jax.errors import UserError
from twostage_jax.stages.stage import Params


@flax.struct.dataclass
class FreezeState:
    """Optimiser state of `freeze`: the state inside, and the names of the frozen groups."""

    inner: optax.OptState
    groups: tuple[str, ...] = flax.struct.field(pytree_node=False)


def freeze(tx: optax.GradientTransformation, *groups: str) -> optax.GradientTransformation:
    """Apply `tx` to all parameter groups except `groups`, whose updates are exactly zero.

    Frozen groups have no moments. The engine computes no gradient for them and adds nothing to
    them. It finds their names in the optimiser state, so the result may be wrapped
    (`optax.chain(clip, freeze(…))`).

    Raises:
        UserError: from `init`, if a group to freeze is not in the parameters.

    >>> import jax.numpy as jnp
    >>> import twostage_jax as ts
    >>> tx = ts.freeze(optax.sgd(0.5), "encoder")
    >>> params = {"encoder": jnp.ones(1), "head": jnp.ones(1)}
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> updates["encoder"].tolist(), updates["head"].tolist()
    ([0.0], [-0.5])
    """

    def label(params: Params) -> dict[str, str]:
        unknown = sorted(set(groups) - set(params))
        if unknown:
            raise UserError(f"cannot freeze {unknown}: the groups are {sorted(params)}")
        return {name: "frozen" if name in groups else "trained" for name in params}

    # Not `optax.masked`: it would pass the gradients of frozen groups on as their updates.
    split = optax.multi_transform({"trained": tx, "frozen": optax.set_to_zero()}, label)

    def init(params: optax.Params) -> FreezeState:
        return FreezeState(split.init(params), groups)

    def update(
        updates: optax.Updates,
        state: FreezeState,
        params: optax.Params | None = None,
        **extra: object,
    ) -> tuple[optax.Updates, FreezeState]:
        updates, inner = split.update(updates, state.inner, params, **extra)
        return updates, FreezeState(inner, state.groups)

    # The type of Optax knows no state of our own.
    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def frozen_groups(opt_state: optax.OptState) -> tuple[str, ...]:
    """Names of all groups that a `freeze` anywhere in an optimiser state leaves unchanged."""
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, FreezeState))
    names: dict[str, None] = {}  # a dict, because it keeps the order
    for node in nodes:
        if isinstance(node, FreezeState):
            names |= dict.fromkeys((*node.groups, *frozen_groups(node.inner)))
    return tuple(names)
