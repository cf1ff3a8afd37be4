"""Passes of a network over a split: features of a frozen encoder, computed once; predictions."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from twostage_jax.engine.compile import compile_all
from twostage_jax.engine.memory import free_bytes
from twostage_jax.engine.placement import (
    Placement,
    abstract,
    put,
    put_everywhere,
    spread,
    take,
    tree_map,
)
from twostage_jax.scores.metrics import ScoreSums, score_sums, scores
from twostage_jax.stages.pretrain.reconstruction import reconstruction_error
from twostage_jax.stages.stage import Params, as_batch, as_image

ENCODING_BATCH = 1000
Encode = Callable[[Params, jax.Array], jax.Array]


class Encoding(NamedTuple):
    """A pass of an encoder over a split, for images and parameters of given shapes.

    Attributes:
        features: shape, type and place of what comes out, `[N, ...]`, or `[M, N, ...]`.
        starts: where each batch begins.
        write: `(features, params, images, start) -> features`, with one batch of them filled in.
        put: brings what all members share to the devices.
    """

    features: jax.ShapeDtypeStruct
    starts: tuple[int, ...]
    write: Any
    put: Callable[[Any], Any]


def lower_encoding(
    encode: Encode,
    params: Params,
    images: Any,
    placement: Placement | None = None,
    axes: Any = 0,
) -> Encoding:
    """The pass of `encode` over `images` `[N, ...]`, lowered for `compile_all`; only shapes count.

    Batches are calls of their own, not turns of a loop: XLA's convolutions are many times slower
    within a loop on the CPU.

    Args:
        encode: `(params, image float32 [B, ...]) -> features [B, ...]`.
        params: shapes, of one member.
        images: `[N, ...]`, for all members.
        placement: of the members of a chunk; by default there are none.
        axes: which parameters members have of their own.
    """
    count = len(images)
    size = min(ENCODING_BATCH, count)
    whole = jax.ShapeDtypeStruct(images.shape, jnp.float32)
    features = jax.eval_shape(encode, params, whole)

    def write(features: jax.Array, params: Params, images: jax.Array, start: jax.Array) -> Any:
        batch = as_image(jax.lax.dynamic_slice_in_dim(images, start, size))
        return jax.lax.dynamic_update_slice_in_dim(features, encode(params, batch), start, 0)

    images = jax.ShapeDtypeStruct(images.shape, images.dtype)
    given = (features, params, images, jax.ShapeDtypeStruct((), jnp.int32))
    bring: Callable[[Any], Any] = jax.device_put
    if placement is not None:
        of = (0, axes, None, None)
        write, given = spread(write, placement, of), abstract(placement, of, given)
        bring = partial(put, placement, None)
    lowered = jax.jit(write, donate_argnums=0).lower(*given)
    # The last batch may overlap the one before: no second program for what is left over.
    starts = tuple(min(start, count - size) for start in range(0, count, size))
    return Encoding(given[0], starts, lowered, bring)


def encode_in_calls(encoding: Encoding, params: Params, images: jax.Array) -> Iterator[jax.Array]:
    """The features of a compiled `encoding`, yielded after each batch; the last has them all."""
    empty = np.zeros(encoding.features.shape, encoding.features.dtype)
    features = jax.device_put(empty, encoding.features.sharding)
    for start in encoding.starts:
        features = encoding.write(features, params, images, encoding.put(np.int32(start)))
        yield features


def predict_members(
    apply: Encode, params: Params, images: Any, placement: Placement, axes: Any
) -> np.ndarray:
    """What `apply` gives for each member and image, `[M, N, ...]` on the host.

    Args:
        apply: `(params, image float32 [B, ...]) -> [B, ...]`, of one member.
        params: of all members, on the host, `[M, ...]` where `axes` is 0.
        images: uint8 `[N, H, W, C]`.
        placement: how members are spread.
        axes: which parameters members have of their own.
    """
    one = tree_map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), axes, params)
    encoding = compile_all(lower_encoding(apply, one, images, placement, axes))
    images = put_everywhere(placement, images)
    parts = []
    for piece in placement.pieces:
        own = put(placement, axes, take(placement, piece, axes, params))
        *_, out = encode_in_calls(encoding, own, images)
        parts.append(jax.device_get(out)[: len(piece)])
    return np.concatenate(parts)


def encode(apply: Encode, params: Params, images: Any) -> jax.Array:
    """Features `[N, ...]` of images uint8 `[N, H, W, C]`, on the device, computed once.

    Args:
        apply: `(params, image float32 [B, H, W, C]) -> features [B, ...]`, for instance
            `encoder.apply`.
        params: what `apply` takes.
        images: `[N, H, W, C]`, uint8 or normalised floats.
    """
    images = jnp.asarray(images)
    encoding = compile_all(lower_encoding(apply, params, images))
    *_, features = encode_in_calls(encoding, params, images)
    return features


def choose_encoding(
    wanted: str, features: jax.ShapeDtypeStruct, copies: int = 1
) -> tuple[bool, str]:
    """Whether to encode once, and why, for a frozen encoder whose input never changes.

    Args:
        wanted: `once`, `loop`, or `auto`: once, if the features fit into half of the free memory.
        features: what would be kept.
        copies: for how many encoders.
    """
    size = copies * features.size * features.dtype.itemsize
    need = f"{size / 1e6:.1f} MB of features"
    if wanted != "auto":
        return wanted == "once", {
            "once": f"once, as the config asks ({need})",
            "loop": "in every step, as the config asks",
        }[wanted]
    free = free_bytes()
    if free is not None and size > free / 2:
        return False, f"in every step: {need} are more than half of the {free / 1e6:.1f} MB free"
    return True, f"once: it is frozen and its input never changes ({need})"


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
