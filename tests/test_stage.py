"""Parameter groups: freezing, taking over, digests."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import twostage_jax as ts
from twostage_jax.engine.state import group_sizes

PARAMS = {"encoder": {"w": jnp.array([1.0, -0.0])}, "head": {"w": jnp.array([2.0])}}


def test_group_sizes_say_what_is_frozen():
    tx = ts.freeze(optax.adam(0.1), "encoder")
    rows = group_sizes(ts.TrainState(PARAMS, tx.init(PARAMS), jnp.int32(0)))
    assert rows == [("encoder", "frozen", 2, 8), ("head", "trained", 1, 4)]


def test_digest_sees_bits_shapes_dtypes_and_paths():
    base = {"a": np.array([1.0, 0.0], np.float32)}
    others = [
        {"a": np.array([1.0, -0.0], np.float32)},
        {"a": np.array([[1.0, 0.0]], np.float32)},
        {"a": np.array([1.0, 0.0], np.float32).view(np.int32)},
        {"b": np.array([1.0, 0.0], np.float32)},
    ]
    digests = {ts.digest(tree) for tree in [base, *others]}
    assert len(digests) == 5
    assert ts.digest({"a": jnp.array([1.0, 0.0])}) == ts.digest(base)
    assert ts.digest(base).startswith("sha256:")


def test_digest_golden():
    content = b"a\0[2]\0float32\0" + np.array([1.0, 0.0], "<f4").tobytes()
    expected = "sha256:" + hashlib.sha256(content).hexdigest()
    assert ts.digest({"a": np.array([1.0, 0.0], np.float32)}) == expected


def test_digest_takes_plain_numbers_and_refuses_two_leaves_of_one_path():
    assert ts.digest({"a": 1.0}) == ts.digest({"a": np.float64(1)}) != ts.digest({"a": 1})
    with pytest.raises(ValueError, match="same path"):
        ts.digest({"a": {"b": 1.0}, "a/b": 2.0})


def test_init_state_takes_over_pretrained_groups_as_they_are(split):
    encoder, head = ts.MLP((8,)), ts.MLP((3,))
    stage = ts.classifier(encoder, head)
    donor = ts.init_state(stage, optax.adam(0.1), jax.random.key(1), split).params["encoder"]
    state = ts.init_state(stage, optax.adam(0.1), jax.random.key(0), split, encoder=donor)
    assert ts.digest(state.params["encoder"]) == ts.digest(donor)
    assert state.step == 0


def test_init_state_lists_every_leaf_that_does_not_fit(split):
    stage = ts.classifier(ts.MLP((8,)), ts.MLP((3,)))
    wrong = {"params": {"dense_0": {"kernel": np.ones((16, 9), np.float16), "extra": np.ones(1)}}}
    with pytest.raises(ts.UserError) as error:
        ts.init_state(stage, optax.adam(0.1), jax.random.key(0), split, encoder=wrong)
    for phrase in ("bias is missing", "extra is unexpected", "shape [16, 9]", "dtype float16"):
        assert phrase in str(error.value)
    with pytest.raises(ts.UserError, match=r"\['decoder'\]: the groups are"):
        ts.init_state(stage, optax.adam(0.1), jax.random.key(0), split, decoder={})
