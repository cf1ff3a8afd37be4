"""One engine for every stage: epochs as compiled loops, and the loop on the host around them.

The data set lives on the device as uint8 and is normalised inside the step. An epoch is a shuffled
order, a loop over its full batches, and one step of its own size for the examples left over, so no
example is dropped and no loss has to know about padding. Keys are derived, never carried: epoch e
of a stage uses `fold_in(key, e)`, so nothing random is in the state.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from twostage_jax.engine.epoch import make_epoch
from twostage_jax.engine.state import TrainState
from twostage_jax.stages.stage import Key, Metrics, Stage


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
