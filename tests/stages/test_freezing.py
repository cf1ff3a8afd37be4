"""Freezing of parameter groups."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import twostage_jax as ts
from twostage_jax.stages.freezing import frozen_groups, join_constants, split_constants

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


def test_constants_are_collections_beside_params_and_arrays_without_a_gradient():
    params = {
        "encoder": {"params": {"w": jnp.ones(2), "order": jnp.arange(2)}, "stats": jnp.ones(1)},
        "mine": {"w": jnp.ones(1), "key": jax.random.key(0), "none": None},
    }
    trained, constants = split_constants(params)
    assert [leaf.shape for leaf in jax.tree.leaves(trained)] == [(2,), (1,)]
    assert trained["encoder"]["params"]["order"] is None and trained["encoder"]["stats"] is None
    assert len(jax.tree.leaves(constants)) == 3
    joined = join_constants(trained, constants)
    assert jax.tree.structure(joined) == jax.tree.structure(params)
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, (joined, params)), strict=True))


def test_a_line_search_sees_the_whole_loss_through_freeze():
    tx = ts.freeze(
        optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(9)), "encoder"
    )

    def loss(params):
        return ((params["encoder"]["w"].sum() * params["head"]["w"] - 3) ** 2).sum()

    value, gradient = jax.value_and_grad(loss)(PARAMS)
    gradient = {**gradient, "encoder": jax.tree.map(jnp.zeros_like, PARAMS["encoder"])}
    updates, _ = tx.update(
        gradient, tx.init(PARAMS), PARAMS, value=value, grad=gradient, value_fn=loss
    )
    assert loss(optax.apply_updates(PARAMS, updates)) < value
    assert not np.any(updates["encoder"]["w"])
