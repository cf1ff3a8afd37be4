"""Methods that spread labels over a graph: Zhou's, Poisson, Poisson with MBO, and a choice.

All functions are pure. They take the arrays of `propagation.prepare_graph`, the rows `[n]` of the
labelled examples, their labels as weights `[n, K]`, and the assumed class sizes `[K]` (None for no
assumption). They return shares `[N, K]`. Inside, scores are `[K, N]`: long rows are fast.

`V` holds the leading vectors of `S = D^-1/2 W D^-1/2` and `λ` their eigenvalues.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from twostage_jax.stages.stage import Scalar

Graph = Mapping[str, jax.Array]

# Iterations of Chebyshev's method outside of the leading vectors. With 60 vectors of 60,000 images
# the error falls by 0.6 in each of them.
ITERATIONS = 40
# Floor of 1 - λ: a component without a bridge would have an infinite weight.
_FLOOR = 1e-4
# Labels per class, on average, from which `zhou` makes fewer errors than `poisson_mbo`.
MANY = 20
# Candidates for the α of `zhou`, from local to smooth.
ALPHAS = (0.9, 0.97, 0.99)
# Rounds of MBO with class sizes, and rounds without them afterwards.
ROUNDS = 20
FREE_ROUNDS = 8
# Class weights: number of steps in the first round and in the others, factor by which each step
# shrinks, size of the first step, and largest weight.
_STEPS = (40, 12)
_SHRINK = (0.9, 0.75)
_STEP = 0.3
_CAP = 1.3
# Growth of a class in the free rounds beyond which their result is not used.
_TAKEN_OVER = 2.0


def auto(
    graph: Graph,
    index: jax.Array,
    counted: jax.Array,
    sizes: jax.Array | None,
    alpha: Scalar,
    time: Scalar,
) -> jax.Array:
    """`zhou` if classes have at least 20 labels on average, else `poisson_mbo`."""
    many = len(index) >= MANY * counted.shape[1]
    return (zhou if many else poisson_mbo)(graph, index, counted, sizes, alpha, time)


def zhou(
    graph: Graph,
    index: jax.Array,
    counted: jax.Array,
    sizes: jax.Array | None,
    alpha: Scalar,
    time: Scalar,
) -> jax.Array:
    """Local and global consistency: `(1 - α) (I - α S)^-1 Y` for labels `Y` (Zhou et al., 2004).

    With class sizes, the scores of each class are scaled to add up to its size (class mass
    normalisation, Zhu et al., 2003). If `alpha` is 0, `choose_alpha` chooses it. `time` is not
    used.
    """
    # A swept value is traced. Then the choice is computed even if no value is 0.
    if isinstance(alpha, jax.Array) or alpha == 0:
        alpha = jnp.where(alpha > 0, alpha, choose_alpha(graph, index, counted, sizes))
    return _consistent(graph, index, counted, sizes, jnp.asarray(alpha, jnp.float32))


def _consistent(
    graph: Graph,
    index: jax.Array,
    counted: jax.Array,
    sizes: jax.Array | None,
    alpha: jax.Array,
) -> jax.Array:
    """Result of `zhou` for a given α."""
    size = len(graph["root"])
    labels = jnp.zeros((counted.shape[1], size)).at[:, index].add(counted.T)
    score = jnp.maximum(_resolvent(graph, labels, alpha), 0)
    if sizes is not None:
        score = score * (sizes / (score.sum(1) + 1e-30))[:, None]
    return _shares(score).T


def choose_alpha(
    graph: Graph, index: jax.Array, counted: jax.Array, sizes: jax.Array | None
) -> jax.Array:
    """Choose the α of `zhou` by two-fold cross-validation on the labelled examples.

    The choice is the value of `ALPHAS` with the best accuracy on the labels of the other fold; of
    equal values, the largest. The labels may be wrong, because all candidates are compared on the
    same labels. A single label of a class counts as an error of every candidate.
    """
    counts = (counted > 0).astype(jnp.int32)
    # Labels of a class alternate between the folds.
    rank = ((jnp.cumsum(counts, 0) - counts) * counts).sum(1)
    weight = counted.sum(1)
    label = counted.argmax(1)

    def accuracy(candidate: tuple[jax.Array, jax.Array]) -> jax.Array:
        alpha, fold = candidate
        inside = rank % 2 == fold
        share = _consistent(graph, index, counted * inside[:, None], sizes, alpha)
        right = share[index].argmax(1) == label
        return (weight * (right & ~inside)).sum()

    alphas = jnp.asarray(ALPHAS, jnp.float32)
    folds = jnp.arange(2)
    pairs = (jnp.repeat(alphas, 2), jnp.tile(folds, len(ALPHAS)))
    scores = jax.lax.map(accuracy, pairs).reshape(len(ALPHAS), 2).sum(1)
    return jnp.where(scores == scores.max(), alphas, 0).max()


def poisson(
    graph: Graph,
    index: jax.Array,
    counted: jax.Array,
    sizes: jax.Array | None,
    alpha: Scalar,
    time: Scalar,
) -> jax.Array:
    """Poisson learning: the solution of `(D - W) u = y - mean(y)` (Calder et al., 2020).

    With class sizes, scores are multiplied by the size of the class over its share of the labels,
    as in the paper. `alpha` and `time` are not used.
    """
    score = _poisson_scores(graph, index, counted, exact=True)
    if sizes is not None:
        labelled = counted.sum(0) / jnp.maximum(counted.sum(), 1e-30)
        score = score * (sizes / jnp.maximum(labelled, 1e-6))[:, None]
    # Scores can be negative. A softmax of the scores, divided by their scale, gives shares.
    scale = jnp.sqrt((score**2).mean()) + 1e-30
    return jax.nn.softmax(score / scale, axis=0).T


def poisson_mbo(
    graph: Graph,
    index: jax.Array,
    counted: jax.Array,
    sizes: jax.Array | None,
    alpha: Scalar,
    time: Scalar,
) -> jax.Array:
    """Threshold dynamics on the leading vectors, from Poisson scores (PoissonMBO, 2020).

    A round multiplies the shares by class weights, gives each image its best class, resets the
    labelled ones, and diffuses the result: `D^-1/2 V exp(-t (1 - λ)) V' D^1/2` with `t = time`. Two
    things differ from the paper: the diffusion is in closed form, and the class weights are soft
    (they take a few shrinking steps towards the sizes and stay between 1/1.3 and 1.3). After 20
    rounds, eight rounds without weights follow. If these double or halve a class, their result is
    not used. `alpha` is not used.
    """
    classes = counted.shape[1]
    score = _poisson_scores(graph, index, counted, exact=False)
    # The smallest score of a class becomes 0.
    score = score - score.min(1, keepdims=True)

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
        share = _shares(score)
        if sizes is not None:
            weight = _balance(share, weight, sizes, _STEPS[kind], _SHRINK[kind])
        return diffuse(assign(share * weight[:, None])), weight

    carry = constrained((score, jnp.ones(classes)), 0)
    carry = jax.lax.fori_loop(1, ROUNDS, lambda _, carry: constrained(carry, 1), carry)

    def free(_: int, score: jax.Array) -> jax.Array:
        return diffuse(assign(_shares(score)))

    balanced = assign(_shares(carry[0]) * carry[1][:, None])
    score = jax.lax.fori_loop(0, FREE_ROUNDS - 1, free, carry[0])
    final = assign(_shares(score))
    if sizes is None:
        return final.T
    # On weak features, one class may take over as soon as the sizes are free.
    growth = final.sum(1) / jnp.maximum(balanced.sum(1), 1.0)
    stable = (growth.max() < _TAKEN_OVER) & (growth.min() > 1 / _TAKEN_OVER)
    return jnp.where(stable, final, balanced).T


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


def _shares(score: jax.Array) -> jax.Array:
    """Scores `[K, N]` as shares that add up to 1 for each example; negative scores are 0."""
    score = jnp.maximum(score, 0)
    return score / (score.sum(0, keepdims=True) + 1e-12)


def _poisson_scores(graph: Graph, index: jax.Array, counted: jax.Array, exact: bool) -> jax.Array:
    """Scores `[K, N]` of Poisson learning, of mean 0 by degree.

    The source of a class is its labels minus their mean, so it adds up to 0. Unless `exact`, the
    solution is that on the leading vectors.
    """
    mean = counted.sum(0) / jnp.maximum(counted.sum(), 1e-30)
    source = counted - counted.sum(1, keepdims=True) * mean[None]
    root = graph["root"][index][:, None]
    gap = 1 - graph["values"]
    # The first vector is constant on the graph, and the source is orthogonal to it.
    inverse = jnp.where(jnp.arange(len(gap)) > 0, 1 / jnp.maximum(gap, _FLOOR), 0)
    if not exact:
        coefficient = (source / root).T @ graph["vectors"][index]
        return (coefficient * inverse[None]) @ graph["vectors"].T / graph["root"][None]
    size = len(graph["root"])
    right = jnp.zeros((counted.shape[1], size)).at[:, index].add((source / root).T)
    return _solve(graph, right, jnp.float32(1), inverse) / graph["root"][None]


def _resolvent(graph: Graph, labels: jax.Array, alpha: jax.Array) -> jax.Array:
    """Rows of `(1 - α) (I - α S)^-1` applied to rows `[K, N]`."""
    inverse = 1 / (1 - alpha * graph["values"])
    return (1 - alpha) * _solve(graph, labels, alpha, inverse)


def _solve(graph: Graph, right: jax.Array, alpha: jax.Array, inverse: jax.Array) -> jax.Array:
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
        residual = project(residual - direction + alpha * _multiply(graph, direction))
        following = 1 / (2 * middle / half - step)
        direction = following * step * direction + 2 * following / half * residual
        return x, residual, direction, following

    start = (jnp.zeros_like(residual), residual, residual / middle, half / middle)
    rest = jax.lax.fori_loop(0, ITERATIONS, iterate, start)[0]
    return leading + rest.T


def _multiply(graph: Graph, x: jax.Array) -> jax.Array:
    """Product of the normalised weights and `[N, K]`."""
    partial = jnp.einsum("cw,cwk->ck", graph["value"], x[graph["column"]])
    # Rows of the matrix that were cut into several add up again.
    return jax.ops.segment_sum(partial, graph["row"], len(x), indices_are_sorted=True)
