"""Two ways to spread labels over a graph: Zhou's and Poisson learning.

All functions are pure. They take the arrays of `propagation.prepare_graph` and the `Labels`, and
return shares `[N, K]`. Inside, scores are `[K, N]`: long rows are fast.

`V` holds the leading vectors of `S = D^-1/2 W D^-1/2` and `λ` their eigenvalues.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from twostage_jax.stages.stage import Scalar

Graph = Mapping[str, jax.Array]

# Iterations of Chebyshev's method outside of the leading vectors. With 60 vectors of 60,000 images
# the error falls by 0.6 in each of them. A choice needs less precision than a result.
ITERATIONS = 30
_ROUGH = 12
# Floor of 1 - λ: a component without a bridge would have an infinite weight.
_FLOOR = 1e-4
# Candidates for the α of `zhou`, from local to smooth.
ALPHAS = (0.9, 0.97, 0.99)


class Labels(NamedTuple):
    """Labels of some examples of a graph, and the assumption about the class sizes.

    Attributes:
        index: rows of the labelled examples, int32 `[n]`.
        counted: their one-hot labels times their weights, `[n, K]`.
        sizes: assumed shares of the classes `[K]`; None for no assumption.
    """

    index: jax.Array
    counted: jax.Array
    sizes: jax.Array | None


def zhou(graph: Graph, labels: Labels, alpha: Scalar, time: Scalar) -> jax.Array:
    """Local and global consistency: `(1 - α) (I - α S)^-1 Y` for labels `Y` (Zhou et al., 2004).

    With class sizes, the scores of each class are scaled to add up to its size (class mass
    normalisation, Zhu et al., 2003). If `alpha` is 0, `choose_alpha` chooses it. `time` is not
    used.
    """
    # A swept value is traced. Then the choice is computed even if no value is 0.
    if isinstance(alpha, jax.Array) or alpha == 0:
        alpha = jnp.where(alpha > 0, alpha, choose_alpha(graph, labels))
    return _zhou(graph, labels, jnp.asarray(alpha, jnp.float32), ITERATIONS)


def _zhou(graph: Graph, labels: Labels, alpha: jax.Array, iterations: int) -> jax.Array:
    inverse = 1 / (1 - alpha * graph["values"])
    right = _spread_out(graph, labels.index, labels.counted)
    score = (1 - alpha) * _solve(graph, right, alpha, inverse, iterations)
    score = jnp.maximum(score, 0)
    if labels.sizes is not None:
        score = score * (labels.sizes / (score.sum(1) + 1e-30))[:, None]
    return as_shares(score).T


def _spread_out(graph: Graph, index: jax.Array, values: jax.Array) -> jax.Array:
    """Values `[n, K]` of some rows as `[K, N]`, with zeros for all other rows."""
    return jnp.zeros((values.shape[1], len(graph["root"]))).at[:, index].add(values.T)


def choose_alpha(graph: Graph, labels: Labels) -> jax.Array:
    """Choose the α of `zhou`: one half of the labelled examples predicts the labels of the other.

    Of `ALPHAS`, the choice is the one with the best accuracy; of equal ones, the largest. Labels
    may be wrong: all candidates are compared on the same ones. A single label of a class is in the
    first half and is not predicted.
    """
    counted = labels.counted
    counts = (counted > 0).astype(jnp.int32)
    # Labels of a class alternate between the halves.
    rank = ((jnp.cumsum(counts, 0) - counts) * counts).sum(1)
    first = (rank % 2 == 0)[:, None] * counted
    second = counted - first

    def accuracy(alpha: jax.Array) -> jax.Array:
        share = _zhou(graph, labels._replace(counted=first), alpha, _ROUGH)
        predicted = share[labels.index].argmax(1)
        return jnp.take_along_axis(second, predicted[:, None], 1).sum()

    alphas = jnp.asarray(ALPHAS, jnp.float32)
    scores = jax.lax.map(accuracy, alphas)
    return jnp.where(scores == scores.max(), alphas, 0).max()


def poisson(graph: Graph, labels: Labels, alpha: Scalar, time: Scalar) -> jax.Array:
    """Poisson learning: the solution of `(D - W) u = y - mean(y)` (Calder et al., 2020).

    With class sizes, scores are multiplied by the size of the class over its share of the labels,
    as in the paper. `alpha` and `time` are not used.
    """
    score = poisson_scores(graph, labels, exact=True)
    if labels.sizes is not None:
        counts = labels.counted.sum(0)
        labelled = counts / jnp.maximum(counts.sum(), 1e-30)
        score = score * (labels.sizes / jnp.maximum(labelled, 1e-6))[:, None]
    # Scores are of both signs; a softmax on their own scale makes shares of them.
    scale = jnp.sqrt((score**2).mean()) + 1e-30
    return jax.nn.softmax(score / scale, axis=0).T


def as_shares(score: jax.Array) -> jax.Array:
    """Scores `[K, N]` as shares that add up to 1 for each example; negative scores are 0."""
    score = jnp.maximum(score, 0)
    return score / (score.sum(0, keepdims=True) + 1e-12)


def poisson_scores(graph: Graph, labels: Labels, exact: bool) -> jax.Array:
    """Scores `[K, N]` of Poisson learning, of mean 0 by degree.

    The source of a class is its labels minus their mean, so it adds up to 0. Unless `exact`, the
    solution is that on the leading vectors.
    """
    index, counted, _ = labels
    mean = counted.sum(0) / jnp.maximum(counted.sum(), 1e-30)
    source = counted - counted.sum(1, keepdims=True) * mean[None]
    root = graph["root"][index][:, None]
    gap = 1 - graph["values"]
    # The first vector is constant on the graph, and the source is orthogonal to it.
    inverse = jnp.where(jnp.arange(len(gap)) > 0, 1 / jnp.maximum(gap, _FLOOR), 0)
    if not exact:
        coefficient = (source / root).T @ graph["vectors"][index]
        return (coefficient * inverse[None]) @ graph["vectors"].T / graph["root"][None]
    right = _spread_out(graph, index, source / root)
    return _solve(graph, right, jnp.float32(1), inverse, ITERATIONS) / graph["root"][None]


def _solve(
    graph: Graph, right: jax.Array, alpha: jax.Array, inverse: jax.Array, iterations: int
) -> jax.Array:
    """Solution of `(I - α S) x = right` for rows `[K, N]`.

    Exact on the leading vectors (`inverse` holds the factors there), and Chebyshev's iteration
    (Golub and Varga, 1961) on the rest, whose eigenvalues lie between `1 - α λ_m` and `1 + α`.
    """
    vectors = graph["vectors"]
    coefficient = right @ vectors
    leading = (coefficient * inverse[None]) @ vectors.T
    residual = (right - coefficient @ vectors.T).T
    # The smallest eigenvalue that was computed: padding has the value 0.
    used = jnp.where((vectors != 0).any(0), graph["values"], 1.0).min()
    low = jnp.maximum(1 - alpha * used, _FLOOR)
    high = 1 + alpha
    middle = (high + low) / 2
    half = (high - low) / 2

    def project(x: jax.Array) -> jax.Array:
        return x - vectors @ (vectors.T @ x)

    def iterate(_: int, carry: tuple) -> tuple:
        x, residual, direction, step = carry
        x = x + direction
        residual = project(residual - direction + alpha * multiply(graph, direction))
        following = 1 / (2 * middle / half - step)
        direction = following * step * direction + 2 * following / half * residual
        return x, residual, direction, following

    start = (jnp.zeros_like(residual), residual, residual / middle, half / middle)
    rest = jax.lax.fori_loop(0, iterations, iterate, start)[0]
    return leading + rest.T


def multiply(graph: Graph, x: jax.Array) -> jax.Array:
    """Product of the normalised weights and `[N, K]`."""
    partial = jnp.einsum("cw,cwk->ck", graph["value"], x[graph["column"]])
    # Rows of the matrix that were cut into several add up again.
    return jax.ops.segment_sum(partial, graph["row"], len(x), indices_are_sorted=True)
