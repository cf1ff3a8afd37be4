"""Many trainings in one program: `vmap` of what trains one, plus placement.

All members live on the host and go to the devices a chunk at a time, one epoch after the other, so
that a chunk may be as small as the cache likes. Where each member stands is in its own state; a
training that is cut anywhere is taken up from there.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from twostage_jax.engine.compile import compiler_options, donated, options_for_once
from twostage_jax.engine.epoch import Epoch, make_epoch, shuffle
from twostage_jax.engine.loop import Moment, fit
from twostage_jax.engine.placement import (
    Placement,
    abstract,
    constrain,
    put,
    spread,
    take,
    tree_map,
)
from twostage_jax.engine.state import TrainState, make_init
from twostage_jax.stages.stage import Key, Stage

Hyper = Mapping[str, Any]
Recipe = Callable[[Hyper], tuple[Stage, optax.GradientTransformation]]


class Axes(NamedTuple):
    """What members have of their own (0) and what they share (None), as `jax.vmap` takes it.

    Attributes:
        state: of a `TrainState`.
        data: of a split.
        order: 0 where each member has its own order of examples.
    """

    state: Any = 0
    data: Any = None
    order: int | None = 0


class Members(NamedTuple):
    """The programs of one stage for many members.

    Attributes:
        placement: how they are spread.
        axes: what they share.
        init: `(hyper, key, batch, pretrained groups) -> state`, of the members of a chunk.
        epoch: of the engine, with `hyper` before the arguments of `advance` and `finish`.
    """

    placement: Placement
    axes: Axes
    init: Any
    epoch: Epoch


def lower_members(
    recipe: Recipe,
    hyper: Hyper,
    batch: Mapping[str, Any],
    pretrained: Mapping[str, Any],
    data: Mapping[str, Any],
    batch_size: int,
    axes: Axes,
    placement: Placement,
) -> Members:
    """The programs of a stage for the members of a chunk, lowered for `compile_all`.

    Args:
        recipe: `hyper -> (stage, optimiser)` of one member.
        hyper: the swept scalars of one member, any values.
        batch: a few examples, for `stage.init`.
        pretrained: shapes of the groups of one member that are taken over.
        data: shapes of what one member is trained on.
        batch_size: examples in a step.
        axes: what members share.
        placement: how they are spread.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))

    def start(hyper: Hyper, key: Key, batch: Any, pretrained: Any) -> TrainState:
        return make_init(*recipe(hyper))(key, batch, pretrained)

    groups = axes.state.params if isinstance(axes.state, TrainState) else {}
    own = {name: groups[name] for name in pretrained}
    begun = (hyper, key, dict(batch), dict(pretrained))
    init = jax.jit(
        spread(start, placement, (0, 0, None, own), axes.state),
        compiler_options=options_for_once(),
    ).lower(*abstract(placement, (0, 0, None, own), begun))
    state = jax.eval_shape(start, *begun)
    return Members(
        placement, axes, init, _lower(recipe, hyper, state, data, batch_size, placement, axes)
    )


def _lower(
    recipe: Recipe,
    hyper: Hyper,
    state: TrainState,
    data: Any,
    batch_size: int,
    placement: Placement,
    axes: Axes,
) -> Epoch:
    alone = make_epoch(*recipe(hyper), batch_size, state, data)
    lay = constrain(placement, batch_size)

    def advance(hyper, state, sums, data, *rest):
        epoch = make_epoch(*recipe(hyper), batch_size, state, data, lay)
        return epoch.advance(state, sums, data, *rest)

    def finish(hyper, state, sums, data, *rest):
        epoch = make_epoch(*recipe(hyper), batch_size, state, data, lay)
        return epoch.finish(state, sums, data, *rest)

    size = len(data["label"])
    count = jax.ShapeDtypeStruct((), jnp.int32)
    key, order = jax.eval_shape(lambda: shuffle(jax.random.key(0), 0, size)[::-1])
    on = (hyper, state, alone.zeros, dict(data), order, key)
    of = (0, axes.state, 0, axes.data, axes.order, 0)
    lower = partial(jax.jit, donate_argnums=donated(1, 2), compiler_options=compiler_options())
    return alone._replace(
        shuffle=_lower_shuffle(size, placement, axes.order),
        advance=lower(spread(advance, placement, (*of, None, None), (axes.state, 0))).lower(
            *abstract(placement, (*of, None, None), (*on, count, count))
        ),
        # Of the sums the means are smaller by the count, so their buffers cannot be taken over.
        finish=lower(
            spread(finish, placement, of, (axes.state, 0)), donate_argnums=donated(1)
        ).lower(*abstract(placement, of, on)),
    )


@cache
def _lower_shuffle(size: int, placement: Placement, axis: int | None) -> jax.stages.Lowered:
    """`(first, key, number) -> (order, key)`; `first`'s order if it is shared."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    number = jax.ShapeDtypeStruct((), jnp.int32)

    def both(first: Key, key: Key, number: jax.Array) -> tuple[jax.Array, Key]:
        order, own = shuffle(key, number, size)
        return (order if axis == 0 else shuffle(first, number, size)[0]), own

    of = (None, 0, None)
    spreaded = jax.jit(spread(both, placement, of, (axis, 0)))
    return spreaded.lower(*abstract(placement, of, (key, key, number)))


def start_members(
    members: Members, hyper: Hyper, keys: Key, batch: Mapping[str, Any], pretrained: Any
) -> Any:
    """The states of all members before their first step, on the host.

    Args:
        members: compiled.
        hyper: swept scalars `[M]` each.
        keys: `[M]`.
        batch: a few examples.
        pretrained: groups, `[M, ...]` where members have their own.
    """
    placement, axes = members.placement, members.axes
    groups = axes.state.params if isinstance(axes.state, TrainState) else {}
    of = (0, 0, None, {name: groups[name] for name in pretrained})
    parts = []
    for piece in placement.pieces:
        begun = take(placement, piece, of, (dict(hyper), keys, dict(batch), pretrained))
        state = members.init(*put(placement, of, begun))
        parts.append(first_members(len(piece), axes.state, state))
    return join_members(axes.state, parts)


def fit_members(
    members: Members,
    state: Any,
    data: Callable[[np.ndarray], Any],
    hyper: Hyper,
    keys: Key,
    epochs: int,
    sums: dict[str, Any],
    wanted: Callable[[], bool] = lambda: True,
) -> Iterator[Moment]:
    """Train all members until `epochs` are complete, a chunk at a time; see `engine.fit`.

    Args:
        members: compiled.
        state: of all members.
        data: the split for a piece of members, on the devices.
        hyper: swept scalars `[M]` each.
        keys: of the stage, `[M]`.
        epochs: how many shall be complete in the end.
        sums: metrics of the unfinished epoch, `[M]` each; its means, of members that finished it.
        wanted: whether the state is wanted in the middle of an epoch too; if not, it is None there.

    Yields:
        `Moment`s with everything on the host, metrics `[M]` each. The arrays are written to later.
    """
    state, sums = _copy((state, sums))
    placement, steps = members.placement, members.epoch.steps
    for number in range(int(state.step.min()) // steps, epochs):
        began, end = time.perf_counter(), (number + 1) * steps
        for piece in _pieces(placement, state.step):
            if state.step[piece[0]] >= end:
                continue
            for moment in _fit_piece(members, piece, state, data(piece), hyper, keys, end, sums):
                asked = moment.metrics is not None or wanted()
                if asked:
                    # Who has finished the epoch keeps its means there, as sums over one example.
                    means = {**(moment.metrics or {}), "count": np.ones(placement.width)}
                    _write(members.axes.state, state, piece, moment.state)
                    _write(0, sums, piece, means if moment.metrics else moment.sums)
                if moment.metrics is None:
                    part = (moment.progress - number) * len(piece) + (state.step >= end).sum()
                    progress = number + min(1.0, part / len(state.step))
                    now: Any = state if asked else None
                    seconds = time.perf_counter() - began
                    yield Moment(now, sums, number, progress, None, seconds)
        metrics = {name: sums[name].copy() for name in sums if name != "count"}
        jax.tree.map(lambda values: values.fill(0), sums)
        seconds = time.perf_counter() - began
        yield Moment(state, sums, number + 1, number + 1, metrics, seconds)


def _pieces(placement: Placement, step: np.ndarray) -> list[np.ndarray]:
    """The members that train at a time; those that stand at different steps go apart.

    They do in a training that was cut with chunks of another size.
    """
    return [
        piece[step[piece] == one] for piece in placement.pieces for one in np.unique(step[piece])
    ]


def _fit_piece(
    members: Members,
    piece: np.ndarray,
    state: TrainState,
    data: Any,
    hyper: Hyper,
    keys: Key,
    end: int,
    sums: Mapping[str, Any],
) -> Iterator[Moment]:
    """The engine's loop on one piece, to the end of an epoch."""
    placement, axes, epoch = members.placement, members.axes, members.epoch
    of = (axes.state, 0, 0, 0)
    taken = take(placement, piece, of, (state, dict(sums), keys, dict(hyper)))
    state, totals, own, scalars = put(placement, of, taken)
    first = put(placement, None, keys[0])
    zeros = {name: np.stack([zero] * placement.width) for name, zero in epoch.zeros.items()}
    yield from fit(
        epoch._replace(
            zeros=zeros,
            shuffle=partial(epoch.shuffle, first),
            advance=partial(epoch.advance, scalars),
            finish=partial(epoch.finish, scalars),
        ),
        state,
        data,
        own,
        end // epoch.steps,
        totals,
        put=partial(_put_by_rank, placement),
    )


def _copy(tree: Any) -> Any:
    """On the host, and nobody else's."""
    return jax.tree.map(np.array, jax.device_get(tree))


def zero_sums(members: Members) -> dict[str, np.ndarray]:
    """What the sums of the metrics of all members start from."""
    count = members.placement.members
    return {name: np.stack([zero] * count) for name, zero in members.epoch.zeros.items()}


def _write(axes: Any, whole: Any, piece: np.ndarray, part: Any) -> None:
    """Put the members of a chunk back into their places among all, which are arrays of the host."""

    def below(axis: Any, into: Any, values: Any) -> None:
        if axis is not None:
            jax.tree.map(lambda x, y: x.__setitem__(piece, y[: len(piece)]), into, values)

    jax.tree.map(below, axes, whole, jax.device_get(part), is_leaf=lambda axis: axis is None)


def _put_by_rank(placement: Placement, tree: Any) -> Any:
    """Scalars go to every device, what is `[M]` is split."""
    axes = jax.tree.map(lambda leaf: 0 if np.ndim(leaf) else None, tree)
    return put(placement, axes, tree)


def first_members(count: int, axes: Any, tree: Any) -> Any:
    """The first members of a tree, on the host."""
    return tree_map(lambda leaf: leaf[:count], axes, jax.device_get(tree))


def join_members(axes: Any, parts: Sequence[Any]) -> Any:
    """Pieces of members put together, as arrays of the host that may be written to."""

    def below(axis: Any, *pieces: Any) -> Any:
        if axis is None:
            return pieces[0]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)

    return jax.tree.map(below, axes, *parts, is_leaf=lambda axis: axis is None)
