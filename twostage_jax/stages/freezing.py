"""Arrays that an optimiser does not change: frozen groups, and constants in a group."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

import flax.struct
import jax
import jax.numpy as jnp
import optax

from twostage_jax.errors import UserError
from twostage_jax.stages.stage import Params
from twostage_jax.trees import PyTree


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
    split = optax.multi_transform(
        {"trained": tx, "frozen": optax.set_to_zero()}, label, mask_compatible_extra_args=True
    )

    def with_frozen(value_fn: PyTree, params: PyTree) -> PyTree:
        # A line search calls the loss with the trained groups alone.
        fixed = {name: params[name] for name in groups}
        return lambda trained: value_fn({**trained, **fixed})

    def init(params: optax.Params) -> FreezeState:
        return FreezeState(split.init(params), groups)

    def update(
        updates: optax.Updates,
        state: FreezeState,
        params: optax.Params | None = None,
        **extra: object,
    ) -> tuple[optax.Updates, FreezeState]:
        if "value_fn" in extra and params is not None:
            extra["value_fn"] = with_frozen(extra["value_fn"], params)
        updates, inner = split.update(updates, state.inner, params, **extra)
        return updates, FreezeState(inner, state.groups)

    # The type of Optax knows no state of our own.
    return optax.GradientTransformationExtraArgs(init, update)  # pyright: ignore[reportArgumentType]


def by_group(
    transforms: Mapping[str, optax.GradientTransformation],
) -> optax.GradientTransformationExtraArgs:
    """Optimise each parameter group with its own optimiser, which only sees that group.

    >>> import jax.numpy as jnp
    >>> tx = by_group({"encoder": optax.sgd(0.1), "head": optax.sgd(1.0)})
    >>> params = {"encoder": jnp.ones(1), "head": jnp.ones(1)}
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> [round(float(updates[name][0]), 2) for name in ("encoder", "head")]
    [-0.1, -1.0]
    """
    inner = {name: optax.with_extra_args_support(tx) for name, tx in transforms.items()}

    def init(params: PyTree) -> PyTree:
        return {name: tx.init(params[name]) for name, tx in inner.items()}

    def update(
        updates: PyTree, state: PyTree, params: PyTree = None, *, value: PyTree = None, **_: object
    ) -> tuple[PyTree, PyTree]:
        # A line search needs the loss as a function of one group, so it cannot be used here.
        results = {
            name: tx.update(
                updates[name], state[name], None if params is None else params[name], value=value
            )
            for name, tx in inner.items()
        }
        return (
            {name: result[0] for name, result in results.items()},
            {name: result[1] for name, result in results.items()},
        )

    return optax.GradientTransformationExtraArgs(init, update)


def only_matching(
    tx: optax.GradientTransformation, pattern: str, group: str
) -> optax.GradientTransformation:
    """Optimise the parameters of a group whose path matches a pattern; the others do not change.

    Args:
        tx: optimiser of the matching parameters.
        pattern: pattern of `fnmatch` over paths such as `encoder/params/Dense_1/kernel`.
        group: name of the group, the first part of each path.

    Raises:
        UserError: from `init`, a pattern that matches no parameter; it lists the paths.
    """

    def label(params: PyTree) -> PyTree:
        labels = jax.tree_util.tree_map_with_path(
            lambda path, _: "trained" if fnmatchcase(_path(group, path), pattern) else "kept",
            params,
        )
        if "trained" not in jax.tree.leaves(labels):
            paths = [_path(group, path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
            raise UserError(
                f"--head.unfreeze {pattern!r} matches no parameter of {group}: give a pattern that "
                f"matches some of {', '.join(paths)}"
            )
        return labels

    return optax.multi_transform(
        {"trained": tx, "kept": optax.stateless(_keep)}, label, mask_compatible_extra_args=True
    )


def _keep(updates: PyTree, params: PyTree) -> PyTree:
    # Adding -0.0 changes no bit; adding 0.0 turns -0.0 into 0.0.
    return jax.tree.map(lambda leaf: jnp.full_like(leaf, -0.0), updates)


def _path(group: str, path: tuple) -> str:
    return f"{group}/{jax.tree_util.keystr(path, simple=True, separator='/')}"


def frozen_groups(opt_state: optax.OptState) -> tuple[str, ...]:
    """Names of all groups that a `freeze` anywhere in an optimiser state leaves unchanged."""
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, FreezeState))
    names: dict[str, None] = {}  # a dict, because it keeps the order
    for node in nodes:
        if isinstance(node, FreezeState):
            names |= dict.fromkeys((*node.groups, *frozen_groups(node.inner)))
    return tuple(names)


def split_constants(params: Params) -> tuple[Params, Params]:
    """Split parameters into arrays to train and constants; None replaces the other's arrays.

    A group with the key `params` holds the collections of a Linen module, and all but `params` are
    constants. So are arrays without a gradient, such as integers.

    >>> params = {"encoder": {"params": {"w": jnp.ones(1)}, "stats": {"mean": jnp.zeros(1)}}}
    >>> split_constants(params)[0]["encoder"]["stats"]
    {'mean': None}
    """

    def trained(path: tuple, leaf: PyTree) -> PyTree:
        group = params[path[0].key]
        constant = isinstance(group, Mapping) and "params" in group and path[1].key != "params"
        dtype = leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf)
        return None if constant or not jnp.issubdtype(dtype, jnp.inexact) else leaf

    kept = jax.tree_util.tree_map_with_path(trained, params)
    rest = jax.tree.map(lambda x, y: x if y is None else None, params, kept)
    return kept, rest


def join_constants(trained: Params, constants: Params) -> Params:
    """Return the parameters that `split_constants` has split."""

    def join(x: PyTree, y: PyTree) -> PyTree:
        return y if x is None else x

    return jax.tree.map(join, trained, constants, is_leaf=lambda x: x is None)
