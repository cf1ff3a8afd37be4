"""Convolutions as products of patches and a matrix, without a convolution of XLA.

Inside a loop, `lax.conv_general_dilated` is 16 to 20 times slower on the CPU than outside one, and
under `vmap` over members it becomes a grouped convolution. A product of patches with a matrix has
neither problem. See `docs/encoders.md` for measurements.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn


class PatchConv(nn.Module):
    """Convolution with SAME padding: `[B, H, W, C]` to `[B, ceil(H/stride), ceil(W/stride), F]`.

    Equals `flax.linen.Conv` with the same parameters: `kernel` `[kernel, kernel, C, F]`, He-normal
    (He et al., "Delving Deep into Rectifiers", 2015), and `bias` `[F]`.

    Attributes:
        features: number F of output channels.
        kernel: side of the square kernel, at least `stride`.
        stride: step between patches.
        use_bias: add a bias; without one by default, because a normalisation follows.
        padding: mode of `jnp.pad`: `constant` for zeros, or `edge` to repeat the pixels at the
            border. Images have no neutral value: in [-1, 1], zeros are a grey frame around them.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> layer = PatchConv(features=4, kernel=8, stride=4)
    >>> image = jnp.zeros((2, 28, 28, 1))
    >>> layer.apply(layer.init(jax.random.key(0), image), image).shape
    (2, 7, 7, 4)
    """

    features: int
    kernel: int = 3
    stride: int = 1
    use_bias: bool = False
    padding: str = "constant"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Multiply all patches of `x` with the kernel."""
        channels = x.shape[-1]
        shape = (self.kernel, self.kernel, channels, self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        x = pad_same(x, self.kernel, self.stride, self.padding)
        if self.kernel % self.stride == 0 and self.stride > 1:
            # A kernel of 8 with stride 4 equals one of 2 with stride 1 on blocks of 4×4, which
            # takes 4 slices instead of 64.
            step = self.stride
            count = self.kernel // step
            x = space_to_depth(x, step)
            kernel = kernel.reshape(count, step, count, step, channels, -1)
            kernel = kernel.transpose(0, 2, 1, 3, 4, 5)
            patches = extract_patches(x, count, 1)
        else:
            patches = extract_patches(x, self.kernel, self.stride)
        y = patches @ kernel.reshape(-1, self.features)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y = y + bias[None, None, None]
        return y


def pad_same(x: jax.Array, kernel: int, stride: int, mode: str = "constant") -> jax.Array:
    """Pad `[B, H, W, C]` so that `ceil(H/stride)` by `ceil(W/stride)` patches fit."""
    widths = []
    for size in x.shape[1:3]:
        total = (-(-size // stride) - 1) * stride + kernel - size
        widths.append((total // 2, total - total // 2))
    return jnp.pad(x, ((0, 0), *widths, (0, 0)), mode=mode)


def extract_patches(x: jax.Array, kernel: int, stride: int) -> jax.Array:
    """Return all patches: `[B, H, W, C]` to `[B, h, w, kernel * kernel * C]`, without padding."""
    height = x.shape[1] - kernel + 1
    width = x.shape[2] - kernel + 1
    slices = [
        x[:, row : row + height : stride, column : column + width : stride]
        for row in range(kernel)
        for column in range(kernel)
    ]
    return jnp.concatenate(slices, -1) if len(slices) > 1 else slices[0]


def space_to_depth(x: jax.Array, block: int) -> jax.Array:
    """Turn blocks of pixels into channels: `[B, H, W, C]` to `[B, H/n, W/n, n*n*C]`.

    >>> import jax.numpy as jnp
    >>> space_to_depth(jnp.arange(4).reshape(1, 2, 2, 1), 2).tolist()
    [[[[0, 1, 2, 3]]]]
    """
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // block, block, width // block, block, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // block, width // block, -1)


def depth_to_space(x: jax.Array, block: int) -> jax.Array:
    """Turn channels into blocks of pixels, the inverse of `space_to_depth`.

    >>> import jax.numpy as jnp
    >>> depth_to_space(jnp.arange(4).reshape(1, 1, 1, 4), 2)[0, ..., 0].tolist()
    [[0, 1], [2, 3]]
    """
    batch, height, width, _ = x.shape
    x = x.reshape(batch, height, width, block, block, -1)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height * block, width * block, -1)
