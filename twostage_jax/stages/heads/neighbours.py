"""Exact nearest neighbours as a head."""

from functools import partial

import jax
import jax.numpy as jnp

from twostage_jax.errors import UserError
from twostage_jax.stages.heads.labels import check_labels, class_labels
from twostage_jax.stages.heads.search import map_blocks, query_block, top, unit
from twostage_jax.stages.stage import Batch, Head, Key, Scalar
from twostage_jax.trees import PyTree

# Largest number of neighbours if `k` is a traced array: shapes must be static.
SWEPT_NEIGHBOURS = 256


def knn(classes: int, k: Scalar = 20, temperature: Scalar = 0.07) -> Head:
    """Vote of the `k` most similar examples, weighted by `exp(cosine / temperature)`.

    The protocol of Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance
    Discrimination", 2018. The search is exact. It runs in blocks, so memory does not grow with
    `B · N`. Examples of weight 0 never vote. Logits are the logarithm of the share of votes, after
    one more neighbour has voted for all classes equally, so they are finite. Equal similarities are
    ordered by position.

    Parameters: `features` `[N, D]` of length 1, `label` and `weight` `[N]`, `votes` `[k]` (1 for a
    rank that votes) and `temperature`.

    Args:
        classes: number of classes K.
        k: number of neighbours, from 1 to N. A traced array may be at most `SWEPT_NEIGHBOURS`: the
            votes of a larger one are NaN.
        temperature: above 0; may be a traced array. Large values weight all neighbours equally.

    Raises:
        UserError: `k` or `temperature` out of range; in `solve`, `k` above N, or labels that count
            and are no class (the votes are NaN if they are traced).

    >>> import twostage_jax as ts
    >>> image = jnp.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    >>> batch = {"image": image, "label": jnp.array([0, 0, 1]), "weight": jnp.ones(3)}
    >>> head = ts.knn(2, k=1)
    >>> params = jax.jit(head.solve)(jax.random.key(0), batch)
    >>> jax.jit(head.logits)(params, jnp.array([[0.1, 2.0]])).argmax(-1).tolist()
    [1]
    """
    if isinstance(k, float | int) and not (k >= 1 and k == int(k)):
        raise UserError(f"k is {k}: give a whole number of at least 1")
    if isinstance(temperature, float | int) and not temperature > 0:
        raise UserError(f"temperature is {temperature}: give a number above 0")

    def solve(key: Key, batch: Batch) -> PyTree:
        examples = len(batch["label"])
        if isinstance(k, float | int):
            if k > examples:
                raise UserError(
                    f"k is {k} for {examples} examples: give --head.set k=N with N of at most "
                    f"{examples}"
                )
            votes = jnp.ones(int(k))
        else:
            most = min(examples, SWEPT_NEIGHBOURS)
            votes = (jnp.arange(most) < k).astype(jnp.float32)
            # A search of more neighbours than there is room for must not pass for a smaller one.
            votes = jnp.where(k <= most, votes, jnp.nan)
        check_labels(batch["label"], batch["weight"], classes)
        # A label out of range must not be a neighbour either.
        label = class_labels(batch["label"], batch["weight"], classes)
        votes = jnp.where((label < classes).all(), votes, jnp.nan)
        return {
            "features": unit(batch["image"]),
            "label": batch["label"],
            "weight": batch["weight"],
            "votes": votes,
            "temperature": jnp.asarray(temperature, jnp.float32),
        }

    return Head(partial(_vote, classes), solve=solve)


def _vote(classes: int, params: PyTree, features: jax.Array, block: int | None = None) -> jax.Array:
    """Logits `[B, K]` of features `[B, ...]`, `block` of them at once."""
    # Parameters from the host are NumPy arrays, which a traced index cannot index.
    params = jax.tree.map(jnp.asarray, params)
    prior = jnp.full(classes, 1 / classes)
    bank = params["features"]

    def logits(query: jax.Array) -> jax.Array:
        # GPUs and TPUs round the factors of a float32 product by default.
        similarity = jnp.matmul(query, bank.T, precision=jax.lax.Precision.HIGHEST)
        similarity = jnp.where(params["weight"][None] > 0, similarity, -jnp.inf)
        similarity, index = top(similarity, len(params["votes"]))
        # Fewer examples may count than neighbours are asked for.
        votes = params["votes"][None] * jnp.isfinite(similarity)
        # The nearest neighbour has the exponent 0, so nothing overflows.
        exponent = (similarity - similarity[:, :1]) / params["temperature"]
        votes *= jnp.exp(jnp.where(votes > 0, exponent, 0.0))
        votes *= params["weight"][index]
        share = votes / jnp.maximum(votes.sum(-1, keepdims=True), 1e-30)
        k = params["votes"].sum()
        counted = jax.nn.one_hot(params["label"][index], classes)
        total = prior[None] + k * jnp.einsum("bn,bnk->bk", share, counted)
        return jnp.log(total / (k + 1))

    queries = unit(features)
    return map_blocks(logits, queries, block or query_block(len(bank)))
