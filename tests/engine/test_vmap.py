"""`ts.ensemble`: `jax.vmap` in chunks."""

import jax
import numpy as np
import pytest

import twostage_jax as ts
from tests.engine.tiny import AUTOENCODER, SPLIT


@pytest.mark.slow
def test_an_ensemble_of_whole_pipelines_equals_vmap():
    """`init_state` and `train` in one function of a key."""
    tx = ts.adam(1e-2)
    train = ts.make_train(AUTOENCODER, tx, 32, 1)
    few = {name: values[:2] for name, values in SPLIT.items()}

    def pipeline(split: dict, key: jax.Array) -> tuple:
        first, second = jax.random.split(key)
        return train(ts.init_state(AUTOENCODER, tx, first, few), split, second)

    keys = jax.random.split(jax.random.key(0), 5)
    expected = jax.jit(jax.vmap(pipeline, in_axes=(None, 0)))(SPLIT, jax.random.clone(keys))
    actual = ts.ensemble(pipeline, in_axes=(None, 0), members_per_chunk=2)(SPLIT, keys)
    assert actual[1]["loss"].shape == (5, 1)
    for chunked, whole in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(chunked, whole, atol=1e-5)


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
