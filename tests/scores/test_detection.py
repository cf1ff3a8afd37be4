"""Outlier scores and their separation, by hand, by scipy and by scikit-learn."""

import math

import numpy as np
import pytest
import scipy.stats
import sklearn.covariance
import sklearn.metrics

from twostage_jax.scores.detection import (
    Outputs,
    detect_outliers,
    energy,
    fit_gaussians,
    mahalanobis,
    mutual_information,
    predictive_entropy,
    separation,
)
from twostage_jax.scores.figures import probabilities

RANDOM = np.random.RandomState(0)


def test_entropy_by_hand_and_by_scipy():
    assert predictive_entropy(np.full((1, 4), 0.25))[0] == pytest.approx(math.log(4))
    assert predictive_entropy(np.array([[1.0, 0.0]]))[0] == 0
    probability = RANDOM.dirichlet(np.ones(5), 50)
    expected = scipy.stats.entropy(probability, axis=1)
    np.testing.assert_allclose(predictive_entropy(probability), expected)


def test_mutual_information_measures_disagreement():
    opposite = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert mutual_information(opposite)[0] == pytest.approx(math.log(2))
    # Equal members have entropy, but do not disagree.
    equal = np.stack([RANDOM.dirichlet(np.ones(3), 9)] * 2)
    np.testing.assert_allclose(mutual_information(equal), 0, atol=1e-12)


def test_energy_by_hand():
    members = np.stack([np.zeros((1, 2)), np.full((1, 2), 3.0)])
    assert energy(members[:1])[0] == pytest.approx(-math.log(2))
    assert energy(members)[0] == pytest.approx(-math.log(2) - 1.5)


def test_mahalanobis_by_hand_with_and_without_a_dead_unit():
    # Two classes at -1 and 5, both of variance 1; the point 2 has distance 3 from each.
    features = np.array([[-2.0], [0.0], [4.0], [6.0]])
    label = np.array([0, 0, 1, 1])
    np.testing.assert_allclose(
        mahalanobis(np.array([[-1.0], [2.0]]), fit_gaussians(features, label)), [0, 9]
    )
    dead = np.pad(features, ((0, 0), (0, 1)))
    np.testing.assert_allclose(mahalanobis(np.array([[2.0, 0.0]]), fit_gaussians(dead, label)), [9])


def test_mahalanobis_equals_that_of_scikit_learn():
    label = RANDOM.randint(0, 3, 300)
    features = RANDOM.randn(300, 4) @ RANDOM.randn(4, 4) + 2 * label[:, None]
    means = np.stack([features[label == k].mean(0) for k in range(3)])
    covariance = sklearn.covariance.EmpiricalCovariance(assume_centered=True)
    covariance.fit(features - means[label])
    points = RANDOM.randn(50, 4)
    expected = np.min([covariance.mahalanobis(points - mean) for mean in means], axis=0)
    np.testing.assert_allclose(mahalanobis(points, fit_gaussians(features, label)), expected)


def test_separation_by_hand():
    result = separation(np.array([0, 1, 2]), np.array([1.5, 3]))
    assert result.auroc == 5 / 6
    # To accept 95 % of three examples is to accept all of them; one of two outside is below.
    assert result.fpr95 == 0.5


def test_separation_equals_that_of_scikit_learn():
    inside = RANDOM.randint(0, 40, 200)  # integers, so that there are ties
    outside = RANDOM.randint(10, 60, 150)
    truth = np.r_[np.zeros(200), np.ones(150)]
    score = np.r_[inside, outside]
    result = separation(inside, outside)
    assert result.auroc == pytest.approx(sklearn.metrics.roc_auc_score(truth, score))
    # For scikit-learn the accepted (inside) examples are the positive class.
    fpr, tpr, _ = sklearn.metrics.roc_curve(1 - truth, -score, drop_intermediate=False)
    assert result.fpr95 == pytest.approx(fpr[tpr >= 0.95].min())


@pytest.mark.parametrize(("members", "encoders"), [(1, 1), (3, 1), (3, 3)])
def test_every_score_detects_an_obvious_outlier(members, encoders):
    label = np.arange(60) % 2
    features = RANDOM.randn(encoders, 60, 4) + 8 * label[:, None]

    def outputs(features, sharpness):
        signs = np.sign(RANDOM.randn(members, features.shape[1], 1))
        logits = np.concatenate([sharpness * signs, -sharpness * signs], -1)
        # Members agree about inside examples only.
        logits = logits[:1].repeat(members, 0) if sharpness > 1 else logits
        return Outputs(probabilities(logits), logits, features)

    inside = outputs(features, 9.0)
    outside = outputs(features + 50, 1.0)
    table, arrays = detect_outliers(inside, outside, features, label)
    assert ("mutual_information" in table) == (members > 1)
    assert {f"{part}_{name}" for part in ("inside", "outside") for name in table} == set(arrays)
    assert all(values.shape == (60,) for values in arrays.values())
    for name in set(table) - {"mutual_information"}:
        assert (table[name].auroc, table[name].fpr95) == (1, 0)
    if members > 1:
        assert table["mutual_information"].auroc > 0.7
