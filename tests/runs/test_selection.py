import numpy as np
import pytest

import twostage_jax as ts
from twostage_jax.errors import UserError
from twostage_jax.runs.study.clusters import k_means
from twostage_jax.runs.study.selection import STRATEGIES
from twostage_jax.stages.stage import new_key

GROUPS = 6
SIZE = 20


@pytest.fixture(scope="module")
def groups():
    """Six dense groups of 20 examples, in the order of their groups, and 3 outliers."""
    random = np.random.RandomState(0)
    centre = np.eye(GROUPS)
    features = np.repeat(centre, SIZE, axis=0) + 0.1 * random.normal(size=(GROUPS * SIZE, GROUPS))
    return np.concatenate([features, -3 * np.eye(GROUPS)[:3]]).astype(np.float32)


def choose(groups, budget, strategy="typical", **options):
    probability = np.random.RandomState(0).dirichlet(np.ones(3), len(groups))
    return ts.choose_next(groups, budget, strategy, probability=probability, **options)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_strategy_chooses_distinct_examples_without_a_label(groups, strategy):
    labelled = np.arange(0, len(groups), 2)
    free = len(groups) - len(labelled)
    chosen = choose(groups, free, strategy, labelled=labelled)
    assert sorted(chosen) == list(range(1, len(groups), 2))
    again = choose(groups, 5, strategy, labelled=labelled, key=new_key())
    assert again.tolist() == choose(groups, 5, strategy, labelled=labelled).tolist()


def test_typical_examples_come_from_every_group_and_are_no_outliers(groups):
    for seed in range(5):
        chosen = choose(groups, GROUPS + 3, key=new_key(seed))
        assert set(chosen[:GROUPS] // SIZE) == set(range(GROUPS))


def test_typical_examples_complete_the_groups_that_have_no_label(groups):
    labelled = np.array([3, SIZE + 2, 2 * SIZE + 1])
    chosen = choose(groups, 3, labelled=labelled)
    assert set(chosen // SIZE) == {3, 4, 5}


def test_k_centre_takes_the_outliers_first(groups):
    labelled = np.arange(GROUPS) * SIZE
    chosen = choose(groups, 3, "k-centre", labelled=labelled)
    assert sorted(chosen) == [120, 121, 122]


def test_margin_takes_the_smallest_margins():
    probability = np.array([[0.5, 0.4, 0.1], [0.9, 0.1, 0.0], [0.4, 0.35, 0.25], [0.6, 0.4, 0.0]])
    chosen = ts.choose_next(np.eye(4), 2, "margin", labelled=[2], probability=probability)
    assert chosen.tolist() == [0, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": 124}, "a budget of 124 does not fit 123 unlabelled images: give .* 1 to 123"),
        ({"budget": 0}, "a budget of 0"),
        ({"budget": 123, "labelled": [4]}, "123 does not fit 122"),
        ({"labelled": [123]}, "no example has the index 123"),
        ({"strategy": "margin"}, "margin needs the probabilities"),
        ({"strategy": "typcal"}, "did you mean 'typical'"),
    ],
)
def test_a_choice_that_does_not_fit_is_refused(groups, options, message):
    with pytest.raises(UserError, match=message):
        ts.choose_next(**{"features": groups, "budget": 1} | options)


def test_k_means_finds_the_means_of_groups(groups):
    result = k_means(groups[: GROUPS * SIZE], GROUPS, new_key(0))
    index = result.index.reshape(GROUPS, SIZE)
    assert (index == index[:, :1]).all()
    means = groups[: GROUPS * SIZE].reshape(GROUPS, SIZE, -1).mean(1)
    assert result.centre[index[:, 0]] == pytest.approx(means, abs=1e-5)
    distance = ((groups[: GROUPS * SIZE] - result.centre[result.index]) ** 2).sum()
    assert result.inertia == pytest.approx(distance, rel=1e-4)


def test_k_means_of_more_clusters_than_examples_is_refused():
    with pytest.raises(UserError, match="4 clusters do not fit 3 examples"):
        k_means(np.eye(3), 4, new_key())
