"""Spread of members, gain of the ensemble, and the choice in a sweep."""

import numpy as np
import pytest
import scipy.stats

from twostage_jax.scores.members import SCORES, SweepPoint, choose_point, spread, summarise


def test_the_interval_of_the_mean_is_that_of_student():
    values = np.array([0.9, 0.92, 0.97])
    row = spread(values, 0.95)
    expected = scipy.stats.t.interval(0.95, 2, values.mean(), scipy.stats.sem(values))
    assert (row.low, row.high) == pytest.approx(expected)
    assert row.std == pytest.approx(values.std(ddof=1))
    assert row.gain == pytest.approx(0.02)


def test_one_member_has_a_mean_only():
    row = spread(np.array([0.9]), 0.9)
    assert (row.mean, row.std, row.low, row.high, row.gain) == (0.9, None, None, None, 0)


@pytest.mark.parametrize(("accuracy", "expected"), [([0.8, 0.9], 1 / 3), ([1.0, 1.0], None)])
def test_avoided_errors_are_a_share_of_the_mean_members_errors(accuracy, expected):
    ensemble = dict.fromkeys(SCORES, 0.5) | {"accuracy": 0.9 if expected else 1.0}
    members = {name: [0.4, 0.6] for name in SCORES} | {"accuracy": accuracy}
    summary = summarise(members, ensemble)
    assert summary.fewer_errors == (expected and pytest.approx(expected))
    assert summary.nll.gain == pytest.approx(0)


def point(members, accuracy=(), nll=()):
    return SweepPoint({"noise": 0}, members, {"accuracy": list(accuracy), "nll": list(nll)})


def test_a_sweep_chooses_accuracy_first_and_nll_second():
    points = [
        point(2, [0.8, 0.9], [0.1, 0.1]),
        point(2, [0.9, 0.9], [0.5, 0.7]),
        point(1, [0.9], [0.4]),
        point(0),
    ]
    assert choose_point(points) == 2
    assert choose_point(points[:2]) == 1
    assert choose_point([SweepPoint({}, 3, None)]) == 0
