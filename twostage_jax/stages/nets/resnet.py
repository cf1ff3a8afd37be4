"""Residual network of nine layers."""

from collections.abc import Sequence

import jax
from flax import linen as nn

from twostage_jax.errors import UserError
from twostage_jax.stages.nets.conv import Layer, stem
from twostage_jax.stages.nets.norm import Norm
from twostage_jax.stages.nets.patches import PatchConv

LARGEST_GRID = 16  # rows or columns of the grid after the stem


class ResNet(nn.Module):
    """Residual network: images `[B, H, W, C]` of any size to `[B, widths[-1]]`.

    He et al., "Deep Residual Learning for Image Recognition", 2016, in the nine-layer form
    known from fast training on CIFAR-10: a stem, three 4×4 convolutions of stride 2, and two
    3×3 convolutions with a skip connection after each of the first two; the head's layer is the
    ninth. The features are the means over the last grid and are not negative. Each layer is a
    product, a normalisation and a ReLU. The stem reduces images of at least 16×16 to a grid of at
    most 16×16. Weights are He-normal.

    Attributes:
        widths: channels of the stem and of the stages after it, each of which halves the grid.
        norm: `group` or `batch`, see `Norm`.

    Raises:
        UserError: fewer than two widths, or another norm.

    >>> import jax.numpy as jnp
    >>> import twostage_jax as ts
    >>> resnet = ts.ResNet()
    >>> image = jnp.zeros((2, 28, 28, 1))
    >>> params = jax.eval_shape(resnet.init, jax.random.key(0), image)
    >>> jax.eval_shape(resnet.apply, params, image).shape
    (2, 256)
    """

    widths: Sequence[int] = (32, 64, 128, 256)
    norm: str = "group"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Apply all layers; `train` matters only for batch norm."""
        layers = resnet_layers(self.widths, x.shape[1:])
        first = len(layers) - len(self.widths[1:])

        def block(x: jax.Array, layer: Layer, name: str) -> jax.Array:
            padding = "edge" if name == "0" else "constant"
            x = PatchConv(*layer, padding=padding, name=f"conv_{name}")(x)
            return nn.relu(Norm(self.norm, name=f"norm_{name}")(x, train))

        for index, layer in enumerate(layers):
            x = block(x, layer, str(index))
            # Two layers with a skip connection. The last and smallest grid has none, because they
            # would have most of the parameters there.
            if first <= index < len(layers) - 1:
                same = Layer(layer.width, 3, 1)
                x = x + block(block(x, same, f"{index}_a"), same, f"{index}_b")
        return x.mean((1, 2))


def resnet_layers(widths: Sequence[int], image_shape: Sequence[int]) -> tuple[Layer, ...]:
    """Layers of `ResNet` outside of the skip connections, for images `(H, W, C)`.

    Raises:
        UserError: fewer than two widths.

    >>> [tuple(layer) for layer in resnet_layers((32, 64), (28, 28, 1))]
    [(32, 4, 2), (64, 4, 2)]
    """
    if len(widths) < 2:
        raise UserError(
            f"resnet has the widths {list(widths)}: give at least two, the channels of the stem "
            "and the number of features, for instance 32 64 128 256"
        )
    layers = stem(max(image_shape[:2]), LARGEST_GRID, widths[0])
    return (*layers, *(Layer(width, 4, 2) for width in widths[1:]))
