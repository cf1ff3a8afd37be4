"""Effective rank and spread of features, against values that one can compute by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from twostage_jax.scores.spectrum import effective_rank, spread


def test_the_effective_rank_is_the_exponential_of_the_entropy_of_the_singular_values():
    features = np.random.RandomState(0).normal(size=(50, 6)) * [1, 2, 3, 0.1, 5, 0]
    values = np.linalg.svd(features)[1]
    share = values[values > 1e-12] / values.sum()
    expected = np.exp(-(share * np.log(share)).sum())
    np.testing.assert_allclose(effective_rank(jnp.float32(features)), expected, rtol=1e-4)


def test_equal_features_have_rank_1_and_no_spread():
    rows = jnp.broadcast_to(jnp.array([3.0, -1.0, 2.0, 0.0]), (20, 4))
    for features in (rows, jnp.zeros((20, 4))):
        np.testing.assert_allclose(effective_rank(features), 1, atol=1e-4)
        assert float(spread(features)) < 1e-4


def test_members_of_a_vmap_have_their_own_figures():
    features = jnp.stack([jnp.eye(4), jnp.ones((4, 4))])
    ranks = jax.vmap(effective_rank)(features)
    np.testing.assert_allclose(ranks, [4, 1], atol=1e-4)
    # The mean square of a unit vector is 1/4 in each place, and its variance 3/16.
    np.testing.assert_allclose(jax.vmap(spread)(features), [0.75**0.5, 0], atol=1e-6)
