"""Features of a frozen encoder, computed once and kept on the device."""

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from twostage_jax.compilation import compile_all
from twostage_jax.stage import Params, as_image

ENCODING_BATCH = 1000
Encode = Callable[[Params, jax.Array], jax.Array]


class Encoding(NamedTuple):
    """A pass of an encoder over a split, for images and parameters of given shapes.

    Attributes:
        features: shape and type of what comes out, `[N, ...]`.
        starts: where each batch begins.
        write: `(features, params, images, start) -> features`, with one batch of them filled in.
    """

    features: jax.ShapeDtypeStruct
    starts: tuple[int, ...]
    write: Any


def lower_encoding(encode: Encode, params: Params, images: Any) -> Encoding:
    """The pass of `encode` over `images` `[N, ...]`, lowered for `compile_all`; only shapes count.

    Batches are calls of their own, not turns of a loop: XLA's convolutions are many times slower
    within a loop on the CPU.
    """
    count = len(images)
    size = min(ENCODING_BATCH, count)
    whole = jax.ShapeDtypeStruct(images.shape, jnp.float32)
    features = jax.eval_shape(encode, params, whole)

    def write(features: jax.Array, params: Params, images: jax.Array, start: jax.Array) -> Any:
        batch = as_image(jax.lax.dynamic_slice_in_dim(images, start, size))
        return jax.lax.dynamic_update_slice_in_dim(features, encode(params, batch), start, 0)

    start = jax.ShapeDtypeStruct((), jnp.int32)
    lowered = jax.jit(write, donate_argnums=0).lower(features, params, images, start)
    # The last batch may overlap the one before: no second program for what is left over.
    starts = tuple(min(start, count - size) for start in range(0, count, size))
    return Encoding(features, starts, lowered)


def encode_in_calls(encoding: Encoding, params: Params, images: jax.Array) -> Iterator[jax.Array]:
    """The features of a compiled `encoding`, yielded after each batch; the last has them all."""
    features = jax.device_put(np.zeros(encoding.features.shape, encoding.features.dtype))
    for start in encoding.starts:
        features = encoding.write(features, params, images, jax.device_put(np.int32(start)))
        yield features


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


def choose_encoding(wanted: str, features: jax.ShapeDtypeStruct) -> tuple[bool, str]:
    """Whether to encode once, and why, for a frozen encoder whose input never changes.

    Args:
        wanted: `once`, `loop`, or `auto`: once, if the features fit into half of the free memory.
        features: what would be kept.
    """
    size = features.size * features.dtype.itemsize
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


def free_bytes() -> int | None:
    """Memory that the first device has left; None where nobody says."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # macOS does not count them
        return None
