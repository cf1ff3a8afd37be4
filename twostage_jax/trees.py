"""A stage is a pair of pure functions, as a gradient transformation is in Optax.

Everything that is trained is a `Stage`: an autoencoder, a classifier on a frozen encoder, your own.
Parameters are a dict of groups (`encoder`, `decoder`, `head`, …); we freeze, save and hand over by
the names of the groups.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def tree_leaves(tree: Any) -> dict[str, Any]:
    """Leaves of any pytree by path, `encoder/params/dense_0/kernel`, in the tree's own order.

    Raises:
        ValueError: two leaves of one path, as by a key that contains a slash.
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    leaves = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}
    if len(leaves) != len(flat):
        raise ValueError(
            "two leaves have the same path: keep slashes out of the names of parameters"
        )
    return leaves


def tree_signature(tree: Any) -> dict[str, dict[str, Any]]:
    """`{path: {"shape": [...], "dtype": "float32"}}` for the leaves of a tree, abstract or not."""
    leaves = {
        path: leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
        for path, leaf in tree_leaves(tree).items()
    }
    return {
        path: {"shape": list(leaf.shape), "dtype": leaf.dtype.name} for path, leaf in leaves.items()
    }


def tree_differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """One phrase for each leaf by which two `tree_signature`s differ, empty if they agree."""
    problems = [f"{path} is missing" for path in expected if path not in found]
    problems += [f"{path} is unexpected" for path in found if path not in expected]
    for path in expected:
        for what in ("shape", "dtype"):
            if path in found and found[path][what] != expected[path][what]:
                problems.append(
                    f"{path} has {what} {found[path][what]}, expected {expected[path][what]}"
                )
    return problems


def array_bytes(leaf: Any) -> bytes:
    """The values of one leaf as little-endian bytes in C order."""
    array = np.asarray(jax.device_get(leaf))
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).tobytes()


def digest(params: Any) -> str:
    """`sha256:…` over tree paths, shapes, dtypes and bytes: equal means equal bit for bit."""
    total = hashlib.sha256()
    signature = tree_signature(params)
    for path, leaf in sorted(tree_leaves(params).items()):
        shape, dtype = signature[path]["shape"], signature[path]["dtype"]
        total.update(f"{path}\0{shape}\0{dtype}\0".encode())
        total.update(array_bytes(leaf))
    return f"sha256:{total.hexdigest()}"


def shapes_of(tree: Any) -> Any:
    """Shapes and types of the leaves of a tree."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def size_of(tree: Any) -> int:
    """Bytes of the leaves of a tree, abstract or not."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
