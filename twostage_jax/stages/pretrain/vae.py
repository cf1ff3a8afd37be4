"""Variational autoencoder."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from twostage_jax.errors import UserError
from twostage_jax.stages.modules import dropout_key, forward, init_module, make_finish
from twostage_jax.stages.nets.mlp import MLP
from twostage_jax.stages.stage import Batch, Key, Metrics, Params, Scalar, Stage


def vae(encoder: nn.Module, decoder: nn.Module, beta: Scalar = 1.0) -> Stage:
    """Variational autoencoder, whose features are the means of the posterior.

    Kingma and Welling, "Auto-Encoding Variational Bayes", 2013, with a Bernoulli decoder. The loss
    is the negative evidence lower bound of an image in nats, with the divergence times `beta`
    (Higgins et al., "beta-VAE", 2017). Groups: `encoder`, `log_variance` (a linear layer on the
    means), `decoder`.

    Args:
        encoder: Linen module, `[B, H, W, C]` to features `[B, D]`: the means.
        decoder: Linen module, features to logits of the pixels, `[B, H, W, C]` or `[B, H*W*C]`.
        beta: weight of the divergence, at least 0; may be a traced array.

    Raises:
        UserError: a negative `beta`; while tracing, a decoder output of another size.

    >>> import twostage_jax as ts
    >>> stage = ts.vae(ts.MLP((2,)), ts.MLP((4,)))
    >>> sorted(jax.eval_shape(stage.init, jax.random.key(0), {"image": jnp.zeros((3, 2, 2, 1))}))
    ['decoder', 'encoder', 'log_variance']
    """
    if isinstance(beta, float | int) and beta < 0:
        raise UserError(f"beta is {beta}: give a weight of at least 0")

    def init(key: Key, batch: Batch) -> Params:
        encoder_key, variance_key, decoder_key = jax.random.split(key, 3)
        encoder_params = init_module(encoder, encoder_key, batch["image"])
        mean = _rows(forward(encoder, encoder_params, batch["image"]))
        return {
            "encoder": encoder_params,
            "log_variance": init_module(MLP(mean.shape[1:]), variance_key, mean),
            "decoder": init_module(decoder, decoder_key, mean),
        }

    def loss(params: Params, key: Key, batch: Batch) -> tuple[jax.Array, Metrics]:
        image = batch["image"]
        mean = _rows(forward(encoder, params["encoder"], image, dropout_key(key, 0)))
        log_variance = forward(MLP(mean.shape[1:]), params["log_variance"], mean)
        noise = jax.random.normal(jax.random.fold_in(key, 2), mean.shape, mean.dtype)
        sample = mean + jnp.exp(log_variance / 2) * noise
        logits = forward(decoder, params["decoder"], sample, dropout_key(key, 1))
        if logits.size != image.size:
            raise UserError(
                f"the decoder's output is {list(logits.shape[1:])} for an image of "
                f"{list(image.shape[1:])}: its last width must be {image[0].size}"
            )
        # Pixels in [-1, 1] become probabilities.
        entropy = optax.sigmoid_binary_cross_entropy(logits.reshape(image.shape), (image + 1) / 2)
        reconstruction = entropy.sum((1, 2, 3)).mean()
        divergence = gaussian_divergence(mean, log_variance).mean()
        metrics = {"reconstruction": reconstruction, "divergence": divergence}
        return reconstruction + beta * divergence, metrics

    return Stage(init, loss, make_finish(encoder, decoder=decoder))


def gaussian_divergence(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """Kullback-Leibler divergence from the standard Gaussian in nats, `[B, D]` to `[B]`."""
    return (mean**2 + jnp.exp(log_variance) - 1 - log_variance).sum(-1) / 2


def _rows(features: jax.Array) -> jax.Array:
    return features.reshape(len(features), -1)
