"""Objective without a gradient: the encoder keeps its initial values."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from twostage_jax.stages.modules import forward, init_module, make_finish
from twostage_jax.stages.stage import Batch, Key, Metrics, Params, Stage


def placeholder(encoder: nn.Module) -> Stage:
    """Stage 1 of the blog as printed: `mse(features, stop_gradient(features))`.

    Loss and gradient are exactly zero, so the encoder stays at its random start. Groups: `encoder`.

    >>> import twostage_jax as ts
    >>> stage = ts.placeholder(ts.MLP((2,)))
    >>> batch = {"image": jnp.ones((3, 2, 2, 1))}
    >>> float(stage.loss(stage.init(jax.random.key(0), batch), jax.random.key(1), batch)[0])
    0.0
    """

    def init(key: Key, batch: Batch) -> Params:
        return {"encoder": init_module(encoder, key, batch["image"])}

    def loss(params: Params, key: Key, batch: Batch) -> tuple[jax.Array, Metrics]:
        features = forward(encoder, params["encoder"], batch["image"], key)
        return jnp.mean((features - jax.lax.stop_gradient(features)) ** 2), {}

    return Stage(init, loss, make_finish(encoder))
