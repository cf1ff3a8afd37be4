"""One engine for every stage: epochs as compiled loops, and the loop on the host around them.

The data set lives on the device as uint8 and is normalised inside the step. An epoch is a shuffled
order, a loop over its full batches, and one step of its own size for the examples left over, so no
example is dropped and no loss has to know about padding. Keys are derived, never carried: epoch e
of a stage uses `fold_in(key, e)`, so nothing random is in the state.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from twostage_jax.engine.state import TrainState
from twostage_jax.stages.freezing import frozen_groups
from twostage_jax.stages.stage import Key, Metrics, Params, Stage, as_batch


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
