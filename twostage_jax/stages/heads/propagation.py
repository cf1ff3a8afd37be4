"""Label propagation on a graph of all training images, and a vote for new images."""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from twostage_jax.errors import UserError, did_you_mean
from twostage_jax.stages.heads.counts import check_count
from twostage_jax.stages.heads.graph import (
    as_rows,
    leading_vectors,
    neighbour_graph,
    normalised,
)
from twostage_jax.stages.heads.labels import check_labels
from twostage_jax.stages.heads.search import map_blocks, query_block, top, unit
from twostage_jax.stages.heads.sizes import ClassSizes, parse_sizes, size_shares
from twostage_jax.stages.heads.spreading import Labels, poisson, zhou
from twostage_jax.stages.heads.threshold import auto, poisson_mbo
from twostage_jax.stages.stage import Batch, Head, Key, Scalar
from twostage_jax.trees import PyTree

METHODS = {"auto": auto, "zhou": zhou, "poisson": poisson, "poisson-mbo": poisson_mbo}
MOST_NEIGHBOURS = 100
MOST_VECTORS = 200
LEAST_VECTORS = 60
VECTORS_PER_CLASS = 6
_PRIOR = 0.01  # vote for all classes together that keeps logits finite


def propagate(
    classes: int,
    method: str = "auto",
    class_sizes: ClassSizes = "equal",
    time: Scalar = 40.0,
    alpha: Scalar = 0.0,
    neighbours: int = 12,
    vectors: int = 0,
    votes: int = 10,
) -> Head:
    """Label propagation on the nearest-neighbour graph of all training images.

    `prepare` makes the graph once: see `graph.neighbour_graph` for its weights, and `spreading` and
    `threshold` for the methods. `solve` returns soft labels of all N images (`transduce`). A
    new image gets the vote of its `votes` nearest training images with the weights of
    `graph.self_tuning` (`logits`).

    Parameters: `share` `[N, K]`, the soft labels, and `features` `[N, D]`, those of the
    batch. A run stores them once for all trials, as the group `bank`.

    Args:
        classes: number of classes K.
        method: `zhou` (Zhou et al., "Learning with Local and Global Consistency", 2004), `poisson`
            or `poisson-mbo` (Calder et al., "Poisson Learning", ICML 2020); `auto` is
            `poisson-mbo` for fewer than 20 labels per class on average if its clusters fit the
            labels, else `zhou`.
        class_sizes: assumed shares of the classes among all images: `equal`, `labels` (the shares
            of the labelled examples), `free` (no assumption), or K shares that add up to 1.
        time: length of the first diffusions of `poisson-mbo`, above 0; may be a traced array.
        alpha: share of the neighbours in `zhou`, in (0, 1); may be a traced array. 0 chooses 0.9,
            0.97 or 0.99: one half of the labels predicts the other, see `spreading.choose_alpha`.
        neighbours: neighbours of each image in the graph, from 1 to 100.
        vectors: leading vectors of the graph that the methods use, from 2 to 200. 0 is six for each
            class, but at least 60 and at most 200.
        votes: number of neighbours that classify a new image.

    Raises:
        UserError: an argument out of range; in `prepare`, too few images; in `solve`, a batch
            without a graph or labels that are no class (the shares are NaN if they are traced).

    >>> import jax, numpy as np, twostage_jax as ts
    >>> features = np.array([[1, 0], [1, 0.1], [1, 0.2], [0, 1], [0.1, 1], [0.2, 1]], np.float32)
    >>> head = ts.propagate(2, neighbours=2)
    >>> index, label = jnp.array([0, 3]), jnp.array([0, 1])
    >>> batch = {"image": features[index], "label": label, "weight": jnp.ones(2), "index": index}
    >>> batch |= {"features": features, "prepared": head.prepare(features)}
    >>> params = jax.jit(head.solve)(jax.random.key(0), batch)
    >>> head.transduce(params).argmax(-1).tolist()
    [0, 0, 0, 1, 1, 1]
    """
    if method not in METHODS:
        raise UserError(f"unknown method {method!r}: {did_you_mean(str(method), METHODS)}")
    shares = parse_sizes(class_sizes, classes)
    check_count("neighbours", neighbours, 1, MOST_NEIGHBOURS)
    if vectors == 0:
        vectors = min(MOST_VECTORS, max(LEAST_VECTORS, VECTORS_PER_CLASS * classes))
    check_count("vectors", vectors, 2, MOST_VECTORS)
    check_count("votes", votes, 1, MOST_NEIGHBOURS)
    if isinstance(alpha, float | int) and not 0 <= alpha < 1:
        raise UserError(
            f"alpha is {alpha}: give a number between 0 and 1, for instance 0.99, or 0 to choose it"
        )
    if isinstance(time, float | int) and not 0 < time < float("inf"):
        raise UserError(f"time is {time}: give a number above 0")

    def prepare(features: np.ndarray) -> Mapping[str, np.ndarray]:
        return prepare_graph(features, neighbours, vectors)

    def solve(key: Key, batch: Batch) -> PyTree:
        if "prepared" not in batch:
            raise UserError(
                "propagate has no graph: put prepared = head.prepare(features), features and "
                "index into the batch"
            )
        check_labels(batch["label"], batch["weight"], classes)
        # A label out of range has a row of zeros and must not count as unlabelled.
        counted = batch["weight"][:, None] * jax.nn.one_hot(batch["label"], classes)
        wrong = (batch["weight"] != 0) & ((batch["label"] < 0) | (batch["label"] >= classes))
        labels = Labels(batch["index"], counted, size_shares(shares, counted))
        graph: PyTree = batch["prepared"]
        # GPUs and TPUs round the factors of a float32 product by default.
        with jax.default_matmul_precision("highest"):
            share = METHODS[method](graph, labels, alpha, time)
        share = jnp.where(wrong.any(), jnp.nan, share)
        return {"share": share, "features": batch["features"]}

    return Head(
        partial(vote, votes),
        solve=solve,
        prepare=prepare,
        transduce=transduced_logits,
    )


def prepare_graph(features: np.ndarray, neighbours: int, vectors: int) -> dict[str, np.ndarray]:
    """Compute everything that the methods need from the graph of features `[N, D]`.

    Returns:
        `vectors` float32 `[N, m]` and `values` `[m]` of the normalised weights, zeros beyond N;
        `root` `[N]`, the roots of the degrees; and the entries `column`, `value` and `row` of the
        normalised weights, as in `graph.Rows`. All shapes depend on those of the features
        alone.
    """
    graph = neighbour_graph(features, neighbours)
    matrix, degree = normalised(graph)
    values, basis = leading_vectors(matrix, min(vectors, len(features)))
    missing = vectors - len(values)
    prepared = {
        "vectors": np.pad(basis, ((0, 0), (0, missing))),
        "values": np.pad(values, (0, missing)),
        "root": np.sqrt(degree).astype(np.float32),
    }
    # Each edge has at most two entries; fewer than N bridges join the components.
    rows = as_rows(matrix, 2 * len(features) * (neighbours + 1))
    return prepared | rows._asdict()


def vote(votes: int, params: PyTree, features: jax.Array) -> jax.Array:
    """Logits `[B, K]` of features `[B, ...]`: the weighted vote of their nearest training images.

    The weights are those of `graph.self_tuning`.
    """
    params = jax.tree.map(jnp.asarray, params)
    bank = unit(params["features"])
    share = params["share"]
    k = min(votes, len(bank))

    def log_share(query: jax.Array) -> jax.Array:
        similarity = jnp.matmul(query, bank.T, precision=jax.lax.Precision.HIGHEST)
        similarity, index = top(similarity, k)
        squared = jnp.maximum(2 - 2 * similarity, 0)
        weight = jnp.exp(-4 * squared / jnp.maximum(squared[:, -1:], 1e-9))
        weight /= weight.sum(-1, keepdims=True)
        return as_logits(jnp.einsum("bn,bnk->bk", weight, share[index]))

    return map_blocks(log_share, unit(features), query_block(len(bank)))


def transduced_logits(params: PyTree) -> jax.Array:
    """Logits `[N, K]` of the training images from their soft labels."""
    return as_logits(jnp.asarray(params["share"]))


def as_logits(share: jax.Array) -> jax.Array:
    """Logarithm of shares `[N, K]`, kept finite by a small vote for all classes."""
    share = share + _PRIOR / share.shape[-1]
    return jnp.log(share / share.sum(-1, keepdims=True))
