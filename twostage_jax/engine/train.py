"""A whole training as one pure function."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from twostage_jax.engine.epoch import make_epoch
from twostage_jax.engine.finish import finish_rows
from twostage_jax.engine.state import TrainState
from twostage_jax.stages.stage import Key, Metrics, Stage, as_image
from twostage_jax.trees import PyTree


def make_train(
    stage: Stage, tx: optax.GradientTransformation, batch_size: int, epochs: int
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Return a whole training as one pure function, to `jit`, `vmap` and shard.

    Args:
        stage: stage to train.
        tx: optimiser; parameter groups frozen by `freeze` get no gradient and do not change.
        batch_size: examples in a step; the last step of an epoch takes the examples left over.
        epochs: passes over the data. Called with its own result and the same key, `train` continues
            with the next epoch.

    Returns:
        `train(state, data, key, order=None) -> (state, metrics)`: `data` holds `image` uint8
        `[N, H, W, C]`, `label` int32 `[N]` and optionally `weight` float32 `[N]`. `order` int32
        `[epochs, N]` replaces the shuffle. Each metric is `[epochs]`, the mean over all examples of
        the epoch; `loss` is always there. On the CPU,
        `jax.jit(train, compiler_options=compiler_options())` is faster, and a member of
        `jax.vmap(train)` then has the same bits as that member alone. If the stage has a `finish`,
        it is applied at the end, to at most 6,000 of the images.

    Raises:
        ValueError: negative `epochs`; (from `train`) a `batch_size` below 1, no examples, an
            `order` of another shape.

    >>> import jax, twostage_jax as ts
    >>> data = ts.load("digits")
    >>> stage, tx = ts.placeholder(ts.MLP((16, 8))), ts.adam(1e-3)
    >>> state = ts.init_state(stage, tx, jax.random.key(0), data.train)
    >>> train = jax.jit(ts.make_train(stage, tx, batch_size=100, epochs=2))
    >>> state, metrics = train(state, data.train, jax.random.key(1))
    >>> metrics["loss"].shape, int(state.step)
    ((2,), 26)
    """
    if epochs < 0:
        raise ValueError(f"epochs is {epochs}: it must be at least 0")

    def train(
        state: TrainState, data: Mapping[str, PyTree], key: Key, order: jax.Array | None = None
    ) -> tuple[TrainState, Metrics]:
        data = {name: jnp.asarray(values) for name, values in data.items()}
        epoch = make_epoch(stage, tx, batch_size, state, data)
        _check_order(order, epochs, len(data["image"]))

        def one_epoch(
            state: TrainState, epoch_order: jax.Array | None
        ) -> tuple[TrainState, Metrics]:
            # The epoch's number comes from the state, so a second call continues with the next.
            shuffled, epoch_key = epoch.shuffle(key, state.step // epoch.steps)
            rows = shuffled if epoch_order is None else epoch_order
            sums = jax.tree.map(jnp.asarray, epoch.zeros)
            state, sums = epoch.advance(state, sums, data, rows, epoch_key, 0, epoch.full)
            return epoch.finish(state, sums, data, rows, epoch_key)

        state, metrics = jax.lax.scan(one_epoch, state, order, length=epochs)
        if stage.finish is not None:
            images = data["image"]
            rows = finish_rows(len(images), images.shape[1:])
            # A stage without statistics ignores the images, and nothing is computed.
            state = state._replace(params=stage.finish(state.params, as_image(images[rows])))
        return state, metrics

    return train


def _check_order(order: jax.Array | None, epochs: int, count: int) -> None:
    """Raise `ValueError` if an explicit order is not `[epochs, count]`."""
    if order is not None and np.shape(order) != (epochs, count):
        raise ValueError(
            f"order is {list(np.shape(order))}: give one row of all {count} examples for each of "
            f"the {epochs} epochs"
        )
