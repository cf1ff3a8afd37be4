"""A stage is a pair of pure functions, as a gradient transformation is in Optax.

Everything that is trained is a `Stage`: an autoencoder, a classifier on a frozen encoder, your own.
Parameters are a dict of groups (`encoder`, `decoder`, `head`, …); we freeze, save and hand over by
the names of the groups.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from twostage_jax.errors import UserError

Key = jax.Array
Batch = Mapping[str, jax.Array]
Params = dict[str, Any]
Metrics = dict[str, jax.Array]


class Stage(NamedTuple):
    """How parameters start, and what they minimise.

    A batch holds `image` float32 `[B, H, W, C]` in [-1, 1], `label` int32 `[B]` and `weight`
    float32 `[B]` (0 where a label does not count).

    Attributes:
        init: `(key, batch) -> params`, a dict of parameter groups.
        loss: `(params, key, batch) -> (loss, metrics)`: a scalar, and a dict of scalars; both are
            means over the examples of the batch. A metric called `count` says over how many, where
            that is not the size of the batch; the engine weights the batches of an epoch by it.
    """

    init: Callable[[Key, Batch], Params]
    loss: Callable[[Params, Key, Batch], tuple[jax.Array, Metrics]]


def init_on_features(encoder: Any, name: str, module: Any) -> Callable[[Key, Batch], Params]:
    """An `init` for the groups `encoder` and `name`, whose `module` takes the encoder's output."""

    def init(key: Key, batch: Batch) -> Params:
        encoder_key, module_key = jax.random.split(key)
        params = encoder.init(encoder_key, batch["image"])
        features = encoder.apply(params, batch["image"])
        return {"encoder": params, name: module.init(module_key, features)}

    return init


def as_image(image: Any) -> jax.Array:
    """Images as float32: uint8 as `(x/255 - 0.5)/0.5`; floats are taken as normalised already.

    Raises:
        UserError: images of another type.
    """
    image = jnp.asarray(image)
    if image.dtype == jnp.uint8:
        return (image.astype(jnp.float32) / 255 - 0.5) / 0.5
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise UserError(
            f"images are {image.dtype}: give uint8 in 0 to 255, or floats in -1 to 1 as (x/255 - "
            "0.5)/0.5"
        )
    return image.astype(jnp.float32)


def as_batch(examples: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Examples as a stage sees them.

    Args:
        examples: `image` as `as_image` takes it, `[B, H, W, C]`, `label` int32 `[B]` and, if
            labels count unequally, `weight` float32 `[B]`.

    Returns:
        `image` float32, `label` int32, `weight` float32 (1 by default).

    Raises:
        UserError: images of another type.
    """
    label = jnp.asarray(examples["label"], jnp.int32)
    weight = examples.get("weight")
    weight = jnp.ones(label.shape, jnp.float32) if weight is None else jnp.asarray(weight)
    return {
        "image": as_image(examples["image"]),
        "label": label,
        "weight": weight.astype(jnp.float32),
    }
