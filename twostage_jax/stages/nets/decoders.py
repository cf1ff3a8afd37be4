"""Decoders: from features back to images, one for each encoder."""

from collections.abc import Sequence

import jax
import numpy as np
from flax import linen as nn

from twostage_jax.stages.nets.conv import Layer, conv_layers
from twostage_jax.stages.nets.mlp import MLP, mirror
from twostage_jax.stages.nets.patches import PatchConv, depth_to_space
from twostage_jax.stages.nets.resnet import resnet_layers
from twostage_jax.stages.nets.vit import Block, patch_size, sine_positions, token_width


def make_decoder(
    name: str,
    widths: Sequence[int],
    image_shape: Sequence[int],
    torch_init: bool = False,
    patch: int = 0,
) -> nn.Module:
    """Decoder that mirrors an encoder: features `[B, D]` to images or flat pixels.

    Args:
        name: `conv`, `resnet` or `vit`; the decoder of any other encoder is a mirrored `MLP`.
        widths: layer sizes of the encoder.
        image_shape: `(H, W, C)`.
        torch_init: initial values of the `MLP`.
        patch: side of a patch of `vit`.

    Raises:
        UserError: widths that the encoder does not take.

    >>> import jax.numpy as jnp
    >>> decoder = make_decoder("conv", (8, 8, 4), (28, 28, 3))
    >>> params = decoder.init(jax.random.key(0), jnp.zeros((2, 4)))
    >>> decoder.apply(params, jnp.zeros((2, 4))).shape
    (2, 28, 28, 3)
    """
    shape = tuple(image_shape)
    if name == "conv":
        return GridDecoder(conv_layers(widths, shape), shape)
    if name == "resnet":
        return GridDecoder(resnet_layers(widths, shape), shape)
    if name == "vit":
        return PatchDecoder(token_width(widths), patch_size(patch, shape), shape)
    return MLP(mirror(widths, int(np.prod(shape))), torch_init)


class GridDecoder(nn.Module):
    """Mirror of the convolutions of an encoder: a dense layer to its last grid, then back.

    A layer of stride n becomes a convolution on the smaller grid whose channels are blocks of n×n
    pixels (Shi et al., "Real-Time Single Image and Video Super-Resolution Using an Efficient
    Sub-Pixel Convolutional Neural Network", 2016).

    Attributes:
        layers: convolutions of the encoder.
        image_shape: `(H, W, C)`.
    """

    layers: Sequence[Layer]
    image_shape: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Decode features `[B, D]` to `[B, H, W, C]`."""
        sizes = [self.image_shape[:2]]
        for layer in self.layers:
            sizes.append(tuple(-(-size // layer.stride) for size in sizes[-1]))
        init = nn.initializers.he_normal()
        channels = self.layers[-1].width
        grid = (*sizes[-1], channels)
        x = nn.Dense(int(np.prod(grid)), kernel_init=init, name="dense")(x.reshape(len(x), -1))
        x = x.reshape(len(x), *grid)
        for index in reversed(range(len(self.layers))):
            _, kernel, stride = self.layers[index]
            channels = self.layers[index - 1].width if index else self.image_shape[-1]
            x = nn.relu(x)
            conv = PatchConv(
                channels * stride**2, kernel // stride, use_bias=True, name=f"conv_{index}"
            )
            x = _crop(depth_to_space(conv(x), stride), sizes[index])
        return x


class PatchDecoder(nn.Module):
    """Decoder of `ViT`: a token for each patch, one transformer block, and a dense layer to pixels.

    Attributes:
        width: width of the tokens.
        patch: side of a patch in pixels.
        image_shape: `(H, W, C)`.
    """

    width: int
    patch: int
    image_shape: tuple[int, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Decode features `[B, D]` to `[B, H, W, C]`."""
        height, width, channels = self.image_shape
        rows = -(-height // self.patch)
        columns = -(-width // self.patch)
        x = nn.Dense(rows * columns * self.width, name="dense_0")(x.reshape(len(x), -1))
        positions = sine_positions(rows, columns, self.width)
        x = x.reshape(len(x), -1, self.width) + positions[None]
        x = nn.LayerNorm(name="norm")(Block(name="block")(x))
        x = nn.Dense(self.patch**2 * channels, name="dense_1")(x)
        x = depth_to_space(x.reshape(len(x), rows, columns, -1), self.patch)
        return _crop(x, (height, width))


def _crop(x: jax.Array, size: Sequence[int]) -> jax.Array:
    """Remove the padding of `pad_same` on both sides."""
    top = (x.shape[1] - size[0]) // 2
    left = (x.shape[2] - size[1]) // 2
    return x[:, top : top + size[0], left : left + size[1]]
