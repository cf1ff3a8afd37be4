"""One engine for every stage: epochs as compiled loops, and the loop on the host around them.

The data set lives on the device as uint8 and is normalised inside the step. An epoch is a shuffled
order, a loop over its full batches, and one step of its own size for the examples left over, so no
example is dropped and no loss has to know about padding. Keys are derived, never carried: epoch e
of a stage uses `fold_in(key, e)`, so nothing random is in the state.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from twostage_jax.compilation import compiler_options, donated
from twostage_jax.stage import Key, Metrics, Params, Stage, TrainState, as_batch, frozen_groups


class Epoch(NamedTuple):
    """One epoch in pure functions, for a state and data of given shapes.

    Attributes:
        steps: number of steps, the one for the remainder included.
        full: number of full batches.
        zeros: what the sums of the metrics start from, on the host.
        shuffle: `(key, number) -> (order int32 [N], key)`: which example comes when in the epoch of
            that number, and the key of that epoch.
        advance: `(state, sums, data, order, key, start, stop) -> (state, sums)`, the full batches
            from `start` to `stop`. Bounds may be Python integers or traced.
        finish: `(state, sums, data, order, key) -> (state, metrics)`, the remainder, then the means
            over all examples.
    """

    steps: int
    full: int
    zeros: dict[str, np.ndarray]
    shuffle: Callable[..., tuple[jax.Array, Key]]
    advance: Callable[..., tuple[TrainState, Metrics]]
    finish: Callable[..., tuple[TrainState, Metrics]]


def make_step(
    stage: Stage, tx: optax.GradientTransformation
) -> Callable[[TrainState, Key, Any], tuple[TrainState, Metrics]]:
    """`(state, key, examples) -> (state, metrics)`: one update on `examples` as they are."""

    def step(state: TrainState, key: Key, examples: Any) -> tuple[TrainState, Metrics]:
        batch, frozen = as_batch(examples), frozen_groups(state.opt_state)
        fixed = {name: state.params[name] for name in frozen}
        trained = {name: group for name, group in state.params.items() if name not in frozen}

        def loss(trained: Params) -> tuple[jax.Array, Metrics]:
            return stage.loss({**trained, **fixed}, key, batch)

        (value, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(trained)
        # The optimiser wants the whole tree; these zeros are never computed.
        gradients = {**gradients, **jax.tree.map(jnp.zeros_like, fixed)}
        updates: Any
        updates, opt_state = tx.update(gradients, state.opt_state, state.params)
        # Frozen groups are left out of the addition: -0.0 + 0.0 would flip a bit.
        moved: Any = optax.apply_updates(trained, {name: updates[name] for name in trained})
        params = {**fixed, **moved}
        return TrainState(params, opt_state, state.step + 1), {**metrics, "loss": value}

    return step


def shuffle(key: Key, number: Any, count: int) -> tuple[jax.Array, Key]:
    """The order of `count` examples in the epoch of that number, and the key of that epoch."""
    key = jax.random.fold_in(key, number)
    return permutation(jax.random.fold_in(key, 0), count), key


def permutation(key: Key, count: int) -> jax.Array:
    """A random order of `count` examples, int32 `[count]`.

    A radix sort: each round sorts words with random bits above the place of the example. XLA sorts
    plain words eight times faster on the CPU than the pairs of `jax.random.permutation`. The order
    is by twice as many random bits as a place has, so that half a pair is tied on average.
    """
    low = max(1, (count - 1).bit_length())
    rounds = -(-2 * low // (32 - low))
    order = place = jnp.arange(count, dtype=jnp.uint32)
    for bits in jax.random.bits(key, (rounds, count)):
        order = order[jax.lax.sort(bits >> low << low | place) & (1 << low) - 1]
    return order.astype(jnp.int32)


def make_epoch(
    stage: Stage,
    tx: optax.GradientTransformation,
    batch_size: int,
    state: TrainState,
    data: Mapping[str, Any],
    constrain: Callable[[Any], Any] = lambda examples: examples,
) -> Epoch:
    """The pure functions of one epoch over `data` in batches of `batch_size`.

    Of `state` and `data` only shapes and types are used: `jax.ShapeDtypeStruct`s will do.
    `constrain` lays the examples of a batch out over devices.
    """
    size = len(data["label"])
    if min(batch_size, size) < 1:
        raise ValueError(f"batch_size {batch_size} and count {size} must be at least 1")
    full, remainder = divmod(size, batch_size)
    steps, step = full + bool(remainder), jax.jit(make_step(stage, tx))  # traced once

    def train_on(state: TrainState, sums: Metrics, data: Any, key: Key, rows: jax.Array) -> Any:
        key = jax.random.fold_in(key, 1 + state.step % steps)
        state, metrics = step(state, key, constrain({name: data[name][rows] for name in data}))
        count = jnp.asarray(metrics.get("count", len(rows)), jnp.float32)
        metrics["count"] = jnp.ones((), jnp.float32)
        return state, {name: sums[name] + count * metrics[name] for name in sums}

    def advance(state, sums, data, order, key, start, stop):
        def body(index: Any, carry: tuple[TrainState, Metrics]) -> Any:
            rows = jax.lax.dynamic_slice(order, (index * batch_size,), (batch_size,))
            state, sums = carry
            return train_on(state, sums, data, key, rows)

        # With fewer examples than a batch there is no loop: the remainder is the whole epoch.
        return jax.lax.fori_loop(start, stop, body, (state, sums)) if full else (state, sums)

    def finish(state, sums, data, order, key):
        if remainder:
            state, sums = train_on(state, sums, data, key, order[full * batch_size :])
        examples = jnp.where(sums["count"] == 0, 1.0, sums["count"])
        return state, {name: sums[name] / examples for name in sums if name != "count"}

    def first_step(state: TrainState, data: Any) -> Any:
        return step(state, jax.random.key(0), {name: x[:batch_size] for name, x in data.items()})

    _, metrics = jax.eval_shape(first_step, state, dict(data))
    metrics["count"] = jax.ShapeDtypeStruct((), np.float32)
    zeros = {
        name: np.zeros(x.shape, jnp.promote_types(x.dtype, "f4")) for name, x in metrics.items()
    }
    return Epoch(steps, full, zeros, partial(shuffle, count=size), advance, finish)


def make_train(
    stage: Stage, tx: optax.GradientTransformation, batch_size: int, epochs: int
) -> Callable[..., tuple[TrainState, Metrics]]:
    """A whole training as one pure function, to `jit`, `vmap` and shard.

    Args:
        stage: what to minimise.
        tx: optimiser; parameter groups frozen by `freeze` get no gradient and do not move.
        batch_size: examples in a step; the last step of an epoch takes those that are left over.
        epochs: passes over the data. Trained on from its own result with the same key, `train`
            goes on with the next epoch.

    Returns:
        `train(state, data, key, order=None) -> (state, metrics)`: `data` holds `image` uint8
        `[N, H, W, C]`, `label` int32 `[N]` and optionally `weight` float32 `[N]`; `order` int32
        `[epochs, N]` says which example comes when, in place of a shuffle; each metric is
        `[epochs]`, the mean over all examples of the epoch; `loss` is always there. On the CPU,
        `jax.jit(train, compiler_options=compiler_options())` is faster, and gives a member of
        `jax.vmap(train)` the same bits as that member alone.

    Raises:
        ValueError: negative `epochs`; (from `train`) a `batch_size` below 1, no examples, an
            `order` of another shape.
    """
    if epochs < 0:
        raise ValueError(f"epochs is {epochs}: it must be at least 0")

    def train(
        state: TrainState, data: Mapping[str, Any], key: Key, order: jax.Array | None = None
    ) -> tuple[TrainState, Metrics]:
        data = {name: jnp.asarray(values) for name, values in data.items()}
        epoch = make_epoch(stage, tx, batch_size, state, data)
        check_order(order, epochs, len(data["label"]))

        def one_epoch(state: TrainState, given: jax.Array | None) -> tuple[TrainState, Metrics]:
            shuffled, epoch_key = epoch.shuffle(key, state.step // epoch.steps)
            rows = shuffled if given is None else given
            sums = jax.tree.map(jnp.asarray, epoch.zeros)
            state, sums = epoch.advance(state, sums, data, rows, epoch_key, 0, epoch.full)
            return epoch.finish(state, sums, data, rows, epoch_key)

        return jax.lax.scan(one_epoch, state, order, length=epochs)

    return train


def check_order(order: Any, epochs: int, count: int) -> None:
    """Raise `ValueError` where an explicit order is not `[epochs, count]`."""
    if order is not None and np.shape(order) != (epochs, count):
        raise ValueError(
            f"order is {list(np.shape(order))}: give one row of all {count} examples for each of "
            f"the {epochs} epochs"
        )


class Moment(NamedTuple):
    """Where a training stands between two calls to the device.

    Attributes:
        state: the training state; its buffers are given up when the next moment is asked for.
        sums: what the metrics of the unfinished epoch have added up to; zeros between epochs.
        epoch: epochs completed.
        progress: the same with the part of the epoch that is being trained.
        metrics: on the host, for the epoch that has just been completed; None within one.
        seconds: time this epoch has taken so far, in this process.
    """

    state: TrainState
    sums: Metrics
    epoch: int
    progress: float
    metrics: dict[str, np.ndarray] | None
    seconds: float


def lower_epoch(epoch: Epoch, state: TrainState, data: Mapping[str, Any]) -> Epoch:
    """`epoch` lowered for `compile_all`; states and sums given to it may be donated."""
    count = jax.ShapeDtypeStruct((), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    order = jax.ShapeDtypeStruct((len(data["label"]),), jnp.int32)
    on = (state, epoch.zeros, dict(data), order, key)
    advance = jax.jit(
        epoch.advance, donate_argnums=donated(0, 1), compiler_options=compiler_options()
    )
    finish = jax.jit(epoch.finish, donate_argnums=donated(0), compiler_options=compiler_options())
    return epoch._replace(
        shuffle=_lower_shuffle(len(data["label"]), bool(jax.config.read("jax_enable_x64"))),
        advance=advance.lower(*on, count, count),
        finish=finish.lower(*on),
    )


@cache
def _lower_shuffle(count: int, double: bool) -> jax.stages.Lowered:
    """One object for both stages, which is compiled once; `double`: whether jax has float64."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.jit(partial(shuffle, count=count)).lower(key, jax.ShapeDtypeStruct((), jnp.int32))


def fit(
    epoch: Epoch,
    state: TrainState,
    data: Mapping[str, jax.Array],
    key: Key,
    epochs: int,
    sums: Mapping[str, Any] | None = None,
    order: Any = None,
    seconds_per_call: float = 0.5,
    put: Callable[[Any], Any] = jax.device_put,
) -> Iterator[Moment]:
    """Train until `epochs` are complete, in calls of about `seconds_per_call`, and yield between.

    Where an epoch is cut does not change a bit: calls of any length run the same compiled loop.

    Args:
        epoch: of `lower_epoch`, compiled.
        state: where to start, the middle of an epoch too; it stays the caller's.
        data: the split, on the device.
        key: of the stage.
        epochs: how many shall be complete in the end.
        sums: metrics of the unfinished epoch.
        order: int32 `[epochs, N]`, in place of a shuffle; another shape is a `ValueError`.
        seconds_per_call: how long the host may have to wait for the device.
        put: brings what the host has to the device, or to all of them.
    """
    check_order(order, epochs, len(data["label"]))
    copy = partial(jax.device_put, may_alias=False)  # what is given to a compiled call is gone
    state, totals = copy(state), copy(put(sums or epoch.zeros))
    done, start = divmod(int(np.max(jax.device_get(state.step))), epoch.steps)
    begin = partial(_start_epoch, epoch, key, order, put)
    length, current = 1, begin(done) if done < epochs else None
    while current:
        began = time.perf_counter()
        # Sorting takes a while, so the next order is made while this epoch trains.
        upcoming = begin(done + 1) if done + 1 < epochs else None
        while start < epoch.full:
            called, stop = time.perf_counter(), min(epoch.full, start + length)
            bounds = put((np.int32(start), np.int32(stop)))
            state, totals = epoch.advance(state, totals, data, *current, *bounds)
            rate = (stop - start) / (_wait(totals) - called)
            # At most twice as many steps as were just seen to be quick enough.
            length, start = max(1, min(2 * length, int(rate * seconds_per_call))), stop
            if start < epoch.steps:
                progress = done + start / epoch.steps
                yield Moment(state, totals, done, progress, None, time.perf_counter() - began)
        state, means = epoch.finish(state, totals, data, *current)
        metrics = jax.device_get(means)
        totals, done, start, current = copy(put(epoch.zeros)), done + 1, 0, upcoming
        yield Moment(state, totals, done, done, metrics, time.perf_counter() - began)


def _wait(values: Any) -> float:
    """The time at which the device is done with `values`."""
    jax.block_until_ready(values)
    return time.perf_counter()


def _start_epoch(epoch: Epoch, key: Key, order: Any, put: Any, number: int) -> tuple[Any, Key]:
    """The order of the epoch of that number, and its key."""
    rows, key = epoch.shuffle(key, put(np.int32(number)))
    return (rows if order is None else put(np.int32(order[number]))), key
