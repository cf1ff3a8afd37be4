"""Poisson learning followed by threshold dynamics: PoissonMBO, from several starts.

Calder et al., "Poisson Learning: Graph Based Semi-Supervised Learning at Very Low Label Rates",
ICML 2020. Threshold dynamics finds a local optimum, and a wrong one exchanges or joins classes. So
it starts three times, from coarse and fine clusters, refines each result, and keeps the partition
that contradicts the fewest labels.

The arguments of `poisson_mbo` and `auto` are those of the functions in `spreading`.
"""

import jax
import jax.numpy as jnp

from twostage_jax.stages.heads.spreading import (
    Graph,
    Labels,
    as_shares,
    multiply,
    poisson_scores,
    zhou,
)
from twostage_jax.stages.stage import Scalar

# Labels per class from which the labels themselves say more than the clusters of the graph.
MANY = 20
# With one label per class, `auto` accepts clusters that contradict up to this share of the labels.
# The share of n labels per class is smaller by the root of n: then it is known better, and `zhou`
# has more to work with. docs/heads.md has the measurements.
_ACCEPTED = 0.3
# Starts: one in 4 or all of the leading vectors, and the part of the time for which they diffuse.
_STARTS = ((4, 1.0), (1, 1.0), (1, 0.25))
# Rounds with class sizes from a start and in the refinement, and rounds without them afterwards.
_ROUNDS = (10, 5)
_FREE_ROUNDS = 5
# The refinement diffuses for this part of the time.
_FINE = 1 / 8
# Class weights: number of steps in the first round and in the others, factor by which each step
# shrinks, size of the first step, and largest weight.
_STEPS = (40, 12)
_SHRINK = (0.9, 0.75)
_STEP = 0.3
_CAP = 1.3
# Growth of a class in the free rounds beyond which their result is not used.
_TAKEN_OVER = 2.0


def auto(graph: Graph, labels: Labels, alpha: Scalar, time: Scalar) -> jax.Array:
    """`poisson_mbo` for few labels on clusters that fit them, else `zhou`.

    `zhou` is used if classes have at least 20 labels on average, or if the partition contradicts
    too many labels (`contradicted`): then the classes are no clusters of the graph.
    """
    count, classes = labels.counted.shape
    if count >= MANY * classes:
        return zhou(graph, labels, alpha, time)
    hard, share = _best_partition(graph, labels, time)
    accepted = _ACCEPTED / (count / classes) ** 0.5
    return jax.lax.cond(share > accepted, lambda: zhou(graph, labels, alpha, time), lambda: hard.T)


def poisson_mbo(graph: Graph, labels: Labels, alpha: Scalar, time: Scalar) -> jax.Array:
    """Threshold dynamics on the leading vectors, from Poisson scores.

    Each start has its own number of leading vectors and its own part of `time`. Its result is
    refined on all vectors with an eighth of `time`. Of the results that contradict the fewest
    labels, the one with the largest modularity is returned. `alpha` is not used.
    """
    return _best_partition(graph, labels, time)[0].T


def _best_partition(graph: Graph, labels: Labels, time: Scalar) -> tuple[jax.Array, jax.Array]:
    """Return the best hard labels `[K, N]` and the share of the labels that they contradict."""
    results = []
    for part, length in _STARTS:
        count = max(2, graph["vectors"].shape[1] // part)
        coarse = {
            **graph,
            "vectors": graph["vectors"][:, :count],
            "values": graph["values"][:count],
        }
        score = poisson_scores(coarse, labels, exact=False)
        # The smallest score of a class becomes 0.
        score = score - score.min(1, keepdims=True)
        hard, balanced = _threshold(coarse, score, labels, length * time, _ROUNDS[0])
        fine, _ = _threshold(graph, hard, labels, _FINE * time, _ROUNDS[1])
        results.append(fine if labels.sizes is None else _stable(fine, balanced, hard))
    shares = jnp.stack([contradicted(graph, labels, hard) for hard in results])
    quality = jnp.stack([modularity(graph, hard) for hard in results])
    # Modularity is at least -1. Shares differ by more than their rounding errors or not at all.
    best = jnp.where(shares < shares.min() + 1e-5, quality, -2).argmax()
    return jnp.stack(results)[best], shares[best]


def contradicted(graph: Graph, labels: Labels, hard: jax.Array) -> jax.Array:
    """Share of the labels that differ from the class of their neighbours; hard labels `[K, N]`.

    A labelled image keeps its label in the partition, whatever its neighbours are. So its label is
    compared with the vote of its neighbours, in which it does not take part. A scalar in [0, 1].
    """
    rooted = hard * graph["root"][None]
    predicted = multiply(graph, rooted.T)[labels.index].argmax(1)
    agreeing = jnp.take_along_axis(labels.counted, predicted[:, None], 1).sum()
    return 1 - agreeing / jnp.maximum(labels.counted.sum(), 1e-30)


def modularity(graph: Graph, hard: jax.Array) -> jax.Array:
    """Share of the edges' weight within classes, minus its expectation; hard labels `[K, N]`.

    The expectation is that of random edges between images of the same degrees. Newman and Girvan,
    "Finding and Evaluating Community Structure in Networks", 2004. A scalar from -1 to 1; a cut
    through a cluster and unequal class sizes reduce it.
    """
    rooted = hard * graph["root"][None]
    total = (graph["root"] ** 2).sum()
    # `S` times the roots of both degrees is the weight of an edge.
    within = (rooted * multiply(graph, rooted.T).T).sum() / total
    volume = (rooted * graph["root"][None]).sum(1) / total
    return within - (volume**2).sum()


def _threshold(
    graph: Graph, score: jax.Array, labels: Labels, time: Scalar, rounds: int
) -> tuple[jax.Array, jax.Array]:
    """Hard labels `[K, N]` by threshold dynamics from scores, and those before the free rounds.

    A round multiplies the shares by class weights, gives each image its best class, resets the
    labelled ones, and diffuses the result: `D^-1/2 V exp(-t (1 - λ)) V' D^1/2` with `t = time`. Two
    things differ from the paper: the diffusion is in closed form, and the class weights are soft
    (they take a few shrinking steps towards the sizes and stay within 1/1.3 and 1.3). Five rounds
    without weights follow, unless they double or halve a class.
    """
    index, counted, sizes = labels
    classes = counted.shape[1]
    decay = jnp.exp(-time * (1 - graph["values"]))

    def diffuse(hard: jax.Array) -> jax.Array:
        coefficient = (hard * graph["root"][None]) @ graph["vectors"]
        spread = (coefficient * decay[None]) @ graph["vectors"].T / graph["root"][None]
        return spread.at[:, index].add(counted.T)

    def assign(share: jax.Array) -> jax.Array:
        best = (share.argmax(0)[None] == jnp.arange(classes)[:, None]).astype(jnp.float32)
        return _reset(best, index, counted)

    def constrained(carry: tuple, kind: int) -> tuple:
        score, weight = carry
        share = as_shares(score)
        if sizes is not None:
            weight = _balance(share, weight, sizes, _STEPS[kind], _SHRINK[kind])
        return diffuse(assign(share * weight[:, None])), weight

    carry = constrained((score, jnp.ones(classes)), 0)
    carry = jax.lax.fori_loop(1, rounds, lambda _, carry: constrained(carry, 1), carry)

    def free(_: int, score: jax.Array) -> jax.Array:
        return diffuse(assign(as_shares(score)))

    balanced = assign(as_shares(carry[0]) * carry[1][:, None])
    score = jax.lax.fori_loop(0, _FREE_ROUNDS - 1, free, carry[0])
    final = assign(as_shares(score))
    return (final if sizes is None else _stable(final, balanced, balanced)), balanced


def _stable(hard: jax.Array, balanced: jax.Array, otherwise: jax.Array) -> jax.Array:
    """Return `hard`, or `otherwise` if it doubles or halves a class of `balanced`.

    On weak features, one class may take over as soon as the sizes are free.
    """
    growth = hard.sum(1) / jnp.maximum(balanced.sum(1), 1.0)
    stable = (growth.max() < _TAKEN_OVER) & (growth.min() > 1 / _TAKEN_OVER)
    return jnp.where(stable, hard, otherwise)


def _balance(
    share: jax.Array, weight: jax.Array, sizes: jax.Array, steps: int, shrink: float
) -> jax.Array:
    """Class weights `[K]` with which the best classes of shares `[K, N]` come near their sizes."""

    def step(number: int, weight: jax.Array) -> jax.Array:
        score = share * weight[:, None]
        # A comparison takes a third of the time of `argmax`, and ties are rare.
        best = score >= score.max(0, keepdims=True)
        taken = best.sum(1) / score.shape[1]
        change = _STEP * shrink**number * (1 - taken / sizes)
        return jnp.clip(weight * jnp.exp(change), 1 / _CAP, _CAP)

    return jax.lax.fori_loop(0, steps, step, weight)


def _reset(hard: jax.Array, index: jax.Array, counted: jax.Array) -> jax.Array:
    """Give the labelled examples their labels again, in hard assignments `[K, N]`."""
    is_labelled = (counted.sum(1) > 0)[None]
    label = (counted > 0).astype(hard.dtype).T
    return hard.at[:, index].set(jnp.where(is_labelled, label, hard[:, index]))
