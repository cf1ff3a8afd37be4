"""Scores of a classifier as sums over examples, divided once at the end."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from twostage_jax.errors import UserError
from twostage_jax.stages.stage import Batch, Key, Metrics, Params, Stage, init_on_features


def reconstruction_error(decoded: jax.Array, image: jax.Array) -> jax.Array:
    """Mean squared error over all values, on the scale of the images, [-1, 1]."""
    return jnp.mean((decoded.reshape(image.shape) - image) ** 2)


def autoencoder(encoder: Any, decoder: Any) -> Stage:
    """Encode the image, decode it, and minimise the mean squared error of the values in [-1, 1].

    Hinton and Salakhutdinov, "Reducing the Dimensionality of Data with Neural Networks", 2006.
    Groups: `encoder`, `decoder`.

    Args:
        encoder: Linen module, `[B, H, W, C]` to features `[B, D]`.
        decoder: Linen module, features to `[B, H, W, C]` or `[B, H*W*C]`.

    Raises:
        UserError: while tracing, where the decoder's output is not of the image's size.
    """

    decode = make_decode(encoder, decoder)

    def loss(params: Params, key: Key, batch: Batch) -> tuple[jax.Array, Metrics]:
        decoded = decode(params, batch["image"])
        return reconstruction_error(decoded, batch["image"]), {}

    return Stage(init_on_features(encoder, "decoder", decoder), loss)


def make_decode(encoder: Any, decoder: Any) -> Callable[[Params, jax.Array], jax.Array]:
    """`(params, image [B, H, W, C]) -> [B, H, W, C]`, the image as the decoder gives it back."""

    def decode(params: Params, image: jax.Array) -> jax.Array:
        decoded = decoder.apply(params["decoder"], encoder.apply(params["encoder"], image))
        if decoded.size != image.size:
            raise UserError(
                f"the decoder gives {list(decoded.shape[1:])} for an image of "
                f"{list(image.shape[1:])}: its last width must be {image[0].size}"
            )
        return decoded.reshape(image.shape)

    return decode
