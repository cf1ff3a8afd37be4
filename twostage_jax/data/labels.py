"""Who trains in a run: members with seeds of their own, at each point of a sweep.

A row is one training of a head. Rows that differ only in what concerns the head share an encoder,
and so does everybody where the config says so.
"""

from typing import Any

import jax
import jax.numpy as jnp

from twostage_jax.stages.stage import Key


def flip_labels(key: Key, label: jax.Array, share: Any, classes: int) -> jax.Array:
    """Labels int32 `[N]` of which `share` are another class, each other class as likely.

    Exactly `round(share * N)` are flipped; those flipped at a smaller share are among those flipped
    at a larger one. `share`, in [0, 1), may be a traced array.
    """
    rank_key, other_key = jax.random.split(key)
    rank = jax.random.permutation(rank_key, len(label))
    other = (label + jax.random.randint(other_key, label.shape, 1, classes)) % classes
    return jnp.where(rank < jnp.round(share * len(label)), other, label).astype(jnp.int32)
