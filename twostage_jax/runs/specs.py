"""Shapes of the examples that stages and solved heads are traced with."""

import jax
import jax.numpy as jnp


def batch_spec(
    image_shape: tuple[int, ...], index: bool = False
) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of a batch of two images `[H, W, C]`, with `index` if asked for."""
    positions = {"index": jax.ShapeDtypeStruct((2,), jnp.int32)} if index else {}
    return positions | {
        "image": jax.ShapeDtypeStruct((2, *image_shape), jnp.float32),
        "label": jax.ShapeDtypeStruct((2,), jnp.int32),
        "weight": jax.ShapeDtypeStruct((2,), jnp.float32),
    }


def solve_spec(labelled: int, validation: int, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of the examples that a solved head gets, with features of this size."""
    return {
        "image": jax.ShapeDtypeStruct((labelled, size), jnp.float32),
        "label": jax.ShapeDtypeStruct((labelled,), jnp.int32),
        "weight": jax.ShapeDtypeStruct((labelled,), jnp.float32),
        "index": jax.ShapeDtypeStruct((labelled,), jnp.int32),
        "validation_image": jax.ShapeDtypeStruct((validation, size), jnp.float32),
        "validation_label": jax.ShapeDtypeStruct((validation,), jnp.int32),
    }
