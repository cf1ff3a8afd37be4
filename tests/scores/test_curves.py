"""Intervals over draws, labels to match and power laws, on data whose answer is known."""

import math

import numpy as np
import pytest

from twostage_jax.scores.curves import (
    extrapolate,
    fit_power_law,
    labels_to_match,
    mean_interval,
    paired_difference,
)

COUNTS = (10, 20, 50, 100, 1000)


def constant(errors, draws=5):
    """A curve whose draws are all equal."""
    return {n: np.full(draws, e) for n, e in zip(COUNTS, errors, strict=True)}


@pytest.mark.parametrize("draws", [4, 20])
def test_an_interval_contains_the_mean_of_normal_draws_as_often_as_it_says(draws):
    random = np.random.RandomState(0)
    intervals = [mean_interval(3 + random.randn(draws)) for _ in range(400)]
    covered = np.mean([x.low <= 3 <= x.high for x in intervals])
    # Four draws lie on one side of the mean in 12.5 % of all cases, and then no sample covers it.
    assert (0.8 if draws == 4 else 0.92) < covered < 0.98


def test_a_paired_difference_does_not_see_what_both_arms_have_in_common():
    random = np.random.RandomState(1)
    draw = 10 * random.randn(20)
    difference = paired_difference(draw - 1 + 0.1 * random.randn(20), draw)
    assert difference.value == pytest.approx(-1, abs=0.1)
    assert -1.2 < difference.low < difference.high < -0.8


def test_a_difference_uses_the_draws_that_both_arms_have():
    assert paired_difference(np.array([1.0, 2.0, 9.0]), np.array([3.0, 4.0])).value == -2


def test_labels_to_match_are_interpolated_on_the_logarithm():
    control = constant([0.5, 0.4, 0.3, 0.2, 0.1])
    at = {0.4: 20, 0.25: math.sqrt(50 * 100), 0.15: math.sqrt(100 * 1000)}
    for error, labels in at.items():
        match = labels_to_match(np.full(5, error), control)
        assert [round(x, 6) for x in match] == [round(labels, 6)] * 3


def test_labels_outside_of_the_measured_range_are_0_or_infinite():
    control = constant([0.5, 0.4, 0.3, 0.2, 0.1])
    assert labels_to_match(np.full(5, 0.6), control) == (0, 0, 0)
    assert labels_to_match(np.full(5, 0.05), control) == (math.inf,) * 3


def test_a_curve_that_rises_again_is_matched_where_it_first_falls_below():
    control = constant([0.5, 0.2, 0.4, 0.4, 0.1])
    assert round(labels_to_match(np.full(5, 0.2), control).value, 6) == 20


def test_noise_of_the_draws_widens_the_interval_of_labels_to_match():
    random = np.random.RandomState(2)
    control = {n: e + 0.03 * random.randn(20) for n, e in zip(COUNTS, (5, 4, 3, 2, 1), strict=True)}
    match = labels_to_match(2.5 + 0.3 * random.randn(20), control)
    assert 50 < match.low < match.value < match.high < 100


def test_few_draws_of_one_number_of_labels_keep_their_own_spread():
    # A quarter of all samples of two draws have only the first one, another quarter the second.
    control = {10: np.full(20, 0.5), 1000: np.array([0.125, 0.25])}
    match = labels_to_match(np.full(20, 0.25), control)
    assert [round(x) for x in match] == [398, 215, 1000]


@pytest.mark.parametrize("law", [(0.01, 2.0, 0.5), (0.0, 1.0, 0.3), (0.05, 3.0, 1.2)])
def test_a_power_law_is_recovered(law):
    n = np.array([10, 20, 50, 100, 600, 1000, 3000])
    a, b, c = law
    assert fit_power_law(n, a + b * n**-c) == pytest.approx(law, rel=1e-6, abs=1e-9)


def test_an_extrapolation_is_tested_on_the_largest_number_of_labels():
    random = np.random.RandomState(3)
    curve = {n: (0.01 + n**-0.5) * (1 + 0.01 * random.randn(20)) for n in COUNTS}
    result = extrapolate(curve)
    assert result is not None
    assert (result.labels, result.held_out) == (2000, 1000)
    assert result.expected.value == pytest.approx(0.01 + 2000**-0.5, rel=0.05)
    assert result.expected.low < result.expected.value < result.expected.high
    assert result.predicted.value == pytest.approx(result.measured, rel=0.1)


def test_three_parameters_are_not_fitted_to_four_points():
    assert extrapolate({n: np.ones(3) for n in COUNTS[:4]}) is None
