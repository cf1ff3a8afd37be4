"""A network applied to many images: features, predictions, and scores summed on the device."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from twostage_jax.engine.compile import as_function
from twostage_jax.engine.memory import free_bytes
from twostage_jax.engine.placement import (
    Placement,
    abstract,
    first_members,
    join_members,
    padded,
    put,
    spread,
    take,
)
from twostage_jax.scores.metrics import ScoreSums, mean_scores, score_sums
from twostage_jax.stages.pretrain.reconstruction import reconstruction_error
from twostage_jax.stages.stage import Batch, Params, as_batch, as_image
from twostage_jax.trees import PyTree

BATCH = 1000
Apply = Callable[[Params, jax.Array], jax.Array]


class Pass(NamedTuple):
    """One network applied to batches of a fixed size, for the members of a chunk.

    Attributes:
        placement: members on devices.
        axes: parameters that members have of their own.
        batch_size: images at a time.
        result: shape and type of one member's result for one batch.
        program: `(params, images [B, H, W, C]) -> results [width, B, ...]`.
    """

    placement: Placement
    axes: PyTree
    batch_size: int
    result: jax.ShapeDtypeStruct
    program: Callable[..., jax.Array]


def choose_batch(largest: int) -> int:
    """Return the number of images at a time, for splits of at most `largest` images."""
    # A small data set needs no batch of a thousand.
    return max(1, min(BATCH, largest))


def lower_pass(
    apply: Callable[[PyTree, jax.Array], jax.Array],
    params: PyTree,
    image_shape: tuple[int, ...],
    largest: int,
    placement: Placement,
    axes: PyTree,
    dtype: DTypeLike = np.uint8,
) -> Pass:
    """Lower the application of a network to images, for `compile_all`.

    One program serves every split: a batch that is too short is padded. Batches are calls, not
    turns of a compiled loop, because XLA's convolutions are many times slower in a loop on the CPU.

    Args:
        apply: `(params, image float32 [B, ...]) -> results [B, ...]` of one member.
        params: shapes of the parameters of one member.
        image_shape: shape of one image.
        largest: number of images in the largest split.
        placement: members on devices.
        axes: parameters that members have of their own.
        dtype: uint8, or float32 for images that are normalised already.
    """
    size = choose_batch(largest)
    images = jax.ShapeDtypeStruct((size, *image_shape), dtype)

    def apply_normalised(params: PyTree, images: jax.Array) -> jax.Array:
        return apply(params, as_image(images))

    in_axes = (axes, None)
    program = jax.jit(spread(apply_normalised, placement, in_axes))
    lowered = program.lower(*abstract(placement, in_axes, (params, images)))
    # Not traced again: a trace takes 10 ms.
    output = lowered.out_info
    result = jax.ShapeDtypeStruct(output.shape[1:], output.dtype)
    return Pass(placement, axes, size, result, as_function(lowered))


def apply_pass(compiled: Pass, params: PyTree, images: np.ndarray) -> np.ndarray:
    """Return the results of all members for all images, `[M, N, ...]` on the host.

    Args:
        compiled: compiled pass.
        params: parameters of all members, on the host, `[M, ...]` where they have their own.
        images: `[N, H, W, C]` of the program's type; any number of them.
    """
    placement = compiled.placement
    count = len(images)
    # Validation may be empty.
    if not count:
        shape = (placement.members, 0, *compiled.result.shape[1:])
        return np.zeros(shape, compiled.result.dtype)
    parts = []
    for piece in placement.pieces:
        chunk = put(placement, compiled.axes, take(padded(placement, piece), compiled.axes, params))
        results = []
        for start in range(0, count, compiled.batch_size):
            batch = _fill(images[start : start + compiled.batch_size], compiled.batch_size)
            results.append(compiled.program(chunk, put(placement, None, batch)))
        # Fetched after all calls, so that the device does not wait for the host.
        rows = [first_members(len(piece), 0, result) for result in results]
        parts.append(np.concatenate(rows, axis=1)[:, :count])
    return join_members(0, parts)


def _fill(images: np.ndarray, size: int) -> np.ndarray:
    """Return `size` images; the last one is repeated if there are fewer."""
    if len(images) == size:
        return images
    return np.concatenate([images, np.repeat(images[-1:], size - len(images), axis=0)])


def encode(apply: Apply, params: Params, images: PyTree) -> jax.Array:
    """Return features `[N, ...]` of images `[N, H, W, C]`, on the device.

    Args:
        apply: `(params, image float32 [B, H, W, C]) -> features [B, ...]`, for instance
            `encoder.apply`. Compiled once for each function and shape.
        params: first argument of `apply`.
        images: uint8, or normalised floats.

    >>> import jax, twostage_jax as ts
    >>> data, encoder = ts.load("digits"), ts.MLP((16, 8))
    >>> params = encoder.init(jax.random.key(0), ts.as_image(data.train["image"][:1]))
    >>> ts.encode(encoder.apply, params, data.test["image"]).shape
    (359, 8)
    """
    images = jnp.asarray(images)
    count = len(images)
    size = min(BATCH, count)
    if not count:
        shapes = jax.eval_shape(_encode_batch, apply, params, images)
        return jnp.zeros(shapes.shape, shapes.dtype)
    parts = []
    for start in range(0, count, size):
        # The last batch overlaps the one before, so that one program computes all of them.
        first = min(start, count - size)
        features = _encode_batch(apply, params, images[first : first + size])
        parts.append(features[start - first :])
    return jnp.concatenate(parts)


@partial(jax.jit, static_argnums=0)
def _encode_batch(apply: Apply, params: Params, images: jax.Array) -> jax.Array:
    return apply(params, as_image(images))


def choose_encoding(
    requested: str, size: int, measure: Callable[[], int | None] = free_bytes
) -> tuple[bool, str]:
    """Decide if a frozen encoder runs once before stage 2, and explain the decision in words.

    Args:
        requested: `once`, `loop`, or `auto`: once if the features fit into half of the free memory.
        size: bytes of all features.
        measure: returns the free memory in bytes.
    """
    need = f"{size / 1e6:.1f} MB of features"
    if requested == "once":
        return True, f"applied once before stage 2, as requested ({need})"
    if requested == "loop":
        return False, "applied in every step of stage 2, as requested"
    free = measure()
    if free is not None and size > free / 2:
        return (
            False,
            f"applied in every step of stage 2: {need} exceed half of the {free / 1e6:.1f} MB free",
        )
    return True, f"applied once before stage 2 ({need} cached)"


def sum_over(
    measure: Callable[[Batch], PyTree], split: Mapping[str, PyTree], batch_size: int = BATCH
) -> PyTree:
    """Add up `measure(batch)` over all examples of a split; the remainder is a smaller batch."""
    data = {name: jnp.asarray(values) for name, values in split.items()}
    count = len(data["image"])
    full, remainder = divmod(count, batch_size)

    def measure_rows(start: jax.Array | int, size: int) -> PyTree:
        take_rows = partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=size)
        return measure(as_batch({name: take_rows(values) for name, values in data.items()}))

    def add(total: PyTree, more: PyTree) -> PyTree:
        return jax.tree.map(jnp.add, total, more)

    def body(index: jax.Array, total: PyTree) -> PyTree:
        return add(total, measure_rows(index * batch_size, batch_size))

    shapes = jax.eval_shape(lambda: measure_rows(0, min(batch_size, count)))
    total = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    # A compiled loop keeps the function pure, so that it can be vmapped over parameters.
    if full:
        total = jax.lax.fori_loop(0, full, body, total)
    if remainder:
        total = add(total, measure_rows(full * batch_size, remainder))
    return total


@partial(jax.jit, static_argnames=("apply", "batch_size"))
def _sum_scores(
    apply: Apply, params: Params, split: Mapping[str, PyTree], batch_size: int
) -> ScoreSums:
    return sum_over(
        lambda batch: score_sums(apply(params, batch["image"]), batch["label"], batch["weight"]),
        split,
        batch_size,
    )


def evaluate(
    apply: Apply, params: Params, split: Mapping[str, PyTree], batch_size: int = BATCH
) -> dict[str, jax.Array]:
    """Return accuracy, NLL, ECE, Brier score and count over all examples of a split.

    Args:
        apply: `(params, image float32 [B, H, W, C]) -> logits [B, K]`, for instance
            `make_logits(encoder, head)`. Compiled once for each function object.
        params: first argument of `apply`.
        split: `image` uint8 `[N, H, W, C]`, `label` int32 `[N]`, optionally `weight`.
        batch_size: examples at a time; it only changes the rounding of the result.

    Returns:
        Scalar arrays as in `scores.metrics.mean_scores` (`float` makes JSON of one). Pure: it can
        be vmapped over `params`.

    >>> import jax, twostage_jax as ts
    >>> data, encoder, head = ts.load("digits"), ts.MLP((16, 8)), ts.MLP((10,))
    >>> stage = ts.classifier(encoder, head)
    >>> params = stage.init(jax.random.key(0), ts.as_batch(data.train))
    >>> sorted(ts.evaluate(ts.make_logits(encoder, head), params, data.test))
    ['accuracy', 'brier', 'count', 'ece', 'nll']
    """
    return mean_scores(_sum_scores(apply, params, split, batch_size))


@partial(jax.jit, static_argnames=("decode", "batch_size"))
def reconstruction(
    decode: Apply, params: Params, split: Mapping[str, PyTree], batch_size: int = BATCH
) -> jax.Array:
    """Return the mean squared error of `decode(params, image)` over a split, on the scale [-1, 1].

    >>> import jax, twostage_jax as ts
    >>> data, encoder, decoder = ts.load("digits"), ts.MLP((16, 8)), ts.MLP((16, 64))
    >>> stage = ts.autoencoder(encoder, decoder)
    >>> params = stage.init(jax.random.key(0), ts.as_batch(data.train))
    >>> float(ts.reconstruction(ts.make_decode(encoder, decoder), params, data.test)) > 0
    True
    """

    def measure(batch: Batch) -> jax.Array:
        image = batch["image"]
        return reconstruction_error(decode(params, image), image) * len(image)

    return sum_over(measure, split, batch_size) / len(split["image"])
