"""Convolutional encoder for the benchmark, the counterpart of `torch.network.conv_encoder`."""

import jax
import jax.numpy as jnp
from flax import linen as nn

CHANNELS = (16, 32)
FEATURES = 128


class ConvEncoder(nn.Module):
    """Two 3×3 convolutions with stride 2 and ReLU, and a dense layer: `[B, H, W, C]` to `[B, 128]`.

    A convolution is the product of patches and a matrix, because XLA runs `lax.conv` inside a loop
    16 to 20 times slower on a CPU.

    >>> from twostage_jax.bench.conv import ConvEncoder
    >>> params = ConvEncoder().init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
    >>> params["params"]["conv_1"]["kernel"].shape
    (144, 32)
    """

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Return the features."""
        # Uniform within ±1/√fan_in, as PyTorch draws its weights.
        init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        x = image
        for index, channels in enumerate(CHANNELS):
            dense = nn.Dense(channels, kernel_init=init, name=f"conv_{index}")
            x = nn.relu(dense(patches(x)))
        return nn.Dense(FEATURES, kernel_init=init, name="dense")(x.reshape(len(x), -1))


def patches(image: jax.Array) -> jax.Array:
    """Cut 3×3 patches at every second pixel: `[B, H, W, C]` to `[B, ⌈H/2⌉, ⌈W/2⌉, 9 C]`.

    The border is padded with one zero on each side.

    >>> from twostage_jax.bench.conv import patches
    >>> patches(jnp.ones((1, 4, 4, 1)))[0, 0, 0].tolist()
    [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]
    """
    height, width = image.shape[1:3]
    padded = jnp.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, i : i + height : 2, j : j + width : 2] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifted, -1)
