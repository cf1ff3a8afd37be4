"""One engine for every stage: epochs as compiled scans, and the loop on the host around them.

The data set lives on the device as uint8 and is normalised inside the step. An epoch is a shuffled
order, a loop over its full batches, and one step of its own size for the examples left over, so no
example is dropped and no loss has to know about padding. Keys are derived, never carried: epoch e
of a stage uses `fold_in(key, e)`, so nothing random is in the state.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from twostage_jax.stage import Key, Metrics, Params, Stage, TrainState, as_batch, frozen_groups


class Epoch(NamedTuple):
    """One epoch in three pure functions, for data of one size.

    Attributes:
        steps: number of steps, the one for the remainder included.
        full: number of full batches.
        order: `(state, key) -> (order int32 [N], key)`, which example comes when, and the key of
            this epoch; the epoch's number is read off the state.
        advance: `(state, sums, data, order, key, start, stop) -> (state, sums)`, the full batches
            from `start` to `stop`. Bounds may be Python integers or traced.
        finish: `(state, sums, data, order, key) -> (state, metrics)`, the remainder, then the means
            over all examples.
        zero_sums: `(state, data, key) -> sums` at the start of an epoch.
    """

    steps: int
    full: int
    order: Callable[..., tuple[jax.Array, Key]]
    advance: Callable[..., tuple[TrainState, Metrics]]
    finish: Callable[..., tuple[TrainState, Metrics]]
    zero_sums: Callable[..., dict[str, np.ndarray]]


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


def make_epoch(
    stage: Stage, tx: optax.GradientTransformation, batch_size: int, count: int
) -> Epoch:
    """The pure functions of one epoch over `count` examples in batches of `batch_size`."""
    if batch_size < 1 or count < 1:
        raise ValueError(f"batch_size {batch_size} and count {count} must be at least 1")
    full, remainder = divmod(count, batch_size)
    steps = full + bool(remainder)
    step = make_step(stage, tx)

    def order(state: TrainState, key: Key) -> tuple[jax.Array, Key]:
        key = jax.random.fold_in(key, state.step // steps)
        return jax.random.permutation(jax.random.fold_in(key, 0), count), key

    def train_on(state: TrainState, sums: Metrics, data: Any, key: Key, rows: jax.Array) -> Any:
        key = jax.random.fold_in(key, 1 + state.step % steps)
        state, metrics = step(state, key, {name: data[name][rows] for name in data})
        count = jnp.asarray(metrics.get("count", len(rows)), jnp.float32)
        metrics["count"] = jnp.ones(())
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

    def zero_sums(state: TrainState, data: Any, key: Key) -> dict[str, np.ndarray]:
        def first_step(state: TrainState, data: Any, key: Key) -> Any:
            return step(state, key, {name: data[name][:batch_size] for name in data})

        _, metrics = jax.eval_shape(first_step, state, data, key)
        shapes = {name: x.shape for name, x in metrics.items()} | {"count": ()}
        return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}

    return Epoch(steps, full, order, advance, finish, zero_sums)


def make_train(
    stage: Stage, tx: optax.GradientTransformation, batch_size: int, epochs: int
) -> Callable[[TrainState, Mapping[str, Any], Key], tuple[TrainState, Metrics]]:
    """A whole training as one pure function, to `jit`, `vmap` and shard.

    Args:
        stage: what to minimise.
        tx: optimiser; parameter groups frozen by `freeze` get no gradient and do not move.
        batch_size: examples in a step; the last step of an epoch takes those that are left over.
        epochs: passes over the data. Trained on from its own result with the same key, `train`
            goes on with the next epoch.

    Returns:
        `train(state, data, key) -> (state, metrics)`: `data` holds `image` uint8 `[N, H, W, C]`,
        `label` int32 `[N]` and optionally `weight` float32 `[N]`; each metric is `[epochs]`, the
        mean over all examples of the epoch; `loss` is always there.

    Raises:
        ValueError: negative `epochs`; (from `train`) a `batch_size` below 1, no examples.
    """
    if epochs < 0:
        raise ValueError(f"epochs is {epochs}: it must be at least 0")

    def train(state: TrainState, data: Mapping[str, Any], key: Key) -> tuple[TrainState, Metrics]:
        data = {name: jnp.asarray(values) for name, values in data.items()}
        epoch = make_epoch(stage, tx, batch_size, len(data["image"]))

        def one_epoch(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
            order, epoch_key = epoch.order(state, key)
            sums = epoch.zero_sums(state, data, key)
            state, sums = epoch.advance(state, sums, data, order, epoch_key, 0, epoch.full)
            return epoch.finish(state, sums, data, order, epoch_key)

        return jax.lax.scan(one_epoch, state, None, length=epochs)

    return train


class Moment(NamedTuple):
    """Where a training stands between two calls to the device.

    Attributes:
        state: the training state; its buffers are given up when the next moment is asked for.
        sums: what the metrics of the unfinished epoch have added up to; zeros between epochs.
        epoch: epochs completed.
        metrics: host floats for the epoch that has just been completed, or None within one.
        seconds: time this epoch has taken so far, in this process.
    """

    state: TrainState
    sums: Metrics
    epoch: int
    metrics: dict[str, float] | None
    seconds: float


def compile_epoch(
    epoch: Epoch, state: TrainState, data: Mapping[str, jax.Array], key: Key
) -> Epoch:
    """`epoch` compiled for this state and data; states and sums given to it are donated."""
    sums = epoch.zero_sums(state, data, key)
    order = jax.jit(epoch.order).lower(state, key)
    rows = jax.ShapeDtypeStruct((len(data["image"]),), jnp.int32)
    bound = jax.ShapeDtypeStruct((), jnp.int32)
    advance = jax.jit(epoch.advance, donate_argnums=(0, 1))
    finish = jax.jit(epoch.finish, donate_argnums=(0,))
    return epoch._replace(
        order=order.compile(),
        advance=advance.lower(state, sums, data, rows, key, bound, bound).compile(),
        finish=finish.lower(state, sums, data, rows, key).compile(),
    )


def fit(
    epoch: Epoch,
    state: TrainState,
    data: Mapping[str, jax.Array],
    key: Key,
    epochs: int,
    sums: Mapping[str, Any] | None = None,
    seconds_per_call: float = 0.5,
) -> Iterator[Moment]:
    """Train until `epochs` are complete, in calls of about `seconds_per_call`, and yield between.

    A state (with its `sums`) from the middle of an epoch is taken up there. The same compiled loop
    runs whatever the length of a call, so where an epoch is cut does not change a bit.

    Args:
        epoch: of `compile_epoch`.
        state: where to start; it stays the caller's.
        data: the split, on the device.
        key: of the stage.
        epochs: how many shall be complete in the end, those before `state` included.
        sums: metrics of the unfinished epoch, for a state from the middle of one.
        seconds_per_call: how long the host may have to wait for the device.
    """
    zeros = jax.device_put(epoch.zero_sums(state, data, key))
    totals = jax.device_put(sums) if sums else zeros
    # What is given to a compiled call is gone, so the loop works on copies.
    state, totals = jax.tree.map(jnp.copy, state), jax.tree.map(jnp.copy, totals)
    done, start = divmod(int(jax.device_get(state.step)), epoch.steps)
    length = 1
    while done < epochs:
        began = time.perf_counter()
        order, epoch_key = epoch.order(state, key)
        while start < epoch.full:
            called = time.perf_counter()
            stop = min(epoch.full, start + length)
            bounds = jax.device_put((np.int32(start), np.int32(stop)))
            state, totals = epoch.advance(state, totals, data, order, epoch_key, *bounds)
            jax.block_until_ready(totals)
            rate = (stop - start) / (time.perf_counter() - called)
            # At most twice as many steps as were just seen to be quick enough.
            length, start = max(1, min(2 * length, int(rate * seconds_per_call))), stop
            if start < epoch.steps:
                yield Moment(state, totals, done, None, time.perf_counter() - began)
        state, means = epoch.finish(state, totals, data, order, epoch_key)
        metrics = {name: float(value) for name, value in jax.device_get(means).items()}
        totals, done, start = jax.tree.map(jnp.copy, zeros), done + 1, 0
        yield Moment(state, totals, done, metrics, time.perf_counter() - began)
