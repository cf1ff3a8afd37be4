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

from twostage_jax.engine.compile import compiler_options, donated
from twostage_jax.engine.epoch import Epoch, shuffle
from twostage_jax.engine.state import TrainState
from twostage_jax.engine.train import check_order
from twostage_jax.stages.stage import Key, Metrics


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
