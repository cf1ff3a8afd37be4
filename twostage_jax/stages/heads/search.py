"""Exact search of the most similar examples, in blocks."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from twostage_jax.errors import UserError

# Neighbouring columns that are reduced to their maximum before the selection. The whole search of
# 60,000 among 60,000 with 128 features takes the same time with 16 and 32, and 2.2 times as long
# with 64.
_GROUP = 32
# Similarities in memory at once: 16 MiB stay in the cache; 64 MiB are a fifth slower.
_ENTRIES = 2**22


def nearest(
    queries: np.ndarray, bank: np.ndarray, k: int, exclude_self: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Find the `k` rows of `bank` with the highest cosine similarity to each query.

    The search is exact. It runs on the device in blocks of queries, so memory does not grow with
    `Q · N`. Equal similarities are ordered by position.

    Args:
        queries: floats `[Q, D]`.
        bank: floats `[N, D]`.
        k: number of neighbours, from 1 to N, or to N - 1 with `exclude_self`.
        exclude_self: leave out row i for query i. `queries` must then be the rows of `bank`.

    Returns:
        Similarities float32 `[Q, k]` in [-1, 1], best first, and rows int32 `[Q, k]`.

    Raises:
        UserError: shapes that do not fit, values that are not finite, or `k` out of range.

    >>> import numpy as np
    >>> bank = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> similarity, index = nearest(np.array([[2.0, 0.1]]), bank, k=2)
    >>> index.tolist(), similarity.astype(float).round(2).tolist()
    ([[0, 2]], [[1.0, 0.74]])
    """
    queries = _checked(queries, "queries")
    bank = _checked(bank, "bank")
    count, width = bank.shape
    if queries.shape[1] != width:
        raise UserError(
            f"queries have {queries.shape[1]} features and the bank has {width}: give equal widths"
        )
    if exclude_self and len(queries) != count:
        raise UserError(
            f"{len(queries)} queries for a bank of {count}: exclude_self needs the same rows twice"
        )
    most = count - 1 if exclude_self else count
    if not 1 <= k <= most:
        raise UserError(f"k is {k} for {most} candidates: give a whole number from 1 to {most}")
    block = min(query_block(count), max(len(queries), 1))
    on_device = jnp.asarray(_host_unit(bank))
    similarity = np.empty((len(queries), k), np.float32)
    index = np.empty((len(queries), k), np.int32)
    for begin in range(0, len(queries), block):
        # The last block moves back, so that one program serves all blocks.
        start = max(min(begin, len(queries) - block), 0)
        rows = slice(start, start + block)
        result = _search_block(_host_unit(queries[rows]), on_device, start, k, exclude_self)
        similarity[rows] = result[0]
        index[rows] = result[1]
    return similarity, index


def query_block(count: int) -> int:
    """Return the number of queries that are compared with `count` examples at once."""
    return max(1, _ENTRIES // max(count, 1))


def top(similarity: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Return the `k` largest values of each row, and their columns; ties go to the first column.

    The same result as `jax.lax.top_k`, which is slow for wide rows on a CPU. Here each group of
    neighbouring columns is first reduced to its maximum. The `k` groups with the largest maxima
    hold the `k` largest values, so the selection is exact.

    Args:
        similarity: float32 `[B, N]`.
        k: from 1 to N.

    >>> values, columns = top(jnp.array([[0.5, 2.0, 2.0, 1.0]]), 2)
    >>> values.tolist(), columns.tolist()
    ([[2.0, 2.0]], [[1, 2]])
    """
    rows, count = similarity.shape
    groups = -(-count // _GROUP)
    if groups <= 2 * k:
        return jax.lax.top_k(similarity, k)
    padding = ((0, 0), (0, groups * _GROUP - count))
    similarity = jnp.pad(similarity, padding, constant_values=-jnp.inf)
    grouped = similarity.reshape(rows, groups, _GROUP)
    # In the order of their positions: equal values then have the first column first.
    chosen = jnp.sort(jax.lax.top_k(grouped.max(-1), k)[1], axis=-1)
    candidates = jnp.take_along_axis(grouped, chosen[..., None], axis=1)
    values, place = jax.lax.top_k(candidates.reshape(rows, k * _GROUP), k)
    group = jnp.take_along_axis(chosen, place // _GROUP, axis=1)
    return values, group * _GROUP + place % _GROUP


def unit(features: jax.Array) -> jax.Array:
    """Return features `[N, ...]` as float32 `[N, D]` of length 1; zeros stay zeros."""
    features = features.reshape(len(features), -1).astype(jnp.float32)
    length = jnp.linalg.norm(features, axis=-1, keepdims=True)
    return features / jnp.maximum(length, 1e-30)


def map_blocks(
    function: Callable[[jax.Array], jax.Array], rows: jax.Array, block: int
) -> jax.Array:
    """Apply a pure function of rows `[B, D]` to `[N, D]`, at most `block` rows at once."""
    count = len(rows)
    if count <= block:
        return function(rows)
    blocks = -(-count // block)
    # Blocks of nearly equal size: the last rows of the last one are repeated and dropped.
    block = -(-count // blocks)
    padded = jnp.pad(rows, ((0, blocks * block - count), (0, 0)), mode="edge")
    result = jax.lax.map(function, padded.reshape(blocks, block, -1))
    return result.reshape(blocks * block, *result.shape[2:])[:count]


@partial(jax.jit, static_argnames=("k", "exclude_self"))
def _search_block(
    queries: jax.Array, bank: jax.Array, start: jax.Array, k: int, exclude_self: bool
) -> tuple[jax.Array, jax.Array]:
    """Similarities and rows `[B, k]` of unit queries `[B, D]`; the first query is row `start`."""
    # GPUs and TPUs round the factors of a float32 product by default.
    similarity = jnp.matmul(queries, bank.T, precision=jax.lax.Precision.HIGHEST)
    if exclude_self:
        row = jnp.arange(len(queries))
        similarity = similarity.at[row, start + row].set(-jnp.inf)
    values, columns = top(similarity, k)
    return jnp.clip(values, -1.0, 1.0), columns


def _checked(values: np.ndarray, name: str) -> np.ndarray:
    """Float32 `[N, D]`; raise `UserError` for other shapes and for values that are not finite."""
    values = np.asarray(values)
    if values.ndim != 2:
        raise UserError(f"{name} have shape {list(values.shape)}: give features [N, D]")
    values = values.astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise UserError(f"{name} contain values that are not finite: remove these rows first")
    return values


def _host_unit(features: np.ndarray) -> np.ndarray:
    """Rows `[N, D]` scaled to length 1, on the host; zeros stay zeros."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(length, 1e-30)
