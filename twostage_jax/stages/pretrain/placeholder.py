"""Stage-1 objectives: functions that return a `Stage`. No label is read here."""

from typing import Any

import jax
import jax.numpy as jnp

from twostage_jax.stages.stage import Batch, Key, Metrics, Params, Stage


def placeholder(encoder: Any) -> Stage:
    """The blog's stage 1 as printed: `mse(features, stop_gradient(features))`.

    Loss and gradient are exactly zero, so the encoder stays at its random start. Groups: `encoder`.
    """

    def init(key: Key, batch: Batch) -> Params:
        return {"encoder": encoder.init(key, batch["image"])}

    def loss(params: Params, key: Key, batch: Batch) -> tuple[jax.Array, Metrics]:
        features = encoder.apply(params["encoder"], batch["image"])
        return jnp.mean((features - jax.lax.stop_gradient(features)) ** 2), {}

    return Stage(init, loss)
