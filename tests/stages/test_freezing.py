"""Freezing of parameter groups."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import twostage_jax as ts
from twostage_jax.stages.freezing import frozen_groups

PARAMS = {"encoder": {"w": jnp.array([1.0, -0.0])}, "head": {"w": jnp.array([2.0])}}


def test_frozen_groups_get_zero_updates_and_have_no_moments():
    tx = ts.freeze(optax.adam(0.1), "encoder")
    opt_state = tx.init(PARAMS)
    sizes = [leaf.size for leaf in jax.tree.leaves(opt_state)]
    assert sum(sizes) == 1 + 2 * 1  # Adam's count, and two moments of the head alone
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, PARAMS), opt_state, PARAMS)
    assert not np.any(updates["encoder"]["w"])
    assert np.all(updates["head"]["w"] != 0)


def test_an_unknown_group_is_rejected_with_the_valid_ones():
    with pytest.raises(ts.UserError, match=r"\['encodr'\]: the groups are \['encoder', 'head'\]"):
        ts.freeze(optax.adam(0.1), "encodr").init(PARAMS)


def test_freezing_twice_freezes_both():
    tx = ts.freeze(ts.freeze(optax.sgd(1.0), "encoder"), "head")
    assert set(frozen_groups(tx.init(PARAMS))) == {"encoder", "head"}


def test_frozen_groups_are_visible_through_any_wrapper():
    frozen = ts.freeze(optax.adam(0.1), "encoder")
    for tx in (
        optax.chain(optax.clip(1.0), frozen),
        optax.chain(frozen, optax.add_decayed_weights(0.1)),
        optax.MultiSteps(frozen, 2).gradient_transformation(),
        optax.apply_if_finite(frozen, 3),
    ):
        assert frozen_groups(tx.init(PARAMS)) == ("encoder",)
    assert frozen_groups(optax.adam(0.1).init(PARAMS)) == ()
