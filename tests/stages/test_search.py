import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from twostage_jax.errors import UserError
from twostage_jax.stages.heads import search
from twostage_jax.stages.heads.search import map_blocks, nearest, top


def make_features(count: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


@pytest.mark.parametrize("shift", [0, 1])
def test_the_search_equals_that_of_scikit_learn_in_blocks(shift, monkeypatch):
    monkeypatch.setattr(search, "_ENTRIES", 700 * 64)  # blocks of 64 queries, the last one short
    bank = make_features(700, 8)
    queries = bank if shift else make_features(150, 8, 1)
    similarity, index = nearest(queries, bank, 5, exclude_self=bool(shift))
    reference = NearestNeighbors(metric="cosine", algorithm="brute").fit(bank)
    distance, rows = reference.kneighbors(queries, 5 + shift)
    np.testing.assert_array_equal(index, rows[:, shift:])
    np.testing.assert_allclose(similarity, 1 - distance[:, shift:], atol=1e-6)
    assert similarity.dtype == np.float32 and index.dtype == np.int32


def test_equal_similarities_are_ordered_by_position():
    # Eight directions repeated: each query has 100 equally near rows in a bank of 800.
    bank = np.tile(make_features(8, 4), (100, 1))
    similarity, index = nearest(bank[:8], bank, 12)
    np.testing.assert_array_equal(index, np.arange(8)[:, None] + 8 * np.arange(12))
    np.testing.assert_allclose(similarity, 1, atol=1e-6)
    without = nearest(bank, bank, 3, exclude_self=True)[1]
    np.testing.assert_array_equal(without[:2], [[8, 16, 24], [9, 17, 25]])


@pytest.mark.parametrize("count", [33, 128, 1001])
def test_the_selection_by_groups_is_that_of_top_k(count):
    values = jnp.asarray(np.random.default_rng(1).integers(0, 50, (7, count)).astype(np.float32))
    for result, expected in zip(top(values, 9), jax.lax.top_k(values, 9), strict=True):
        np.testing.assert_array_equal(result, expected)


def test_blocks_of_rows_give_what_all_rows_give_under_vmap_too():
    rows = jnp.asarray(make_features(10, 3))
    members = jnp.arange(1.0, 3.0)
    blocked = jax.vmap(lambda scale: map_blocks(lambda x: scale * x[:, 0], rows, 4))(members)
    np.testing.assert_allclose(blocked, members[:, None] * rows[None, :, 0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((2, 3)), np.ones((4, 3)), 5), "k is 5 for 4 candidates: give a whole number"),
        ((np.ones((4, 3)), np.ones((4, 3)), 4, True), "k is 4 for 3 candidates"),
        ((np.ones((2, 3)), np.ones((4, 3)), 1, True), "2 queries for a bank of 4"),
        ((np.ones((2, 2)), np.ones((4, 3)), 1), "queries have 2 features and the bank has 3"),
        ((np.ones(2), np.ones((4, 3)), 1), "queries have shape"),
        ((np.ones((2, 3)), np.full((4, 3), np.nan), 1), "bank contain values that are not finite"),
    ],
)
def test_a_wrong_search_gets_one_sentence(arguments, message):
    with pytest.raises(UserError, match=message):
        nearest(*arguments)
