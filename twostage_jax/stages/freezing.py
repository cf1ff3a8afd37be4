"""A stage is a pair of pure functions, as a gradient transformation is in Optax.

Everything that is trained is a `Stage`: an autoencoder, a classifier on a frozen encoder, your own.
Parameters are a dict of groups (`encoder`, `decoder`, `head`, …); we freeze, save and hand over by
the names of the groups.
"""

from typing import Any

import flax.struct
import jax
import optax

from twostage_jax.errors import UserError
from twostage_jax.stages.stage import Params


@flax.struct.dataclass
class FreezeState:
    """Optimiser state of `freeze`: the inner state, and the names of the groups left alone."""

    inner: Any
    groups: tuple[str, ...] = flax.struct.field(pytree_node=False)


def freeze(tx: optax.GradientTransformation, *groups: str) -> optax.GradientTransformation:
    """`tx` for every parameter group except `groups`, whose updates are exactly zero.

    No moments are kept for frozen groups. Their names are in the optimiser state, so the engine
    finds them however the result is wrapped (`optax.chain(clip, freeze(…))`): it computes no
    gradient for these groups, and adds nothing to them.

    Raises:
        UserError: (from its `init`) where a group to freeze is not in the parameters.
    """

    def label(params: Params) -> dict[str, str]:
        unknown = sorted(set(groups) - set(params))
        if unknown:
            raise UserError(f"cannot freeze {unknown}: the groups are {sorted(params)}")
        return {name: "frozen" if name in groups else "trained" for name in params}

    inner = optax.multi_transform({"trained": tx, "frozen": optax.set_to_zero()}, label)

    def init(params: Any) -> Any:
        return FreezeState(inner.init(params), groups)

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        updates, inner_state = inner.update(updates, state.inner, params, **extra)
        return updates, state.replace(inner=inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def frozen_groups(opt_state: Any) -> tuple[str, ...]:
    """Names of the groups that any `freeze` within an optimiser leaves alone."""
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, FreezeState))
    found: dict[str, None] = {}
    for node in nodes:
        if isinstance(node, FreezeState):
            found |= dict.fromkeys((*node.groups, *frozen_groups(node.inner)))
    return tuple(found)
