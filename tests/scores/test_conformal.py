"""Prediction sets: rank by hand, needed examples, coverage over many draws."""

import subprocess
import sys

import numpy as np
import pytest
import scipy.stats

from twostage_jax.errors import UserError
from twostage_jax.scores.conformal import check_enough, measure_sets, needed_examples


def test_threshold_and_sets_by_hand():
    probability = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    # Distances 0.1, 0.2 and 0.6; a coverage of 0.5 takes the ceil(4 * 0.5) = 2nd smallest.
    validation = (probability, np.array([0, 1, 1]))
    others = np.array([[0.8, 0.2], [0.5, 0.5], [0.81, 0.19]])
    sets = measure_sets(validation, others, np.array([0, 0, 1]), 0.5)
    assert sets.threshold == pytest.approx(0.2)
    # The sets are {0}, {} and {0}.
    shares = (sets.measured, sets.mean_size, sets.empty, sets.singletons)
    assert shares == pytest.approx((1 / 3, 2 / 3, 1 / 3, 2 / 3))


@pytest.mark.parametrize(("coverage", "needed"), [(0.95, 19), (0.9, 9), (0.5, 1), (0.99, 99)])
def test_needed_examples_are_enough_and_one_less_is_an_error(coverage, needed):
    assert needed_examples(coverage) == needed
    check_enough(needed, coverage)
    validation = (np.full((needed, 2), 0.5), np.zeros(needed, int))
    assert measure_sets(validation, *validation, coverage).measured == 1
    with pytest.raises(UserError, match=f"at least {needed} validation examples, but the run has"):
        check_enough(needed - 1, coverage)


def test_sets_cover_the_target_share_within_the_interval():
    random = np.random.RandomState(0)
    measured = []
    inside = 0
    for _ in range(200):
        probability = random.dirichlet(np.ones(4), 300)
        # One draw from each row, by its cumulative distribution.
        label = (probability.cumsum(1) < random.rand(300, 1)).sum(1).clip(max=3)
        validation = (probability[:100], label[:100])
        sets = measure_sets(validation, probability[100:], label[100:], 0.9)
        measured.append(sets.measured)
        inside += sets.interval[0] <= sets.measured <= sets.interval[1]
    # The exact mean is 91 of 101 ranks; its standard error here is 0.003.
    assert np.mean(measured) == pytest.approx(91 / 101, abs=0.008)
    assert 0.92 < inside / 200 < 0.99


def test_interval_has_the_quantiles_of_the_beta_binomial_distribution():
    probability = np.full((40, 2), 0.5)
    label = np.zeros(40, int)
    sets = measure_sets((probability[:30], label[:30]), probability, label, 0.9)
    # The rank is ceil(31 * 0.9) = 28 of 30.
    expected = scipy.stats.betabinom(40, 28, 3).ppf([0.025, 0.975]) / 40
    np.testing.assert_array_equal(sets.interval, expected)


def test_scores_are_imported_without_the_slow_parts_of_scipy():
    # `scipy.stats` and `scipy.optimize` take as long to import as jax.
    code = "import sys, twostage_jax.runs.run; print('scipy.stats' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "False\n"
