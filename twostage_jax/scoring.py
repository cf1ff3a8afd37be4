"""Evaluation: sums over all examples of a split, on the device, in batches."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from twostage_jax.metrics import ScoreSums, reconstruction_error, score_sums, scores
from twostage_jax.stage import Params, as_batch

EVALUATION_BATCH = 1000


def sum_over(
    measure: Callable[[Any], Any], split: Mapping[str, Any], batch_size: int = EVALUATION_BATCH
) -> Any:
    """Add up `measure(batch)` over all examples of a split, the remainder as a batch of its own."""
    data = {name: jnp.asarray(values) for name, values in split.items()}
    count = len(data["image"])
    full, remainder = divmod(count, batch_size)

    def rows(start: Any, size: int) -> Any:
        take = partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=size)
        return measure(as_batch({name: take(values) for name, values in data.items()}))

    def add(total: Any, more: Any) -> Any:
        return jax.tree.map(jnp.add, total, more)

    def body(index: Any, total: Any) -> Any:
        return add(total, rows(index * batch_size, batch_size))

    shapes = jax.eval_shape(lambda: rows(0, min(batch_size, count)))
    total = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    if full:
        total = jax.lax.fori_loop(0, full, body, total)
    return add(total, rows(full * batch_size, remainder)) if remainder else total


@partial(jax.jit, static_argnames=("apply", "batch_size"))
def sum_scores(
    apply: Callable[[Params, jax.Array], jax.Array],
    params: Params,
    split: Mapping[str, Any],
    batch_size: int = EVALUATION_BATCH,
) -> ScoreSums:
    """`metrics.ScoreSums` of a classifier over a whole split; see `evaluate`."""
    return sum_over(
        lambda batch: score_sums(apply(params, batch["image"]), batch["label"], batch["weight"]),
        split,
        batch_size,
    )


def evaluate(
    apply: Callable[[Params, jax.Array], jax.Array],
    params: Params,
    split: Mapping[str, Any],
    batch_size: int = EVALUATION_BATCH,
) -> dict[str, jax.Array]:
    """Accuracy, NLL, ECE, Brier score and count over all examples of a split.

    Args:
        apply: `(params, image float32 [B, H, W, C]) -> logits [B, K]`, for instance
            `make_logits(encoder, head)`. Compiled once for each function object.
        params: what `apply` takes.
        split: `image` uint8 `[N, H, W, C]`, `label` int32 `[N]`, optionally `weight`.
        batch_size: examples at a time; the result does not depend on it but for rounding.

    Returns:
        Scalar arrays as in `metrics.scores` (`float` of one makes it JSON). Pure: it can be
        vmapped over `params`.
    """
    return scores(sum_scores(apply, params, split, batch_size))


@partial(jax.jit, static_argnames=("decode", "batch_size"))
def reconstruction(
    decode: Callable[[Params, jax.Array], jax.Array],
    params: Params,
    split: Mapping[str, Any],
    batch_size: int = EVALUATION_BATCH,
) -> jax.Array:
    """Mean squared error of `decode(params, image)` over all values of a split, in [-1, 1]."""

    def measure(batch: Mapping[str, jax.Array]) -> jax.Array:
        image = batch["image"]
        return reconstruction_error(decode(params, image), image) * len(image)

    return sum_over(measure, split, batch_size) / len(split["image"])
