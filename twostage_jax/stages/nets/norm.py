"""Normalisation between layers: by batch statistics or by groups of channels."""

import math

import jax
from flax import linen as nn

from twostage_jax.errors import UserError

NORMS = ("batch", "group")
GROUPS = 8


class Norm(nn.Module):
    """Normalisation of the channels of `[B, ..., C]`, with a scale and an offset for each.

    Attributes:
        kind: `batch` (Ioffe and Szegedy, 2015): the statistics of the batch in training; fixed
            ones in evaluation, computed once from unlabelled images. `group` (Wu and He, 2018):
            the statistics of up to 8 groups of channels of each example.

    Raises:
        UserError: another kind.
    """

    kind: str = "batch"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Normalise `x`; `train` matters only for `batch`."""
        if self.kind not in NORMS:
            raise UserError(f"unknown norm {self.kind!r}: choose from {', '.join(NORMS)}")
        if self.kind == "batch":
            return nn.BatchNorm(use_running_average=not train, name="batch")(x)
        groups = math.gcd(GROUPS, x.shape[-1])
        return nn.GroupNorm(num_groups=groups, name="group")(x)
