"""Exact nearest neighbours as a head."""

from functools import partial

import jax
import jax.numpy as jnp

from twostage_jax.errors import UserError
from twostage_jax.stages.heads.labels import check_labels, class_labels
from twostage_jax.stages.stage import Batch, Head, Key, Scalar
from twostage_jax.trees import PyTree

# Largest number of neighbours if `k` is a traced array: shapes must be static.
SWEPT_NEIGHBOURS = 256
_BLOCK = 1024  # queries, and stored examples, that are compared at once


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
            "features": _normalised(batch["image"]),
            "label": batch["label"],
            "weight": batch["weight"],
            "votes": votes,
            "temperature": jnp.asarray(temperature, jnp.float32),
        }

    return Head(partial(_vote, classes), solve=solve)


def _normalised(features: jax.Array) -> jax.Array:
    """Features `[N, ...]` as float32 `[N, D]` of length 1; zeros stay zeros."""
    features = features.reshape(len(features), -1).astype(jnp.float32)
    # Once here, so that a cosine is one product in the search.
    length = jnp.linalg.norm(features, axis=-1, keepdims=True)
    return features / jnp.maximum(length, 1e-30)


def _vote(classes: int, params: PyTree, features: jax.Array, block: int = _BLOCK) -> jax.Array:
    """Logits `[B, K]` of features `[B, ...]`."""
    # Parameters from the host are NumPy arrays, which a traced index cannot index.
    params = jax.tree.map(jnp.asarray, params)
    prior = jnp.full(classes, 1 / classes)

    def logits(query: jax.Array) -> jax.Array:
        similarity, index = _nearest(query, params, block)
        # Fewer examples may count than neighbours are asked for.
        votes = params["votes"] * jnp.isfinite(similarity)
        # The nearest neighbour has the exponent 0, so nothing overflows.
        exponent = (similarity - similarity[0]) / params["temperature"]
        votes *= jnp.exp(jnp.where(votes > 0, exponent, 0.0))
        votes *= params["weight"][index]
        share = votes / jnp.maximum(votes.sum(), 1e-30)
        k = params["votes"].sum()
        total = prior + k * share @ jax.nn.one_hot(params["label"][index], classes)
        return jnp.log(total / (k + 1))

    return jax.lax.map(logits, _normalised(features), batch_size=block)


def _nearest(query: jax.Array, params: PyTree, block: int) -> tuple[jax.Array, jax.Array]:
    """Similarities and indices `[k]` of the nearest examples that count, best first.

    Unfilled ranks have the similarity -inf.
    """
    bank = params["features"]
    counts = params["weight"] > 0
    examples = len(bank)
    block = min(block, examples)
    k = len(params["votes"])

    def merge(best: tuple[jax.Array, jax.Array], begin: jax.Array) -> tuple[tuple, None]:
        # The last block moves back to end with the bank, so part of it has been compared before.
        start = jnp.minimum(begin, examples - block)
        position = start + jnp.arange(block)
        # GPUs and TPUs round the factors of a float32 product by default.
        similarity = jnp.matmul(
            jax.lax.dynamic_slice_in_dim(bank, start, block),
            query,
            precision=jax.lax.Precision.HIGHEST,
        )
        new = counts[position] & (position >= begin)
        candidates = jnp.concatenate([best[0], jnp.where(new, similarity, -jnp.inf)])
        index = jnp.concatenate([best[1], position])
        values, rank = jax.lax.top_k(candidates, k)  # ties go to the earlier candidate
        return (values, index[rank]), None

    nothing = (jnp.full(k, -jnp.inf), jnp.zeros(k, jnp.int32))
    return jax.lax.scan(merge, nothing, jnp.arange(0, examples, block))[0]
