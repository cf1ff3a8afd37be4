"""Two views of each image, encoded together: the common part of joint-embedding objectives."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import linen as nn

from twostage_jax.stages.modules import dropout_key, forward
from twostage_jax.stages.stage import Key, Params

# `(key, image [B, H, W, C]) -> image [B, H, W, C]`, values in [-1, 1].
Augment: TypeAlias = Callable[[Key, jax.Array], jax.Array]


def make_project(
    encoder: nn.Module, projector: nn.Module, augment: Augment
) -> Callable[[Params, Key, jax.Array], jax.Array]:
    """Make `(params, key, image [B, H, W, C]) -> projections float32 [2B, P]`.

    The first B rows are the projections of the first views, the others those of the second views.
    """

    encode = make_encode(encoder, augment)

    def project(params: Params, key: Key, image: jax.Array) -> jax.Array:
        features = encode(params, key, image)
        projected = forward(projector, params["projector"], features, dropout_key(key, 1))
        return projected.reshape(len(features), -1).astype(jnp.float32)

    return project


def make_encode(
    encoder: nn.Module, augment: Augment
) -> Callable[[Params, Key, jax.Array], jax.Array]:
    """Make `(params, key, image [B, H, W, C]) -> features [2B, ...]` of two views."""

    def encode(params: Params, key: Key, image: jax.Array) -> jax.Array:
        # One forward pass: batch statistics are those of all views, and one product of 2B rows is
        # faster than two of B.
        views = two_views(augment, jax.random.fold_in(key, 2), image)
        return forward(encoder, params["encoder"], views, dropout_key(key, 0))

    return encode


def two_views(augment: Augment, key: Key, image: jax.Array) -> jax.Array:
    """Return two augmented copies of images `[B, H, W, C]`, one after the other: `[2B, H, W, C]`.

    Each copy has its own key, so an augmentation can draw one number for a whole batch.
    """
    first_key, second_key = jax.random.split(key)
    first = augment(first_key, image)
    second = augment(second_key, image)
    return jnp.concatenate([first, second])
