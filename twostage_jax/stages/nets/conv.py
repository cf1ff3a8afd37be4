"""Small convolutional encoder."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
from flax import linen as nn

from twostage_jax.errors import UserError
from twostage_jax.stages.nets.norm import Norm
from twostage_jax.stages.nets.patches import PatchConv


class Layer(NamedTuple):
    """Convolution of an encoder, in the order of the fields of `PatchConv`."""

    width: int
    kernel: int
    stride: int


LARGEST_GRID = 8  # rows or columns of the grid after the stem


class Conv(nn.Module):
    """Plain convolutional network: images `[B, H, W, C]` of any size to `[B, widths[-1]]`.

    The first layer repeats the border pixels, all others pad with zeros. A stem reduces the image
    to a grid of at most 8×8: an 8×8 convolution of stride 4 (28×28 becomes
    7×7), a smaller one for images below 16×16, and further ones of stride 2 for images above 32×32.
    The second width is a 3×3 convolution, each width after it a 4×4 convolution of stride 2, and
    the last one a dense layer on the flattened grid. Each layer is a product, a normalisation and a
    ReLU; the features are the last layer's values before its ReLU. Weights are He-normal.

    Attributes:
        widths: channels of each layer, at least the stem's and the number of features.
        norm: `batch` or `group`, see `Norm`.

    Raises:
        UserError: fewer than two widths, or another norm.

    >>> import jax.numpy as jnp
    >>> import twostage_jax as ts
    >>> conv = ts.Conv(norm="group")
    >>> image = jnp.zeros((2, 28, 28, 1))
    >>> params = jax.eval_shape(conv.init, jax.random.key(0), image)
    >>> sum(x.size for x in jax.tree.leaves(params))
    697344
    >>> jax.eval_shape(conv.apply, params, image).shape
    (2, 256)
    """

    widths: Sequence[int] = (64, 64, 128, 256)
    norm: str = "batch"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Apply all layers; `train` normalises with the statistics of the batch."""
        for index, layer in enumerate(conv_layers(self.widths, x.shape[1:])):
            padding = "constant" if index else "edge"
            x = PatchConv(*layer, padding=padding, name=f"conv_{index}")(x)
            x = nn.relu(Norm(self.norm, name=f"norm_{index}")(x, train))
        x = x.reshape(len(x), -1)
        init = nn.initializers.he_normal()
        x = nn.Dense(self.widths[-1], use_bias=False, kernel_init=init, name="dense")(x)
        return Norm(self.norm, name="norm")(x, train)


def conv_layers(widths: Sequence[int], image_shape: Sequence[int]) -> tuple[Layer, ...]:
    """Layers of `Conv` before its dense layer, for images `(H, W, C)`.

    Raises:
        UserError: fewer than two widths.

    >>> [tuple(layer) for layer in conv_layers((64, 64, 128, 256), (28, 28, 1))]
    [(64, 8, 4), (64, 3, 1), (128, 4, 2)]
    """
    if len(widths) < 2:
        raise UserError(
            f"conv has the widths {list(widths)}: give at least two, the channels of the stem and "
            "the number of features, for instance 64 64 128 256"
        )
    layers = stem(max(image_shape[:2]), LARGEST_GRID, widths[0])
    for index, width in enumerate(widths[1:-1]):
        layers.append(Layer(width, 4, 2) if index else Layer(width, 3, 1))
    return tuple(layers)


def stem(size: int, largest: int, width: int) -> list[Layer]:
    """Layers that reduce a side of `size` pixels to at most `largest` positions, or fewer.

    >>> [layer.stride for layer in stem(8, 8, 64)], [layer.stride for layer in stem(64, 8, 64)]
    ([2], [4, 2])
    """
    if size < largest:
        return [Layer(width, 3, 1)]
    # Sides of 8 to 15 become 4 to 8: small images need fewer strides, not wider grids.
    if size < 2 * largest:
        return [Layer(width, 4, 2)]
    layers = [Layer(width, 8, 4)]
    size = -(-size // 4)
    while size > largest:
        layers.append(Layer(width, 4, 2))
        size = -(-size // 2)
    return layers
