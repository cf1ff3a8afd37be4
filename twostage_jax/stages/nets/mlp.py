"""Dense networks."""

from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from jax.typing import DTypeLike


class MLP(nn.Module):
    """Dense layers with ReLU between them: `[B, ...]` to float32 `[B, widths[-1]]`.

    All axes but the first are flattened, so the input may be images `[B, H, W, C]` or features
    `[B, D]`. The layers are called `dense_0`, `dense_1`, …

    Attributes:
        widths: output size of each layer.
        torch_init: draw weights and biases uniformly within ±1/√fan_in, as PyTorch's `Linear`
            does. By default weights are LeCun-normal (LeCun et al., "Efficient BackProp", 1998)
            and biases zero, as in Flax.

    >>> import jax.numpy as jnp
    >>> import twostage_jax as ts
    >>> params = ts.MLP((8, 3)).init(jax.random.key(0), jnp.zeros((1, 2, 2, 1)))
    >>> params["params"]["dense_0"]["kernel"].shape
    (4, 8)
    """

    widths: Sequence[int]
    torch_init: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Apply all layers; there is no activation after the last one."""
        x = x.reshape(x.shape[0], -1)
        for index, width in enumerate(self.widths):
            if index:
                x = nn.relu(x)
            kernel_init = nn.initializers.lecun_normal()
            bias_init = nn.initializers.zeros
            if self.torch_init:
                # The blog's autoencoder ends at a loss of 0.024 with these values, 0.039 without.
                kernel_init = bias_init = _uniform(x.shape[-1] ** -0.5)
            dense = nn.Dense(
                width, name=f"dense_{index}", kernel_init=kernel_init, bias_init=bias_init
            )
            x = dense(x)
        return x


class Identity(nn.Module):
    """Return the input. Replaces the encoder when a batch already holds features.

    >>> import jax.numpy as jnp
    >>> import twostage_jax as ts
    >>> ts.Identity().apply({}, jnp.ones(2)).tolist()
    [1.0, 1.0]
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return `x`."""
        return x


def mirror(widths: Sequence[int], image_size: int) -> tuple[int, ...]:
    """Widths of the decoder that mirrors an encoder and ends in `image_size` values.

    >>> import twostage_jax as ts
    >>> ts.mirror((256, 128), 784)
    (256, 784)
    """
    return (*reversed(tuple(widths)[:-1]), image_size)


def _uniform(bound: float) -> Callable[[jax.Array, Sequence[int], DTypeLike], jax.Array]:
    """Make an initialiser that draws uniformly from [-bound, bound)."""

    def draw(key: jax.Array, shape: Sequence[int], dtype: DTypeLike) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw
