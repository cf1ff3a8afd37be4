"""Projector: small network from features to the outputs that an objective compares."""

from collections.abc import Sequence

import jax
from flax import linen as nn

from twostage_jax.stages.nets.norm import Norm


class Projector(nn.Module):
    """Dense layers with normalisation and ReLU between them: `[B, D]` to `[B, widths[-1]]`.

    Stage 1 trains the projector with the encoder and drops it afterwards (Chen et al., "A Simple
    Framework for Contrastive Learning of Visual Representations", 2020).

    Attributes:
        widths: output size of each layer.
        norm: `batch` or `group`, see `Norm`.
        activate: apply a ReLU to the features first, for encoders whose features are the values
            before a ReLU (`MLP` and `Conv`).

    >>> import jax.numpy as jnp
    >>> import twostage_jax as ts
    >>> projector = ts.Projector((16, 4), norm="group")
    >>> features = jnp.ones((3, 8))
    >>> projector.apply(projector.init(jax.random.key(0), features), features).shape
    (3, 4)
    """

    widths: Sequence[int] = (512, 128)
    norm: str = "batch"
    activate: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Apply all layers; the last one has no normalisation and no activation."""
        x = x.reshape(len(x), -1)
        if self.activate:
            x = nn.relu(x)
        last = len(self.widths) - 1
        for index, width in enumerate(self.widths[:-1]):
            init = nn.initializers.he_normal()
            x = nn.Dense(width, use_bias=False, kernel_init=init, name=f"dense_{index}")(x)
            x = nn.relu(Norm(self.norm, name=f"norm_{index}")(x, train))
        return nn.Dense(self.widths[-1], use_bias=False, name=f"dense_{last}")(x)
