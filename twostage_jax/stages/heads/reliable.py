"""Nearest neighbours whose votes are weighted by the reliability of their labels."""

from functools import partial

import jax
import jax.numpy as jnp

from twostage_jax.errors import UserError
from twostage_jax.stages.heads.counts import check_count
from twostage_jax.stages.heads.labels import check_labels, class_labels
from twostage_jax.stages.heads.search import map_blocks, query_block, top, unit
from twostage_jax.stages.stage import Batch, Head, Key, Scalar
from twostage_jax.trees import PyTree

_PRIOR = 1e-3  # vote for all classes together that keeps logits finite


def knn_reliable(classes: int, doubt: Scalar = 0.1, least: int = 11, most: int = 51) -> Head:
    """Vote of the nearest examples, weighted by the reliability of their labels.

    After Di Salvo et al., "An Embedding is Worth a Thousand Noisy Labels" (WANN, arXiv 2408.14358,
    2024). For each labelled example, `k` is the smallest number from `least` to `most` for which
    the plurality of its `k` nearest other examples has its label. The reliability of the label is
    `1/k`. If there is no such number, `k` is `most` and the reliability is `doubt / most`. For a
    new example, the number of neighbours is the mean `k` of its `least` nearest examples. Each of
    these neighbours votes with its reliability. The mean and `doubt` are our choices, not the
    paper's. Similarity is the cosine.

    Parameters: `features` `[N, D]` of length 1, `label`, `reliability` and `number` `[N]`.

    Args:
        classes: number of classes K.
        doubt: reliability of a label that wins no vote, in units of `1/most`, at least 0; may be a
            traced array.
        least: smallest number of neighbours, at least 1. It is reduced to N - 1 if there are fewer
            examples.
        most: largest number of neighbours, at least `least`; reduced likewise.

    Raises:
        UserError: numbers out of range; in `solve`, fewer than two examples, or labels that count
            and are no class (the votes are NaN if they are traced).

    >>> import twostage_jax as ts
    >>> image = jnp.array([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0], [0.1, 1.0], [0.2, 1.0]])
    >>> label = jnp.array([0, 0, 1, 1, 1, 1])  # the third is wrong
    >>> head = ts.knn_reliable(2, least=1, most=3)
    >>> batch = {"image": image, "label": label, "weight": jnp.ones(6)}
    >>> params = jax.jit(head.solve)(jax.random.key(0), batch)
    >>> head.logits(params, jnp.array([[1.0, 0.21]])).argmax(-1).tolist()
    [0]
    """
    if isinstance(doubt, float | int) and not 0 <= doubt < float("inf"):
        raise UserError(f"doubt is {doubt}: give a number of at least 0")
    check_count("least", least, 1, 1000)
    check_count("most", most, least, 1000)

    def solve(key: Key, batch: Batch) -> PyTree:
        count = len(batch["label"])
        if count < 2:
            raise UserError("knn-reliable has 1 labelled example: give at least 2")
        check_labels(batch["label"], batch["weight"], classes)
        label = class_labels(batch["label"], batch["weight"], classes)
        features = unit(batch["image"])
        bounds = (min(least, count - 1), min(most, count - 1))
        number, agrees = _adapt(features, label, batch["weight"], classes, bounds)
        reliability = jnp.where(agrees, 1.0, doubt) / number
        reliability *= batch["weight"]
        # A label out of range must not vote for any class.
        reliability = jnp.where((label < classes).all(), reliability, jnp.nan)
        return {
            "features": features,
            "label": label,
            "reliability": reliability,
            "number": number.astype(jnp.float32),
        }

    return Head(partial(_vote, classes, least, most), solve=solve)


def _adapt(
    features: jax.Array,
    label: jax.Array,
    weight: jax.Array,
    classes: int,
    bounds: tuple[int, int],
) -> tuple[jax.Array, jax.Array]:
    """Adaptive numbers of neighbours `[N]`, and a mask of examples whose label wins the vote."""
    least, most = bounds

    def adapt(rows: jax.Array) -> jax.Array:
        row = rows[:, -1].astype(jnp.int32)
        similarity = _similarity(rows[:, :-1], features, weight > 0)
        similarity = similarity.at[jnp.arange(len(rows)), row].set(-jnp.inf)
        similarity, index = top(similarity, most)
        votes = jax.nn.one_hot(label[index], classes) * jnp.isfinite(similarity)[..., None]
        votes = votes.cumsum(1)
        mine = jnp.take_along_axis(votes, label[row][:, None, None], axis=2)[..., 0]
        wins = (mine >= votes.max(-1)) & (mine > 0)
        wins = wins[:, least - 1 :]
        number = jnp.where(wins.any(1), wins.argmax(1) + least, most)
        return jnp.stack([number, wins.any(1)], axis=1)

    # The row number is a column of the blocks; float32 is exact up to 2**24.
    position = jnp.arange(len(features), dtype=jnp.float32)[:, None]
    rows = jnp.concatenate([features, position], axis=1)
    result = map_blocks(adapt, rows, query_block(len(features)))
    return result[:, 0], result[:, 1] > 0


def _similarity(queries: jax.Array, bank: jax.Array, counts: jax.Array) -> jax.Array:
    """Cosines `[B, N]` of unit vectors; -inf for examples that do not count."""
    # GPUs and TPUs round the factors of a float32 product by default.
    similarity = jnp.matmul(queries, bank.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.where(counts[None], similarity, -jnp.inf)


def _vote(classes: int, least: int, most: int, params: PyTree, features: jax.Array) -> jax.Array:
    """Logits `[B, K]` of features `[B, ...]`."""
    params = jax.tree.map(jnp.asarray, params)
    bank = params["features"]
    most = min(most, len(bank))
    least = min(least, most)

    def logits(query: jax.Array) -> jax.Array:
        # Examples of weight 0 have no reliability.
        similarity, index = top(_similarity(query, bank, params["reliability"] != 0), most)
        counts = jnp.isfinite(similarity)
        near = counts[:, :least]
        total = jnp.maximum(near.sum(1), 1)
        number = jnp.where(near, params["number"][index[:, :least]], 0).sum(1) / total
        within = counts & (jnp.arange(most)[None] < jnp.round(number)[:, None])
        votes = jnp.where(within, params["reliability"][index], 0)
        share = votes / jnp.maximum(votes.sum(1, keepdims=True), 1e-30)
        counted = jax.nn.one_hot(params["label"][index], classes)
        return jnp.log(jnp.einsum("bn,bnk->bk", share, counted) + _PRIOR / classes)

    return map_blocks(logits, unit(features), query_block(len(bank)))
