"""The start of a training: initial values, pretrained groups, sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import twostage_jax as ts
from tests.engine.tiny import CLASSIFIER, SPLIT
from twostage_jax.engine.state import group_sizes


def start(seed: int, **pretrained) -> ts.TrainState:
    return ts.init_state(CLASSIFIER, optax.adam(0.1), jax.random.key(seed), SPLIT, **pretrained)


def test_pretrained_groups_replace_the_initial_ones():
    pretrained = start(1).params["encoder"]
    state = start(0, encoder=pretrained)
    assert ts.digest(state.params["encoder"]) == ts.digest(pretrained)
    assert ts.digest(state.params["head"]) == ts.digest(start(0).params["head"])
    assert state.step == 0


def test_every_leaf_that_does_not_fit_is_listed():
    wrong = {"params": {"dense_0": {"kernel": np.ones((16, 9), np.float16), "extra": np.ones(1)}}}
    with pytest.raises(ts.UserError) as error:
        start(0, encoder=wrong)
    for phrase in ("bias is missing", "extra is unexpected", "shape [16, 9]", "dtype float16"):
        assert phrase in str(error.value)
    with pytest.raises(ts.UserError, match=r"\['decoder'\]: the groups are"):
        start(0, decoder={})


def test_group_sizes_count_values_and_bytes():
    params = {"encoder": {"w": jnp.array([1.0, -0.0])}, "head": {"w": jnp.array([2.0])}}
    tx = ts.freeze(optax.adam(0.1), "encoder")
    rows = group_sizes(ts.TrainState(params, tx.init(params), jnp.int32(0)))
    assert rows == [("encoder", "frozen", 2, 8), ("head", "trained", 1, 4)]
    params = {"encoder": {"params": {"w": jnp.ones(2)}, "stats": {"mean": jnp.ones(3)}}}
    rows = group_sizes(ts.TrainState(params, (), jnp.int32(0)))
    assert rows == [("encoder", "trained", 2, 8), ("encoder", "constant", 3, 12)]


def test_labels_beyond_the_outputs_of_a_head_are_refused_before_training():
    marked = {**SPLIT, "label": np.where(np.arange(70) < 2, 3, SPLIT["label"])}
    message = "2 of 70 labels are out of range for a head with 3 outputs, for instance 3"
    with pytest.raises(ts.UserError, match=message):
        ts.init_state(CLASSIFIER, optax.adam(0.1), jax.random.key(0), marked)
    marked["weight"] = np.float32(np.arange(70) >= 2)
    ts.init_state(CLASSIFIER, optax.adam(0.1), jax.random.key(0), marked)
