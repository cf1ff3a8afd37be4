"""Objective that predicts hidden patches of an image."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from twostage_jax.errors import UserError
from twostage_jax.stages.modules import init_on_features, make_finish, module_init
from twostage_jax.stages.pretrain.contrastive import check_count
from twostage_jax.stages.pretrain.reconstruction import make_decode
from twostage_jax.stages.stage import Batch, Key, Metrics, Params, Scalar, Stage

HIDDEN = 0.0  # value of hidden pixels: the middle of [-1, 1]


def masked(encoder: nn.Module, decoder: nn.Module, patch: int = 4, ratio: Scalar = 0.75) -> Stage:
    """Reconstruction of hidden patches from the visible ones, by mean squared error.

    He et al., "Masked Autoencoders Are Scalable Vision Learners", 2022. Every encoder can be used,
    because it gets the whole image with grey in place of hidden patches. The error is the mean over
    hidden pixels. Groups: `encoder`, `decoder`.

    Args:
        encoder: Linen module, `[B, H, W, C]` to features `[B, D]`.
        decoder: Linen module, features to `[B, H, W, C]` or `[B, H*W*C]`.
        patch: side of a square patch in pixels, from 1 to the larger side of the image. Patches at
            the right and at the bottom are cut off if a side is not a multiple of it.
        ratio: share of hidden patches, in (0, 1]; at least one patch is hidden in each image. May
            be a traced array.

    Raises:
        UserError: a number out of range, or a traced `patch`, which decides shapes; while tracing,
            a `patch` larger than the image, or a decoder output of another size.

    >>> import twostage_jax as ts
    >>> stage = ts.masked(ts.MLP((2,)), ts.MLP((16,)), patch=2, ratio=0.5)
    >>> batch = {"image": jnp.zeros((3, 4, 4, 1))}
    >>> float(stage.loss(stage.init(jax.random.key(0), batch), jax.random.key(1), batch)[0])
    0.0
    """
    check_count("patch", patch, 1)
    if isinstance(ratio, float | int) and not 0 < ratio <= 1:
        raise UserError(f"ratio is {ratio}: give a share above 0 and at most 1")
    decode = make_decode(encoder, decoder)

    def loss(params: Params, key: Key, batch: Batch) -> tuple[jax.Array, Metrics]:
        image = batch["image"]
        hidden = patch_mask(jax.random.fold_in(key, 2), image.shape, patch, ratio)
        decoded = decode(params, jnp.where(hidden, HIDDEN, image), key)
        error = jnp.where(hidden, (decoded - image) ** 2, 0)
        return error.sum() / (hidden.sum() * image.shape[3]), {}

    init = init_on_features(encoder, "decoder", module_init(decoder))
    return Stage(init, loss, make_finish(encoder, decoder=decoder))


def patch_mask(key: Key, shape: tuple[int, ...], patch: int, ratio: Scalar) -> jax.Array:
    """Return a mask of hidden pixels, bool `[B, H, W, 1]`.

    The share `ratio` of the patches of each image is hidden, rounded to a whole number of patches.

    Args:
        key: key for the choice of patches.
        shape: `(B, H, W, C)` of the images.
        patch: side of a patch in pixels.
        ratio: share of hidden patches.

    Raises:
        UserError: a `patch` larger than the image.
    """
    count, height, width, _ = shape
    if patch > max(height, width):
        raise UserError(
            f"patch is {patch} for images of {height}x{width}: give at most {max(height, width)}"
        )
    rows = -(-height // patch)
    columns = -(-width // patch)
    patches = rows * columns
    # Ranks of random numbers give each image its own choice without replacement.
    noise = jax.random.uniform(key, (count, patches))
    rank = jnp.argsort(jnp.argsort(noise, axis=1), axis=1)
    hidden = rank < jnp.maximum(jnp.round(ratio * patches), 1)
    grid = hidden.reshape(count, rows, columns)
    pixels = grid.repeat(patch, axis=1).repeat(patch, axis=2)
    return pixels[:, :height, :width, None]
