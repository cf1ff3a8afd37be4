"""Small vision transformer."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from twostage_jax.errors import UserError
from twostage_jax.stages.nets.patches import PatchConv

GRID = 8  # largest number of rows or columns of patches if the patch size is chosen
HEAD_WIDTH = 32


class ViT(nn.Module):
    """Vision transformer: images `[B, H, W, C]` of any size to `[B, widths[-1]]`.

    Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021, with fixed positions by sines and
    cosines, and the mean over all patches in place of a class token. The features are a dense layer
    on the normalised mean.

    Attributes:
        widths: width of the tokens, once for each block, and the number of features.
        patch: side of a patch in pixels; 0 chooses one that gives at most 8×8 patches. An image is
            padded to whole patches.

    Raises:
        UserError: a patch that is larger than the image, fewer than two widths, or token widths
            that differ or are no multiple of 4.

    >>> import jax.numpy as jnp
    >>> import twostage_jax as ts
    >>> vit = ts.ViT((32, 32, 16))
    >>> image = jnp.zeros((2, 28, 28, 1))
    >>> params = jax.eval_shape(vit.init, jax.random.key(0), image)
    >>> jax.eval_shape(vit.apply, params, image).shape
    (2, 16)
    """

    widths: Sequence[int] = (64, 64, 64, 128)
    patch: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply all layers."""
        width = token_width(self.widths)
        patch = patch_size(self.patch, x.shape[1:])
        x = PatchConv(width, patch, patch, use_bias=True, name="embed")(x)
        positions = sine_positions(x.shape[1], x.shape[2], width)
        x = x.reshape(len(x), -1, width) + positions[None]
        for index in range(len(self.widths) - 1):
            x = Block(name=f"block_{index}")(x)
        x = nn.LayerNorm(name="norm")(x).mean(1)
        return nn.Dense(self.widths[-1], name="dense")(x)


class Block(nn.Module):
    """Transformer block on tokens `[B, T, W]`: attention and two dense layers, both with skips."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply attention and the dense layers."""
        tokens, width = x.shape[1:]
        heads = max(1, width // HEAD_WIDTH)
        heads = heads if width % heads == 0 else 1
        joint = nn.Dense(3 * width, name="attention")(nn.LayerNorm(name="norm_0")(x))
        query, key, value = jnp.moveaxis(joint.reshape(-1, tokens, 3, heads, width // heads), 2, 0)
        score = jnp.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(width // heads)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", nn.softmax(score), value)
        x = x + nn.Dense(width, name="project")(mixed.reshape(x.shape))
        inner = nn.Dense(4 * width, name="dense_0")(nn.LayerNorm(name="norm_1")(x))
        return x + nn.Dense(width, name="dense_1")(nn.gelu(inner))


def token_width(widths: Sequence[int]) -> int:
    """Width of the tokens of `ViT`.

    Raises:
        UserError: fewer than two widths, or token widths that differ or are no multiple of 4.
    """
    inner = set(widths[:-1])
    if len(inner) != 1 or min(inner) % 4:
        raise UserError(
            f"vit has the widths {list(widths)}: give one width of the tokens, a multiple of 4, "
            "once for each block, and then the number of features, for instance 64 64 64 128"
        )
    return inner.pop()


def patch_size(patch: int, image_shape: Sequence[int]) -> int:
    """Side of a patch for images `(H, W, C)`; 0 chooses one.

    Raises:
        UserError: a patch that is larger than the image.

    >>> patch_size(0, (28, 28, 1)), patch_size(0, (8, 8, 1)), patch_size(0, (64, 64, 3))
    (4, 2, 8)
    """
    height, width = image_shape[:2]
    if not patch:
        return min(max(2, -(-max(height, width) // GRID)), height, width)
    if patch < 0 or patch > min(height, width):
        raise UserError(
            f"vit has the patch size {patch} for images {height}×{width}: give 1 to "
            f"{min(height, width)}, or 0 to choose one"
        )
    return patch


def sine_positions(height: int, width: int, size: int) -> np.ndarray:
    """Positions `[height * width, size]` as sines and cosines of the row and the column."""
    frequency = 100.0 ** -np.linspace(0, 1, size // 4)
    row, column = np.mgrid[:height, :width].reshape(2, -1, 1)
    parts = [np.sin(row * frequency), np.cos(row * frequency)]
    parts += [np.sin(column * frequency), np.cos(column * frequency)]
    return np.concatenate(parts, -1).astype(np.float32)
