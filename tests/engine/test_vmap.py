"""`ts.ensemble`: `jax.vmap` in chunks."""

import jax
import numpy as np
import pytest

import twostage_jax as ts
from tests.engine.tiny import AUTOENCODER, SPLIT


def test_an_ensemble_in_chunks_equals_vmap():
    tx = ts.adam(1e-2)
    train = ts.make_train(AUTOENCODER, tx, 32, 1)
    starts = jax.random.split(jax.random.key(0), 5)
    keys = jax.random.split(jax.random.key(1), 5)
    states = jax.vmap(lambda key: ts.init_state(AUTOENCODER, tx, key, SPLIT))(starts)
    whole = jax.vmap(train, in_axes=(0, None, 0))(states, SPLIT, jax.random.clone(keys))
    chunks = ts.ensemble(train, members_per_chunk=2)(states, SPLIT, keys)
    for chunked, expected in zip(jax.tree.leaves(chunks), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(chunked, expected, atol=1e-5)


def test_an_ensemble_takes_any_function_and_names_wrong_axes():
    def power(base, exponent):
        return {"power": base**exponent}

    two = np.float32(2)
    result = ts.ensemble(power, in_axes=(0, None))(np.arange(5, dtype=np.float32), two)
    np.testing.assert_allclose(result["power"], [0, 1, 4, 9, 16])
    with pytest.raises(ts.UserError, match="gives no argument a member axis"):
        ts.ensemble(power, in_axes=(None, None))(two, two)
    with pytest.raises(ts.UserError, match=r"member axes have lengths \[2, 3\]"):
        ts.ensemble(power, in_axes=(0, 0))(np.ones(3, np.float32), np.ones(2, np.float32))
    with pytest.raises(ts.UserError, match="put members first"):
        ts.ensemble(power, in_axes=(1, None))
    with pytest.raises(ts.UserError, match="members_per_chunk is 0: it must be at least 1"):
        ts.ensemble(power, members_per_chunk=0)
