"""Pytrees: paths, signatures and digests that change with every bit."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twostage_jax.trees import (
    describe,
    digest,
    digest_of_description,
    shapes_of,
    size_of,
    tree_differences,
    tree_leaves,
    tree_signature,
)

TREE = {"b": {"w": np.zeros((2, 1), np.float32)}, "a": [np.int32(1)]}


def test_leaves_have_paths_and_signatures():
    assert list(tree_leaves(TREE)) == ["a/0", "b/w"]
    signature = {
        "a/0": {"shape": [], "dtype": "int32"},
        "b/w": {"shape": [2, 1], "dtype": "float32"},
    }
    assert tree_signature(TREE) == tree_signature(shapes_of(TREE)) == signature
    assert size_of(TREE) == size_of(shapes_of(TREE)) == 12
    with pytest.raises(ValueError, match="without slashes"):
        tree_leaves({"a/b": 1, "a": {"b": 2}})


def test_every_difference_is_listed_in_order():
    other = {"a/0": {"shape": [1], "dtype": "int8"}, "c": {"shape": [], "dtype": "int8"}}
    assert tree_differences(tree_signature(TREE), tree_signature(TREE)) == []
    assert tree_differences(tree_signature(TREE), other) == [
        "b/w is missing",
        "c is unexpected",
        "a/0 has shape [1], expected []",
        "a/0 has dtype int8, expected int32",
    ]


def test_the_digest_is_computed_from_the_digests_of_the_arrays():
    table = describe(TREE)
    zeros = hashlib.sha256(bytes(8)).hexdigest()
    assert table["b/w"] == {"shape": [2, 1], "dtype": "float32", "sha256": zeros}
    one = hashlib.sha256(b"\1\0\0\0").hexdigest()
    text = f"a/0\0[]\0int32\0{one}\0b/w\0[2, 1]\0float32\0{zeros}\0"
    expected = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    assert digest(TREE) == digest_of_description(table) == expected


def test_the_digest_changes_with_path_shape_dtype_and_every_bit_only():
    array = np.array([[0.0, 1.0]], np.float32)
    same = [
        {"w": array},
        {"w": jnp.array(array)},
        {"w": array.astype(">f4")},
        {"w": np.asfortranarray(array)},
    ]
    assert len({digest(tree) for tree in same}) == 1
    different = [
        {"w": array},
        {"v": array},
        {"w": array.T},
        {"w": array.astype(np.float64)},
        {"w": array.view(np.int32)},
        {"w": -array},  # -0.0 differs in one bit
        {"w": {"w": array}},
    ]
    assert len({digest(tree) for tree in different}) == len(different)
    assert digest(jax.tree.map(jnp.bfloat16, {"w": array})) != digest({"w": array})
