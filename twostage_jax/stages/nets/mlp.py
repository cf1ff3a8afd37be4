"""Linen encoders, decoders and heads. Parameters are all the state there is."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import linen as nn


class MLP(nn.Module):
    """Dense layers of `widths` with ReLU between them: `[B, ...]` to float32 `[B, widths[-1]]`.

    Everything but the first axis is flattened first, so it takes images `[B, H, W, C]` as well as
    features `[B, D]`. Layers are called `dense_0`, `dense_1`, ….

    Attributes:
        widths: output size of each layer.
        torch_init: draw weights and biases uniformly within ±1/√fan_in, as PyTorch's `Linear`
            does; by default LeCun-normal weights (LeCun et al., "Efficient BackProp", 1998) and
            zero biases, as Flax does.
    """

    widths: Sequence[int]
    torch_init: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, ...]` to `[B, widths[-1]]`; no activation after the last layer."""
        x = x.reshape(x.shape[0], -1)
        for index, width in enumerate(self.widths):
            if index:
                x = nn.relu(x)
            init = _torch_init(x.shape[-1]) if self.torch_init else {}
            x = nn.Dense(width, name=f"dense_{index}", **init)(x)
        return x


class Identity(nn.Module):
    """Gives back what it gets: stands for an encoder where the data are its features already."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """`[B, ...]` as it is."""
        return x


def mirror(widths: Sequence[int], image_size: int) -> tuple[int, ...]:
    """Widths of the decoder that mirrors an encoder, ending in `image_size` values.

    `(256, 128)` for images of 784 values gives `(256, 784)`.
    """
    return (*reversed(tuple(widths)[:-1]), image_size)


def _torch_init(fan_in: int) -> dict[str, Any]:
    bound = fan_in**-0.5

    def draw(key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return {"kernel_init": draw, "bias_init": draw}
