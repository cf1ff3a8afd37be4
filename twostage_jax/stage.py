"""A stage is a pair of pure functions, as a gradient transformation is in Optax.

Everything that is trained is a `Stage`: an autoencoder, a classifier on a frozen encoder, your own.
Parameters are a dict of groups (`encoder`, `decoder`, `head`, …); we freeze, save and hand over by
the names of the groups.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from twostage_jax.compilation import options_for_once
from twostage_jax.errors import UserError

Key = jax.Array
Batch = Mapping[str, jax.Array]
Params = dict[str, Any]
Metrics = dict[str, jax.Array]


class Stage(NamedTuple):
    """How parameters start, and what they minimise.

    A batch holds `image` float32 `[B, H, W, C]` in [-1, 1], `label` int32 `[B]` and `weight`
    float32 `[B]` (0 where a label does not count).

    Attributes:
        init: `(key, batch) -> params`, a dict of parameter groups.
        loss: `(params, key, batch) -> (loss, metrics)`: a scalar, and a dict of scalars; both are
            means over the examples of the batch. A metric called `count` says over how many, where
            that is not the size of the batch; the engine weights the batches of an epoch by it.
    """

    init: Callable[[Key, Batch], Params]
    loss: Callable[[Params, Key, Batch], tuple[jax.Array, Metrics]]


def init_on_features(encoder: Any, name: str, module: Any) -> Callable[[Key, Batch], Params]:
    """An `init` for the groups `encoder` and `name`, whose `module` takes the encoder's output."""

    def init(key: Key, batch: Batch) -> Params:
        encoder_key, module_key = jax.random.split(key)
        params = encoder.init(encoder_key, batch["image"])
        features = encoder.apply(params, batch["image"])
        return {"encoder": params, name: module.init(module_key, features)}

    return init


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


def group_sizes(state: TrainState) -> list[tuple[str, str, int, int]]:
    """`(name, "frozen" or "trained", number of values, bytes)` for each parameter group."""
    rows, frozen = [], frozen_groups(state.opt_state)
    for name, tree in state.params.items():
        leaves = jax.tree.leaves(tree)
        status = "frozen" if name in frozen else "trained"
        rows.append((name, status, sum(x.size for x in leaves), sum(x.nbytes for x in leaves)))
    return rows


def as_image(image: Any) -> jax.Array:
    """Images as float32: uint8 as `(x/255 - 0.5)/0.5`; floats are taken as normalised already.

    Raises:
        UserError: images of another type.
    """
    image = jnp.asarray(image)
    if image.dtype == jnp.uint8:
        return (image.astype(jnp.float32) / 255 - 0.5) / 0.5
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise UserError(
            f"images are {image.dtype}: give uint8 in 0 to 255, or floats in -1 to 1 as (x/255 - "
            "0.5)/0.5"
        )
    return image.astype(jnp.float32)


def as_batch(examples: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Examples as a stage sees them.

    Args:
        examples: `image` as `as_image` takes it, `[B, H, W, C]`, `label` int32 `[B]` and, if
            labels count unequally, `weight` float32 `[B]`.

    Returns:
        `image` float32, `label` int32, `weight` float32 (1 by default).

    Raises:
        UserError: images of another type.
    """
    label = jnp.asarray(examples["label"], jnp.int32)
    weight = examples.get("weight")
    weight = jnp.ones(label.shape, jnp.float32) if weight is None else jnp.asarray(weight)
    return {
        "image": as_image(examples["image"]),
        "label": label,
        "weight": weight.astype(jnp.float32),
    }


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


def tree_leaves(tree: Any) -> dict[str, Any]:
    """Leaves of any pytree by path, `encoder/params/dense_0/kernel`, in the tree's own order.

    Raises:
        ValueError: two leaves of one path, as by a key that contains a slash.
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    leaves = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}
    if len(leaves) != len(flat):
        raise ValueError(
            "two leaves have the same path: keep slashes out of the names of parameters"
        )
    return leaves


def tree_signature(tree: Any) -> dict[str, dict[str, Any]]:
    """`{path: {"shape": [...], "dtype": "float32"}}` for the leaves of a tree, abstract or not."""
    leaves = {
        path: leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
        for path, leaf in tree_leaves(tree).items()
    }
    return {
        path: {"shape": list(leaf.shape), "dtype": leaf.dtype.name} for path, leaf in leaves.items()
    }


def tree_differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """One phrase for each leaf by which two `tree_signature`s differ, empty if they agree."""
    problems = [f"{path} is missing" for path in expected if path not in found]
    problems += [f"{path} is unexpected" for path in found if path not in expected]
    for path in expected:
        for what in ("shape", "dtype"):
            if path in found and found[path][what] != expected[path][what]:
                problems.append(
                    f"{path} has {what} {found[path][what]}, expected {expected[path][what]}"
                )
    return problems


def array_bytes(leaf: Any) -> bytes:
    """The values of one leaf as little-endian bytes in C order."""
    array = np.asarray(jax.device_get(leaf))
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).tobytes()


def digest(params: Any) -> str:
    """`sha256:…` over tree paths, shapes, dtypes and bytes: equal means equal bit for bit."""
    total = hashlib.sha256()
    signature = tree_signature(params)
    for path, leaf in sorted(tree_leaves(params).items()):
        shape, dtype = signature[path]["shape"], signature[path]["dtype"]
        total.update(f"{path}\0{shape}\0{dtype}\0".encode())
        total.update(array_bytes(leaf))
    return f"sha256:{total.hexdigest()}"
