"""Paths, signatures, digests and sizes of pytrees of arrays."""

import hashlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import numpy as np

# Nested containers with arrays, or shapes of arrays, as leaves; Python cannot type this further.
PyTree: TypeAlias = Any


def tree_leaves(tree: PyTree) -> dict[str, PyTree]:
    """Leaves of a pytree by path, such as `encoder/params/dense_0/kernel`, in the tree's order.

    Raises:
        ValueError: if two leaves have the same path because a key contains a slash.
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    leaves = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}
    if len(leaves) != len(flat):
        raise ValueError("two leaves have the same path: use parameter names without slashes")
    return leaves


def tree_signature(tree: PyTree) -> dict[str, dict[str, object]]:
    """`{path: {"shape": [...], "dtype": "float32"}}` of a tree of arrays or of their shapes."""
    return {path: _signature(leaf) for path, leaf in tree_leaves(tree).items()}


def _signature(leaf: PyTree) -> dict[str, object]:
    array = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return {"shape": list(array.shape), "dtype": array.dtype.name}


def tree_differences(
    expected: Mapping[str, Mapping[str, object]], actual: Mapping[str, Mapping[str, object]]
) -> list[str]:
    """List the differences between two results of `tree_signature`, one phrase for each leaf."""
    problems = [f"{path} is missing" for path in expected if path not in actual]
    problems += [f"{path} is unexpected" for path in actual if path not in expected]
    for path in filter(actual.__contains__, expected):
        for field in ("shape", "dtype"):
            before = expected[path][field]
            after = actual[path][field]
            if before != after:
                problems.append(f"{path} has {field} {after}, expected {before}")
    return problems


def describe(tree: PyTree) -> dict[str, dict[str, object]]:
    """`{path: {"shape": [...], "dtype": "float32", "sha256": "…"}}` of a tree of arrays.

    This is the only place that hashes arrays. `digest_of_description` needs no second pass.
    """
    table = tree_signature(tree)
    for path, leaf in tree_leaves(tree).items():
        array = np.asarray(jax.device_get(leaf))
        # The bytes, and so the digest, must not depend on the machine's order of bytes.
        content = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        table[path]["sha256"] = hashlib.sha256(content).hexdigest()
    return table


def digest_of_description(table: Mapping[str, Mapping[str, object]]) -> str:
    """Digest `sha256:…` of a tree from the result of `describe`."""
    total = hashlib.sha256()
    for path, entry in sorted(table.items()):
        total.update(f"{path}\0{entry['shape']}\0{entry['dtype']}\0{entry['sha256']}\0".encode())
    return f"sha256:{total.hexdigest()}"


def digest(params: PyTree) -> str:
    """Digest `sha256:…` of paths, shapes, dtypes and bytes: equal digests mean equal bits.

    >>> digest({"w": np.zeros(2, np.float32)})[:15]
    'sha256:ee40a556'
    """
    return digest_of_description(describe(params))


def shapes_of(tree: PyTree) -> PyTree:
    """Shapes and dtypes of a tree's leaves, as `jax.ShapeDtypeStruct`."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def size_of(tree: PyTree) -> int:
    """Size in bytes of a tree of arrays or of their shapes."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
