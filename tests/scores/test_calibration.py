"""Temperature and risk-coverage curve, by hand and by scikit-learn."""

import numpy as np
import pytest
import sklearn.metrics

from twostage_jax.scores.calibration import (
    apply_temperature,
    area_under_risk_coverage,
    calibration_error,
    fit_temperature,
    reliability,
)

RANDOM = np.random.RandomState(0)
PROBABILITY = RANDOM.dirichlet(np.ones(5) * 0.7, 400)
# Labels drawn as if the temperature were 2.
TRUE = apply_temperature(PROBABILITY, 2)
LABEL = np.array([RANDOM.choice(5, p=p) for p in TRUE])


def test_temperature_by_hand():
    # The prediction is 9 to 1 and the labels are 3 to 1; 9 ** (1 / T) = 3 for T = 2.
    probability = np.tile([[0.9, 0.1]], (4, 1))
    temperature = fit_temperature(probability, np.array([0, 0, 0, 1]))
    assert temperature == pytest.approx(2, abs=1e-4)
    np.testing.assert_allclose(apply_temperature(probability, temperature)[0], [0.75, 0.25], 1e-4)


def test_fitted_temperature_has_the_lowest_log_loss():
    best = fit_temperature(PROBABILITY, LABEL)
    losses = [
        sklearn.metrics.log_loss(LABEL, apply_temperature(PROBABILITY, temperature))
        for temperature in (best, 0.99 * best, 1.01 * best, 1.0)
    ]
    assert min(losses) == losses[0]


def test_risk_coverage_by_hand():
    probability = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    label = np.array([0, 1, 1])
    # By confidence 0.9, 0.8, 0.6; only the last is wrong, so the risks are 0, 0 and 1 / 3.
    assert area_under_risk_coverage(probability, label) == pytest.approx(1 / 9)


def test_the_order_of_ties_does_not_change_the_curve():
    probability = np.round(PROBABILITY, 1) + 1e-3
    order = RANDOM.permutation(400)
    area = area_under_risk_coverage(probability, LABEL)
    assert area_under_risk_coverage(probability[order], LABEL[order]) == pytest.approx(area)


def test_bins_of_reliability_are_those_of_the_calibration_error():
    random = np.random.RandomState(0)
    probability = random.dirichlet(np.ones(4), 200)
    label = random.randint(0, 4, 200)
    count, confidence, accuracy = reliability(probability, label).T
    assert count.sum() == 200
    gap = (count * np.abs(accuracy - confidence)).sum() / 200
    assert gap == pytest.approx(calibration_error(probability, label))
    assert (accuracy * count).sum() == (probability.argmax(-1) == label).sum()
