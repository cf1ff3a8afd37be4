"""Divergence: values that are not finite, in parameters, moments and metrics of any type."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import twostage_jax as ts
from twostage_jax.engine.health import any_diverged, describe_diverged, find_diverged
from twostage_jax.engine.state import TrainState


@pytest.mark.parametrize("kind", [np.float32, np.float16, jnp.bfloat16, jnp.float8_e4m3fn])
@pytest.mark.parametrize("place", ["params", "moments"])
def test_a_value_that_is_not_finite_marks_its_group_and_member(kind, place):
    values = {name: np.ones((2, 3), kind) for name in ("params", "moments")}
    count = np.zeros(2, np.int32)
    params = {"head": {"w": values["params"]}}
    state = TrainState(params, {"mu": {"head": {"w": values["moments"]}}, "n": count}, count)
    assert find_diverged(state, None) == {}
    values[place][1, 2] = np.nan
    masks = find_diverged(state, {"loss": np.ones(2)})
    assert {name: list(mask) for name, mask in masks.items()} == {"group head": [False, True]}


def test_diverged_members_are_described_in_words():
    tx = ts.freeze(optax.adam(0.1), "encoder")
    params = {"encoder": {"w": jnp.full((3, 1), jnp.nan)}, "head": {"w": jnp.ones((3, 1))}}
    state = TrainState(params, tx.init(params), jnp.zeros(3, jnp.int32))
    # A frozen group is somebody else's: it is no part of this training.
    masks = find_diverged(state, {"loss": np.array([1, np.inf, 1]), "accuracy": np.ones(3)})
    assert any_diverged(masks, 3).tolist() == [False, True, False]
    assert describe_diverged(masks) == "its loss is not finite, all parameters still are"
    params["head"]["w"] = jnp.array([[np.nan], [1], [1]])
    masks = find_diverged(state, {"loss": np.array([1, np.inf, 1])})
    assert any_diverged(masks, 3).tolist() == [True, True, False]
    words = "its loss and the parameters or moments of head are not finite"
    assert describe_diverged(masks) == words
    assert not any_diverged({}, 2).any()
