"""Errors by group, and intervals over groups."""

import numpy as np
import pytest

from twostage_jax.scores.groups import summarise_groups
from twostage_jax.scores.interval import accuracy_interval

NAMES = ["left", "absent", "right", "alone"]


def test_groups_by_hand():
    correct = np.array([1, 0, 0, 1, 1, 1, 1], bool)
    summary = summarise_groups(correct, np.array([2, 2, 2, 0, 0, 0, 3]), NAMES)
    figures = [(x.name, x.count, x.errors, x.accuracy) for x in summary.groups]
    # A group without images has no figures.
    assert figures == [("right", 3, 2, 1 / 3), ("left", 3, 0, 1.0), ("alone", 1, 0, 1.0)]
    assert summary.groups[0].interval == list(accuracy_interval(1, 3))
    assert summary.accuracy == 5 / 7 and summary.mean == pytest.approx((1 / 3 + 2) / 3)


def test_images_of_one_group_are_no_independent_evidence():
    """If whole groups are right or wrong, only their number counts."""
    correct = np.repeat(np.arange(10) < 8, 100)
    summary = summarise_groups(correct, np.repeat(np.arange(10), 100), list("abcdefghij"))
    low, high = summary.interval
    assert high - low > 5 * np.subtract(*accuracy_interval(800, 1000)[::-1])
    assert low <= summary.accuracy <= high
    # Groups of one image are independent images.
    single = summarise_groups(correct, np.arange(1000), list(map(str, range(1000))))
    assert single.interval == pytest.approx(accuracy_interval(800, 1000), abs=0.005)


def test_a_single_group_has_no_interval_over_groups():
    summary = summarise_groups(np.array([True, False]), np.array([0, 0]), NAMES)
    assert (summary.interval, summary.mean_interval, summary.mean) == (None, None, 0.5)
