"""The 95 % interval of an accuracy: by hand, by scipy, and at its ends."""

import pytest
import scipy.stats

from twostage_jax.scores.interval import accuracy_interval


def test_the_interval_by_hand():
    # (0.9 + 1.92/10 ± 1.96 sqrt(0.009 + 3.84/400)) / (1 + 3.84/10), with 1.96² = 3.84.
    assert accuracy_interval(9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-4)


@pytest.mark.parametrize(("correct", "count"), [(0, 1), (1, 1), (0, 50), (346, 359), (9716, 10000)])
def test_the_interval_is_that_of_scipy_and_lies_between_0_and_1(correct, count):
    expected = scipy.stats.binomtest(correct, count).proportion_ci(method="wilson")
    low, high = accuracy_interval(correct, count)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= low <= correct / count <= high <= 1
