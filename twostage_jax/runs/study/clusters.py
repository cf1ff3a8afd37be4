"""k-means on the device."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from twostage_jax.errors import UserError
from twostage_jax.stages.stage import Key

STEPS = 20  # steps of Lloyd's algorithm; later ones move few examples
_BLOCK = 8192  # examples that are compared with all centres at once


class Clusters(NamedTuple):
    """Result of `k_means`.

    Attributes:
        centre: means of the clusters, float32 `[C, D]`.
        index: cluster of each example, int32 `[N]`.
        inertia: sum of the squared distances of the examples to their centres.
    """

    centre: np.ndarray
    index: np.ndarray
    inertia: float


def k_means(
    features: np.ndarray, clusters: int, key: Key, steps: int = STEPS, starts: int = 1
) -> Clusters:
    """Split examples into clusters around their means.

    Lloyd's algorithm ("Least Squares Quantization in PCM", 1982) from random starts of k-means++
    (Arthur and Vassilvitskii, 2007). The best result is returned. The same key gives the same
    bits.

    Args:
        features: float32 `[N, D]`.
        clusters: number of clusters C, from 1 to N.
        key: key for the start.
        steps: number of steps of Lloyd's algorithm.
        starts: number of starts; the result has the smallest inertia of all.

    Raises:
        UserError: a number of clusters that does not fit the examples.

    >>> from twostage_jax.stages.stage import new_key
    >>> features = np.array([[0.0], [0.2], [5.0], [5.2]], np.float32)
    >>> result = k_means(features, 2, new_key(0))
    >>> sorted(round(float(x), 2) for x in result.centre[:, 0])
    [0.1, 5.1]
    """
    if not 1 <= clusters <= len(features):
        raise UserError(
            f"{clusters} clusters do not fit {len(features)} examples: give a number from 1 to "
            f"{len(features)}"
        )
    on_device = jnp.asarray(features, jnp.float32)
    keys = jax.random.split(key, starts)
    # One start after the other: one of them fills the device if there are many examples.
    results = [Clusters(*_k_means(on_device, start, clusters, steps)) for start in keys]
    best = min(results, key=_inertia)
    return Clusters(np.asarray(best.centre), np.asarray(best.index), float(best.inertia))


def _inertia(result: Clusters) -> float:
    return float(result.inertia)


@partial(jax.jit, static_argnames=("clusters", "steps"))
def _k_means(
    features: jax.Array, key: Key, clusters: int, steps: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    # Centring keeps distances, and small numbers lose fewer digits in a product.
    mean = features.mean(0, keepdims=True)
    features = features - mean
    centre = _start(features, key, clusters)
    blocks, weight = _in_blocks(features)

    def step(_: int, centre: jax.Array) -> jax.Array:
        total, count = jax.lax.scan(
            partial(_add_block, centre),
            (jnp.zeros_like(centre), jnp.zeros(clusters)),
            (blocks, weight),
        )[0]
        # A centre without examples stays where it is.
        return jnp.where(count[:, None] > 0, total / jnp.maximum(count, 1)[:, None], centre)

    centre = jax.lax.fori_loop(0, steps, step, centre)
    index, distance = jax.lax.map(partial(_nearest_centre, centre), blocks)
    index = index.reshape(-1)[: len(features)]
    inertia = (distance * weight).sum()
    return centre + mean, index, inertia


def _start(features: jax.Array, key: Key, clusters: int) -> jax.Array:
    """Centres `[C, D]` of k-means++: each is drawn in proportion to its squared distance."""
    square = (features**2).sum(1)

    def distance_to(row: jax.Array) -> jax.Array:
        point = features[row]
        return jnp.maximum(square - 2 * features @ point + point @ point, 0)

    def draw(closest: jax.Array, key: Key) -> tuple[jax.Array, jax.Array]:
        # If all examples coincide with a centre, any of them is drawn.
        mass = jnp.cumsum(jnp.where(closest.sum() > 0, closest, 1.0))
        row = jnp.searchsorted(mass, jax.random.uniform(key) * mass[-1], side="right")
        row = jnp.minimum(row, len(features) - 1)
        return jnp.minimum(closest, distance_to(row)), row

    first_key, next_key = jax.random.split(key)
    first = jax.random.randint(first_key, (), 0, len(features))
    keys = jax.random.split(next_key, clusters - 1)
    rows = jax.lax.scan(draw, distance_to(first), keys)[1]
    return features[jnp.concatenate([first[None], rows])]


def _in_blocks(features: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Features in blocks `[S, B, D]`, the last filled up with zeros, and weights `[S, B]`."""
    count = len(features)
    block = min(_BLOCK, count)
    number = -(-count // block)
    padded = jnp.pad(features, ((0, number * block - count), (0, 0)))
    weight = (jnp.arange(number * block) < count).astype(jnp.float32)
    return padded.reshape(number, block, -1), weight.reshape(number, block)


def _nearest_centre(centre: jax.Array, block: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Index of the nearest centre and the squared distance to it, both `[B]`."""
    partial_distance = (centre**2).sum(1)[None] - 2 * block @ centre.T
    index = partial_distance.argmin(1).astype(jnp.int32)
    distance = partial_distance.min(1) + (block**2).sum(1)
    return index, jnp.maximum(distance, 0)


def _add_block(
    centre: jax.Array, sums: tuple[jax.Array, jax.Array], block: tuple[jax.Array, jax.Array]
) -> tuple[tuple[jax.Array, jax.Array], None]:
    """Add the examples of a block to the sums and counts of their clusters."""
    total, count = sums
    features, weight = block
    index, _ = _nearest_centre(centre, features)
    # One product instead of a scatter, which is slow on CPUs.
    member = jax.nn.one_hot(index, len(centre)) * weight[:, None]
    return (total + member.T @ features, count + member.sum(0)), None
