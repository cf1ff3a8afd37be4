"""Objectives that decode features back to the image."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from twostage_jax.errors import UserError
from twostage_jax.stages.modules import (
    dropout_key,
    forward,
    init_on_features,
    make_finish,
    module_init,
)
from twostage_jax.stages.stage import Batch, Key, Metrics, Params, Scalar, Stage


def autoencoder(encoder: nn.Module, decoder: nn.Module) -> Stage:
    """Reconstruction of the image from its features, by mean squared error.

    Hinton and Salakhutdinov, "Reducing the Dimensionality of Data with Neural Networks", 2006.
    Groups: `encoder`, `decoder`.

    Args:
        encoder: Linen module, `[B, H, W, C]` to features `[B, D]`.
        decoder: Linen module, features to `[B, H, W, C]` or `[B, H*W*C]`.

    Raises:
        UserError: while tracing, if the decoder's output has not the size of the image.

    >>> import twostage_jax as ts
    >>> stage = ts.autoencoder(ts.MLP((2,)), ts.MLP((4,)))
    >>> batch = {"image": jnp.zeros((3, 2, 2, 1))}
    >>> float(stage.loss(stage.init(jax.random.key(0), batch), jax.random.key(1), batch)[0])
    0.0
    """
    return denoising(encoder, decoder, noise=0.0)


def denoising(encoder: nn.Module, decoder: nn.Module, noise: Scalar = 0.5) -> Stage:
    """Reconstruction of the clean image from a corrupted one, by mean squared error.

    Vincent et al., "Extracting and Composing Robust Features with Denoising Autoencoders", 2008,
    with Gaussian noise. Groups: `encoder`, `decoder`.

    Args:
        encoder: Linen module, `[B, H, W, C]` to features `[B, D]`.
        decoder: Linen module, features to `[B, H, W, C]` or `[B, H*W*C]`.
        noise: standard deviation of the noise, on the scale of the images, [-1, 1]; may be a
            traced array.

    Raises:
        UserError: a negative `noise`; while tracing, a decoder output of another size.

    >>> import twostage_jax as ts
    >>> stage = ts.denoising(ts.MLP((2,)), ts.MLP((4,)), noise=0.1)
    >>> sorted(jax.eval_shape(stage.init, jax.random.key(0), {"image": jnp.zeros((3, 2, 2, 1))}))
    ['decoder', 'encoder']
    """
    if isinstance(noise, float | int) and noise < 0:
        raise UserError(f"noise is {noise}: give a standard deviation of at least 0")
    decode = make_decode(encoder, decoder)

    def loss(params: Params, key: Key, batch: Batch) -> tuple[jax.Array, Metrics]:
        image = corrupted = batch["image"]
        # A Python 0 draws nothing; an array is swept and may have any value.
        if not isinstance(noise, float | int) or noise:
            corrupted = image + noise * jax.random.normal(key, image.shape, image.dtype)
        return reconstruction_error(decode(params, corrupted, key), image), {}

    init = init_on_features(encoder, "decoder", module_init(decoder))
    return Stage(init, loss, make_finish(encoder, decoder=decoder))


def make_decode(encoder: nn.Module, decoder: nn.Module) -> Callable[..., jax.Array]:
    """Make `(params, image [B, H, W, C], key=None) -> reconstruction [B, H, W, C]`.

    The key is for dropout in training; evaluation has none.

    >>> import twostage_jax as ts
    >>> encoder = ts.MLP((2,))
    >>> decoder = ts.MLP((4,))
    >>> image = jnp.zeros((3, 2, 2, 1))
    >>> stage = ts.autoencoder(encoder, decoder)
    >>> params = jax.eval_shape(stage.init, jax.random.key(0), {"image": image})
    >>> jax.eval_shape(ts.make_decode(encoder, decoder), params, image).shape
    (3, 2, 2, 1)
    """

    def decode(params: Params, image: jax.Array, key: Key | None = None) -> jax.Array:
        # Only training has a key. Each module gets its own, or equal layers would drop alike.
        features = forward(encoder, params["encoder"], image, dropout_key(key, 0))
        decoded = forward(decoder, params["decoder"], features, dropout_key(key, 1))
        if decoded.size != image.size:
            raise UserError(
                f"the decoder's output is {list(decoded.shape[1:])} for an image of "
                f"{list(image.shape[1:])}: its last width must be {image[0].size}"
            )
        return decoded.reshape(image.shape)

    return decode


def reconstruction_error(decoded: jax.Array, image: jax.Array) -> jax.Array:
    """Mean squared error over all values, on the scale of the images, [-1, 1]."""
    return jnp.mean((decoded.reshape(image.shape) - image) ** 2)
