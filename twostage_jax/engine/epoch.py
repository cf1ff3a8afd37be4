"""One epoch in pure functions.

The data set lives on the device as uint8 and is normalised inside the step. An epoch is a shuffled
order, a loop over its full batches, and one step of its own size for the examples left over. So no
example is dropped, and no loss has to know about padding. Keys are derived, never carried: epoch e
of a stage uses `fold_in(key, e)`, so nothing random is in the state.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from twostage_jax.engine.state import TrainState
from twostage_jax.errors import UserError
from twostage_jax.stages.freezing import frozen_groups, join_constants, split_constants
from twostage_jax.stages.stage import Batch, Key, Metrics, Params, Stage, as_batch, new_key
from twostage_jax.trees import PyTree

Bound = int | jax.Array


class Epoch(NamedTuple):
    """One epoch for a state and data of given shapes.

    Attributes:
        steps: number of steps, including the one for the remainder.
        full: number of full batches.
        zeros: initial sums of the metrics, on the host.
        shuffle: `(key, number) -> (order int32 [N], key)`: order of the examples in the epoch of
            that number, and the key of that epoch.
        advance: `(state, sums, data, order, key, start, stop) -> (state, sums)`: trains on the full
            batches from `start` to `stop`. Bounds may be Python integers or traced.
        finish: `(state, sums, data, order, key) -> (state, metrics)`: trains on the remainder, then
            returns means over all examples.
    """

    steps: int
    full: int
    zeros: dict[str, np.ndarray]
    shuffle: Callable[..., tuple[jax.Array, Key]]
    advance: Callable[..., tuple[TrainState, Metrics]]
    finish: Callable[..., tuple[TrainState, Metrics]]


def make_step(
    stage: Stage, tx: optax.GradientTransformation
) -> Callable[[TrainState, Key, Batch], tuple[TrainState, Metrics]]:
    """Return `(state, key, examples) -> (state, metrics)`: one update on these examples."""
    update = optax.with_extra_args_support(tx).update

    def step(state: TrainState, key: Key, examples: Batch) -> tuple[TrainState, Metrics]:
        batch = as_batch(examples)
        variables, constants = split_constants(state.params)
        frozen = frozen_groups(state.opt_state)
        fixed = {name: variables[name] for name in frozen}
        trained = {name: group for name, group in variables.items() if name not in frozen}

        def loss(trained: Params) -> tuple[jax.Array, Metrics]:
            return stage.loss(join_constants({**trained, **fixed}, constants), key, batch)

        def value_fn(variables: Params) -> jax.Array:
            return stage.loss(join_constants(variables, constants), key, batch)[0]

        (value, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(trained)
        # The optimiser expects the whole tree; XLA never computes these zeros.
        gradients = {**gradients, **jax.tree.map(jnp.zeros_like, fixed)}
        # Some transformations adapt to the loss, or search along a line.
        extra = {"value": value, "grad": gradients, "value_fn": value_fn}
        updates: PyTree
        updates, opt_state = update(gradients, state.opt_state, variables, **extra)
        # Frozen groups are left out of the addition: -0.0 + 0.0 would flip a bit.
        moved: PyTree = optax.apply_updates(trained, {name: updates[name] for name in trained})
        params = join_constants({**fixed, **moved}, constants)
        return TrainState(params, opt_state, state.step + 1), {**metrics, "loss": value}

    return step


def shuffle(key: Key, number: Bound, count: int) -> tuple[jax.Array, Key]:
    """Return the order of `count` examples in epoch `number`, and the key of that epoch."""
    key = jax.random.fold_in(key, number)
    return permutation(jax.random.fold_in(key, 0), count), key


def permutation(key: Key, count: int) -> jax.Array:
    """Return a random order of `count` examples, int32 `[count]`.

    A radix sort: each round sorts words that have random bits above the index of the example. XLA
    sorts plain words eight times faster on the CPU than the pairs of `jax.random.permutation`. The
    order depends on twice as many random bits as an index has, so on average half a pair is tied.
    """
    # A word of 32 bits: random bits, then the index in the lowest bits.
    low = max(1, (count - 1).bit_length())
    rounds = -(-2 * low // (32 - low))
    index = jnp.arange(count, dtype=jnp.uint32)
    order = index
    for bits in jax.random.bits(key, (rounds, count)):
        order = order[jax.lax.sort(bits >> low << low | index) & (1 << low) - 1]
    return order.astype(jnp.int32)


def make_epoch(
    stage: Stage,
    tx: optax.GradientTransformation,
    batch_size: int,
    state: TrainState,
    data: Mapping[str, PyTree],
    constrain: Callable[[Batch], Batch] = lambda examples: examples,
    zeros: dict[str, np.ndarray] | None = None,
) -> Epoch:
    """Return the pure functions of one epoch over `data` in batches of `batch_size`.

    Args:
        stage: stage to train.
        tx: its optimiser.
        batch_size: examples in a step.
        state: training state, or its shapes; only shapes and types are used.
        data: examples by name, or their shapes; only shapes and types are used.
        constrain: places the examples of a batch on devices.
        zeros: `Epoch.zeros` if they are known; otherwise the loss is traced to find the metrics.

    Raises:
        ValueError: batches below 1, or no examples.
        UserError: arrays of different lengths.
    """
    size = len(data["image"])
    if min(batch_size, size) < 1:
        raise ValueError(f"batch_size {batch_size} and count {size} must be at least 1")
    lengths = {name: len(values) for name, values in data.items()}
    if set(lengths.values()) != {size}:
        # A gather clamps its indices, so the wrong rows would be used.
        raise UserError(f"the arrays have lengths {lengths}: give each array one row per image")
    full, remainder = divmod(size, batch_size)
    steps = full + bool(remainder)
    step = jax.jit(make_step(stage, tx))  # traced once for both uses

    def train_on(state: TrainState, sums: Metrics, data: Batch, key: Key, rows: jax.Array):
        # 0 is the shuffle's; a step's key depends on its place in the epoch, not on earlier calls.
        key = jax.random.fold_in(key, 1 + state.step % steps)
        state, metrics = step(state, key, constrain({name: data[name][rows] for name in data}))
        # A stage's own count says how many labels its means are over.
        count = jnp.asarray(metrics.get("count", len(rows)), jnp.float32)
        metrics["count"] = jnp.ones((), jnp.float32)
        return state, {name: sums[name] + count * metrics[name] for name in sums}

    def advance(state, sums, data, order, key, start, stop):
        def body(index: jax.Array, carry: tuple[TrainState, Metrics]):
            state, sums = carry
            rows = jax.lax.dynamic_slice(order, (index * batch_size,), (batch_size,))
            return train_on(state, sums, data, key, rows)

        # With fewer examples than a batch there is no loop: the remainder is the whole epoch.
        return jax.lax.fori_loop(start, stop, body, (state, sums)) if full else (state, sums)

    def finish(state, sums, data, order, key):
        if remainder:
            state, sums = train_on(state, sums, data, key, order[full * batch_size :])
        # An epoch without a label that counts has loss 0, not 0/0.
        examples = jnp.where(sums["count"] == 0, 1.0, sums["count"])
        return state, {name: sums[name] / examples for name in sums if name != "count"}

    # The metrics do not depend on gradients, and tracing those takes twice as long.
    def first_loss(state: TrainState, data: Batch) -> Metrics:
        batch = as_batch({name: x[:batch_size] for name, x in data.items()})
        loss, metrics = stage.loss(state.params, new_key(), batch)
        return {**metrics, "loss": loss}

    if zeros is None:
        zeros = _zeros(jax.eval_shape(first_loss, state, dict(data)))
    return Epoch(steps, full, zeros, partial(shuffle, count=size), advance, finish)


def _zeros(metrics: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, np.ndarray]:
    """Return sums of no example for metrics of these shapes; at least float32."""
    zeros = {
        name: np.zeros(x.shape, jnp.promote_types(x.dtype, "f4")) for name, x in metrics.items()
    }
    return zeros | {"count": np.zeros((), np.float32)}
