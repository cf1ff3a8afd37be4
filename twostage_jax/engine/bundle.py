"""The network of a predictor as one function of named arrays and images, for an exported file."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from twostage_jax.engine.placement import map_members
from twostage_jax.engine.predictor import LANES, Predictor
from twostage_jax.stages.stage import as_image
from twostage_jax.trees import PyTree, tree_leaves

Arrays = dict[str, np.ndarray]


class Bundle(NamedTuple):
    """A network and its arrays.

    Attributes:
        apply: `(arrays, images uint8 [B, H, W, C]) -> (logits [M, B, K], features [E, B, D])`.
        arrays: parameters of all members by name, as NumPy can store them.
        image_shape: shape of one image.
        members: number M of members.
    """

    apply: Callable[[Mapping[str, PyTree], jax.Array], tuple[jax.Array, jax.Array]]
    arrays: Arrays
    image_shape: tuple[int, ...]
    members: int


def make_bundle(predictor: Predictor) -> Bundle:
    """Return the network of all trials of a predictor with their arrays.

    It computes members together as a predictor on one device does, so it has the same bits.
    """
    axes = predictor.axes
    members = predictor.trials
    network = predictor.network
    tree = (predictor.numbers, {name: predictor.params[name] for name in axes})
    names = list(tree_leaves(tree))
    leaves, structure = jax.tree.flatten(tree)
    # An array that a file leaves out is not used.
    unused = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    # NumPy has no bfloat16 and no 8-bit floats; float32 holds all their values.
    stored = [x if x.dtype.kind in "biuf" else x.astype(np.float32) for x in leaves]
    arrays = {name: np.asarray(x) for name, x in zip(names, stored, strict=True)}
    member_axes = (0, dict(axes))

    def apply(arrays: Mapping[str, PyTree], images: jax.Array) -> tuple[jax.Array, jax.Array]:
        values = [
            jnp.asarray(arrays[name], x.dtype) if name in arrays else jnp.zeros(x.shape, x.dtype)
            for name, x in zip(names, unused, strict=True)
        ]
        numbers, params = jax.tree.unflatten(structure, values)
        image = as_image(images)
        chunks = _chunks(members, predictor.width)
        logits = [
            _over_members(network.logits, member_axes, rows, (numbers, params), image)
            for rows in chunks
        ]
        encoder = params["encoder"]
        if axes["encoder"] is None:
            features = network.features(encoder, image)[None]
        else:
            parts = [_over_members(network.features, 0, rows, encoder, image) for rows in chunks]
            features = jnp.concatenate(parts)[:members]
        return jnp.concatenate(logits)[:members], features.reshape(*features.shape[:2], -1)

    return Bundle(apply, arrays, predictor.image_shape, members)


def _chunks(members: int, width: int) -> list[list[int]]:
    """Return the members that are computed together; `width` as in the predictor."""
    chunks = [list(range(i, min(i + LANES, members))) for i in range(0, members, LANES)]
    if width > 1 and len(chunks[-1]) == 1:
        # A single member is computed without `vmap`, which rounds in another way.
        chunks[-1] *= 2
    return chunks


def _over_members(
    function: Callable[..., jax.Array],
    axes: PyTree,
    rows: list[int],
    tree: PyTree,
    image: jax.Array,
) -> jax.Array:
    """Apply a function of one member to some members, `[rows, B, ...]`."""
    if len(rows) == 1:
        part = map_members(lambda leaf: leaf[rows[0]], axes, tree)
        return function(part, image)[None]
    part = map_members(lambda leaf: jnp.stack([leaf[row] for row in rows]), axes, tree)
    return jax.vmap(function, in_axes=(axes, None))(part, image)


def in_batches(bundle: Bundle, size: int) -> Callable[..., dict[str, jax.Array]]:
    """Return `(arrays, images [N, H, W, C]) -> {"logits", "features"}` for any N, also symbolic.

    Images are computed in batches of `size`, so results do not depend on N, to the bit. Modules and
    heads only see this size: not every one can be traced with a symbolic N.
    """

    def program(arrays: Mapping[str, PyTree], images: jax.Array) -> dict[str, jax.Array]:
        count = images.shape[0]
        batches = (count + size - 1) // size
        fill = jnp.zeros((batches * size - count, *images.shape[1:]), images.dtype)
        padded = jnp.concatenate([images, fill])
        split = padded.reshape(batches, size, *images.shape[1:])
        results = jax.lax.map(lambda batch: bundle.apply(arrays, batch), split)
        named = dict(zip(("logits", "features"), results, strict=True))
        return {name: _joined(x, batches * size)[:, :count] for name, x in named.items()}

    return program


def _joined(x: jax.Array, count: int) -> jax.Array:
    """Return `[M, count, ...]` of batches `[batches, M, B, ...]`."""
    x = jnp.moveaxis(x, 0, 1)
    return x.reshape(x.shape[0], count, *x.shape[3:])
